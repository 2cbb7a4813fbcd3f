package reconcile

import (
	"errors"
	"slices"
	"testing"
	"time"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
)

const outAfter = time.Minute

// mended carries out plans until there is nothing to do.
func (s *scene) mended(x *Mender) (did int) {
	for {
		plan := x.Plan(s.now, s.m, s.l, s.top(), 1)
		if len(plan) == 0 {
			return did
		}
		for _, c := range plan {
			s.apply(c)
			did++
		}
	}
}

// whole lets a store say that it lacks nothing of what it was given.
func (s *scene) whole(hosts ...int) {
	for _, h := range hosts {
		b := Beat{Holder: holder(h)}
		for _, x := range s.m.Stores() {
			if x.Host != holder(h).Host {
				continue
			}
			sb := StoreBeat{StoreRef: x.StoreRef, Capacity: 1000, Used: 100}
			for _, p := range s.m.PGs() {
				if slices.Contains(p.Current().Stores, x.StoreRef) {
					sb.Repairs = append(sb.Repairs, RepairBeat{PG: p.Number, Version: p.Current().Version, Whole: true})
				}
			}
			b.Stores = append(b.Stores, sb)
		}
		s.l.Beat(s.now, b)
	}
}

func fourHosts(t *testing.T) (*scene, *Mender) {
	s := newScene(t, 2, 2, 2, 2)
	s.beat(1, 2, 3, 4)
	s.place()
	return s, &Mender{OutAfter: outAfter}
}

// A reboot is not a loss: what a store has is moved only when it was away for long. And
// a store that comes back after that is a store like any other.
func TestStoreIsOutAfterTheDelayOnly(t *testing.T) {
	s, x := fourHosts(t)
	s.now = 10 * second
	s.beat(2, 3, 4)
	if n := s.mended(x); n != 0 {
		t.Fatalf("%d commands though host 1 is only down", n)
	}
	if got, _ := s.top().Store(ref(1, 1).Store); got.State != cluster.StoreDown {
		t.Fatalf("it is %s", got.State)
	}
	s.now += outAfter - 1
	s.beat(2, 3, 4)
	if n := s.mended(x); n != 0 {
		t.Fatalf("%d commands before the delay is over", n)
	}
	s.now++
	s.mended(x)
	if got, _ := s.top().Store(ref(1, 1).Store); got.State != cluster.StoreOut {
		t.Fatalf("it is %s", got.State)
	}
	for _, p := range s.m.PGs() {
		if slices.ContainsFunc(p.Current().Stores, s.m.Leaves) {
			t.Fatalf("group %d has a store that is out", p.Number)
		}
		if s.m.Scheme(p.Current()).Relaxed {
			t.Fatalf("group %d gave up the failure domain", p.Number)
		}
	}
	s.beat(1, 2, 3, 4)
	s.mended(x)
	if got, _ := s.top().Store(ref(1, 1).Store); got.State != cluster.StoreUp {
		t.Fatalf("back it is %s", got.State)
	}
}

// A host that reboots again and again is not given up for the sum of its absences.
func TestComingBackStartsTheDelayAnew(t *testing.T) {
	s, x := fourHosts(t)
	for range 5 {
		s.now += outAfter - second
		s.beat(2, 3, 4)
		if n := s.mended(x); n != 0 {
			t.Fatalf("%d commands", n)
		}
		s.beat(1, 2, 3, 4)
		s.mended(x)
	}
}

// The older version is what readers and deletions go by: it is forgotten only when each
// store that was given a slot says, of this very version, that it lacks nothing.
func TestVersionsAreForgottenWhenAllAreWhole(t *testing.T) {
	s, x := fourHosts(t)
	s.apply(&state.LoseStore{Store: ref(1, 1)})
	s.apply(&state.LoseStore{Store: ref(1, 2)})
	s.mended(x)
	moving := func() (n int) {
		for _, p := range s.m.PGs() {
			if len(p.Versions) > 1 {
				n++
			}
		}
		return n
	}
	before := moving()
	if before == 0 || s.health().Level < Degraded {
		t.Fatalf("%d groups move, health %v", before, s.health().Level)
	}
	if _, ok := s.m.Store(ref(1, 1).Store); !ok {
		t.Fatal("a store whose shards are not rebuilt was forgotten")
	}
	var first cluster.StoreRef
	for _, p := range s.m.PGs() {
		if len(p.Versions) > 1 && first == (cluster.StoreRef{}) {
			for slot, r := range p.Current().Stores {
				if p.Versions[0].Stores[slot] != r {
					first = r
				}
			}
		}
	}
	s.l.Beat(s.now, Beat{Holder: holder(int(first.Store[0])), Stores: []StoreBeat{{StoreRef: first,
		Repairs: []RepairBeat{{PG: 1, Version: 1, Whole: true}, {PG: 1, Version: 9, Whole: true}, {PG: 1, Version: 2}}}}})
	s.mended(x)
	if n := moving(); n != before {
		t.Fatalf("%d of %d groups were forgotten by the word on another version", before-n, before)
	}
	s.whole(2, 3, 4)
	s.mended(x)
	if n := moving(); n != 0 {
		t.Fatalf("%d groups keep old versions", n)
	}
	if got := s.health(); got.Level != OK {
		t.Fatalf("whole again, but %v", got.Reasons)
	}
	if _, ok := s.m.Store(ref(1, 1).Store); ok {
		t.Fatal("a lost store that nothing needs is still there")
	}
}

// A drain that nobody could take the place of would end in less margin, or never.
func TestDrainIsRefusedWithTheReason(t *testing.T) {
	s := newScene(t, 2, 2, 2)
	s.beat(1, 2, 3)
	s.place()
	one, _ := s.m.Store(ref(1, 1).Store)
	if err := Drainable(s.m, s.top(), one); !errors.Is(err, errs.ErrConflict) {
		t.Fatalf("six of six: %v", err)
	}
	s, _ = fourHosts(t)
	if err := Drainable(s.m, s.top(), one); err != nil {
		t.Fatalf("eight: %v", err)
	}
	// The others have room for 85 %.
	s.m = fullStores(s)
	if err := Drainable(s.m, s.top(), one); !errors.Is(err, errs.ErrNoSpace) {
		t.Fatalf("no room: %v", err)
	}
}

func fullStores(s *scene) *state.Machine {
	for h := 1; h <= 4; h++ {
		b := Beat{Holder: holder(h)}
		for i := 1; i <= 2; i++ {
			b.Stores = append(b.Stores, StoreBeat{StoreRef: ref(h, i), Capacity: 1000, Used: 800})
		}
		s.l.Beat(s.now, b)
	}
	return s.m
}

// A drained store leaves groups, gets nothing new, and goes when journals have left too.
func TestDrainEndsInRemoval(t *testing.T) {
	s, x := fourHosts(t)
	v := s.disk("d", 1)
	r := v.List[0].Stores[0]
	s.apply(&state.MarkStore{Store: r, Leaving: true})
	if slices.Contains(Healthy(s.top(), nil), r) || slices.ContainsFunc(EnsembleCandidates(s.top(), nil), func(c state.EnsembleCandidate) bool { return c.StoreRef == r }) {
		t.Fatal("it gets something new")
	}
	if !s.top().Usable(r) {
		t.Fatal("it is not read any more")
	}
	s.mended(x)
	s.whole(1, 2, 3, 4)
	s.mended(x)
	if groups, lists := s.m.Needed(r); groups != 0 || lists != 1 {
		t.Fatalf("in %d groups and %d lists", groups, lists)
	}
	v = s.apply(&state.AddEnsemble{At: state.At{Volume: v.ID, Epoch: v.Epoch, Version: v.ListVersion}, Candidates: EnsembleCandidates(s.top(), nil), Want: 3, Fallback: 2}).Volume
	s.apply(&state.ReplaceList{At: state.At{Volume: v.ID, Epoch: v.Epoch, Version: v.ListVersion}, Keep: v.List[1].ID})
	s.mended(x)
	if _, ok := s.m.Store(r.Store); ok {
		t.Fatal("emptied and still there")
	}
}

// The volume of a disk that nobody uses must leave a store that is emptied as well.
func TestDrainRescuesVolumesThatNobodyOwns(t *testing.T) {
	s, _ := fourHosts(t)
	v := s.disk("d", 1)
	s.apply(&state.Release{Volume: v.ID, Epoch: v.Epoch, By: holder(1)})
	s.apply(&state.MarkStore{Store: v.List[0].Stores[0], Leaving: true})
	var r Rescuer
	all, _ := r.Plan(s.now, s.m, s.l, s.top())
	n := 0
	for _, x := range all {
		n += len(x)
	}
	if n != 1 {
		t.Fatalf("%v", all)
	}
}

// What is lost may not be given up while it is the last that can be read.
func TestLastCopyIsNotGivenUp(t *testing.T) {
	s, _ := fourHosts(t)
	s.now = 10 * second
	s.beat(2, 3, 4)
	p := s.m.PGs()[slices.IndexFunc(s.m.PGs(), func(p state.PG) bool { return slices.Contains(p.Current().Stores, ref(1, 1)) })]
	one, _ := s.m.Store(ref(1, 1).Store)
	missing := 0
	for _, r := range p.Current().Stores {
		if r.Store[0] == 1 {
			missing++
		}
	}
	if err := Losable(s.m, s.top(), one); err != nil {
		t.Fatalf("%d of 2 missing: %v", missing, err)
	}
	s.now += 10 * second
	s.beat(2, 3)
	if err := Losable(s.m, s.top(), one); !errors.Is(err, errs.ErrConflict) {
		t.Fatalf("a second host is away: %v", err)
	}
}
