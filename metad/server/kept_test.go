package server

import (
	"context"
	"errors"
	"sync"
	"testing"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
)

// Without this nobody would be told to give back what a deleted disk had, or its snapshots could not be
// found, cloned or deleted any more; and clients could open the disk itself.
func TestDeletedDiskIsEmptiedAndItsSnapshotsAreFound(t *testing.T) {
	g := newGroup(t, 1)
	g.leader()
	ops := g.operator()
	hosts := []*host{g.host("h1", 1), g.host("h2", 1)}
	d, err := ops.CreateDisk(g.ctx(), "d", 8<<20)
	must(t, err)
	v := volumeID(t, d.DiskId)
	got, err := hosts[1].Acquire(g.ctx(), v, hosts[1].holder, client.AcquireOpen)
	must(t, err)
	open(t, g, hosts[1], got.Volume)
	ctx, cancel := context.WithCancel(g.ctx())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, h := range hosts {
		wg.Go(func() {
			h.WatchSnapshots(ctx, h.holder, func(o client.SnapshotOrder) { obey(ctx, h, o) }, func(string) {})
		})
	}
	g.until("the group to know snapshots", func() bool {
		x, err := ops.CreateSnapshot(g.ctx(), "d", "one")
		return err == nil && x.State == "ready"
	})
	stay := client.Deletion{Force: true, Purge: true, Snapshots: api.SnapshotsOfDeleted_SNAPSHOTS_OF_DELETED_STAY}
	g.until("the group to delete disks with snapshots", func() bool {
		_, err := ops.DeleteDisk(g.ctx(), "d", stay)
		return err == nil
	})
	if _, err := hosts[0].FindVolume(g.ctx(), d.DiskId); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("clients find it: %v", err)
	}
	g.until("the disk to be emptied", func() bool {
		rec, err := hosts[0].FindKept(g.ctx(), "d")
		return err == nil && rec.ID == v && rec.Kept != nil && rec.Kept.Emptied
	})
	_, err = ops.CreateDisk(g.ctx(), "d", 8<<20)
	must(t, err)
	all, _, err := ops.Snapshots(g.ctx(), "")
	if err != nil || len(all) != 1 || !all[0].DiskDeleted || all[0].Disk != d.DiskId {
		t.Fatalf("%v %v", all, err)
	}
	st, err := ops.Status(g.ctx(), false)
	if err != nil || st.GetKept().GetDisks() != 1 || st.GetCounts().GetDisks() != 1 {
		t.Errorf("status says %v %v: %v", st.GetKept(), st.GetCounts(), err)
	}
	if _, err := ops.DeleteSnapshot(g.ctx(), "d", "one", true); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("the snapshot of another disk of the name: %v", err)
	}
	_, err = ops.DeleteSnapshot(g.ctx(), d.DiskId, "one", true)
	must(t, err)
	if _, err := hosts[0].FindKept(g.ctx(), d.DiskId); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("nobody needs it and it is there: %v", err)
	}
}

// obey says that an order is carried out; of a disk that nobody owns as its new owner. Errors come to nothing: the order is repeated.
func obey(ctx context.Context, h *host, o client.SnapshotOrder) {
	if !o.Empty {
		_ = h.TellSnapshot(ctx, h.holder, 1, o, "")
		return
	}
	if got, err := h.Acquire(ctx, o.Volume, h.holder, client.AcquireOpen); err == nil && got.Volume != nil {
		_ = h.TellEmptied(ctx, h.holder, o.Volume, got.Volume.Epoch)
	}
}
