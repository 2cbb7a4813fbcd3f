package server

import (
	"testing"

	"ashlar.dev/pkg/api"
)

// A pause is committed, shown, and told as an event: whoever looks later knows why stores
// stay unequal.
func TestBalancingIsPausedForTheCluster(t *testing.T) {
	g := newGroup(t, 1)
	g.leader()
	ops := g.operator()
	on, off := true, false
	g.until("the level that knows it", func() bool {
		s, err := ops.SetCluster(g.ctx(), &api.SetClusterRequest{BalancingPaused: &on})
		return err == nil && s.BalancingPaused
	})
	if r, err := ops.Status(g.ctx(), false); err != nil || !r.GetBalance().GetPaused() {
		t.Errorf("%v %v", r, err)
	}
	if s, err := ops.SetCluster(g.ctx(), &api.SetClusterRequest{}); err != nil || !s.BalancingPaused {
		t.Errorf("nothing was changed, but %v %v", s, err)
	}
	if s, err := ops.SetCluster(g.ctx(), &api.SetClusterRequest{BalancingPaused: &off}); err != nil || s.BalancingPaused {
		t.Errorf("%v %v", s, err)
	}
	g.untilEvent("rebalance_paused", "")
	g.untilEvent("rebalance_resumed", "")
}
