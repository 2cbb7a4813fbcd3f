package reconcile

import (
	"strings"
	"testing"

	"ashlar.dev/pkg/cluster"
)

// beatOne has one store tell how far it is with scrubs.
func (s *scene) beatOne(x *Scrubs, h, store int, p ...cluster.ScrubProgress) []ScrubOrder {
	b := Beat{Holder: holder(h), Stores: []StoreBeat{{StoreRef: ref(h, store), Scrubs: p}}}
	s.l.Beat(s.now, b)
	return x.Beat(b)
}

// An order that a host did not get must reach it, and one that it carried out must not be
// carried out again because its daemon started anew.
func TestScrubIsOrderedUntilTheStoreTellsOfIt(t *testing.T) {
	s := newScene(t, 1, 1, 1)
	s.beat(1, 2, 3)
	var x Scrubs
	n := [16]byte{7}
	x.Ask(n, [16]byte{9}, []cluster.StoreRef{ref(1, 1), ref(2, 1), ref(3, 1)})
	x.Ask(n, [16]byte{8}, nil) // the same again: nothing new
	for range 2 {
		if got := s.beatOne(&x, 1, 1); len(got) != 1 || got[0].ID != n || got[0].Volume != [16]byte{9} || got[0].Store != ref(1, 1).Store {
			t.Fatalf("%+v", got)
		}
	}
	if got := s.beatOne(&x, 1, 1, cluster.ScrubProgress{ID: n, State: cluster.ScrubRunning, Shards: 3}); len(got) != 0 {
		t.Fatalf("%+v", got)
	}
	s.beatOne(&x, 2, 1, cluster.ScrubProgress{ID: n, State: cluster.ScrubDone, Shards: 5})
	if got := s.beatOne(&x, 2, 1); len(got) != 0 {
		t.Fatalf("ordered again after it was done: %+v", got)
	}
	all, done, known := x.Progress(n, Topology(s.m, s.l, s.now), s.l)
	if len(all) != 3 || done || !known || all[0].Shards != 3 || all[1].Shards != 5 || all[1].ScrubProgress.State != cluster.ScrubDone || all[2].ScrubProgress.State != cluster.ScrubWaiting {
		t.Fatalf("%+v %v", all, done)
	}
	s.beatOne(&x, 1, 1, cluster.ScrubProgress{ID: n, State: cluster.ScrubDone})
	s.now += 10 * second
	s.beatOne(&x, 1, 1)
	s.beatOne(&x, 2, 1)
	all, done, _ = x.Progress(n, Topology(s.m, s.l, s.now), s.l)
	if !done || all[2].ScrubProgress.State != cluster.ScrubAway {
		t.Fatalf("waits for a store that is away: %+v", all)
	}
	if _, _, known := x.Progress([16]byte{1}, Topology(s.m, s.l, s.now), s.l); known {
		t.Fatal("knows what nobody asked for")
	}
	for i := range 2 * cluster.ScrubsMax {
		x.Ask([16]byte{100, byte(i)}, [16]byte{}, nil)
	}
	if len(x.orders) != cluster.ScrubsMax {
		t.Fatalf("%d are kept", len(x.orders))
	}
}

// Without it a disk that rots would be known to its own store only.
func TestHealthNamesStoresWithWrongShards(t *testing.T) {
	s := newScene(t, 1, 1, 1)
	s.beat(1, 2, 3)
	s.l.Beat(s.now, Beat{Holder: holder(1), Stores: []StoreBeat{{StoreRef: ref(1, 1), Care: cluster.Care{Wrong: 9, Mended: 9, Flagged: true}}}})
	s.l.Beat(s.now, Beat{Holder: holder(2), Stores: []StoreBeat{{StoreRef: ref(2, 1), Care: cluster.Care{Wrong: 1, Stuck: 1, Problem: "too few"}}}})
	h := Health(s.m, Topology(s.m, s.l, s.now), s.l, nil, s.now)
	codes := make(map[string]Reason)
	for _, r := range h.Reasons {
		codes[r.Code] = r
	}
	if r := codes["store_bad_blocks"]; r.Subject != ref(1, 1).Store.String() || !strings.Contains(r.Text, "ashlar store replace "+r.Subject) || r.Level != Degraded {
		t.Errorf("%+v", r)
	}
	if r := codes["shards_stuck"]; r.Subject != ref(2, 1).Store.String() || r.Level != Unavailable {
		t.Errorf("%+v", r)
	}
}
