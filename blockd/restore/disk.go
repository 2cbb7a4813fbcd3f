package restore

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"

	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/segment"
)

// Read-ahead, in groups of 64 KiB: what follows a read is fetched with it, and more of
// it where the reads of a segment follow each other.
const (
	aheadGroups    = 4
	aheadGroupsMax = 32
	fillGroups     = 64 // of one request of who brings a segment in
)

// Disk is what of one volume lies in an archive.
type Disk struct {
	a     *Archive
	given record.Archive

	mu struct {
		sync.Mutex
		reader  *archive.Reader // nil: the manifest was not read yet
		next    groupKey        // after what was fetched last
		ahead   int
		problem string
		where   uint32 // the segment that it is of; unknownSegment: of all
	}
}

const unknownSegment = ^uint32(0)

// Disk gives what a volume was allotted of an archive. It does not connect.
func (a *Archive) Disk(given record.Archive) *Disk { return &Disk{a: a, given: given} }

// open gives the reader of the manifest.
func (d *Disk) open(ctx context.Context) (*archive.Reader, error) {
	d.mu.Lock()
	r := d.mu.reader
	d.mu.Unlock()
	if r != nil {
		return r, nil
	}
	m, err := d.a.heldManifest(ctx, d.given.Manifest)
	if err == nil && uint32(len(m.Segments)) != d.given.Segments {
		err = fmt.Errorf("manifest %s has %d segments, and %d were allotted: %w", d.given.Manifest, len(m.Segments), d.given.Segments, errs.ErrCorrupt)
	}
	if err != nil {
		d.note(unknownSegment, err)
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.reader == nil {
		d.mu.reader = archive.NewReader(d.a.cfg.Store, m, d.a.cfg.Secret)
	}
	return d.mu.reader, nil
}

// note keeps the last problem for people, until what failed succeeds.
func (d *Disk) note(segment uint32, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err != nil:
		d.mu.problem, d.mu.where = err.Error(), segment
	case d.mu.where == segment || d.mu.where == unknownSegment:
		d.mu.problem = ""
	}
}

// Problem says why a request failed that nobody has made with success since; empty: none did.
func (d *Disk) Problem() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.problem
}

// Root is the root of the archived tree, in ids of the volume, and the size of the disk that it is of.
func (d *Disk) Root(ctx context.Context) (blockmap.Root, block.LBA, error) {
	r, err := d.open(ctx)
	if err != nil {
		return blockmap.Root{}, 0, err
	}
	m := r.Manifest()
	root := m.Root
	if root.Location != 0 {
		if root.Location, err = d.translate(m, root.Location); err != nil {
			return blockmap.Root{}, 0, err
		}
	}
	return root, m.Blocks, nil
}

// translate gives an archived location its place in the volume.
func (d *Disk) translate(m *archive.Manifest, l id.Location) (id.Location, error) {
	i, ok := m.Find(l.Segment())
	if !ok {
		return 0, fmt.Errorf("location %v: archived segment %s is not in manifest %s: %w", l, l.Segment(), d.given.Manifest, errs.ErrCorrupt)
	}
	return id.MakeLocation(d.given.Segment(uint32(i)), l.Slot()), nil
}

// translatePage does so for all of a page of the map, in its place; false: not all of it can be.
func (d *Disk) translatePage(m *archive.Manifest, page []byte) bool {
	for at := 0; at < len(page); at += 8 {
		l := id.Location(binary.LittleEndian.Uint64(page[at:]))
		if l == 0 {
			continue
		}
		ours, err := d.translate(m, l)
		if err != nil {
			return false
		}
		binary.LittleEndian.PutUint64(page[at:], uint64(ours))
	}
	return true
}

// index gives the place in the manifest of a segment of the volume.
func (d *Disk) index(s id.Segment) (uint32, error) {
	if s.Sequence() >= d.given.First && s.Sequence() < d.given.First+id.Sequence(d.given.Segments) {
		if i := uint32(s.Sequence() - d.given.First); d.given.Segment(i) == s {
			return i, nil
		}
	}
	return 0, fmt.Errorf("segment %s was not allotted to what lies in %s: %w", s, d.given.Manifest, errs.ErrInvalid)
}

// part gives the head of a segment.
func (d *Disk) part(ctx context.Context, r *archive.Reader, i uint32) (*archive.Part, error) {
	k := partKey{d.given.First, i}
	p, there, f, ours := d.a.parts.claim(k)
	switch {
	case there:
		return p, nil
	case ours:
		done, err := d.a.turn(ctx)
		if err == nil {
			p, err = r.Part(ctx, int(i))
			done()
		}
		d.a.parts.land(k, p, err)
		return p, err
	}
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the archive: %w: %w", errs.ErrUnavailable, ctx.Err())
	}
}

// Slots are the header entries of the i-th segment, by slot; zero: the archive has nothing of that.
func (d *Disk) Slots(ctx context.Context, i uint32) ([]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchPatience)
	defer cancel()
	r, err := d.open(ctx)
	if err != nil {
		return nil, err
	}
	if i >= d.given.Segments {
		return nil, fmt.Errorf("segment %d of %d: %w", i, d.given.Segments, errs.ErrInvalid)
	}
	p, err := d.part(ctx, r, i)
	if err != nil {
		d.note(i, err)
		return nil, err
	}
	last := p.Slots[len(p.Slots)-1].Number
	out := make([]uint64, int(last)+1)
	for _, s := range p.Slots {
		out[s.Number] = uint64(s.Entry)
	}
	return out, nil
}

// Read reads slots of a segment of the volume into dst, a block for each. What they hold must be
// want and, slot by slot, what follows it: blocks, or one page of the map.
func (d *Disk) Read(ctx context.Context, l id.Location, want segment.Entry, dst []byte) error {
	ctx, cancel := context.WithTimeout(ctx, fetchPatience)
	defer cancel()
	i, err := d.index(l.Segment())
	if err != nil {
		return err
	}
	err = d.read(ctx, i, l, want, dst)
	d.note(i, err)
	return err
}

func (d *Disk) read(ctx context.Context, i uint32, l id.Location, want segment.Entry, dst []byte) error {
	r, err := d.open(ctx)
	if err != nil {
		return err
	}
	p, err := d.part(ctx, r, i)
	if err != nil {
		return err
	}
	for n := range len(dst) / block.Size {
		at, ok := p.Find(l.Slot() + uint16(n))
		if !ok || p.Slots[at].Entry != want+segment.Entry(n) {
			return fmt.Errorf("slot %d of archived segment %s does not hold %s: %w", int(l.Slot())+n, p.Segment, want+segment.Entry(n), errs.ErrCorrupt)
		}
		g, err := d.group(ctx, r, i, p, at/archive.GroupSlots)
		if err != nil {
			return err
		}
		if g.stale.has(at) {
			return fmt.Errorf("slot %d of archived segment %s, %s, leads to segments that are not in manifest %s: %w", int(l.Slot())+n, p.Segment, want+segment.Entry(n), d.given.Manifest, errs.ErrCorrupt)
		}
		copy(dst[n*block.Size:][:block.Size], g.data[at%archive.GroupSlots*block.Size:])
	}
	return nil
}
