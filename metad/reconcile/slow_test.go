package reconcile

import (
	"slices"
	"testing"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// slowWorld is six stores and three hosts that wait for them.
type slowWorld struct {
	t     *testing.T
	l     *Liveness
	now   time.Duration
	waits func(by, store int) (time.Duration, uint64) // per heartbeat
	turns int
	was   [6]bool
}

func newSlowWorld(t *testing.T) *slowWorld {
	w := &slowWorld{t: t, now: time.Hour}
	w.l = NewLiveness(w.now, cluster.Settings{HeartbeatInterval: 500 * time.Millisecond, HeartbeatTimeout: 3 * time.Second})
	w.waits = func(int, int) (time.Duration, uint64) { return 2 * time.Millisecond, 20 }
	return w
}

func (w *slowWorld) stores() []cluster.Store {
	out := make([]cluster.Store, 6)
	for i := range out {
		out[i] = cluster.Store{StoreRef: cluster.StoreRef{Store: id.Store{byte(i + 1)}}, State: cluster.StoreUp}
	}
	return out
}

// run lets time pass and gives which stores are left out at the end.
func (w *slowWorld) run(d time.Duration) (out [6]bool) {
	for end := w.now + d; w.now < end; {
		w.now += 500 * time.Millisecond
		for by := range 3 {
			var waits []cluster.StoreWait
			for s := range 6 {
				if wait, n := w.waits(by, s); n > 0 {
					waits = append(waits, cluster.StoreWait{Store: id.Store{byte(s + 1)}, Count: n, Total: wait * time.Duration(n)})
				}
			}
			w.l.slow.observe(w.now, id.Host([]string{"a", "b", "c"}[by]), waits)
		}
		stores := w.stores()
		w.l.leaveOut(w.now, stores)
		for i := range out {
			if out[i] = stores[i].Slow; out[i] != w.was[i] {
				w.turns++
			}
		}
		w.was = out
	}
	return out
}

func slowStores(slow ...int) func(int, int) (time.Duration, uint64) {
	return func(_, s int) (time.Duration, uint64) {
		for _, x := range slow {
			if s == x {
				return 200 * time.Millisecond, 5
			}
		}
		return 2 * time.Millisecond, 20
	}
}

// Without this one bad disk would make every client wait, for as long as it lives.
func TestSlowStoreIsLeftOut(t *testing.T) {
	w := newSlowWorld(t)
	if got := w.run(20 * time.Second); got != [6]bool{} {
		t.Fatalf("left out: %v", got)
	}
	w.waits = slowStores(4)
	if got := w.run(12 * time.Second); got != [6]bool{4: true} {
		t.Fatalf("left out: %v", got)
	}
	if mean, others, slow := w.l.Slow(id.Store{5}); !slow || mean != 200*time.Millisecond || others != 2*time.Millisecond {
		t.Errorf("said of it: %v, %v, %v", mean, others, slow)
	}
	w.waits = slowStores()
	w.run(slowProbation / 2)
	if !w.was[4] {
		t.Error("in again before its probation ended")
	}
	if got := w.run(slowProbation); got != [6]bool{} {
		t.Errorf("left out although it is fine: %v", got)
	}
}

// One hiccup is none: a window alone decides nothing.
func TestHiccupIsForgiven(t *testing.T) {
	w := newSlowWorld(t)
	for range 10 {
		w.waits = slowStores(1)
		w.run(slowWindow)
		w.waits = slowStores()
		w.run(2 * slowWindow)
	}
	if w.turns != 0 {
		t.Errorf("%d turns", w.turns)
	}
}

// Without this a store that is slow every minute would go in and out every minute, and
// every change costs each disk a new ensemble.
func TestStoreThatComesAndGoesStaysOut(t *testing.T) {
	w := newSlowWorld(t)
	for range 60 {
		w.waits = slowStores(2)
		w.run(12 * time.Second)
		w.waits = slowStores()
		w.run(48 * time.Second)
	}
	if w.turns > 12 {
		t.Errorf("%d turns in an hour of 60 spells", w.turns)
	}
	if !w.was[2] {
		t.Error("it is in again although it is slow every minute")
	}
}

// When everything is slow nothing is left out: it is the load, and the others would get it all.
func TestLoadMakesNoStoreSlow(t *testing.T) {
	w := newSlowWorld(t)
	w.waits = func(int, int) (time.Duration, uint64) { return 300 * time.Millisecond, 20 }
	if got := w.run(time.Minute); got != [6]bool{} {
		t.Errorf("left out: %v", got)
	}
	w.waits = slowStores(0, 1, 2)
	if got := w.run(time.Minute); got != [6]bool{} {
		t.Errorf("half of the stores are left out: %v", got)
	}
}

// A host that is slow itself waits long for all, and one with a bad cable to one store is one of three.
func TestOneHostsTroubleIsItsOwn(t *testing.T) {
	w := newSlowWorld(t)
	w.waits = func(by, s int) (time.Duration, uint64) {
		if by == 2 {
			return 400 * time.Millisecond, 20
		}
		return 2 * time.Millisecond, 20
	}
	if got := w.run(time.Minute); got != [6]bool{} {
		t.Errorf("left out on the word of a slow host: %v", got)
	}
	w.waits = func(by, s int) (time.Duration, uint64) {
		if by == 0 && s == 3 {
			return 400 * time.Millisecond, 20
		}
		return 2 * time.Millisecond, 20
	}
	if got := w.run(time.Minute); got != [6]bool{} {
		t.Errorf("left out on the word of one host against two: %v", got)
	}
}

// A store that is asked no more cannot show that it is fine: after its probation it is tried again.
func TestSilenceEndsAProbation(t *testing.T) {
	w := newSlowWorld(t)
	w.waits = slowStores(4)
	w.run(12 * time.Second)
	w.waits = func(_, s int) (time.Duration, uint64) {
		if s == 4 {
			return 0, 0
		}
		return 2 * time.Millisecond, 20
	}
	if got := w.run(slowProbation + slowVoteLife); got != [6]bool{} {
		t.Errorf("left out: %v", got)
	}
}

// A journal moves off a slow store where three other hosts have stores; where not it is better off with it.
func TestEnsemblesPassSlowStores(t *testing.T) {
	top := &cluster.Topology{}
	for i := range 8 {
		top.Stores = append(top.Stores, cluster.Store{StoreRef: cluster.StoreRef{Store: id.Store{byte(i + 1)}}, Host: id.Host([]string{"a", "b", "c", "d"}[i/2]),
			State: cluster.StoreUp, Slow: i == 7})
	}
	if got := EnsembleCandidates(top, nil); len(got) != 7 {
		t.Errorf("%d candidates of 8 stores, one of them slow", len(got))
	}
	top.Stores = top.Stores[2:]
	top.Stores[4].Slow = true // host d has none that is quick, and there are three hosts
	if got := EnsembleCandidates(top, nil); len(got) != 6 {
		t.Errorf("%d candidates of 6 stores on three hosts, of which one is slow", len(got))
	}
}

// Without this metad knows which store is slow and tells nobody: engines and status go by the topology.
func TestSlowStoreIsPassedByAllWhoAskTheTopology(t *testing.T) {
	s := newScene(t, 1, 1, 1, 1, 1)
	slow := ref(5, 1)
	for end := 20 * second; s.now < end; s.now += second / 2 {
		for h := range 5 {
			b := Beat{Holder: holder(h + 1), Stores: []StoreBeat{{StoreRef: ref(h+1, 1), Capacity: 1000}}}
			for x := range 5 {
				wait := cluster.StoreWait{Store: ref(x+1, 1).Store, Count: 20, Total: 40 * time.Millisecond}
				if ref(x+1, 1) == slow {
					wait.Count, wait.Total = 5, second
				}
				b.Waits = append(b.Waits, wait)
			}
			s.l.Beat(s.now, b)
		}
		s.top()
	}
	if x, _ := s.top().Store(slow.Store); !x.Slow {
		t.Error("the topology does not say that it is slow")
	}
	for _, c := range EnsembleCandidates(s.top(), nil) {
		if c.Store == slow.Store {
			t.Error("journals are put onto it")
		}
	}
	if h := s.health(); len(h.Reasons) == 0 || !slices.ContainsFunc(h.Reasons, func(r Reason) bool { return r.Code == "store_slow" && r.Subject == slow.Store.String() }) {
		t.Errorf("status does not name it: %+v", h.Reasons)
	}
}
