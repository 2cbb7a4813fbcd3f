package coretest

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
)

// archive stands for one archived snapshot: the segments of a disk of another cluster, with
// that one's ids, and a tree that speaks of these. The volume begins with it.
type archive struct {
	w        *World
	segments []archived
	index    map[id.Segment]int
	given    core.Restored
	// Damaged segments cannot be read; the archive is away as a whole while Away.
	Damaged map[int]bool
	Away    bool
	// whole: the owner said that nothing lies here any more. Nothing may be read then.
	whole bool
	// forgotten: metad does not know the allotment.
	forgotten bool
	reads     int
}

// archived is one segment: its own id there, what its slots hold and their bytes.
type archived struct {
	id      id.Segment
	entries []uint64
	blocks  map[uint16][]byte
}

const (
	archivedSlots = 40 // of a segment of data
	archivedPages = 3  // of one of pages
)

// newArchive writes the blocks, and the tree over them.
func newArchive(w *World) *archive {
	a := &archive{w: w, index: make(map[id.Segment]int), Damaged: make(map[int]bool)}
	m, err := blockmap.New(blockmap.Options{Blocks: w.cfg.Blocks})
	if err != nil {
		panic(err)
	}
	for _, e := range w.cfg.Archived {
		a.writeRun(m, e)
	}
	root := a.writePages(m)
	m.Close()
	a.allot(root)
	return a
}

// put adds a block to the archive, in the last segment if that has room for its kind.
func (a *archive) put(e segment.Entry, most int, b []byte) id.Location {
	n := len(a.segments)
	if n == 0 || len(a.segments[n-1].entries) >= most || segment.Entry(a.segments[n-1].entries[0]).Kind() != e.Kind() {
		x := archived{id: id.MakeSegment(id.Sequence(5+3*n), 9), blocks: make(map[uint16][]byte)}
		a.index[x.id] = n
		a.segments = append(a.segments, x)
		n++
	}
	x := &a.segments[n-1]
	if len(x.entries) > 0 && a.w.rng.IntN(8) == 0 {
		x.entries = append(x.entries, 0) // a slot that the snapshot had nothing in
	}
	slot := uint16(len(x.entries))
	x.entries = append(x.entries, uint64(e))
	x.blocks[slot] = b
	return id.MakeLocation(x.id, slot)
}

func (a *archive) writeRun(m *blockmap.Map, e block.Extent) {
	write := a.w.Model.Begin(uint64(e.Start.Offset()), uint64(e.Count)*block.Size, false)
	a.w.Model.End(write, true)
	for i := range e.Count {
		b := make([]byte, block.Size)
		write.Fill(b)
		loc := [1]id.Location{a.put(segment.MakeData(e.Start+block.LBA(i)), archivedSlots, b)}
		if n, miss := m.Insert(e.Start+block.LBA(i), loc[:], nil); n != 1 {
			panic(fmt.Sprint("coretest: a page is missing: ", miss))
		}
	}
}

func (a *archive) writePages(m *blockmap.Map) blockmap.Root {
	f := m.Freeze()
	for i, p := range f.Pages() {
		b := make([]byte, block.Size)
		f.Assign(i, a.put(segment.MakePage(segment.MapPage, p.Level, p.Index), archivedPages, b))
		f.Encode(i, b) // children come first
	}
	return f.Root()
}

// allot gives the segments ids of the volume.
func (a *archive) allot(root blockmap.Root) {
	f := a.w.Metad
	n := len(a.segments)
	a.given = core.Restored{Manifest: "manifests/m", First: f.next, Segments: uint32(n), PGs: f.PGs()}
	f.next += id.Sequence(n)
	a.given.Root = blockmap.Root{Location: a.translate(root.Location), Height: root.Height}
}

func (a *archive) allotment() *core.Restored {
	if a == nil || a.whole || a.forgotten {
		return nil
	}
	r := a.given
	return &r
}

// translate gives a location of the archive its place in the volume.
func (a *archive) translate(l id.Location) id.Location {
	i, ok := a.index[l.Segment()]
	if !ok {
		panic(fmt.Sprintf("coretest: %v is not in the archive: translated twice?", l))
	}
	return id.MakeLocation(a.segment(i), l.Slot())
}

func (a *archive) segment(i int) id.Segment {
	return id.MakeSegment(a.given.First+id.Sequence(i), a.given.PGs[i%len(a.given.PGs)])
}

// at finds the segment that has an id of the volume.
func (a *archive) at(s id.Segment) int {
	i := int(s.Sequence() - a.given.First)
	if s.Sequence() < a.given.First || i >= len(a.segments) || a.segment(i) != s {
		return -1
	}
	return i
}

// slot gives the bytes of a slot as the volume has them.
func (a *archive) slot(i int, slot uint16, dst []byte) bool {
	x := &a.segments[i]
	b := x.blocks[slot]
	if b == nil {
		return false
	}
	copy(dst, b)
	if segment.Entry(x.entries[slot]).Kind() != segment.MapPage {
		return true
	}
	for at := 0; at < block.Size; at += 8 {
		if l := id.Location(binary.LittleEndian.Uint64(b[at:])); l != 0 {
			binary.LittleEndian.PutUint64(dst[at:], uint64(a.translate(l)))
		}
	}
	return true
}

// page reads what lies at a location of the volume; false: not here.
func (a *archive) page(l id.Location, dst []byte) bool {
	if a == nil {
		return false
	}
	i := a.at(l.Segment())
	return i >= 0 && a.slot(i, l.Slot(), dst)
}

var errDamaged = fmt.Errorf("object is damaged: %w", errs.ErrCorrupt)

// fails says why segment i cannot be read now.
func (a *archive) fails(i int) error {
	switch {
	case a.whole:
		return errs.ErrNotFound // a read that was looked up before it was given up looks again
	case a.Away:
		return errAway
	case a.Damaged[i]:
		return errDamaged
	case a.w.chance(a.w.cfg.ReadFails):
		return errAway
	}
	return nil
}

// slots reads slots of a segment, wherever it lies.
func (w *World) slots(l id.Location, n int, where core.Where, dst []byte) error {
	if !where.Foreign {
		return w.segments.read(l, n, where, dst)
	}
	a := w.archive
	i := a.at(l.Segment())
	if i < 0 {
		w.Fail(fmt.Errorf("segment %s is said to be in the archive", l.Segment()))
		return errs.ErrInvalid
	}
	if err := a.fails(i); err != nil {
		return err
	}
	a.reads++
	for j := range n {
		if !a.slot(i, l.Slot()+uint16(j), dst[j*block.Size:][:block.Size]) {
			w.Fail(fmt.Errorf("read slot %v+%d, which the archive has not", l, j))
			return errs.ErrInvalid
		}
	}
	return nil
}

// carryHydrate reads segments of the archive, some time later, and some of them not at all.
func (e *Engine) carryHydrate(fx *core.Effects) {
	w := e.w
	for _, j := range fx.HydrateList {
		w.later(e.name+" hydrate lists", func() {
			i := w.archive.at(j.Segment)
			err := w.archive.fails(i)
			if err == nil {
				j.Slots = slices.Clone(w.archive.segments[i].entries)
			}
			e.step(func(now time.Duration, fx *core.Effects) { e.Core.HydrateListed(now, j, err, fx) })
		})
	}
	for _, j := range fx.HydrateRead {
		w.later(e.name+" hydrate reads", func() {
			i := w.archive.at(j.Segment)
			err := errAway
			if !e.dead { // else the archive may be gone, and nobody asks
				err = w.archive.fails(i)
			}
			for k := range j.Blocks {
				b := &j.Blocks[k]
				if err == nil && !w.archive.slot(i, b.Slot, b.Data) {
					w.Fail(fmt.Errorf("slot %d of %s is not in the archive", b.Slot, j.Segment))
				}
				b.Sum = codec.CRC(b.Data)
			}
			e.force(func(now time.Duration, fx *core.Effects) { e.Core.HydrateRead(now, j, err, fx) })
		})
	}
	if fx.Whole {
		w.whole(e)
	}
}

// whole: an owner says that the archive may go.
func (w *World) whole(e *Engine) {
	if e != w.Owner() {
		return // metad refuses it
	}
	w.archive.whole = true
	w.log("%s has everything from the archive", e.name)
}
