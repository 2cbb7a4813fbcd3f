package archive

import (
	"context"
	"encoding/binary"
	"fmt"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
)

// Walker goes over the map of an archived snapshot. It keeps a few heads of parts and groups of
// blocks, for pages lie together. Not safe for concurrent use.
type Walker struct {
	r     *Reader
	parts map[int]*Part
	group struct {
		segment, number int
		blocks          []byte
	}
}

// partsKept bounds the heads that a walker keeps, of up to 60 KiB each.
const partsKept = 64

// NewWalker begins at nothing.
func (r *Reader) NewWalker() *Walker {
	w := &Walker{r: r, parts: make(map[int]*Part)}
	w.group.segment = -1
	return w
}

// At gives the block at an archived location, which must be what want says. The block is
// only good until the next call.
func (w *Walker) At(ctx context.Context, loc id.Location, want segment.Entry) ([]byte, error) {
	i, p, n, err := w.find(ctx, loc, want)
	if err != nil {
		return nil, err
	}
	if g := n / GroupSlots; w.group.segment != i || w.group.number != g {
		b, err := w.r.Groups(ctx, i, p, g, 1)
		if err != nil {
			return nil, err
		}
		w.group.segment, w.group.number, w.group.blocks = i, g, b
	}
	return w.group.blocks[n%GroupSlots*block.Size:][:block.Size], nil
}

// find looks a location up.
func (w *Walker) find(ctx context.Context, loc id.Location, want segment.Entry) (i int, p *Part, n int, err error) {
	place := fmt.Sprintf("archive of snapshot %s", w.r.manifest.Snapshot)
	i, ok := w.r.manifest.Find(loc.Segment())
	if !ok {
		return 0, nil, 0, &errs.Corrupt{Place: place, Offset: -1, What: "segment that is needed", Want: uint64(loc.Segment())}
	}
	if p = w.parts[i]; p == nil {
		if p, err = w.r.Part(ctx, i); err != nil {
			return 0, nil, 0, err
		}
		for old := range w.parts {
			if len(w.parts) < partsKept {
				break
			}
			delete(w.parts, old)
		}
		w.parts[i] = p
	}
	n, ok = p.Find(loc.Slot())
	if !ok {
		return 0, nil, 0, &errs.Corrupt{Place: place, Offset: -1, What: "slot of " + p.Segment.String() + " that is needed", Want: uint64(loc.Slot())}
	}
	if got := p.Slots[n].Entry; got != want {
		return 0, nil, 0, &errs.Corrupt{Place: place, Offset: -1, What: "entry of slot " + loc.String(), Want: uint64(want), Got: uint64(got)}
	}
	return i, p, n, nil
}

// Blocks calls fn for every block that is not a hole, in order, after it has seen that the archive says it has it.
func (w *Walker) Blocks(ctx context.Context, fn func(block.LBA, id.Location) error) error {
	root := w.r.manifest.Root
	if root.Location == 0 {
		return nil
	}
	return w.page(ctx, root.Location, blockmap.Page{Level: root.Height - 1}, fn)
}

func (w *Walker) page(ctx context.Context, loc id.Location, at blockmap.Page, fn func(block.LBA, id.Location) error) error {
	b, err := w.At(ctx, loc, segment.MakePage(segment.MapPage, at.Level, at.Index))
	if err != nil {
		return err
	}
	var entries [blockmap.Fanout]id.Location
	for j := range entries {
		entries[j] = id.Location(binary.LittleEndian.Uint64(b[8*j:]))
	}
	for j, kid := range entries {
		index := at.Index*blockmap.Fanout + uint64(j)
		switch {
		case kid == 0:
			continue
		case at.Level > 0:
			err = w.page(ctx, kid, blockmap.Page{Level: at.Level - 1, Index: index}, fn)
		case index >= uint64(w.r.manifest.Blocks):
			err = &errs.Corrupt{Place: "map of archived snapshot", Offset: -1, What: "block of the disk", Want: uint64(w.r.manifest.Blocks), Got: index}
		default:
			if _, _, _, err = w.find(ctx, kid, segment.MakeData(block.LBA(index))); err == nil {
				err = fn(block.LBA(index), kid)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Progress of a verification.
type Progress struct {
	Objects, ObjectsAll int
	Bytes, BytesAll     uint64 // of objects
	Blocks              uint64 // of the disk, found in the map
}

// Verify reads every object and checks every block, and then that the map needs nothing that is not there. The
// secret is that of the reader. Tell, if not nil, hears how far it is.
func (r *Reader) Verify(ctx context.Context, s *Secret, tell func(Progress)) (Progress, error) {
	p := Progress{ObjectsAll: len(r.manifest.Objects)}
	for _, o := range r.manifest.Objects {
		p.BytesAll += o.Size
	}
	for i, o := range r.manifest.Objects {
		if err := r.Object(ctx, i, s, nil); err != nil {
			return p, err
		}
		p.Objects++
		if p.Bytes += o.Size; tell != nil {
			tell(p)
		}
	}
	err := r.NewWalker().Blocks(ctx, func(block.LBA, id.Location) error { p.Blocks++; return ctx.Err() })
	return p, err
}
