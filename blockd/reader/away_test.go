package reader_test

import (
	"errors"
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// mark gives the first n stores a state.
func (b *bench) mark(n int, state cluster.StoreState) {
	t := &cluster.Topology{Version: b.topo.Version + 1, Stores: append([]cluster.Store(nil), b.topo.Stores...), PGs: b.topo.PGs}
	for i := range n {
		t.Stores[i].State = state
	}
	b.topo = t.Index()
}

// count counts the reads that the first n stores answer.
func (b *bench) count(n int) *int {
	asked := new(int)
	for i := range n {
		b.stores[i].lie = func(*storeproto.ReadShard) { *asked++ }
	}
	return asked
}

// Schedule: metad calls stores away, and goes away itself; the stores are back. Without this
// reads would fail for as long as metad is away, though everything is there.
func TestStoresBelievedAwayAreAskedWhereTooFewOthersHaveTheShard(t *testing.T) {
	for _, state := range []cluster.StoreState{cluster.StoreDown, cluster.StoreOut} {
		b := newBench(t)
		b.mark(3, state)
		b.good()
		w, err := b.reader.Find(t.Context(), b.at.Segment())
		if err != nil || w != b.where {
			t.Errorf("%s: the headers say %+v (%v), want %+v", state, w, err, b.where)
		}
		b.mark(6, state)
		if e, err := b.reader.Entries(t.Context(), b.at.Segment(), b.where); err != nil || len(e) != slots {
			t.Errorf("%s: %d entries (%v)", state, len(e), err)
		}
	}
}

// Without this every degraded read would wait for stores that are away.
func TestStoresBelievedAwayAreAskedLast(t *testing.T) {
	b := newBench(t)
	asked := b.count(2)
	b.mark(2, cluster.StoreDown)
	b.good()
	if *asked > 0 {
		t.Errorf("%d reads went to stores that are believed away, and four others have all", *asked)
	}
}

// Without this a read would count on a disk that is gone, or on another one in its place.
func TestStoresThatAreLostAreNotAsked(t *testing.T) {
	b := newBench(t)
	asked := b.count(3)
	b.mark(3, cluster.StoreLost)
	if _, err := b.read(0, 1); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("three shards of six are lost: %v", err)
	}
	b.mark(3, cluster.StoreDown)
	for i := range 3 {
		b.topo.Stores[i].Incarnation = id.Incarnation{2}
	}
	if _, err := b.read(0, 1); err == nil {
		t.Error("the stores were formatted anew, and the read succeeds")
	}
	if *asked > 0 {
		t.Errorf("%d reads went to stores that are lost or others", *asked)
	}
}

// Without this a wrong answer of a store that is believed away would be taken, for nobody
// else is asked afterwards; and one that is really away would make its shard gone.
func TestStoresBelievedAwayAreNotBelievedBlindly(t *testing.T) {
	b := newBench(t)
	b.mark(3, cluster.StoreDown)
	b.stores[0].lie = flip
	b.good() // one more piece is needed, and two others have it
	b.stores[1].lie, b.stores[2].lie = flip, flip
	if _, err := b.read(0, 1); !errors.Is(err, errs.ErrUnavailable) {
		t.Errorf("three wrong answers of stores that are believed away: %v", err)
	}
	for i := range 3 {
		b.stores[i].lie = nil
		b.stores[i].Crash(1)
	}
	if _, err := b.read(0, 1); !errors.Is(err, errs.ErrUnavailable) {
		t.Errorf("three stores are away: %v", err)
	}
}
