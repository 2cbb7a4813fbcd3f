package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ashlar.dev/metad/placement"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

const second = time.Second

// scene is a cluster whose clock the test moves.
type scene struct {
	t     *testing.T
	m     *state.Machine
	l     *Liveness
	now   time.Duration
	index uint64
	full  map[cluster.StoreRef]bool
	dead  map[cluster.StoreRef]string
}

func newScene(t *testing.T, perHost ...int) *scene {
	s := &scene{t: t, m: state.New(), full: map[cluster.StoreRef]bool{}, dead: map[cluster.StoreRef]string{}}
	s.apply(&state.Init{ClusterID: [16]byte{1}, Settings: state.DefaultSettings})
	for h, n := range perHost {
		c := &state.RegisterHost{Holder: holder(h + 1), DataAddress: "a:1", Exports: true}
		for i := range n {
			c.Stores = append(c.Stores, state.RegisterStore{StoreRef: ref(h+1, i+1), Capacity: 1000})
		}
		s.apply(c)
	}
	s.l = NewLiveness(0, s.m.Settings())
	return s
}

func holder(h int) id.Holder { return id.Holder{Host: id.Host(fmt.Sprintf("h%d", h)), Number: 1} }

func ref(h, s int) (r cluster.StoreRef) {
	r.Store[0], r.Store[1], r.Incarnation[0] = byte(h), byte(s), 1
	return r
}

func (s *scene) apply(c state.Command) state.Result {
	s.t.Helper()
	s.index++
	r := s.m.Apply(s.index, c)
	if r.Err != nil {
		s.t.Fatalf("%T: %v", c, r.Err)
	}
	return r
}

// beat lets hosts speak now, of all their stores.
func (s *scene) beat(hosts ...int) {
	for _, h := range hosts {
		s.speak(h)
	}
}

func (s *scene) speak(h int, volumes ...VolumeBeat) {
	b := Beat{Holder: holder(h), Volumes: volumes}
	for _, x := range s.m.Stores() {
		if x.Host == holder(h).Host {
			b.Stores = append(b.Stores, StoreBeat{StoreRef: x.StoreRef, Capacity: 1000, Used: 100, Full: s.full[x.StoreRef], Dead: s.dead[x.StoreRef]})
		}
	}
	s.l.Beat(s.now, b)
}

func (s *scene) top() *cluster.Topology { return Topology(s.m, s.l, s.now) }

func (s *scene) place() {
	s.t.Helper()
	s.apply(&state.EnsurePlacement{Healthy: Healthy(s.top(), nil), Seed: 1})
}

func (s *scene) health(members ...Member) *Report {
	if members == nil {
		members = []Member{{"m1", true}, {"m2", true}, {"m3", true}}
	}
	return Health(s.m, s.top(), s.l, members, s.now)
}

// disk makes one that is open on host h.
func (s *scene) disk(name string, h int) *state.Volume {
	s.t.Helper()
	v := s.apply(&state.CreateVolume{Name: name, Size: 1 << 30}).Volume
	v = s.apply(&state.Acquire{Volume: v.ID, By: holder(h)}).Volume
	v = s.apply(&state.AddEnsemble{At: state.At{Volume: v.ID, Epoch: v.Epoch, Version: v.ListVersion}, Candidates: EnsembleCandidates(s.top(), nil), Want: 3, Fallback: 2}).Volume
	return s.apply(&state.ReplaceList{At: state.At{Volume: v.ID, Epoch: v.Epoch, Version: v.ListVersion}, Keep: v.List[0].ID}).Volume
}

// A new leader has heard nobody. Were all hosts down to it at once, every volume could
// be taken from its living owner.
func TestNewLeaderWaitsBeforeItJudges(t *testing.T) {
	s := newScene(t, 1)
	s.now = 2999 * time.Millisecond
	if up, why := s.l.StoreUp(s.now, ref(1, 1), "h1"); !up || !s.l.HostUp(s.now, "h1") {
		t.Fatalf("down before one timeout has passed: %s", why)
	}
	s.now = 3 * second
	if up, _ := s.l.StoreUp(s.now, ref(1, 1), "h1"); up || s.l.HostUp(s.now, "h1") {
		t.Fatal("up though never heard")
	}
	s.beat(1)
	if up, _ := s.l.StoreUp(s.now, ref(1, 1), "h1"); !up {
		t.Fatal("down though it speaks")
	}
}

// Without this a store could be given up while its host is only new to the leader, or be trusted though it is silent.
func TestWhenAStoreIsDown(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*scene)
		up   bool
	}{
		{"it speaks", func(s *scene) {}, true},
		{"its host is silent", func(s *scene) { s.now += 3 * second }, false},
		{"it says that it died", func(s *scene) { s.dead[ref(1, 1)] = "fsync failed"; s.beat(1) }, false},
		{"one complains and its host speaks", func(s *scene) { s.l.Report(s.now, "h2", ref(1, 1), "x") }, true},
		{"one complains twice", func(s *scene) {
			s.l.Report(s.now, "h2", ref(1, 1), "x")
			s.l.Report(s.now, "h2", ref(1, 1), "x")
		}, true},
		{"two complain", func(s *scene) {
			s.l.Report(s.now, "h2", ref(1, 1), "x")
			s.l.Report(s.now, "h3", ref(1, 1), "x")
		}, false},
		{"one complains and its host misses heartbeats", func(s *scene) {
			s.now += second
			s.l.Report(s.now, "h2", ref(1, 1), "x")
		}, false},
		{"two complained long ago", func(s *scene) {
			s.l.Report(s.now, "h2", ref(1, 1), "x")
			s.l.Report(s.now, "h3", ref(1, 1), "x")
			s.now += 3 * second
			s.beat(1)
		}, true},
		{"they complain of another memory", func(s *scene) {
			other := ref(1, 1)
			other.Incarnation[0] = 9
			s.l.Report(s.now, "h2", other, "x")
			s.l.Report(s.now, "h3", other, "x")
		}, true},
		{"its host no longer speaks of it", func(s *scene) {
			for range 4 {
				s.now += second
				s.l.Beat(s.now, Beat{Holder: holder(1)})
			}
		}, false},
	} {
		s := newScene(t, 1, 1, 1)
		s.now = 10 * second
		s.beat(1, 2, 3)
		c.do(s)
		if up, why := s.l.StoreUp(s.now, ref(1, 1), "h1"); up != c.up {
			t.Errorf("%s: up %v (%s)", c.name, up, why)
		}
	}
}

// Complaints are bounded and forgotten.
func TestComplaintsAreBounded(t *testing.T) {
	s := newScene(t, 1)
	for i := range 100 {
		s.l.Report(s.now, id.Host(fmt.Sprint("x", i)), ref(1, 1), "y")
	}
	if n := len(s.l.reports[ref(1, 1)]); n != reportersMax {
		t.Fatalf("%d complaints are kept", n)
	}
	s.now += 4 * second
	s.l.expire(s.now)
	if len(s.l.reports) != 0 {
		t.Fatal("old complaints are kept")
	}
}

// What an owner says counts only for its own life and epoch: the words of a fenced one
// must not keep a disk from being deleted, or make it look attached.
func TestOnlyTheOwnerSpeaksOfAVolume(t *testing.T) {
	s := newScene(t, 1, 1)
	s.speak(1, VolumeBeat{Volume: id.Volume{5}, Epoch: 3, Sessions: 2})
	for _, c := range []struct {
		by    id.Holder
		epoch id.Epoch
		want  bool
	}{{holder(1), 3, true}, {holder(1), 4, false}, {holder(2), 3, false}, {id.Holder{Host: "h1", Number: 2}, 3, false}, {id.Holder{}, 3, false}} {
		if _, ok := s.l.Volume(c.by, id.Volume{5}, c.epoch); ok != c.want {
			t.Errorf("%s at %s: %v", c.by, c.epoch, ok)
		}
	}
}

// New segments go to the best groups whose stores are all up and not full.
func TestPreferredGroups(t *testing.T) {
	s := newScene(t, 2, 2, 2)
	s.beat(1, 2, 3)
	s.place()
	preferred := func() string {
		set := map[string]bool{}
		for _, p := range s.top().PGs {
			if p.Preferred {
				set[fmt.Sprintf("%d+%d", p.Current().K, p.Current().M)] = true
			}
		}
		out := []string{}
		for k := range set {
			out = append(out, k)
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	if got := preferred(); got != "4+2" {
		t.Fatalf("of six stores: %q", got)
	}
	s.now += 4 * second
	s.beat(1, 2)
	if got := preferred(); got != "" {
		t.Fatalf("with a host down and no groups formed: %q", got)
	}
	s.place()
	if got := preferred(); got != "1+2" {
		t.Fatalf("with a host down: %q", got)
	}
	s.beat(3)
	if got := preferred(); got != "4+2" {
		t.Fatalf("with all back: %q", got)
	}
	s.full[ref(1, 1)] = true
	s.beat(1)
	if got := preferred(); got != "1+2" {
		t.Fatalf("with a store full, of the groups there are: %q", got)
	}
	s.place()
	if got := preferred(); got != "2+1" {
		t.Fatalf("with a store full: %q", got)
	}
}

// Watchers hear of what matters to them, not of every byte.
func TestSameIgnoresBytesUsed(t *testing.T) {
	s := newScene(t, 1, 1)
	s.beat(1, 2)
	s.place()
	a, b := s.top(), s.top()
	b.Stores[0].Used++
	if !Same(a, b) {
		t.Error("bytes used make a new topology")
	}
	for name, change := range map[string]func(*cluster.Topology){
		"host":    func(t *cluster.Topology) { t.Hosts[0].Up = false },
		"address": func(t *cluster.Topology) { t.Hosts[0].DataAddress = "b:2" },
		"store":   func(t *cluster.Topology) { t.Stores[0].State = cluster.StoreDown },
		"full":    func(t *cluster.Topology) { t.Stores[0].Full = true },
		"group":   func(t *cluster.Topology) { t.PGs[0].Preferred = !t.PGs[0].Preferred },
		"version": func(t *cluster.Topology) { t.PGs[0].Versions[0].Version++ },
	} {
		c := s.top()
		change(c)
		if Same(a, c) {
			t.Errorf("a change of %s goes unheard", name)
		}
	}
}

func codes(r *Report) (out []string) {
	for _, x := range r.Reasons {
		if !slices.Contains(out, x.Code) {
			out = append(out, x.Code)
		}
	}
	slices.Sort(out)
	return out
}

type healthCase struct {
	name  string
	hosts []int
	do    func(*scene)
	peers []Member

	unplaced bool // no placement groups are formed
	want     Level
	codes    string
}

var healthCases = []healthCase{
	{name: "all is well", hosts: []int{2, 2, 2}, want: OK},
	{name: "nothing registered", hosts: nil, want: Unavailable, codes: "no_stores"},
	{name: "one store", hosts: []int{1}, want: Unavailable, codes: "too_few_stores"},
	{name: "no groups are formed yet", hosts: []int{2, 2, 2}, unplaced: true, want: AtRisk, codes: "no_placement"},
	{name: "two stores", hosts: []int{1, 1}, want: AtRisk, codes: "two_stores"},
	{name: "a store of 4+2 is dead", hosts: []int{2, 2, 2}, do: func(s *scene) { s.dead[ref(1, 1)] = "x"; s.beat(1) },
		want: AtRisk, codes: "no_placement pg_reduced_margin store_down"},
	{name: "and groups are formed", hosts: []int{2, 2, 2}, do: func(s *scene) { s.dead[ref(1, 1)] = "x"; s.beat(1); s.place() },
		want: Degraded, codes: "pg_reduced_margin store_down"},
	{name: "a host of 4+2 is down", hosts: []int{2, 2, 2}, do: func(s *scene) { s.now += 4 * second; s.beat(2, 3); s.place() },
		want: AtRisk, codes: "pg_no_margin store_down"},
	{name: "two hosts are down", hosts: []int{2, 2, 2}, do: func(s *scene) { s.now += 4 * second; s.beat(3) },
		want: Unavailable, codes: "no_placement pg_unreadable store_down two_stores"},
	{name: "one host has it all", hosts: []int{6}, want: Degraded, codes: "pg_reduced_margin"},
	{name: "a store is full", hosts: []int{2, 2, 2}, do: func(s *scene) { s.full[ref(1, 1)] = true; s.beat(1); s.place() },
		want: AtRisk, codes: "store_full"},
	{name: "all stores are full", hosts: []int{2, 2, 2}, do: func(s *scene) {
		for h := 1; h <= 3; h++ {
			s.full[ref(h, 1)], s.full[ref(h, 2)] = true, true
		}
		s.beat(1, 2, 3)
		if r := s.health(); r.Risk.Margin != 2 {
			s.t.Errorf("%d stores more may be lost, want 2: what is stored is as safe as before", r.Risk.Margin)
		}
	}, want: AtRisk, codes: "cluster_full store_full"},
	{name: "a metad is down", hosts: []int{2, 2, 2}, peers: []Member{{"m1", true}, {"m2", true}, {"m3", false}},
		want: AtRisk, codes: "metad_down metad_no_margin"},
	{name: "one of five metads is down", hosts: []int{2, 2, 2}, peers: []Member{{"m1", true}, {"m2", true}, {"m3", false}, {"m4", true}, {"m5", true}},
		want: Degraded, codes: "metad_down"},
	{name: "a single metad of two hosts", hosts: []int{3, 3}, peers: []Member{{"m1", true}}, want: OK},
	{name: "a single metad of three hosts", hosts: []int{2, 2, 2}, peers: []Member{{"m1", true}}, want: Degraded, codes: "metad_few"},
	{name: "two metads of three hosts", hosts: []int{2, 2, 2}, peers: []Member{{"m1", true}, {"m2", true}}, want: Degraded, codes: "metad_few"},
	{name: "a disk is open", hosts: []int{2, 2, 2}, do: func(s *scene) { s.disk("d", 1) }, want: OK},
	{name: "a disk is stuck", hosts: []int{2, 2, 2}, do: func(s *scene) {
		v := s.disk("d", 1)
		s.speak(1, VolumeBeat{Volume: v.ID, Epoch: v.Epoch, State: Stuck, Problem: "no answer"})
	}, want: Unavailable, codes: "disk_stuck"},
	{name: "a journal lost one store", hosts: []int{2, 2, 2}, do: func(s *scene) {
		v := s.disk("d", 1)
		s.kill(v.List[0].Stores[0])
	}, want: AtRisk, codes: "journal_no_margin pg_reduced_margin store_down"},
	{name: "a journal lost two stores", hosts: []int{2, 2, 2}, do: func(s *scene) {
		v := s.disk("d", 1)
		s.kill(v.List[0].Stores[:2]...)
	}, want: Unavailable, codes: "journal_unreadable pg_no_margin store_down"},
	{name: "and an operator accepted it", hosts: []int{2, 2, 2}, do: func(s *scene) {
		v := s.disk("d", 1)
		s.kill(v.List[0].Stores[:2]...)
		for _, r := range v.List[0].Stores[:2] {
			s.apply(&state.LoseStore{Store: r})
		}
		s.apply(&state.AcceptLoss{Volume: v.ID, Ensemble: v.List[0].ID, By: "ann"})
	}, want: AtRisk, codes: "disk_lossy pg_no_margin pg_no_place store_lost"},
	{name: "an owner is gone", hosts: []int{2, 2, 2, 0}, do: func(s *scene) { s.disk("d", 4); s.now += 4 * second; s.beat(1, 2, 3) },
		want: Degraded, codes: "owner_down"},
}

// The levels and their reasons, as an operator or a script sees them.
func TestHealth(t *testing.T) {
	for _, c := range healthCases {
		s := newScene(t, c.hosts...)
		for h := range c.hosts {
			s.beat(h + 1)
		}
		if len(Healthy(s.top(), nil)) >= 2 && !c.unplaced {
			s.place()
		}
		if c.do != nil {
			c.do(s)
		}
		r := s.health(c.peers...)
		if r.Level != c.want || strings.Join(codes(r), " ") != c.codes {
			t.Errorf("%s: level %d %v, want %d [%s]", c.name, r.Level, codes(r), c.want, c.codes)
		}
		if !slices.IsSortedFunc(r.Reasons, func(a, b Reason) int { return int(b.Level) - int(a.Level) }) {
			t.Errorf("%s: the worst is not first", c.name)
		}
	}
}

func (s *scene) kill(refs ...cluster.StoreRef) {
	for _, r := range refs {
		s.dead[r] = "x"
		s.beat(int(r.Store[0]))
	}
	s.place()
}

// Counts add up, by profile.
func TestHealthCountsGroups(t *testing.T) {
	s := newScene(t, 2, 2, 2)
	s.beat(1, 2, 3)
	s.place()
	r := s.health()
	four := r.Profiles[placement.FourTwo]
	if four == nil || four.Groups != len(s.m.PGs()) || four.Full != four.Groups || !four.Preferred {
		t.Fatalf("profiles are %+v", r.Profiles)
	}
}

// A full store is the last choice for a journal, but a choice: a full cluster must be
// able to trim.
func TestFullStoresTakeJournals(t *testing.T) {
	s := newScene(t, 1, 1, 1, 1)
	s.full[ref(1, 1)] = true
	s.beat(1, 2, 3, 4)
	v := s.disk("d", 2)
	for _, r := range v.List[0].Stores {
		if r == ref(1, 1) {
			t.Fatal("the full store was chosen though there are three others")
		}
	}
	for h := 2; h <= 4; h++ {
		s.full[ref(h, 1)] = true
	}
	s.beat(2, 3, 4)
	if v := s.disk("e", 2); len(v.List[0].Stores) != 3 {
		t.Fatal("a full cluster gives no journal")
	}
}

// An owner that lives but gave up without a word would otherwise keep its disk closed
// to everybody for ever.
func TestOwnerThatDoesNotSpeakOfItsVolumeIsGone(t *testing.T) {
	s := newScene(t, 1, 1)
	s.now = second
	v := id.Volume{5}
	s.l.Granted(s.now, v, 2)
	gone := func(e id.Epoch) bool { return s.l.OwnerGone(s.now, holder(1), v, e) }
	for range 29 {
		s.now += second
		s.beat(1)
		if gone(2) {
			t.Fatalf("gone after %v, it may be opening", s.now)
		}
	}
	s.now += second
	s.beat(1)
	if !gone(2) {
		t.Fatal("still there after 30 s of silence about it")
	}
	s.speak(1, VolumeBeat{Volume: v, Epoch: 2})
	s.now += second
	s.beat(1)
	if gone(2) {
		t.Fatal("gone though it spoke of it")
	}
	s.now += 4 * second
	if !gone(2) {
		t.Fatal("there though its host is silent")
	}
}

// A journal of a volume that nobody owns has no engine to copy it when it loses a
// store; one more loss and its unpacked writes are gone.
func TestUnownedJournalsAreRescued(t *testing.T) {
	s := newScene(t, 1, 1, 1, 1, 1)
	s.beat(1, 2, 3, 4, 5)
	owned, free := s.disk("owned", 1), s.disk("free", 2)
	free = s.apply(&state.Release{Volume: free.ID, Epoch: free.Epoch, By: holder(2)}).Volume
	var r Rescuer
	plan := func() (out []id.Volume) {
		s.now += second
		all, due := r.Plan(s.now, s.m, s.l, s.top())
		if !due {
			t.Fatal("not due after a second")
		}
		for h, vs := range all {
			if up := s.l.HostUp(s.now, h); !up {
				t.Fatalf("%s is down and asked", h)
			}
			for _, v := range vs {
				out = append(out, v.Volume)
			}
		}
		return out
	}
	everyone := func() {
		s.speak(1, VolumeBeat{Volume: owned.ID, Epoch: owned.Epoch})
		s.beat(2, 3, 4, 5)
	}
	everyone()
	if got := plan(); len(got) != 0 {
		t.Fatalf("with all stores up: %v", got)
	}
	if _, due := r.Plan(s.now, s.m, s.l, s.top()); due {
		t.Fatal("due again at once")
	}
	dead := free.List[0].Stores[0]
	s.dead[dead] = "x"
	everyone()
	if got := plan(); len(got) != 0 {
		t.Fatalf("at once: %v", got)
	}
	for range 60 {
		everyone()
		s.now += second
	}
	everyone()
	if got := plan(); len(got) != 1 || got[0] != free.ID {
		t.Fatalf("after a minute: %v, want %s", got, free.ID)
	}
	delete(s.dead, dead)
	everyone()
	if got := plan(); len(got) != 0 {
		t.Fatalf("with the store back: %v", got)
	}
	s.dead[dead] = "x"
	everyone()
	s.apply(&state.LoseStore{Store: dead})
	if got := plan(); len(got) != 1 {
		t.Fatalf("with the store lost for good: %v", got)
	}
	s.dead[free.List[0].Stores[1]] = "x"
	everyone()
	if got := plan(); len(got) != 0 {
		t.Fatalf("when it cannot be recovered: %v", got)
	}
}

// The disk of a host that never comes back would be its own for ever, its last writes
// unpacked, and the cluster would never be well again.
func TestDisksOfAGoneOwnerAreRescued(t *testing.T) {
	s := newScene(t, 0, 1, 1, 1)
	s.beat(1, 2, 3, 4)
	v := s.disk("d", 1)
	var r Rescuer
	asked := func() (n int) {
		s.now += second
		s.beat(2, 3, 4)
		all, _ := r.Plan(s.now, s.m, s.l, s.top())
		for h, vs := range all {
			if h == holder(1).Host || vs[0].Volume != v.ID {
				t.Fatalf("%s is asked for %v", h, vs)
			}
			n += len(vs)
		}
		return n
	}
	for range 30 {
		if asked() != 0 {
			t.Fatal("at once: it may only have been started again")
		}
	}
	for range 40 {
		asked()
	}
	if asked() != 1 {
		t.Fatal("not after a minute")
	}
}

// Many volumes are taken in turns.
func TestRescuesAreBounded(t *testing.T) {
	s := newScene(t, 1, 1, 1, 1)
	s.beat(1, 2, 3, 4)
	for i := range 40 {
		v := s.disk(fmt.Sprint("d", i), 1)
		s.apply(&state.Release{Volume: v.ID, Epoch: v.Epoch, By: holder(1)})
	}
	s.dead[ref(4, 1)] = "x"
	s.beat(1, 2, 3, 4)
	s.apply(&state.LoseStore{Store: ref(4, 1)})
	var r Rescuer
	asked := make(map[id.Volume]bool)
	for range 40 {
		s.now += second
		s.beat(1, 2, 3, 4)
		all, _ := r.Plan(s.now, s.m, s.l, s.top())
		for _, vs := range all {
			if len(vs) > rescuesMax {
				t.Fatalf("%d at once", len(vs))
			}
			for _, v := range vs {
				asked[v.Volume] = true
			}
		}
	}
	short := 0
	for _, v := range s.m.Volumes() {
		if slices.Contains(v.List[0].Stores, ref(4, 1)) {
			short++
		}
	}
	if len(asked) != short || short == 0 {
		t.Fatalf("%d of %d were asked for", len(asked), short)
	}
}
