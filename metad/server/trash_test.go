package server

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// trashing is a group that knows the trash, which keeps what is deleted for some seconds.
func trashing(t *testing.T, members int, seconds uint64) (*group, *client.Cluster) {
	g := newGroup(t, members)
	g.leader()
	ops := g.operator()
	g.until("the group to know the trash", func() bool {
		r, err := ops.SetCluster(g.ctx(), &api.SetClusterRequest{TrashSeconds: &seconds})
		return err == nil && r.TrashSeconds == seconds
	})
	return g, ops
}

// Without this what is due would stay for ever, or go with its leader's memory of the time, or before it.
func TestTrashIsEmptiedWhenItIsDue(t *testing.T) {
	g, ops := trashing(t, 3, 2)
	h := g.host("h1", 2)
	d, err := ops.CreateDisk(g.ctx(), "d", 8<<20)
	must(t, err)
	v := volumeID(t, d.DiskId)
	got, err := h.Acquire(g.ctx(), v, h.holder, client.AcquireOpen)
	must(t, err)
	open(t, g, h, got.Volume)
	began := time.Now()
	gone, err := ops.DeleteDisk(g.ctx(), "d", client.Deletion{Force: true})
	must(t, err)
	if gone.Until.IsZero() {
		t.Error("nobody says until when it can be brought back")
	}
	g.kill(g.leader())
	g.until("its end", func() bool {
		all, _, err := ops.Trash(g.ctx())
		return err == nil && len(all) == 0
	})
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("it went after %s", took)
	}
	if _, err := ops.RestoreTrash(g.ctx(), d.DiskId, ""); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("brought back after its end: %v", err)
	}
	g.until("the stores to be asked to forget it", func() bool { return len(h.lastReply().Purges) == len(h.stores) })
}

// What a user does who deleted the wrong things.
func TestTrashGivesBackDisksAndSnapshots(t *testing.T) {
	g, ops := trashing(t, 1, 3600)
	h := g.host("h1", 2)
	d, err := ops.CreateDisk(g.ctx(), "d", 8<<20)
	must(t, err)
	v := volumeID(t, d.DiskId)
	got, err := h.Acquire(g.ctx(), v, h.holder, client.AcquireOpen)
	must(t, err)
	open(t, g, h, got.Volume)
	yielder(t, g, h, func(o client.SnapshotOrder) { _ = h.TellSnapshot(g.ctx(), h.holder, 1, o, "") }) // it is asked again
	for _, name := range []string{"one", "two"} {
		g.until("a snapshot", func() bool {
			x, err := ops.CreateSnapshot(g.ctx(), "d", name)
			return err == nil && x.State == "ready" || errors.Is(err, errs.ErrExists)
		})
	}
	x, err := ops.DeleteSnapshot(g.ctx(), "d", "one", false)
	if err != nil || x.State != "in the trash" || x.TrashedUntilUnixMs == 0 {
		t.Fatalf("%v %v", x, err)
	}
	if all, _, err := ops.Snapshots(g.ctx(), "d"); err != nil || len(all) != 1 || all[0].Name != "two" {
		t.Errorf("listed: %v %v", all, err)
	}
	for _, spec := range []string{"one", x.SnapshotId} {
		if _, err := ops.CloneDisk(g.ctx(), client.Clone{Name: "c", Disk: "d", Snapshot: spec}); !errors.Is(err, errs.ErrNotFound) {
			t.Errorf("a clone of it: %v", err)
		}
		if _, err := ops.DeleteSnapshot(g.ctx(), "d", spec, true); !errors.Is(err, errs.ErrNotFound) {
			t.Errorf("deleted again: %v", err)
		}
	}
	for range 2 { // the answer was lost
		e, err := ops.RestoreTrash(g.ctx(), x.SnapshotId, "uno")
		if err != nil || e.Kind != "snapshot" || e.Name != "uno" || e.Disk != "d" {
			t.Fatalf("%v %v", e, err)
		}
	}
	_, err = ops.DeleteDisk(g.ctx(), "d", client.Deletion{Force: true, Snapshots: api.SnapshotsOfDeleted_SNAPSHOTS_OF_DELETED_GO_TOO})
	must(t, err)
	all, _, err := ops.Trash(g.ctx())
	if err != nil || len(all) != 1 || all[0].Snapshots != 2 {
		t.Fatalf("%v %v", all, err)
	}
	seenInTrash(t, g, ops, h, all[0])
	other, err := ops.CreateDisk(g.ctx(), "d", 8<<20)
	must(t, err)
	if _, err := ops.RestoreTrash(g.ctx(), d.DiskId, ""); !errors.Is(err, errs.ErrExists) {
		t.Errorf("two disks of one name: %v", err)
	}
	for range 2 {
		e, err := ops.RestoreTrash(g.ctx(), d.DiskId, "back")
		if err != nil || e.Kind != "disk" || e.Name != "back" {
			t.Fatalf("%v %v", e, err)
		}
	}
	if all, _, err := ops.Snapshots(g.ctx(), "back"); err != nil || len(all) != 2 {
		t.Errorf("its snapshots: %v %v", all, err)
	}
	_, err = ops.DeleteDisk(g.ctx(), other.DiskId, client.Deletion{})
	must(t, err)
	must(t, ops.EmptyTrash(g.ctx(), other.DiskId))
	if all, _, err := ops.Trash(g.ctx()); err != nil || len(all) != 0 {
		t.Errorf("%v %v", all, err)
	}
}

// Schedule: a client attaches after the last heartbeat, and the disk is deleted under it; or it attaches between the
// owner's giving the disk up and the commit.
func TestDiskIsDeletedOnlyWhenItsOwnerSaysThatNobodyUsesIt(t *testing.T) {
	g := newGroup(t, 1)
	g.leader()
	ops := g.operator()
	h := g.host("h1", 2)
	d, err := ops.CreateDisk(g.ctx(), "d", 8<<20)
	must(t, err)
	v := volumeID(t, d.DiskId)
	got, err := h.Acquire(g.ctx(), v, h.holder, client.AcquireOpen)
	must(t, err)
	open(t, g, h, got.Volume)
	h.serves(v, got.Volume.Epoch, 0)
	var mu sync.Mutex
	asked, attached, epoch := false, true, got.Volume.Epoch
	yielder(t, g, h, func(o client.SnapshotOrder) {
		mu.Lock()
		defer mu.Unlock()
		asked = true
		if !attached {
			_ = h.Release(g.ctx(), v, epoch, h.holder) // it is asked again
			return
		}
		h.serves(v, id.Epoch(1), 1)
	})
	g.until("metad to hear that nobody has it open", func() bool {
		d, err := ops.Disk(g.ctx(), "d")
		return err == nil && d.State == "available" && d.OwnerHost == "h1"
	})
	if _, err := ops.DeleteDisk(g.ctx(), "d", client.Deletion{}); !errors.Is(err, errs.ErrConflict) {
		t.Fatalf("deleted under a client of whom no heartbeat had told: %v", err)
	}
	mu.Lock()
	if !asked {
		t.Error("the owner was not asked")
	}
	attached = false
	h.serves(v, epoch, 0)
	mu.Unlock()
	g.until("the deletion, when the owner has given the disk up", func() bool {
		_, err = ops.DeleteDisk(g.ctx(), "d", client.Deletion{})
		return !errors.Is(err, errs.ErrConflict)
	})
	must(t, err)
}

// seenInTrash looks at a disk that was put into the trash while h had it.
func seenInTrash(t *testing.T, g *group, ops *client.Cluster, h *host, e *api.TrashEntry) {
	if left := e.UntilUnixMs - e.DeletedUnixMs; e.Name != "d" || e.DeletedBy == "" || left < 3590e3 || left > 3601e3 {
		t.Errorf("in the trash: %v", e)
	}
	if _, err := h.FindVolume(g.ctx(), e.Id); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("clients find it: %v", err)
	}
	if _, err := h.FindKept(g.ctx(), e.Id); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("readers of snapshots find it: %v", err)
	}
	st, err := ops.Status(g.ctx(), false)
	if err != nil || st.GetTrash().GetDisks() != 1 || st.GetKept().GetDisks() != 0 || st.GetCounts().GetDisks() != 0 {
		t.Errorf("status says %v %v %v: %v", st.GetTrash(), st.GetKept(), st.GetCounts(), err)
	}
	g.until("a host to be asked to fence its owner and pack it", func() bool {
		return slices.Contains(h.lastReply().Rescues, volumeID(t, e.Id))
	})
}
