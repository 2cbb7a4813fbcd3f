package volume

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"ashlar.dev/blockd/reader"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// What the archive reads of a snapshot: which slots it holds, and these. Neither needs the core for more than
// where something lies: a snapshot's tree does not change, and a segment keeps its numbers
// however often it is written anew. Reading is at the cleaner's priority and bounded in memory.

// Snapshots reads what the snapshots of one volume hold. It is safe for concurrent use; its fields are set before.
type Snapshots struct {
	Tree   func(id.Snapshot) (record.Snapshot, error)                  // the root of a snapshot that is there
	Where  func(ctx context.Context, s id.Segment) (core.Where, error) // how a segment is kept now, an ancestor's too
	Reader *reader.Reader

	headers headers
}

// Held is a segment of which a snapshot holds slots.
type Held struct {
	Segment id.Segment
	Slots   *segment.SlotSet // nil at or below the base's watermark
}

// Plan says what a snapshot holds, ascending by sequence; More: there are segments above the last one.
type Plan struct {
	Tree record.Snapshot
	Held []Held
	More bool
}

const (
	planMax    = 1 << 16 // segments of one plan: 32 MiB
	planRun    = 16      // pages read in one request
	planAtOnce = 8       // such requests
)

// PlanSnapshot is Plan of the volume's snapshots.
func (v *Volume) PlanSnapshot(ctx context.Context, s id.Snapshot, base, after id.Sequence) (*Plan, error) {
	return v.snapshots.Plan(ctx, s, base, after)
}

// ReadHeld is Read of the volume's snapshots.
func (v *Volume) ReadHeld(ctx context.Context, s id.Segment, set *segment.SlotSet, dst []byte) ([]segment.Entry, []uint32, error) {
	return v.snapshots.Read(ctx, s, set, dst)
}

// Plan walks the tree of a snapshot. It looks for segments above after; which slots of those is told of
// those above the watermark base only.
func (r *Snapshots) Plan(ctx context.Context, s id.Snapshot, base, after id.Sequence) (*Plan, error) {
	tree, err := r.Tree(s)
	if err != nil {
		return nil, err
	}
	w := &planning{r: r, base: base, after: after, limit: id.SequenceMax, held: make(map[id.Segment]*segment.SlotSet)}
	if tree.Root.Location != 0 {
		w.add(tree.Root.Location)
		err = w.walk(ctx, []id.Location{tree.Root.Location}, int(tree.Root.Height)-1)
	}
	if err == nil {
		_, err = r.Tree(s) // it was there all the time
	}
	if err != nil {
		return nil, fmt.Errorf("plan snapshot %s: %w", s, err)
	}
	w.trim(planMax)
	p := &Plan{Tree: tree, More: w.limit != id.SequenceMax}
	for x, slots := range w.held {
		p.Held = append(p.Held, Held{x, slots})
	}
	slices.SortFunc(p.Held, func(a, b Held) int { return compareSegments(a.Segment, b.Segment) })
	return p, nil
}

func compareSegments(a, b id.Segment) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (v *Volume) snapshotTree(s id.Snapshot) (tree record.Snapshot, err error) {
	err = fmt.Errorf("disk %s is not open here: %w", v.ID(), errs.ErrStaleEpoch)
	v.step(func(time.Duration, *core.Effects) {
		if v.opener == nil {
			tree, err = v.core.SnapshotTree(id.Raw(s))
		}
	})
	return tree, err
}

// whereIs says how a segment is kept now, an ancestor's too.
func (v *Volume) whereIs(ctx context.Context, s id.Segment) (w core.Where, err error) {
	ok := false
	v.step(func(time.Duration, *core.Effects) { w, ok = v.core.WhereIs(s) })
	switch {
	case !ok:
		return w, fmt.Errorf("segment %s is not there any more: %w", s, errs.ErrNotFound)
	case w.Foreign:
		return w, fmt.Errorf("segment %s is still in the archive that the disk was restored from; wait until the disk is here wholly: %w", s, errs.ErrUnavailable)
	case w.Inherited():
		x, err := v.cfg.Reader.Find(ctx, s)
		return core.Where{Generation: x.Generation, PGVersion: x.PGVersion, K: x.K, M: x.M, Slots: x.Slots, Kept: x.Kept}, v.findLent(s, err)
	}
	return w, nil
}

// planning is one walk.
type planning struct {
	r           *Snapshots
	base, after id.Sequence
	limit       id.Sequence // above it nothing is noted any more: there is too much
	held        map[id.Segment]*segment.SlotSet
}

// add notes a location.
func (w *planning) add(loc id.Location) {
	s := loc.Segment()
	if q := s.Sequence(); q <= w.after || q > w.limit {
		return
	}
	set, ok := w.held[s]
	if !ok {
		if s.Sequence() > w.base {
			set = &segment.SlotSet{}
		}
		w.held[s] = set
		if len(w.held) >= 2*planMax {
			w.trim(planMax)
		}
	}
	if set != nil {
		set.Add(loc.Slot())
	}
}

// trim keeps the n lowest.
func (w *planning) trim(n int) {
	if len(w.held) <= n {
		return
	}
	all := make([]id.Segment, 0, len(w.held))
	for s := range w.held {
		all = append(all, s)
	}
	slices.SortFunc(all, compareSegments)
	for _, s := range all[n:] {
		delete(w.held, s)
	}
	w.limit = all[n-1].Sequence()
}

// walk goes over pages of a level, their locations in the order of the disk, and what is below them. At most
// one page's children of each level are known at a time.
func (w *planning) walk(ctx context.Context, pages []id.Location, level int) error {
	for len(pages) > 0 {
		n := min(len(pages), planRun*planAtOnce)
		blocks, err := w.r.readPages(ctx, pages[:n])
		if err != nil {
			return err
		}
		for i := range n {
			var kids []id.Location
			for j := range blockmap.Fanout {
				if loc := id.Location(binary.LittleEndian.Uint64(blocks[i*block.Size+8*j:])); loc != 0 {
					w.add(loc)
					if level > 0 {
						kids = append(kids, loc)
					}
				}
			}
			if err := w.walk(ctx, kids, level-1); err != nil {
				return err
			}
		}
		pages = pages[n:]
	}
	return nil
}

// readPages reads pages, those in consecutive slots with one request.
func (r *Snapshots) readPages(ctx context.Context, pages []id.Location) ([]byte, error) {
	out := make([]byte, len(pages)*block.Size)
	type run struct{ first, n int }
	var runs []run
	for i, loc := range pages {
		if k := len(runs) - 1; k >= 0 && runs[k].n < planRun && loc == pages[i-1]+1 && loc.Slot() != 0 {
			runs[k].n++
			continue
		}
		runs = append(runs, run{i, 1})
	}
	gate, done := make(chan struct{}, planAtOnce), make(chan error, len(runs))
	for _, x := range runs {
		gate <- struct{}{}
		go func() {
			done <- r.readSlots(ctx, pages[x.first], x.n, out[x.first*block.Size:][:x.n*block.Size])
			<-gate
		}()
	}
	var err error
	for range runs {
		if e := <-done; err == nil {
			err = e
		}
	}
	return out, err
}

// readSlots reads slots one behind the other. A segment that was written anew meanwhile is looked up again.
func (r *Snapshots) readSlots(ctx context.Context, first id.Location, n int, dst []byte) error {
	for try := 0; ; try++ {
		where, err := r.Where(ctx, first.Segment())
		if err != nil {
			return err
		}
		done := make(chan error, 1)
		r.Reader.Read(&reader.Request{Location: first, Count: uint32(n), Where: whereOf(where), Dst: dst, NoCache: true,
			Class: storeproto.ClassClean, Done: func(_ *reader.Request, err error) { done <- err }})
		err = <-done
		if err == nil || ctx.Err() != nil || !errors.Is(err, errs.ErrNotFound) || try >= looksMax {
			return errors.Join(err, ctx.Err())
		}
		if now, e := r.Where(ctx, first.Segment()); e != nil || now == where {
			return errors.Join(err, e)
		}
	}
}

// Read reads the slots of a set, which the snapshot holds: what each is, its CRC-32C, and the blocks in order, at
// dst, which has room for them.
func (r *Snapshots) Read(ctx context.Context, s id.Segment, set *segment.SlotSet, dst []byte) (entries []segment.Entry, sums []uint32, err error) {
	for try := 0; ; try++ {
		where, err := r.Where(ctx, s)
		if err != nil {
			return nil, nil, err
		}
		entries, sums, err = r.readHeld(ctx, s, where, set, dst)
		if err == nil || ctx.Err() != nil || !errors.Is(err, errs.ErrNotFound) || try >= looksMax {
			return entries, sums, errors.Join(err, ctx.Err())
		}
		if now, e := r.Where(ctx, s); e != nil || now == where {
			return nil, nil, errors.Join(err, e)
		}
	}
}

// headers are those of segments that were read last for the archive, which asks for a segment in pieces. They do
// not change under a Where.
type headers struct {
	sync.Mutex
	kept []header
}

type header struct {
	segment id.Segment
	where   core.Where
	entries []uint64
}

// headersKept bounds them, of 32 KiB each: uploads read some segments at once.
const headersKept = 8

// heldEntries gives the header entries of all slots of a segment. They are not to be changed.
func (r *Snapshots) heldEntries(ctx context.Context, s id.Segment, where core.Where) ([]uint64, error) {
	r.headers.Lock()
	for _, h := range r.headers.kept {
		if h.segment == s && h.where == where {
			r.headers.Unlock()
			return h.entries, nil
		}
	}
	r.headers.Unlock()
	all, err := r.Reader.Entries(ctx, s, whereOf(where))
	if err != nil {
		return nil, err
	}
	r.headers.Lock()
	defer r.headers.Unlock()
	if r.headers.kept = append(r.headers.kept, header{s, where, all}); len(r.headers.kept) > headersKept {
		r.headers.kept = slices.Delete(r.headers.kept, 0, 1)
	}
	return all, nil
}

func (r *Snapshots) readHeld(ctx context.Context, s id.Segment, where core.Where, set *segment.SlotSet, dst []byte) (entries []segment.Entry, sums []uint32, err error) {
	all, err := r.heldEntries(ctx, s, where)
	if err != nil {
		return nil, nil, err
	}
	victim := &core.Victim{Segment: s, Where: where, Entries: all}
	var blocks []core.CleanBlock
	for slot, e := range all {
		if !set.Has(uint16(slot)) {
			continue
		}
		if e := segment.Entry(e); e.Kind() != segment.Data && e.Kind() != segment.MapPage {
			return nil, nil, &errs.Corrupt{Place: fmt.Sprintf("slot %d of segment %s", slot, s), Offset: -1, What: "entry of a slot that a snapshot holds", Want: 1, Got: uint64(e)}
		}
		entries = append(entries, segment.Entry(e))
		n := len(blocks)
		if (n+1)*block.Size > len(dst) {
			return nil, nil, fmt.Errorf("slots of segment %s: more than room: %w", s, errs.ErrInvalid)
		}
		blocks = append(blocks, core.CleanBlock{Location: id.MakeLocation(s, uint16(slot)), Victim: victim, Data: dst[n*block.Size:][:block.Size]})
	}
	if len(entries)*block.Size != len(dst) {
		return nil, nil, &errs.Corrupt{Place: "segment " + s.String(), Offset: -1, What: "slots that a snapshot holds", Want: uint64(len(dst) / block.Size), Got: uint64(len(entries))}
	}
	if err := cleanRead(ctx, r.Reader, &core.CleanJob{Blocks: blocks}); err != nil {
		return nil, nil, err
	}
	for i := range blocks {
		sums = append(sums, blocks[i].Sum)
	}
	return entries, sums, nil
}
