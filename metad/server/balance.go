package server

import (
	"context"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
)

// SetCluster changes settings of the whole cluster.
func (c *clusterService) SetCluster(ctx context.Context, q *api.SetClusterRequest) (*api.ClusterSettings, error) {
	if q.BalancingPaused != nil {
		if _, err := c.s.commit(ctx, &state.SetBalancing{Paused: q.GetBalancingPaused()}); err != nil {
			return nil, err
		}
		kind, what := "rebalance_resumed", "stores may be balanced again"
		if q.GetBalancingPaused() {
			kind, what = "rebalance_paused", "balancing of stores is paused; what is under way is finished"
		}
		c.s.note(state.Info, kind, aboutRepair, "", caller(ctx).String(), "%s", what)
		c.s.log.Info("balancing changed", "paused", q.GetBalancingPaused(), "by", caller(ctx).String())
	}
	if q.TrashSeconds != nil {
		if err := c.setTrash(ctx, q.GetTrashSeconds()); err != nil {
			return nil, err
		}
	}
	rep := &api.ClusterSettings{}
	return rep, c.look(ctx, func(_ *reconcile.Liveness, m *state.Machine, _ time.Duration) {
		rep.BalancingPaused, rep.TrashSeconds = m.BalancingPaused(), uint64(m.TrashTime()/time.Second)
	})
}

// tellBalancing notes that balancing began or ended. r.mu is held.
func (r *reign) tellBalancing(was bool) {
	now := r.mu.balancer.On()
	if was == now {
		return
	}
	var b reconcile.Balance
	r.s.node.View(func(m *state.Machine) { b = r.mu.balancer.Balance(m, r.mu.live, r.mu.top) })
	switch {
	case now:
		r.s.note(state.Info, "rebalance_begun", aboutRepair, "", "", "stores are %.0f points apart: slots of groups move to emptier ones", 100*b.Apart)
	case !b.Paused:
		r.s.note(state.Info, "rebalance_done", aboutRepair, "", "", "stores are %.0f points apart, no move would help", 100*b.Apart)
	}
}

// fillHealing says how equally full stores are, and what is coded anew. r.mu is held.
func (r *reign) fillHealing(rep *api.StatusReply, m *state.Machine, l *reconcile.Liveness) {
	b := r.mu.balancer.Balance(m, l, r.mu.top)
	rep.Balance = &api.Balance{Paused: b.Paused, Active: b.On, Groups: uint32(b.Moving), Apart: b.Apart, BytesLeft: b.Left, BytesPerSecond: b.PerSecond}
	if b.PerSecond > 0 {
		rep.Balance.SecondsLeft = (b.Left + b.PerSecond - 1) / b.PerSecond
	}
	if x := r.mu.mender.Recoding(m, l, r.mu.top); x.Groups > 0 {
		rep.Recoding = &api.Recoding{Groups: uint32(x.Groups), BytesLeft: x.Left, BytesPerSecond: x.PerSecond}
		if x.PerSecond > 0 {
			rep.Recoding.SecondsLeft = (x.Left + x.PerSecond - 1) / x.PerSecond
		}
	}
}
