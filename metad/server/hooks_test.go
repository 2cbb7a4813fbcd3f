package server

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"ashlar.dev/metad/policy"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/id"
)

// freezer is a host with a hook.
type freezer struct {
	mu    sync.Mutex
	steps []string
	says  func(o client.HookOrder) client.HookOutcome
}

func (f *freezer) set(says func(o client.HookOrder) client.HookOutcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.says, f.steps = says, nil
}

func (f *freezer) done() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.steps, " ")
}

func (f *freezer) watch(ctx context.Context, t *testing.T, h *host) {
	told := make(map[client.HookOrder]bool)
	h.WatchHooks(ctx, h.holder, []string{"db"}, func(o client.HookOrder) {
		if told[o] {
			return
		}
		told[o] = true
		f.mu.Lock()
		step := "freeze"
		if o.Thaw {
			step = "thaw"
		}
		f.steps = append(f.steps, step)
		x := f.says(o)
		f.mu.Unlock()
		if err := h.TellHook(ctx, h.holder, o, x); err != nil && ctx.Err() == nil {
			t.Errorf("tell: %v", err)
		}
	})
}

// well is a host on which all goes well.
func well(client.HookOrder) client.HookOutcome { return client.HookOutcome{Held: true} }

// withFreezer is withTaker with a hook on host h3.
func withFreezer(t *testing.T) (*group, *Server, *client.Cluster, id.Volume, *freezer) {
	g, s, ops, v := withTaker(t)
	h := g.host("h3", 1)
	f := &freezer{says: well}
	ctx, cancel := context.WithCancel(g.ctx())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	wg.Go(func() { f.watch(ctx, t, h) })
	g.until("the hook to be known", func() bool {
		r, err := ops.Hooks(g.ctx())
		return err == nil && len(r.Hosts) == 1 && r.Hosts[0].Names[0] == "db"
	})
	g.until("the group to know hooks", func() bool {
		known := false
		s.node.View(func(m *state.Machine) { known = m.Level() >= state.LevelImages })
		return known
	})
	return g, s, ops, v, f
}

// Without these rules a snapshot would be called consistent though its application was not frozen, or not until it was taken; or
// an application stay frozen after it.
func TestSnapshotCountsOnlyIfTheFreezeHeld(t *testing.T) {
	g, _, ops, _, f := withFreezer(t)
	take := func(name, hook string, anyway bool) error {
		_, err := ops.CreateFrozenSnapshot(g.ctx(), "d", name, &api.HookUse{Host: "h3", Name: hook, TimeoutMs: 5000, Anyway: anyway})
		return err
	}
	there := func(name string) bool {
		all, _, err := ops.Snapshots(g.ctx(), "d")
		must(t, err)
		for _, x := range all {
			if x.Name == name && x.State == "ready" {
				return true
			}
		}
		return false
	}
	must(t, take("good", "db", false))
	if !there("good") || f.done() != "freeze thaw" {
		t.Errorf("%v, %s", there("good"), f.done())
	}
	over := func(o client.HookOrder) client.HookOutcome { return client.HookOutcome{} } // thawed by itself
	fails := func(o client.HookOrder) client.HookOutcome {
		return client.HookOutcome{Problem: "freeze db: the database says no"}
	}
	for _, x := range []struct {
		name   string
		says   func(client.HookOrder) client.HookOutcome
		anyway bool
		steps  string
		why    string
	}{
		{"late", over, false, "freeze thaw", "thawed before"},
		{"refused", fails, false, "freeze", "the database says no"},
		{"late-anyway", over, true, "freeze thaw", ""},
		{"refused-anyway", fails, true, "freeze", ""},
	} {
		f.set(x.says)
		err := take(x.name, "db", x.anyway)
		if (err == nil) != x.anyway || there(x.name) != x.anyway || f.done() != x.steps || err != nil && !strings.Contains(err.Error(), x.why) {
			t.Errorf("%s: %v, there %v, %s", x.name, err, there(x.name), f.done())
		}
	}
	f.set(well)
	if err := take("none", "other", false); err == nil || !strings.Contains(err.Error(), "has no hook other, but db") {
		t.Errorf("no such hook: %v", err)
	}
	began := true
	f.set(func(o client.HookOrder) client.HookOutcome { // a freeze of before that has ended: it is frozen anew
		x := client.HookOutcome{Held: true}
		if began && !o.Thaw {
			x = client.HookOutcome{Over: true, Problem: "it has ended"}
		}
		began = false
		return x
	})
	must(t, take("again", "db", false))
	if f.done() != "freeze freeze thaw" {
		t.Error(f.done())
	}
}

// Without this a policy would take snapshots with nothing frozen, or a new leader trust one that nobody knows about.
func TestPolicyFreezesAndSaysWhenItDidNot(t *testing.T) {
	g, s, ops, v, f := withFreezer(t)
	now := time.Now()
	_, err := s.commit(g.ctx(), &state.SetPolicy{ID: id.Raw{7}, Name: "p", New: true, NowMS: now.UnixMilli(),
		Rules: policy.Rules{At: []uint16{minuteOf(now.Add(-time.Minute))}, Days: policy.EveryDay, Keep: 9}})
	must(t, err)
	_, err = ops.ApplyPolicy(g.ctx(), "p", []string{"d"}, false)
	must(t, err)
	p, err := ops.SetPolicyHook(g.ctx(), "p", "d", &api.HookUse{Host: "h3", Name: "db", TimeoutMs: 5000})
	must(t, err)
	if len(p.Hooks) != 1 || p.Hooks[0].Disk != "d" || p.Hooks[0].Use.TimeoutMs != 5000 {
		t.Fatalf("%+v", p.Hooks)
	}
	run := func(due time.Time) (out *api.PolicyRun) {
		due = due.UTC().Truncate(time.Minute)
		_, err := s.commit(g.ctx(), &state.PolicyBegins{Policy: id.Raw{7}, Due: due, Made: []policy.Made{{Volume: v, Snapshot: snapshotOfRun(id.Raw{7}, due, v), Due: due}}})
		must(t, err)
		g.until("the run", func() bool {
			all, err := ops.Policies(g.ctx())
			must(t, err)
			out = all[0].Runs[len(all[0].Runs)-1]
			return !out.Open && out.DueUnixMs == due.UnixMilli()
		})
		return out
	}
	if x := run(now.Add(-26 * time.Hour)); x.Taken != 1 || f.done() != "freeze thaw" {
		t.Errorf("%v, %s", x, f.done())
	}
	f.set(func(client.HookOrder) client.HookOutcome { return client.HookOutcome{Problem: "no luck"} })
	if x := run(now.Add(-25 * time.Hour)); x.Failed != 1 || !strings.Contains(x.Failures[0].Why, "no luck") {
		t.Errorf("%v", x)
	}
	// A leader had asked for the snapshot and died: nobody knows whether the freeze held.
	f.set(well)
	due := now.Add(-24 * time.Hour).UTC().Truncate(time.Minute)
	_, err = s.commit(g.ctx(), &state.CreateSnapshot{Volume: v, ID: snapshotOfRun(id.Raw{7}, due, v), Name: "left", NowMS: 1})
	must(t, err)
	if x := run(due); x.Failed != 1 || !strings.Contains(x.Failures[0].Why, "leader changed") || f.done() != "" {
		t.Errorf("%v, %s", x, f.done())
	}
}
