package volume

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Limits of reaping: leftovers judged in one step, and the pause between two pages of a
// store, so that nobody waits for a list of millions.
const (
	reapStep    = 2048
	reapPause   = 20 * time.Millisecond
	reapTimeout = 15 * time.Second
)

// carryReap lists what stores have of older epochs, or tells metad that nothing is left.
func (v *Volume) carryReap(fx *core.Effects) {
	if fx.Reap {
		v.group.Go("reap", func(ctx context.Context) error { v.reap(ctx); return nil })
	}
	if fx.Reaped {
		v.group.Go("forget spans", func(ctx context.Context) error { v.forgetSpans(ctx); return nil })
	}
}

// reap asks every store of the cluster that is not lost.
//
// Order, of each store: it is fenced at this epoch, so that nothing of an older one is
// put there after; then it lists; then the core judges. Repairs may still put what others
// have: they hear of the deletion as of any other.
func (v *Volume) reap(ctx context.Context) {
	whole := true
	found := make(map[id.Segment]*core.Leftover)
	t := v.cfg.Metad.Topology()
	for i := range t.Stores {
		s := &t.Stores[i]
		if s.State == cluster.StoreLost {
			continue
		}
		if err := v.listOlder(ctx, s.StoreRef, found); err != nil {
			whole = false
			v.log.Debug("leftovers not listed yet", "store", s.Store.String(), "err", err)
		}
	}
	var some []core.Leftover
	judge := func() {
		v.step(func(_ time.Duration, fx *core.Effects) { v.core.Leftovers(some, fx) })
		some = some[:0]
	}
	for _, x := range found {
		if some = append(some, *x); len(some) == reapStep {
			judge()
		}
	}
	judge()
	v.step(func(now time.Duration, fx *core.Effects) { v.core.ReapListed(now, whole, fx) })
}

// listOlder adds the segments of which one store has a generation of an older epoch.
func (v *Volume) listOlder(ctx context.Context, ref cluster.StoreRef, found map[id.Segment]*core.Leftover) error {
	body, err := bodyOf(v.cfg.Stores, ref)
	if err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, reapTimeout)
	_, err = body.Fence(call, storeproto.Fence{Volume: v.id, Epoch: v.epoch, By: v.cfg.Holder})
	cancel()
	if err != nil {
		return err
	}
	return v.listOf(ctx, ref, func(shards []storeproto.ShardInfo) {
		v.step(func(time.Duration, *core.Effects) {
			shards = slices.DeleteFunc(shards, func(x storeproto.ShardInfo) bool { return !v.core.IsLeftover(x.Segment, x.Generation) })
		})
		for _, x := range shards {
			if found[x.Segment] == nil {
				found[x.Segment] = &core.Leftover{Segment: x.Segment}
			}
			found[x.Segment].Add(x.Generation, ref)
		}
	})
}

// listOf gives f what one store has of the volume, page by page.
func (v *Volume) listOf(ctx context.Context, ref cluster.StoreRef, f func([]storeproto.ShardInfo)) error {
	body, err := bodyOf(v.cfg.Stores, ref)
	if err != nil {
		return err
	}
	lister, ok := body.(storeproto.Lister)
	if !ok {
		return fmt.Errorf("store %s does not list: %w", ref, errs.ErrUnavailable)
	}
	for q := (storeproto.ListShards{Volume: v.id}); ; {
		call, cancel := context.WithTimeout(ctx, reapTimeout)
		page, err := lister.ListShards(call, q)
		cancel()
		if err != nil {
			return err
		}
		f(slices.DeleteFunc(page.Shards, func(x storeproto.ShardInfo) bool { return x.Volume != v.id }))
		if !page.More {
			return nil
		}
		if page.Next.Compare(q.After) <= 0 {
			return fmt.Errorf("list of %s on %s does not go on: %w", v.id, ref, errs.ErrCorrupt)
		}
		q.After = page.Next
		if err := v.cfg.Clock.Sleep(ctx, reapPause); err != nil {
			return err
		}
	}
}

// forgetSpans tells metad that nothing of older epochs is left. If it does not hear, the next owner looks again.
func (v *Volume) forgetSpans(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, metadTimeout)
	defer cancel()
	if err := v.cfg.Metad.ForgetSpans(ctx, v.id, v.epoch, v.epoch); err != nil {
		v.log.Info("metad not told that nothing of older epochs is left", "err", err)
	}
}

// leftovers tells whether epochs before this one took segment ids, and nobody has looked since.
func leftovers(rec *cluster.Volume) bool {
	for _, s := range rec.Spans {
		if s.Epoch < rec.Epoch {
			return true
		}
	}
	return false
}
