package reconcile

import (
	"slices"
	"testing"
	"time"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

func (s *scene) cordon(h int) {
	s.t.Helper()
	if s.m.Level() < state.LevelCordon {
		s.apply(&state.SetLevel{Level: state.LevelCordon})
	}
	s.apply(&state.CordonHost{Host: holder(h).Host, On: true})
}

// on counts the present slots of groups on a host.
func (s *scene) on(h int) (n int) {
	for _, p := range s.m.PGs() {
		for _, r := range p.Current().Stores {
			if int(r.Store[0]) == h {
				n++
			}
		}
	}
	return n
}

// What a lost host had goes to hosts that are not cordoned only, and nothing that is on a
// cordoned one leaves it.
func TestNoSlotGoesToACordonedHost(t *testing.T) {
	s := newScene(t, 2, 2, 2, 2, 2)
	s.beat(1, 2, 3, 4, 5)
	s.place()
	s.cordon(4)
	before := s.on(4)
	x := &Mender{OutAfter: outAfter}
	if n := s.mended(x); n != 0 {
		t.Fatalf("%d commands because of a cordon", n)
	}
	for _, r := range []cluster.StoreRef{ref(1, 1), ref(1, 2)} {
		s.apply(&state.LoseStore{Store: r})
	}
	s.mended(x)
	if s.on(1) != 0 || s.on(4) != before {
		t.Errorf("%d slots stay on the lost host, %d on the cordoned one, which had %d", s.on(1), s.on(4), before)
	}
}

// Groups are formed over hosts that are not cordoned, and none because of a cordon. It
// gives way where groups over the others would not bear the loss of a host.
func TestGroupsAreFormedOffACordonedHost(t *testing.T) {
	s := newScene(t, 2, 2, 2)
	s.beat(1, 2, 3)
	s.place()
	s.cordon(3)
	if FormingNeeded(s.m, s.top(), nil) {
		t.Error("a cordon makes groups")
	}
	dead := []id.Store{ref(1, 1).Store, ref(1, 2).Store}
	if got := Formers(s.m, s.top(), dead); len(got) != 4 {
		t.Errorf("with one more host gone groups are formed over %v", got)
	}
	big := newScene(t, 2, 2, 2, 2)
	big.beat(1, 2, 3, 4)
	big.cordon(4)
	if !FormingNeeded(big.m, big.top(), nil) {
		t.Fatal("no group is there, and none is needed")
	}
	big.apply(&state.EnsurePlacement{Healthy: Formers(big.m, big.top(), nil), Seed: 1})
	if big.on(4) != 0 || FormingNeeded(big.m, big.top(), nil) {
		t.Errorf("%d slots on the cordoned host", big.on(4))
	}
	big.apply(&state.CordonHost{Host: holder(4).Host})
	if !FormingNeeded(big.m, big.top(), nil) {
		t.Error("without the cordon its stores get into no group")
	}
}

// Journals leave a cordoned host out where three others are, and nobody opens a disk there
// unasked.
func TestJournalsAndDisksPassACordonedHostBy(t *testing.T) {
	s := newScene(t, 1, 1, 1, 1)
	s.beat(1, 2, 3, 4)
	s.cordon(4)
	has := func(exclude ...id.Store) bool {
		return slices.ContainsFunc(EnsembleCandidates(s.top(), exclude), func(c state.EnsembleCandidate) bool { return c.StoreRef == ref(4, 1) })
	}
	if has() {
		t.Error("a new journal may lie on the cordoned host")
	}
	if !has(ref(1, 1).Store) {
		t.Error("a journal gets two stores though there are three")
	}
	if got := exporters(s.top()); slices.Contains(got, holder(4).Host) || len(got) != 3 {
		t.Errorf("disks are opened on %v", got)
	}
	s.now = time.Minute
	s.beat(4)
	if got := exporters(s.top()); len(got) != 1 {
		t.Errorf("with nobody else up disks are opened on %v", got)
	}
}
