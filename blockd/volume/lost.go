package volume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"ashlar.dev/blockd/reader"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// Limits of a look for what is lost.
const (
	findBlocks = 1 << 28 // of one question to the core, which answers in part
	probesMax  = 1 << 16 // blocks that are read to see
	looksMax   = 4       // before what the cleaner has just moved is left out
)

// looking is one look for what of the volume cannot be read.
type looking struct {
	v       *Volume
	out     cluster.Lost
	fates   map[id.Segment]*fate
	probed  map[id.Location]verdict
	skipped bool // too many blocks were to be read
	moved   bool // a segment was written anew meanwhile
}

// Lost finds what cannot be read from byte q.From on, and whether it may come back. It asks
// the stores what they have, and the map which blocks lie in what they lack. Doubts are
// segments of which stores found shards wrong: their blocks are read to see. What is not
// packed yet lies in the journal and is not looked at. It may take long: bound it by ctx.
func (v *Volume) Lost(ctx context.Context, q cluster.Look, doubts []id.Segment) (cluster.Lost, error) {
	for try := 1; ; try++ {
		x, err := v.lookOnce(ctx, q, doubts)
		if err != nil || !x.moved || try == looksMax {
			return x.out, err
		}
	}
}

func (v *Volume) lookOnce(ctx context.Context, q cluster.Look, doubts []id.Segment) (*looking, error) {
	x := &looking{v: v, out: cluster.Lost{Look: q}, fates: make(map[id.Segment]*fate), probed: make(map[id.Location]verdict)}
	t := v.cfg.Metad.Topology()
	if t == nil {
		return x, fmt.Errorf("look for what is lost: no topology yet: %w", errs.ErrUnavailable)
	}
	segments, err := v.segments()
	if err != nil {
		return x, err
	}
	w := &witness{have: make(map[shardAt]bool), heard: make(map[cluster.StoreRef]bool)}
	v.listAll(ctx, t, segments, w)
	if x.judge(t, w, segments, doubts); len(x.fates) > 0 {
		// A shard that is being moved may have been on neither list. Nothing is where it was twice.
		v.listAll(ctx, t, segments, w)
		x.judge(t, w, segments, doubts)
	}
	if len(x.fates) == 0 {
		return x, ctx.Err()
	}
	for s, f := range x.fates {
		if f.where.Kept > 0 && count(f.here) > 0 {
			if entries, err := v.cfg.Reader.Entries(ctx, s, whereOf(f.where)); err == nil {
				f.kept = segment.MakeKept(entries)
			}
		}
	}
	if err := x.walk(ctx); err != nil {
		return x, err
	}
	if x.skipped {
		x.out.Problem = fmt.Sprintf("more than %d blocks are in doubt: not all of them were read", probesMax)
	}
	return x, nil
}

// segments are those of the volume, if it serves.
func (v *Volume) segments() (out map[id.Segment]core.Where, err error) {
	err = fmt.Errorf("look for what is lost: the disk is not open: %w", errs.ErrUnavailable)
	v.step(func(time.Duration, *core.Effects) {
		if v.opener == nil && !v.closed {
			out, err = v.core.Segments(), nil
		}
	})
	return out, err
}

// judge finds the segments that may have blocks that cannot be read.
func (x *looking) judge(t *cluster.Topology, w *witness, segments map[id.Segment]core.Where, doubts []id.Segment) {
	doubt := make(map[id.Segment]bool, len(doubts))
	for _, s := range doubts {
		doubt[s] = true
	}
	clear(x.fates)
	for s, where := range segments {
		f := judge(t, w, s, where)
		if f.doubt = doubt[s]; !f.whole() {
			x.fates[s] = f
		}
	}
}

// listAll asks every store that serves what it has of the volume. Which ones did not say is in w.
func (v *Volume) listAll(ctx context.Context, t *cluster.Topology, segments map[id.Segment]core.Where, w *witness) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range t.Stores {
		s := &t.Stores[i]
		if !s.State.Serves() {
			continue
		}
		wg.Go(func() {
			err := v.listOf(ctx, s.StoreRef, func(shards []storeproto.ShardInfo) {
				mu.Lock()
				defer mu.Unlock()
				for i := range shards {
					n := &shards[i]
					if where, ok := segments[n.Segment]; ok && where.Generation == n.Generation {
						w.have[shardAt{s.StoreRef, n.Segment, n.Generation, n.Index}] = true
					}
				}
			})
			mu.Lock()
			defer mu.Unlock()
			if w.heard[s.StoreRef] = err == nil; err != nil {
				v.log.Debug("store did not say what it has", "store", s.Store.String(), "err", err)
			}
		})
	}
	wg.Wait()
}

// walk asks the map for the blocks that lie in the segments that were found.
func (x *looking) walk(ctx context.Context) error {
	find := &core.Find{Segments: make(map[id.Segment]bool, len(x.fates)), Next: block.LBA(x.out.From / block.Size)}
	for s := range x.fates {
		find.Segments[s] = true
	}
	for {
		blocks := block.LBA(x.v.SizeBytes() / block.Size)
		if find.Next >= blocks {
			return nil
		}
		find.Places = find.Places[:0]
		if err := x.v.find(ctx, find, uint32(min(blocks-find.Next, findBlocks))); err != nil {
			return fmt.Errorf("look for what is lost from block %d on: %w", find.Next, err)
		}
		for i := range find.Places {
			if err := x.place(ctx, &find.Places[i]); err != nil {
				return err
			}
		}
	}
}

// find asks the core once. When ctx ends first f is the core's until it answers, and of no more use.
func (v *Volume) find(ctx context.Context, f *core.Find, blocks uint32) error {
	o := &operation{found: make(chan struct{})}
	o.op.Kind, o.op.Extent, o.op.User, o.op.Find = core.OpFind, block.Extent{Start: f.Next, Count: blocks}, o, f
	v.submit(o)
	select {
	case <-o.found:
		return errors.Join(o.op.Err, ctx.Err())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// place judges the blocks of one place. Of a segment that was written anew since the
// stores were asked nothing can be said.
func (x *looking) place(ctx context.Context, p *core.Place) error {
	f := x.fates[p.Location.Segment()]
	if f == nil || f.where.Generation != p.Where.Generation {
		x.moved = true
		return nil
	}
	if p.Page {
		return x.say(ctx, f, p.Location, p.Start, p.End)
	}
	for l := p.Start; l < p.End; l++ {
		if err := x.say(ctx, f, p.Location+id.Location(l-p.Start), l, l+1); err != nil {
			return err
		}
	}
	return nil
}

func (x *looking) say(ctx context.Context, f *fate, at id.Location, start, end block.LBA) error {
	said := f.of(at.Slot())
	if said == doubtful {
		var err error
		if said, err = x.probe(ctx, f, at); err != nil {
			return err
		}
	}
	if said != readable {
		x.out.Add(uint64(start)*block.Size, uint64(end-start)*block.Size, said == away)
	}
	return nil
}

// probe reads one block.
func (x *looking) probe(ctx context.Context, f *fate, at id.Location) (verdict, error) {
	if said, ok := x.probed[at]; ok {
		return said, nil
	}
	if len(x.probed) >= probesMax {
		x.skipped = true
		return readable, nil
	}
	if err := ctx.Err(); err != nil {
		return readable, err
	}
	done := make(chan error, 1)
	x.v.cfg.Reader.Read(&reader.Request{
		Location: at, Count: 1, Where: whereOf(f.where), Dst: make([]byte, block.Size), NoCache: true, Class: storeproto.ClassScrub,
		Done: func(_ *reader.Request, err error) { done <- err },
	})
	said := readable
	switch err := <-done; {
	case err == nil:
	case errors.Is(err, errs.ErrNotFound), errors.Is(err, errs.ErrCorrupt):
		said = lost
	default:
		said = away
	}
	x.probed[at] = said
	return said, nil
}
