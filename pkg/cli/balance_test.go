package cli

import (
	"context"
	"strings"
	"testing"

	"ashlar.dev/pkg/api"
)

// SetCluster changes f.status.
func (f *fake) SetCluster(_ context.Context, q *api.SetClusterRequest) (*api.ClusterSettings, error) {
	if q.BalancingPaused != nil {
		f.status.Balance.Paused = q.GetBalancingPaused()
	}
	if q.TrashSeconds != nil {
		f.keep = q.GetTrashSeconds()
	}
	return &api.ClusterSettings{BalancingPaused: f.status.GetBalance().GetPaused(), TrashSeconds: f.keep}, nil
}

// What moves for the room's sake, how far it is, and why it does not, is seen at a glance.
func TestBalancingIsShown(t *testing.T) {
	x := newTerminal(t)
	x.fake.status = &api.StatusReply{Balance: &api.Balance{Active: true, Groups: 2, Apart: 0.34, BytesLeft: 3 << 30, BytesPerSecond: 1 << 20, SecondsLeft: 3072}}
	if out := x.must("status"); !strings.Contains(out, "balance stores are 34 points apart, 2 groups move, 3 GiB to go at 1 MiB/s, about 51m12s\n") {
		t.Error(out)
	}
	if out := x.must("cluster set --rebalance off"); !strings.Contains(out, "ashlar cluster set --rebalance on") {
		t.Error(out)
	}
	x.fake.status.Balance.Active = false
	if out := x.must("status"); !strings.Contains(out, "balance paused, stores are 34 points apart") {
		t.Error(out)
	}
	if s := decode[map[string]any](t, x.must("status -o json"))["balance"].(map[string]any); s["paused"] != true || s["apartPercent"].(float64) < 33 {
		t.Error(s)
	}
	x.fake.status.Recoding = &api.Recoding{Groups: 3, BytesLeft: 2 << 30, BytesPerSecond: 1 << 20, SecondsLeft: 2048}
	if out := x.must("status"); !strings.Contains(out, "recode  3 groups have a better code, 2 GiB on stores to be coded anew at 1 MiB/s, about 34m8s\n") {
		t.Error(out)
	}
	x.must("cluster set --rebalance on")
	if out := x.must("status"); strings.Contains(out, "balance") {
		t.Error(out)
	}
	if x.run("cluster set") == 0 {
		t.Error("nothing was set, and that was fine")
	}
}
