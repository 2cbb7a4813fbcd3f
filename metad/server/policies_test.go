package server

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"ashlar.dev/metad/policy"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// minuteOf is a time's minute of the day.
func minuteOf(t time.Time) uint16 { return uint16(t.UTC().Hour()*60 + t.UTC().Minute()) }

// withTaker is a group with a disk whose owner takes every snapshot at once.
func withTaker(t *testing.T) (*group, *Server, *client.Cluster, id.Volume) {
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
	t.Cleanup(func() { cancel(); wg.Wait() })
	x := &grouper{epoch: got.Volume.Epoch}
	wg.Go(func() { x.watch(ctx, t, h) })
	return g, s, ops, v
}

// Without this snapshots would not be taken when they are due, twice after a change of leaders, or never
// deleted; and nobody would hear of a run that was left out.
func TestPoliciesAreCarriedOut(t *testing.T) {
	g, s, ops, v := withTaker(t)
	now := time.Now()
	yesterday := now.Add(-25 * time.Hour)
	set := func(name string, n byte, due, since time.Time) { // what was due before since does not count
		g.until("policy "+name, func() bool {
			_, err := s.commit(g.ctx(), &state.SetPolicy{ID: id.Raw{n}, Name: name, New: true, NowMS: since.UnixMilli(),
				Rules: policy.Rules{At: []uint16{minuteOf(due)}, Days: policy.EveryDay, Keep: 1}})
			return err == nil
		})
	}
	find := func(name string) *api.Policy {
		all, err := ops.Policies(g.ctx())
		must(t, err)
		for _, p := range all {
			if p.Name == name {
				return p
			}
		}
		return &api.Policy{}
	}
	set("empty", 9, now.Add(-time.Minute), yesterday) // without disks: nothing to do, and nothing goes wrong
	_, err := ops.SetPolicy(g.ctx(), "nightly", &api.PolicyRules{AtMinutes: []uint32{uint32(minuteOf(now.Add(-time.Minute)))}, Days: 127, Keep: 2}, false)
	must(t, err)
	p, err := ops.ApplyPolicy(g.ctx(), "nightly", []string{"d"}, false)
	must(t, err)
	if len(p.Disks) != 1 || p.Disks[0] != "d" || p.NextUnixMs < now.UnixMilli() {
		t.Fatalf("%+v", p)
	}
	g.until("the run without disks", func() bool { p := find("empty"); return len(p.Runs) == 1 && !p.Runs[0].Open })
	if p := find("nightly"); len(p.Runs) != 0 {
		t.Fatalf("what was due before the policy was made: %+v", p)
	}

	// A run that a leader had begun before it died.
	set("left", 2, now.Add(-time.Minute), now)
	due := now.Add(-26 * time.Hour).UTC().Truncate(time.Minute)
	_, err = s.commit(g.ctx(), &state.PolicyBegins{Policy: id.Raw{2}, Due: due, Made: []policy.Made{{Volume: v, Snapshot: snapshotOfRun(id.Raw{2}, due, v), Due: due}}})
	must(t, err)
	g.until("the run that was left", func() bool {
		p := find("left")
		return len(p.Runs) > 0 && p.Runs[0].DueUnixMs == due.UnixMilli() && !p.Runs[0].Open && p.Runs[0].Taken == 1
	})
	_, err = ops.ApplyPolicy(g.ctx(), "left", []string{"d"}, false)
	must(t, err)
	all, _, err := ops.Snapshots(g.ctx(), "d")
	must(t, err)
	if len(all) != 1 || !strings.HasPrefix(all[0].Name, "left-") {
		t.Fatalf("%v", all)
	}

	set("late", 3, now.Add(-3*time.Hour), yesterday)
	g.until("a run that is left out", func() bool { p := find("late"); return len(p.Runs) == 1 && p.Runs[0].Skipped != "" })

	// The next run of it takes a newer one, and the older goes: one is kept.
	next := now.Add(-30 * time.Minute).UTC().Truncate(time.Minute)
	_, err = s.commit(g.ctx(), &state.PolicyBegins{Policy: id.Raw{2}, Due: next, Made: []policy.Made{{Volume: v, Snapshot: snapshotOfRun(id.Raw{2}, next, v), Due: next}}})
	must(t, err)
	g.until("the older snapshot to be gone", func() bool {
		p := find("left")
		all, _, err := ops.Snapshots(g.ctx(), "d")
		return err == nil && len(p.Runs) == 2 && p.Runs[1].Taken == 1 && len(all) == 1 && strings.HasSuffix(all[0].Name, next.Format("20060102T1504Z"))
	})
}

// Without this a state that is behind its cluster would have snapshots deleted by what it remembers, and take others of disks that
// it does not know.
func TestPoliciesRestWhileTheStateIsRebuilt(t *testing.T) {
	m := state.New()
	now := time.Unix(1_700_000_000, 0).UTC()
	for i, c := range []state.Command{
		&state.Init{ClusterID: [16]byte{1}, Settings: state.DefaultSettings}, &state.SetLevel{Level: state.LevelTime},
		&state.SetPolicy{ID: id.Raw{1}, Name: "p", New: true, NowMS: now.Add(-25 * time.Hour).UnixMilli(), Rules: policy.Rules{At: []uint16{minuteOf(now)}, Days: policy.EveryDay, Keep: 1}},
	} {
		must(t, m.Apply(uint64(i+1), c).Err)
	}
	if w := dueWork(m, now, nil); len(w) != 1 || w[0].begin.IsZero() {
		t.Fatalf("%+v", w)
	}
	if w := dueWork(m, now, map[id.Raw]bool{{1}: true}); len(w) != 0 {
		t.Fatalf("it is worked on already: %+v", w)
	}
	m.Reopen([16]byte{1})
	if w := dueWork(m, now, nil); len(w) != 0 {
		t.Fatalf("%+v", w)
	}
}

// Without this a run would wait for ever for a disk that cannot be reached, and the snapshot be taken a week later under
// the name of its day.
func TestRunGivesUpWhatCannotBeTaken(t *testing.T) {
	g := newGroup(t, 1)
	s := g.running[g.leader()]
	ops := g.operator()
	_, _ = g.host("h1", 1), g.host("h2", 1) // who do nothing
	d, err := ops.CreateDisk(g.ctx(), "d", 8<<20)
	must(t, err)
	v, snapshot := volumeID(t, d.DiskId), id.Snapshot{9}
	g.until("the group to give up", func() bool {
		r := s.reign.Load()
		return r != nil && errors.Is(r.takeSnapshot(g.ctx(), &state.CreateSnapshot{Volume: v, ID: snapshot, Name: "late"}, 50*time.Millisecond), errs.ErrTimeout)
	})
	s.node.View(func(m *state.Machine) {
		x, _ := m.Volume(v)
		if y, ok := x.FindSnapshot(snapshot.String()); ok && y.State != cluster.SnapshotDeleting {
			t.Errorf("it would be taken yet: %s", y.State)
		}
	})
}
