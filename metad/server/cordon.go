package server

import (
	"context"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/id"
)

// CordonHost keeps what is new off a host, or lets it come again.
func (c *clusterService) CordonHost(ctx context.Context, q *api.CordonHostRequest) (*api.Host, error) {
	was := false
	if err := c.look(ctx, func(_ *reconcile.Liveness, m *state.Machine, _ time.Duration) { was = m.Cordoned(id.Host(q.GetHost())) }); err != nil {
		return nil, err
	}
	if _, err := c.s.commit(ctx, &state.CordonHost{Host: id.Host(q.GetHost()), On: !q.GetOff()}); err != nil {
		return nil, err
	}
	if was == q.GetOff() { // it changed
		kind, what := "host_cordoned", "nothing new is placed on host %s"
		if q.GetOff() {
			kind, what = "host_uncordoned", "new things are placed on host %s again"
		}
		c.s.note(state.Info, kind, aboutHost, q.GetHost(), caller(ctx).String(), what, q.GetHost())
		c.s.log.Info("cordon of host changed", "host", q.GetHost(), "on", !q.GetOff(), "by", caller(ctx).String())
	}
	rep := &api.Host{}
	err := c.look(ctx, func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		for _, h := range hosts(m, l, reconcile.Topology(m, l, now), now) {
			if h.Host == q.GetHost() {
				rep = h
			}
		}
	})
	return rep, err
}
