package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// grouper carries out the orders about the disks of one host, as its test wants it.
type grouper struct {
	mu    sync.Mutex
	steps []string
	holds []time.Duration // ordered
	fail  func(o client.SnapshotOrder) string
	epoch id.Epoch
}

func (x *grouper) watch(ctx context.Context, t *testing.T, h *host) {
	h.WatchSnapshots(ctx, h.holder, func(o client.SnapshotOrder) {
		x.mu.Lock()
		failed := ""
		if x.fail != nil {
			failed = x.fail(o)
		}
		if o.Step == api.SnapshotStep_SNAPSHOT_STEP_HOLD {
			x.holds = append(x.holds, o.Hold)
		}
		if o.Step != 0 {
			x.steps = append(x.steps, fmt.Sprint(int32(o.Step), failed))
		}
		x.mu.Unlock()
		if err := h.TellSnapshot(ctx, h.holder, x.epoch, o, failed); err != nil && ctx.Err() == nil && !errors.Is(err, errs.ErrConflict) {
			t.Errorf("tell: %v", err)
		}
	}, func(string) {})
}

// Without this snapshots of several disks would be said to be of one point in time though one of them was not
// held while the others were taken, or be left behind when they are not.
func TestGroupOfSnapshotsCountsOnlyIfAllHeld(t *testing.T) {
	g := newGroup(t, 1)
	g.leader()
	ops := g.operator()
	ctx, cancel := context.WithCancel(g.ctx())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var groupers []*grouper
	hosts := []*host{g.host("h1", 1), g.host("h2", 1)}
	for i, disk := range []string{"a", "b"} {
		h := hosts[i]
		d, err := ops.CreateDisk(g.ctx(), disk, 8<<20)
		must(t, err)
		got, err := h.Acquire(g.ctx(), volumeID(t, d.DiskId), h.holder, client.AcquireOpen)
		must(t, err)
		open(t, g, h, got.Volume)
		x := &grouper{epoch: got.Volume.Epoch}
		groupers = append(groupers, x)
		wg.Go(func() { x.watch(ctx, t, h) })
	}
	g.until("the group to know groups of snapshots", func() bool {
		all, err := ops.CreateSnapshots(g.ctx(), []string{"a", "b"}, "both")
		return err == nil && len(all) == 2 && all[0].Name == "both" && all[1].State == "ready"
	})
	for _, x := range groupers {
		x.mu.Lock()
		if got := fmt.Sprint(slices.Compact(x.steps)); got != "[1 2 3]" { // orders may come twice
			t.Errorf("the steps were %s", got)
		}
		x.mu.Unlock()
	}
	for disks, want := range map[string]error{"a b": errs.ErrExists, "a a": errs.ErrInvalid, "a none": errs.ErrNotFound} {
		var x, y string
		if _, err := fmt.Sscan(disks, &x, &y); err != nil {
			t.Fatal(err)
		}
		if _, err := ops.CreateSnapshots(g.ctx(), []string{x, y}, "both"); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", disks, err, want)
		}
	}
	failingGroups(t, g, ops, groupers)
}

// failingGroups has steps of one host fail: once, and the group is taken again; always, and nothing is left.
func failingGroups(t *testing.T, g *group, ops *client.Cluster, groupers []*grouper) {
	t.Helper()
	for _, step := range []api.SnapshotStep{api.SnapshotStep_SNAPSHOT_STEP_HOLD, api.SnapshotStep_SNAPSHOT_STEP_RELEASE} {
		times := 0
		groupers[1].mu.Lock()
		groupers[1].fail = func(o client.SnapshotOrder) string {
			if o.Step != step || times > 0 {
				return ""
			}
			times++
			return "not held"
		}
		groupers[1].mu.Unlock()
		all, err := ops.CreateSnapshots(g.ctx(), []string{"a", "b"}, fmt.Sprint("second", int32(step)))
		if err != nil || times != 1 {
			t.Errorf("a second try: %v after %d failures", err, times)
		}
		g.until("what the first try left to be gone", func() bool {
			have, _, err := ops.Snapshots(g.ctx(), "")
			return err == nil && len(have) == 2+2*int(step-1) && len(all) == 2
		})
	}
	groupers[0].mu.Lock()
	groupers[0].holds = nil
	groupers[0].fail = func(o client.SnapshotOrder) string {
		return map[bool]string{true: "never"}[o.Step == api.SnapshotStep_SNAPSHOT_STEP_RELEASE]
	}
	groupers[0].mu.Unlock()
	if all, err := ops.CreateSnapshots(g.ctx(), []string{"a", "b"}, "third"); err == nil {
		t.Errorf("a group that was never held is there: %v", all)
	}
	groupers[0].mu.Lock()
	if got := slices.Compact(groupers[0].holds); fmt.Sprint(got) != "[15ms 75ms 1s]" {
		t.Errorf("writers were to be held for %v at most", got)
	}
	groupers[0].mu.Unlock()
	g.until("nothing of it to be left", func() bool {
		have, _, err := ops.Snapshots(g.ctx(), "")
		return err == nil && len(have) == 6
	})
}

// Without this what a leader that died had half taken would stay for ever, neither there nor gone.
func TestHalfAGroupIsDeletedByTheNextLeader(t *testing.T) {
	g := newGroup(t, 1)
	s := g.running[g.leader()]
	ops, h := g.operator(), g.host("h1", 1)
	_ = g.host("h2", 1)
	d, err := ops.CreateDisk(g.ctx(), "d", 8<<20)
	must(t, err)
	v := volumeID(t, d.DiskId)
	got, err := h.Acquire(g.ctx(), v, h.holder, client.AcquireOpen)
	must(t, err)
	open(t, g, h, got.Volume)
	ctx, cancel := context.WithCancel(g.ctx())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	x := &grouper{epoch: got.Volume.Epoch}
	wg.Go(func() { x.watch(ctx, t, h) })
	g.until("a group half taken", func() bool { // as a leader leaves it that dies after the first commit
		_, err := s.commit(g.ctx(), &state.CreateSnapshots{Members: []state.GroupMember{{Volume: v, ID: id.Snapshot{1}}}})
		return err == nil
	})
	g.until("it to be gone", func() bool {
		all, _, err := ops.Snapshots(g.ctx(), "d")
		return err == nil && len(all) == 0
	})
}

// Without this each of many orders that is carried out would have all others sent again, and a host would be busy with orders it has
// carried out long ago: one is sent at once, and then only with the next tick.
func TestOrdersAreNotSentAgainForEachChange(t *testing.T) {
	o := make(ordered)
	orders := func(steps ...api.SnapshotStep) *api.SnapshotOrders {
		x := &api.SnapshotOrders{Empty: [][]byte{{1}}, Manifests: []string{"m"}}
		for _, s := range steps {
			x.Orders = append(x.Orders, &api.SnapshotOrder{Volume: []byte{1}, Snapshot: []byte{2}, Step: s})
		}
		return x
	}
	hold, release := api.SnapshotStep_SNAPSHOT_STEP_HOLD, api.SnapshotStep_SNAPSHOT_STEP_RELEASE
	first, second := orders(hold), orders(hold, release)
	o.strip(first)
	o.strip(second)
	if len(first.Orders) != 1 || len(first.Empty) != 1 {
		t.Errorf("of what is new %d orders and %d others are sent", len(first.Orders), len(first.Empty))
	}
	if len(second.Orders) != 1 || second.Orders[0].Step != release || len(second.Empty) != 0 || len(second.Manifests) != 1 {
		t.Errorf("after a change %v is sent", second)
	}
	clear(o)
	third := orders(hold)
	if o.strip(third); len(third.Orders) != 1 {
		t.Error("an order is not repeated with the next tick")
	}
}
