package repair

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/storeproto"
)

// outcome of a look at one shard.
type outcome uint8

const (
	right   outcome = iota // nothing is wrong with it
	gone                   // it does not belong here, or not any more
	wrong                  // it was wrong, and is mended
	missing                // it was missing, and is mended
	stuck                  // it is wrong, and cannot be mended now
	going                  // it is wrong, and too few others have the segment at all: it is being deleted, or lost
)

// mend looks at a shard of the store that somebody suspects, and puts it right again if
// it is wrong, or there if it should be there and is not. With stuck and going comes the
// reason; with an error that is not ErrCorrupt nothing is known yet. Both are tried again.
//
// A shard that is there is replaced, under its name and by what the store's own index says
// of it: nothing new comes, nothing deleted comes back, no right byte is touched. One that
// is missing comes like any other by repair, with the look back (see rebuild).
func (w *Worker) mend(ctx context.Context, n storeproto.ShardName) (outcome, error) {
	t := w.cfg.Topology()
	if t == nil {
		return stuck, fmt.Errorf("no topology yet: %w", errs.ErrUnavailable)
	}
	p, ok := t.PG(n.Segment.PG())
	if !ok {
		return stuck, fmt.Errorf("placement group %d is not known: %w", n.Segment.PG(), errs.ErrUnavailable)
	}
	there := true
	switch err := w.cfg.Local.VerifyShard(ctx, n, func(int) error { return nil }); {
	case err == nil:
		return right, nil
	case errors.Is(err, errs.ErrNotFound):
		there = false
		if len(p.Versions) > 1 {
			return gone, nil // the group has a new store: Run brings it what it should have
		}
	case !errors.Is(err, errs.ErrCorrupt):
		return stuck, err
	}
	info, having, unknown := w.ask(ctx, t, &p, n)
	switch {
	case having == 0 && unknown != nil:
		return stuck, unknown
	case having == 0 && there:
		return going, fmt.Errorf("shard %d of %s is wrong, and no other store has the segment: %w", n.Index, n.Segment, errs.ErrCorrupt)
	case having == 0, !holds(&p, w.cfg.Self, n.Index, info):
		return gone, nil // deleted, or another store's by now
	case !there && having < int(info.K):
		return gone, unknown // it never counted, or is being deleted; or nothing can help it
	}
	s := lack{name: n, info: info}
	out, err := w.mendFrom(ctx, mendTask(t, &p, w.cfg.Self, n.Index, info), s, there)
	if out == stuck && errors.Is(err, errs.ErrCorrupt) {
		if _, having, unknown := w.ask(ctx, t, &p, n); unknown == nil && having < int(info.K) {
			return going, err
		}
	}
	return out, err
}

// holds tells whether a store is to have a shard, by any kept version.
func holds(p *cluster.PG, self cluster.StoreRef, slot uint8, info storeproto.ShardInfo) bool {
	return slices.Contains(p.Holders(info.PGVersion, info.K, info.M, slot), self)
}

// mendTask is what rebuild needs to know to make one shard.
func mendTask(t *cluster.Topology, p *cluster.PG, self cluster.StoreRef, slot uint8, info storeproto.ShardInfo) Task {
	x := Task{PG: p.Number, Version: p.Current().Version, K: info.K, M: info.M, Slot: slot}
	for _, r := range p.Members() {
		if r != self && mustAsk(t, r) {
			x.Sources = append(x.Sources, r)
		}
	}
	for i := range info.K + info.M {
		x.Holders = append(x.Holders, slices.DeleteFunc(p.Holders(info.PGVersion, info.K, info.M, i), func(r cluster.StoreRef) bool { return r == self }))
	}
	return x
}

// ask asks the other members of the group for the segment's generation: how many shards of it there
// are elsewhere, and what it is. The error is that of a store that did not answer.
func (w *Worker) ask(ctx context.Context, t *cluster.Topology, p *cluster.PG, n storeproto.ShardName) (info storeproto.ShardInfo, having int, unknown error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	have := make(map[uint8]bool)
	for _, r := range p.Members() {
		if r == w.cfg.Self || !mustAsk(t, r) {
			continue
		}
		wg.Go(func() {
			heads, err := w.headsOf(ctx, r, n)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				unknown = err
			}
			for i := range heads {
				if h := &heads[i]; h.Generation == n.Generation && h.Validate() == nil && h.Index != n.Index {
					info = h.Info()
					have[h.Index] = true
				}
			}
		})
	}
	wg.Wait()
	return info, len(have), unknown
}

func (w *Worker) headsOf(ctx context.Context, r cluster.StoreRef, n storeproto.ShardName) ([]storeproto.ShardHead, error) {
	body, ok := w.cfg.Stores.Store(r.Store)
	if !ok {
		return nil, fmt.Errorf("store %s is not known here: %w", r, errs.ErrUnavailable)
	}
	call, cancel := w.call(ctx)
	defer cancel()
	heads, err := body.ShardHeads(call, n.Segment)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", r, err)
	}
	return heads, nil
}

// mendFrom makes the shard from others and puts it.
func (w *Worker) mendFrom(ctx context.Context, t Task, s lack, there bool) (outcome, error) {
	sources, unknown := w.sources(ctx, t, s)
	data := buf.Get(int(s.bytes()))
	defer data.Release()
	head, used, err := w.makeShard(ctx, t, s, sources, data.Bytes())
	switch {
	case err != nil && unknown != nil:
		return stuck, fmt.Errorf("%v (%w)", err, unknown)
	case err != nil:
		return stuck, err
	}
	if !there {
		return w.putBack(ctx, t, s, head, data.Bytes(), used)
	}
	err = w.cfg.Local.ReplaceShard(ctx, &storeproto.PutShard{Head: head, Epoch: storeproto.RepairEpoch, Data: [][]byte{data.Bytes()}})
	switch {
	case errors.Is(err, errs.ErrNotFound):
		return gone, nil // deleted meanwhile
	case err != nil:
		return stuck, err
	}
	if err := w.cfg.Local.VerifyShard(ctx, s.name, func(int) error { return nil }); err != nil && !errors.Is(err, errs.ErrNotFound) {
		return stuck, fmt.Errorf("written again, and wrong again: %w", err)
	}
	return wrong, nil
}

// putBack puts a shard that is missing: if it still belongs here, which is decided under
// the lock that reap takes, so that none is left behind by a group that moved on.
func (w *Worker) putBack(ctx context.Context, t Task, s lack, head *storeproto.ShardHead, data []byte, used []source) (outcome, error) {
	w.hands.Lock()
	defer w.hands.Unlock()
	now := w.cfg.Topology()
	if p, ok := now.PG(t.PG); !ok || !holds(&p, w.cfg.Self, t.Slot, s.info) {
		return gone, nil
	}
	switch err := w.put(head, data); {
	case errors.Is(err, errs.ErrNotFound):
		return gone, nil // deleted meanwhile
	case err != nil:
		return stuck, err
	}
	if err := w.confirm(ctx, s, used); err != nil {
		return stuck, err
	}
	if err := w.cfg.Local.VerifyShard(ctx, s.name, func(int) error { return nil }); errors.Is(err, errs.ErrNotFound) {
		return gone, nil // it was deleted, and the look back saw it
	}
	return missing, nil
}
