package server

import (
	"context"
	"fmt"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

func (c *clusterService) Scrub(ctx context.Context, q *api.ScrubRequest) (*api.ScrubReply, error) {
	n, err := api.ScrubID(q.GetScrubId())
	if err == nil && n == [16]byte{} {
		err = fmt.Errorf("scrub without an id: %w", errs.ErrInvalid)
	}
	if err != nil {
		return nil, c.s.fail(err)
	}
	if err := c.s.fresh(ctx); err != nil {
		return nil, c.s.fail(err)
	}
	r, err := c.s.ruling()
	if err != nil {
		return nil, c.s.fail(err)
	}
	rep := &api.ScrubReply{}
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		top := reconcile.Topology(m, l, now)
		var volume id.Volume
		var stores []cluster.StoreRef
		if volume, stores, err = scrubTarget(m, top, q.GetTarget()); err != nil {
			return
		}
		r.mu.scrubs.Ask(n, volume, stores)
		var progress []reconcile.ScrubOfStore
		progress, rep.Done, _ = r.mu.scrubs.Progress(n, top, l)
		for _, p := range progress {
			rep.Stores = append(rep.Stores, &api.ScrubOfStore{StoreId: p.Store.Store.String(), Host: string(p.Host), Progress: api.FromScrub(p.ScrubProgress)})
		}
	})
	if err != nil {
		return nil, c.s.fail(err)
	}
	return rep, nil
}

// scrubTarget finds which stores are meant, and the disk if one is.
func scrubTarget(m *state.Machine, t *cluster.Topology, target string) (v id.Volume, stores []cluster.StoreRef, err error) {
	found := target == ""
	for _, s := range t.Stores {
		if s.Store.String() == target {
			return v, []cluster.StoreRef{s.StoreRef}, nil
		}
		if s.State != cluster.StoreLost {
			stores = append(stores, s.StoreRef)
		}
	}
	if !found {
		var vol *state.Volume
		if vol, found = m.Find(target); found {
			v = vol.ID
		}
	}
	if !found {
		return v, nil, fmt.Errorf("disk or store %.140q: %w", target, errs.ErrNotFound)
	}
	return v, stores, nil
}
