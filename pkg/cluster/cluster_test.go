package cluster

import (
	"reflect"
	"testing"
	"time"

	"ashlar.dev/pkg/id"
)

func ref(s, incarnation byte) (r StoreRef) {
	r.Store[0], r.Incarnation[0] = s, incarnation
	return r
}

// A store that was formatted anew is not the one that a list names, up or not: taking
// it for the old one counts an answer that knows nothing.
func TestUsableMeansTheSameMemory(t *testing.T) {
	top := (&Topology{
		Stores: []Store{{StoreRef: ref(1, 1), State: StoreUp}, {StoreRef: ref(2, 1), State: StoreDown}, {StoreRef: ref(3, 1), State: StoreLost}, {StoreRef: ref(3, 2), State: StoreUp}},
		Hosts:  []Host{{Host: "h"}},
		PGs:    []PG{{Number: 7, Versions: []PGVersion{{Version: 1, K: 1, M: 1}, {Version: 3, K: 2, M: 1}}}},
	}).Index()
	for _, c := range []struct {
		r    StoreRef
		want bool
	}{{ref(1, 1), true}, {ref(1, 2), false}, {ref(2, 1), false}, {ref(3, 1), false}, {ref(3, 2), true}, {ref(4, 1), false}} {
		if got := top.Usable(c.r); got != c.want {
			t.Errorf("%s: %v", c.r, got)
		}
	}
	if _, ok := top.Host("g"); ok {
		t.Error("found a host that is not there")
	}
	p, ok := top.PG(7)
	if !ok || p.Current().Version != 3 {
		t.Errorf("group 7 is %+v", p)
	}
	if v, ok := p.Version(1); !ok || v.K != 1 {
		t.Errorf("version 1 is %+v", v)
	}
	if _, ok := p.Version(2); ok {
		t.Error("found a version that is not there")
	}
}

// Records are shared and never changed; a change begins with a copy that shares nothing.
func TestCloneSharesNothing(t *testing.T) {
	make := func() *Volume {
		return &Volume{ID: id.Volume{1}, Name: "d", Created: time.Unix(1, 0), Prior: []id.Host{"a"}, Spans: []Span{{Epoch: 1, First: 1, End: 2}},
			List:       []Ensemble{{ID: id.Ensemble{Epoch: 1, N: 1}, Stores: []StoreRef{ref(1, 1)}, Closed: true, Holders: []StoreRef{ref(2, 1)}}},
			Checkpoint: &Checkpoint{Epoch: 1, Meta: 2, Opaque: []byte("x")},
			Losses:     []Loss{{Lost: []StoreRef{ref(1, 1)}}}}
	}
	v := make()
	c := v.Clone()
	if !reflect.DeepEqual(c, v) {
		t.Fatalf("the copy is %+v", c)
	}
	c.Prior[0], c.Spans[0].End, c.List[0].Stores[0], c.List[0].Holders[0] = "b", 9, ref(9, 9), ref(9, 9)
	c.Checkpoint.Meta, c.Checkpoint.Opaque[0], c.Losses[0].Lost[0] = 9, 'y', ref(9, 9)
	if !reflect.DeepEqual(v, make()) {
		t.Fatalf("changing the copy changed the record: %+v", v)
	}
}

// Checkpoints are ordered by epoch, then by place in the meta stream: a higher place of
// a lower epoch is an abandoned future.
func TestCheckpointOrder(t *testing.T) {
	low, high := Checkpoint{Epoch: 1, Meta: 100}, Checkpoint{Epoch: 2, Meta: 3}
	if low.Above(high) || !high.Above(low) || low.Above(low) || !(Checkpoint{Epoch: 1, Meta: 101}).Above(low) {
		t.Error("the order is wrong")
	}
}

// Without this a record would be looked for in the stores of another ensemble.
func TestFindsEnsembles(t *testing.T) {
	v := &Volume{List: []Ensemble{{ID: id.Ensemble{Epoch: 1, N: 1}}, {ID: id.Ensemble{Epoch: 1, N: 2}}}}
	if e, ok := v.Newest(); !ok || e.ID.N != 2 {
		t.Errorf("the newest is %v", e)
	}
	if _, ok := v.Ensemble(id.Ensemble{Epoch: 2, N: 1}); ok {
		t.Error("found one that is not there")
	}
	if _, ok := new(Volume).Newest(); ok {
		t.Error("an empty list has a newest")
	}
}
