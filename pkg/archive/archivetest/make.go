// Package archivetest makes archives for tests: whole and right ones, of disks in memory, cut
// into segments as an engine would.
package archivetest

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/segment"
)

// Disk is a disk as it would be cut into segments. Each Write makes new segments and a new root.
type Disk struct {
	Blocks block.LBA
	Image  []byte
	Root   blockmap.Root

	rng   *rand.Rand
	m     *blockmap.Map
	next  id.Sequence
	slots map[id.Segment][]archive.Slot
	data  map[id.Segment][]byte
}

// NewDisk is a disk of holes.
func NewDisk(blocks block.LBA, seed uint64) (*Disk, error) {
	m, err := blockmap.New(blockmap.Options{Blocks: blocks, Budget: blockmap.NewBudget(1 << 20)})
	return &Disk{Blocks: blocks, Image: make([]byte, blocks*block.Size), rng: rand.New(rand.NewPCG(seed, seed)), m: m, next: 1,
		slots: make(map[id.Segment][]archive.Slot), data: make(map[id.Segment][]byte)}, err
}

// Write fills blocks with random bytes, half of which compress well, or trims them, and takes a checkpoint. Segments have
// slotsMax slots at most.
func (d *Disk) Write(lbas []block.LBA, slotsMax int) {
	var entries []segment.Entry
	var blocks []byte
	for _, l := range lbas {
		b := d.Image[l*block.Size:][:block.Size]
		for i := 0; i < len(b); i += 8 {
			x := uint64(0x0707070707070707)
			if d.rng.Uint32()%2 == 0 {
				x = d.rng.Uint64()
			}
			binary.LittleEndian.PutUint64(b[i:], x)
		}
		entries, blocks = append(entries, segment.MakeData(l)), append(blocks, b...)
	}
	for i, loc := range d.put(entries, blocks, slotsMax) {
		d.m.Insert(lbas[i], []id.Location{loc}, nil)
	}
	f := d.m.Freeze()
	places := make([]id.Location, len(f.Pages()))
	s, n := d.open(), 0
	entries = entries[:0]
	for i, p := range f.Pages() {
		if n == slotsMax {
			s, n = d.open(), 0
		}
		places[i] = id.MakeLocation(s, uint16(n))
		f.Assign(i, places[i])
		entries = append(entries, segment.MakePage(segment.MapPage, p.Level, p.Index))
		n++
	}
	page := make([]byte, block.Size)
	for i := range f.Pages() {
		f.Encode(i, page)
		d.add(places[i], entries[i], page)
	}
	d.Root = f.Root()
	d.m.Commit(f, nil)
}

// Watermark is the highest sequence given so far.
func (d *Disk) Watermark() id.Sequence { return d.next - 1 }

// SegmentOf is the segment of a sequence.
func SegmentOf(q id.Sequence) id.Segment { return id.MakeSegment(q, id.PG(q%7)) }

// Slots are those of a segment, in order.
func (d *Disk) Slots(s id.Segment) []archive.Slot { return d.slots[s] }

// Data are the blocks of a segment's slots, in order.
func (d *Disk) Data(s id.Segment) []byte { return d.data[s] }

func (d *Disk) open() id.Segment {
	s := SegmentOf(d.next)
	d.next++
	return s
}

func (d *Disk) put(entries []segment.Entry, blocks []byte, slotsMax int) (at []id.Location) {
	var s id.Segment
	for i, e := range entries {
		if i%slotsMax == 0 {
			s = d.open()
		}
		loc := id.MakeLocation(s, uint16(i%slotsMax))
		d.add(loc, e, blocks[i*block.Size:][:block.Size])
		at = append(at, loc)
	}
	return at
}

func (d *Disk) add(loc id.Location, e segment.Entry, b []byte) {
	s := loc.Segment()
	d.slots[s] = append(d.slots[s], archive.Slot{Number: loc.Slot(), Entry: e, Sum: codec.CRC(b)})
	d.data[s] = append(d.data[s], b...)
}

// held are the segments that the tree refers to.
func (d *Disk) held() map[id.Segment]bool {
	out := make(map[id.Segment]bool)
	var walk func(loc id.Location, level int)
	walk = func(loc id.Location, level int) {
		if out[loc.Segment()] = true; level < 0 {
			return
		}
		page := d.data[loc.Segment()][int(loc.Slot())*block.Size:][:block.Size]
		for at := 0; at < len(page); at += 8 {
			if kid := id.Location(binary.LittleEndian.Uint64(page[at:])); kid != 0 {
				walk(kid, level-1)
			}
		}
	}
	if d.Root.Location != 0 {
		walk(d.Root.Location, int(d.Root.Height)-1)
	}
	return out
}

// Archive writes everything above the base, which may be nil, and the manifest. Parts of perObject segments share an object.
// Also what is overwritten is archived, as far as it is above the base: a manifest may have more than is needed. Of the base, as in
// any archive, it has the segments that are held; in these may be pages that are not, and lead to others.
func (d *Disk) Archive(ctx context.Context, store objectstore.Store, base *archive.Manifest, s *archive.Secret, perObject int) (*archive.Manifest, error) {
	m := &archive.Manifest{Volume: id.Volume{1}, VolumeName: "disk", Blocks: d.Blocks, Snapshot: id.Snapshot{byte(d.next)}, Name: fmt.Sprint("snap", d.next),
		Created: time.Unix(1e9, 0).UTC(), Watermark: d.Watermark(), Root: d.Root}
	first := id.Sequence(1)
	if base != nil {
		m.Base, first = base.Snapshot, base.Watermark+1
		m.Objects = append(m.Objects, base.Objects...)
		held := d.held()
		for _, x := range base.Segments {
			if held[x.ID] {
				m.Segments = append(m.Segments, x)
			}
		}
	}
	upload := len(m.Objects)
	for q := first; q <= m.Watermark; {
		key := fmt.Sprintf("data/%d-%d/%d", d.next, d.rng.Uint64(), len(m.Objects)-upload)
		b := archive.NewBuilder(key, s)
		for range perObject {
			if q <= m.Watermark {
				x := SegmentOf(q)
				b.Add(x, d.slots[x], d.data[x])
				q++
			}
		}
		body, o, parts := b.Finish()
		if err := store.PutNew(ctx, key, body); err != nil {
			return nil, err
		}
		for _, p := range parts {
			p.Object = uint32(len(m.Objects))
			m.Segments = append(m.Segments, p)
		}
		m.Objects = append(m.Objects, o)
	}
	return m, store.PutNew(ctx, archive.ManifestKey(m.Volume, m.Snapshot), archive.EncodeManifest(m, s))
}
