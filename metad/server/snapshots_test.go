package server

import (
	"context"
	"errors"
	"sync"
	"testing"

	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
)

// Without this a snapshot would be said to be there before its disk's owner has taken it, or
// be taken by a host that does not own the disk, or never.
func TestSnapshotIsTakenByTheOwner(t *testing.T) {
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
	for i, h := range hosts {
		wg.Go(func() {
			h.WatchSnapshots(ctx, h.holder, func(o client.SnapshotOrder) {
				if i != 1 {
					t.Errorf("%s is told to take a snapshot of another's disk", h.holder)
				}
				if err := h.TellSnapshot(ctx, h.holder, got.Volume.Epoch, o, ""); err != nil && ctx.Err() == nil && !errors.Is(err, errs.ErrConflict) {
					t.Errorf("tell: %v", err)
				}
			}, func(string) {})
		})
	}
	g.until("the group to know snapshots", func() bool {
		x, err := ops.CreateSnapshot(g.ctx(), "d", "one")
		return err == nil && x.State == "ready"
	})
	if _, err := ops.CreateSnapshot(g.ctx(), "d", "one"); !errors.Is(err, errs.ErrExists) {
		t.Errorf("the same name again: %v", err)
	}
	if _, err := ops.DeleteDisk(g.ctx(), "d", client.Deletion{Force: true}); !errors.Is(err, errs.ErrConflict) {
		t.Errorf("a disk with a snapshot: %v", err)
	}
	all, more, err := ops.Snapshots(g.ctx(), "")
	if err != nil || more || len(all) != 1 || all[0].Disk != "d" || all[0].SizeBytes != 8<<20 {
		t.Fatalf("%v %v %v", all, more, err)
	}
	rec, err := hosts[0].FindVolume(g.ctx(), "d")
	must(t, err)
	if s, ok := rec.FindSnapshot("one"); !ok || s.ID.String() != all[0].SnapshotId {
		t.Errorf("hosts see %+v", rec.Snapshots)
	}
	_, err = ops.DeleteSnapshot(g.ctx(), "d", "one", true)
	must(t, err)
	g.until("the snapshot to be gone", func() bool {
		all, _, err := ops.Snapshots(g.ctx(), "d")
		return err == nil && len(all) == 0
	})
	if _, err := ops.DeleteSnapshot(g.ctx(), "d", "one", true); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("again: %v", err)
	}
}
