package server

import (
	"context"
	"errors"
	"sync"
	"testing"

	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// yielder is a host that is told to give a disk up, and asks what to do about it.
func yielder(t *testing.T, g *group, h *host, told func(client.SnapshotOrder)) {
	ctx, cancel := context.WithCancel(g.ctx())
	var wg sync.WaitGroup
	wg.Go(func() { h.WatchSnapshots(ctx, h.holder, told, func(string) {}) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// Schedule: a client attaches after the last heartbeat, and the disk is rolled back under it; or it
// attaches between the owner's giving the disk up and the commit.
func TestDiskIsRolledBackOnlyWhenItsOwnerSaysThatNobodyUsesIt(t *testing.T) {
	g := newGroup(t, 1)
	g.leader()
	ops := g.operator()
	h := g.host("h1", 2)
	d, err := ops.CreateDisk(g.ctx(), "d", 8<<20)
	must(t, err)
	v := volumeID(t, d.DiskId)
	var mu sync.Mutex
	epoch := id.Epoch(0)
	yields, attached := 0, true
	hear := func(err error) {
		if err != nil && !errors.Is(err, errs.ErrConflict) && t.Context().Err() == nil {
			t.Error(err)
		}
	}
	yielder(t, g, h, func(o client.SnapshotOrder) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case o.Yield && attached: // since the last heartbeat
			if yields++; yields == 1 {
				h.serves(v, epoch, 1)
			}
		case o.Yield:
			hear(h.Release(g.ctx(), v, epoch, h.holder))
		case o.Safety != (id.Snapshot{}): // it is opened to be rolled back
			got, err := h.Acquire(g.ctx(), v, h.holder, client.AcquireTakeover)
			if hear(err); err != nil {
				return
			}
			epoch = got.Volume.Epoch
			fallthrough
		default:
			hear(h.TellSnapshot(g.ctx(), h.holder, epoch, o, ""))
		}
	})
	acquire := func() {
		got, err := h.Acquire(g.ctx(), v, h.holder, client.AcquireOpen)
		must(t, err)
		mu.Lock()
		epoch = got.Volume.Epoch
		mu.Unlock()
		open(t, g, h, got.Volume)
		h.serves(v, got.Volume.Epoch, 0)
	}
	acquire()
	g.until("the snapshot", func() bool {
		s, err := ops.CreateSnapshot(g.ctx(), "d", "s")
		return err == nil && s.State == "ready"
	})
	if _, err := ops.RollbackDisk(g.ctx(), "d", "s"); !errors.Is(err, errs.ErrConflict) {
		t.Errorf("rolled back under a client of whom no heartbeat had told: %v", err)
	}
	mu.Lock()
	if yields == 0 {
		t.Error("the owner was not asked")
	}
	attached = false
	h.serves(v, epoch, 0)
	mu.Unlock()
	g.until("the rollback, when a heartbeat has told that the client is gone", func() bool {
		_, err = ops.RollbackDisk(g.ctx(), "d", "s")
		return !errors.Is(err, errs.ErrConflict)
	})
	must(t, err)
}
