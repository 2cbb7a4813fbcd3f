package volume

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/storeproto"
)

// deleter deletes segments by name on all their stores, and goes on until each
// store has confirmed or is lost for good. One goroutine does it: many segments go
// to a store in one request, however many wait, and a store that is away is asked
// again once in a while.
type deleter struct {
	mu   sync.Mutex
	new  []core.Delete
	wake chan struct{}
}

func (d *deleter) init() { d.wake = make(chan struct{}, 1) }

func (d *deleter) add(ds []core.Delete) {
	d.mu.Lock()
	d.new = append(d.new, ds...)
	d.mu.Unlock()
	d.poke()
}

// poke has the deleter look again now.
func (d *deleter) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *deleter) take() []core.Delete {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.new
	d.new = nil
	return out
}

// Limits of deletions: segments in one request, and the pause before stores that
// did not confirm are asked again.
const (
	deleteBatch = 512
	deleteRetry = 5 * time.Second
)

// doomed is one segment, the stores that confirmed its deletion and those that have not
// yet. A store that is given a slot of its group meanwhile is added: it may be about to
// get the shard. Stores see to it that none is overlooked, see storeproto.DeleteShards.
type doomed struct {
	core.Delete
	done []cluster.StoreRef
	left []cluster.StoreRef
	told bool // left is known
}

// runDeletes is the deleter's goroutine.
func (v *Volume) runDeletes(ctx context.Context) error {
	var all []*doomed
	retry := v.cfg.Clock.NewTicker(deleteRetry)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-v.dead.wake:
		case <-retry.C():
		}
		for _, d := range v.dead.take() {
			all = append(all, &doomed{Delete: d})
		}
		v.deleteRound(ctx, all)
		all = slices.DeleteFunc(all, func(d *doomed) bool {
			if !d.told || len(d.left) > 0 {
				return false
			}
			v.step(func(now time.Duration, fx *core.Effects) { v.core.DeleteDone(now, d.Delete, fx) })
			return true
		})
	}
}

// deleteRound asks every store once for all that it has not confirmed, all stores at once.
func (v *Volume) deleteRound(ctx context.Context, all []*doomed) {
	t := v.cfg.Metad.Topology()
	if t == nil {
		return
	}
	byStore := make(map[cluster.StoreRef][]*doomed)
	for _, d := range all {
		d.find(t)
		for _, ref := range d.left {
			byStore[ref] = append(byStore[ref], d)
		}
	}
	confirmed := make(chan func(), len(byStore))
	for ref, ds := range byStore {
		go func() {
			n := v.deleteOn(ctx, t, ref, ds)
			confirmed <- func() {
				for _, d := range ds[:n] {
					d.done = append(d.done, ref)
					d.left = slices.DeleteFunc(d.left, func(r cluster.StoreRef) bool { return r == ref })
				}
			}
		}()
	}
	for range byStore {
		(<-confirmed)()
	}
}

// find lists the stores that have or had shards of the segment, less those that are lost or were formatted anew.
func (d *doomed) find(t *cluster.Topology) {
	g, ok := t.PG(d.Segment.PG())
	if !ok {
		return
	}
	all := g.Members()
	for _, r := range d.On {
		if !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	d.left, d.told = slices.DeleteFunc(all, func(r cluster.StoreRef) bool { return slices.Contains(d.done, r) }), true
	d.left = slices.DeleteFunc(d.left, func(r cluster.StoreRef) bool {
		s, ok := t.Store(r.Store)
		return !ok || s.State == cluster.StoreLost || s.Incarnation != r.Incarnation
	})
}

// deleteOn deletes on one store; it gives how many of ds, from the first on, are confirmed.
func (v *Volume) deleteOn(ctx context.Context, t *cluster.Topology, ref cluster.StoreRef, ds []*doomed) (n int) {
	store, err := bodyOf(v.cfg.Stores, ref)
	if err != nil {
		return 0
	}
	for n < len(ds) {
		end := min(n+deleteBatch, len(ds))
		req := storeproto.DeleteShards{Volume: v.id, Epoch: v.epoch}
		for _, d := range ds[n:end] {
			req.Segments = append(req.Segments, storeproto.SegmentGeneration{Segment: d.Segment, Generation: d.Upto})
		}
		req.Groups = groupsOf(t, req.Segments)
		call, cancel := context.WithTimeout(ctx, deleteTimeout)
		err := store.DeleteShards(call, req)
		cancel()
		if err != nil {
			if !errors.Is(err, errs.ErrUnavailable) && !errors.Is(err, errs.ErrTimeout) && !errors.Is(err, errs.ErrStaleEpoch) {
				v.log.Warn("dead segments not deleted, will ask again", "store", ref.Store.String(), "segments", end-n, "err", err)
			}
			return n
		}
		n = end
	}
	return n
}

// groupsOf names the versions of the groups of segments, as far as t knows.
func groupsOf(t *cluster.Topology, segments []storeproto.SegmentGeneration) (out []storeproto.GroupVersion) {
	for _, s := range segments {
		n := s.Segment.PG()
		if slices.ContainsFunc(out, func(g storeproto.GroupVersion) bool { return g.PG == n }) {
			continue
		}
		if g, ok := t.PG(n); ok {
			out = append(out, storeproto.GroupVersion{PG: n, Version: g.Current().Version})
		}
	}
	return out
}
