package server

import (
	"strings"
	"testing"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Without this a status would tell less than hosts do: what is used, of no use, promised
// and left, per disk and in total.
func TestStatusTellsOfSpace(t *testing.T) {
	g := newGroup(t, 1)
	g.leader()
	ops := g.operator()
	d, err := ops.CreateDisk(g.ctx(), "d", 8<<30)
	must(t, err)
	v := volumeID(t, d.DiskId)
	h := g.host("h1", 2)
	got, err := h.Acquire(g.ctx(), v, h.holder, client.AcquireOpen)
	must(t, err)
	h.mu.Lock()
	h.volumes = []client.VolumeBeat{{Volume: v, Epoch: got.Volume.Epoch, State: client.VolumeServing, Space: &cluster.Space{Live: 300, Dead: 100},
		Cleaning: cluster.Cleaning{Left: 50, Done: 7}, Traffic: cluster.Traffic{Reads: 3, ReadBytes: 4096}}}
	h.uses = []cluster.VolumeUse{{Volume: v, Bytes: 1000}}
	h.mu.Unlock()
	var s *api.StatusReply
	g.until("the host's figures", func() bool {
		s, err = ops.Status(g.ctx(), true)
		must(t, err)
		return len(s.Disks) == 1 && s.Disks[0].Space != nil && s.Disks[0].UsedBytes == 2000 && s.Room.UsableBytes > 0
	})
	x := s.Disks[0]
	if x.ReclaimableBytes != 500 || x.Space.LiveBytes != 300 || x.Cleaning.LeftBytes != 50 || x.Traffic.Reads != 3 {
		t.Errorf("disk %v", x)
	}
	if r := s.Room; r.ReclaimableBytes != 500 || r.ProvisionedBytes != 8<<30 || r.FreeBytes != 2<<29 || r.UsableBytes != 1<<29 || r.OvercommitPercent != 1600 {
		t.Errorf("room %v", r)
	}
	if s.Cleaning.LeftBytes != 50 || s.Traffic.ReadBytes != 4096 {
		t.Errorf("cleaning %v, traffic %v", s.Cleaning, s.Traffic)
	}
	// A page out of order, or of a group that cannot be, is a peer gone wrong.
	for what, b := range map[string]client.StoreBeat{
		"order": {StoreRef: h.stores[0], Use: &cluster.VolumeUsePage{Uses: []cluster.VolumeUse{{Volume: id.Volume{2}}, {Volume: id.Volume{1}}}}},
		"long":  {StoreRef: h.stores[0], Use: &cluster.VolumeUsePage{Uses: make([]cluster.VolumeUse, cluster.VolumeUsesMax+1)}},
		"group": {StoreRef: h.stores[0], Groups: []cluster.GroupUse{{PG: id.PGMax + 1}}},
	} {
		if _, err := h.Heartbeat(g.ctx(), client.Heartbeat{Holder: h.holder, Stores: []client.StoreBeat{b}}); err == nil {
			t.Errorf("heartbeat with a bad %s was taken", what)
		}
	}
}

// What people read first: it must say what hangs on the next failure, and not cry wolf.
func TestSummaryInWords(t *testing.T) {
	for _, c := range []struct {
		report reconcile.Report
		want   string
	}{
		{reconcile.Report{Level: reconcile.OK, Risk: reconcile.Risk{Margin: 1}}, "any one store may be lost"},
		{reconcile.Report{Level: reconcile.Degraded, Risk: reconcile.Risk{Margin: 2}}, "all that is stored has its margin; any 2 stores may be lost"},
		{reconcile.Report{Level: reconcile.Degraded, Risk: reconcile.Risk{Reduced: 1 << 30, Margin: 1}}, "1 GiB have less margin than they should; any one store may be lost"},
		{reconcile.Report{Level: reconcile.AtRisk, Risk: reconcile.Risk{None: 1 << 20, Journals: 1 << 10}}, "1 MiB may be lost with the next store; 1 KiB in journals may be lost with the next store"},
		{reconcile.Report{Level: reconcile.Unavailable, Stuck: 2, Risk: reconcile.Risk{Unreadable: 1 << 20}}, "1 MiB cannot be read now; 2 disks cannot be served"},
		{reconcile.Report{Level: reconcile.AtRisk}, "all that is stored has its margin; no further store may be lost"},
	} {
		if got := summary(&c.report); got != c.want || strings.Contains(got, "\n") {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}
