package reader_test

import (
	"bytes"
	"errors"
	"testing"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/memstore"
)

// move gives the first n slots of the group to new, empty stores, and marks the old ones.
func (b *bench) move(n int, old cluster.StoreState) {
	t := &cluster.Topology{Version: b.topo.Version + 1, Stores: b.topo.Stores}
	p := b.topo.PGs[0]
	v := p.Versions[0]
	v.Version, v.Stores = 2, append([]cluster.StoreRef(nil), v.Stores...)
	for i := range n {
		ref := cluster.StoreRef{Store: id.Store{14: 1, 15: byte(i + 1)}, Incarnation: id.Incarnation{1}}
		b.stores = append(b.stores, &liar{Store: memstore.New(memstore.Options{ID: ref.Store, Incarnation: ref.Incarnation, Clock: clock.NewManual()})})
		t.Stores = append(t.Stores, cluster.Store{StoreRef: ref, State: cluster.StoreUp})
		t.Stores[i].State = old
		v.Stores[i] = ref
	}
	p.Versions = append(p.Versions[:1:1], v)
	t.PGs = []cluster.PG{p}
	b.topo = t.Index()
}

// Without this what lies on stores that are emptied could not be read from the moment
// on at which their places are given to others, which have nothing yet.
func TestReaderAsksTheOlderHolderFirst(t *testing.T) {
	b := newBench(t)
	b.move(4, cluster.StoreDraining)
	b.good()
	if n := b.reader.Stats().Degraded; n != 0 {
		t.Errorf("%d parts rebuilt though every shard is there", n)
	}
}

// Without this a rebuilt shard would help nobody while the older version is kept.
func TestReaderFindsTheRebuiltShard(t *testing.T) {
	b := newBench(t)
	b.move(3, cluster.StoreLost)
	for slot := range 3 { // as a repair does
		heads, err := b.stores[slot].ShardHeads(t.Context(), b.at.Segment())
		if err != nil || len(heads) != 1 {
			t.Fatal(err, len(heads))
		}
		h := &heads[0]
		done := make(chan error, 1)
		q := &storeproto.ReadShard{Segment: h.Segment, Generation: h.Generation, Index: h.Index, Count: h.Blocks, Dst: make([]byte, int(h.Blocks)*block4k),
			Sums: make([]uint32, h.Blocks), Done: func(q *storeproto.ReadShard) { done <- q.Err }}
		b.stores[slot].ReadShard(q)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if slot == 2 {
			break // not rebuilt yet
		}
		b.stores[6+slot].PutShard(&storeproto.PutShard{Head: h, Epoch: storeproto.RepairEpoch, Data: [][]byte{q.Dst}, Done: func(q *storeproto.PutShard) { done <- q.Err }})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	b.good()
	// When the older version is forgotten the same holds.
	p := b.topo.PGs[0]
	p.Versions = p.Versions[1:]
	next := &cluster.Topology{Version: 9, Stores: b.topo.Stores, PGs: []cluster.PG{p}}
	b.topo = next.Index()
	b.good()
}

// A store that was given a slot lacks what it has not rebuilt yet. That the older holder is
// away for a moment does not make the shard gone: a read that took it so would fail a
// client's request, where waiting helps (bench/sim, seed 7).
func TestShardOfAStoreThatIsAwayIsNotGone(t *testing.T) {
	b := newBench(t)
	b.move(3, cluster.StoreDown)
	for _, s := range b.stores[:3] {
		s.Crash(1)
	}
	if _, err := b.read(0, slots); !errors.Is(err, errs.ErrUnavailable) {
		t.Errorf("the read fails with %v", err)
	}
}

// The same where metad calls the older holder up, and only we cannot reach it: that the
// new holder has not rebuilt the shard yet says nothing of it (bench/sim, seeds 492 and 776).
func TestShardOfAStoreThatCannotBeReachedIsNotGone(t *testing.T) {
	b := newBench(t)
	b.move(3, cluster.StoreUp)
	for i, err := range []error{errs.ErrCorrupt, errs.ErrUnavailable, errs.ErrUnavailable} {
		b.stores[i].SetFault(func(memstore.Call) memstore.Fault { return memstore.Fault{Err: err} })
	}
	if _, err := b.read(0, slots); !errors.Is(err, errs.ErrUnavailable) {
		t.Errorf("the read fails with %v", err)
	}
	b.stores[1].SetFault(nil)
	b.good()
}

// Schedule (bench/sim, seed 653): a slot has got a new store, which has nothing yet, and its older holder is away. While a read asks the
// new one the older one comes back. Stores were told apart by their place among those that answer: the new one was asked once
// more, the older one not at all, and with as many wrong shards beside it as there are for it the shard was taken for gone
// and the segment for lost.
func TestHolderThatComesBackDuringAReadIsAsked(t *testing.T) {
	b := newBench(t)
	b.move(1, cluster.StoreDown)
	b.stores[1].lie, b.stores[2].lie = flip, flip
	b.stores[6].lie = func(*storeproto.ReadShard) { b.mark(1, cluster.StoreUp) }
	got, err := b.read(0, 1)
	if err != nil || !bytes.Equal(got, b.data[:block4k]) {
		t.Errorf("all that the code needs is there: %v", err)
	}
}

// The same where the older holder comes back last of all: it was not asked, so nothing is said of its shard.
func TestHolderThatCameBackTooLateMayHaveItsShard(t *testing.T) {
	b := newBench(t)
	b.move(1, cluster.StoreDown)
	b.stores[0].Crash(1)
	b.stores[1].lie, b.stores[2].lie = flip, flip
	b.stores[5].lie = func(*storeproto.ReadShard) { b.mark(1, cluster.StoreUp) }
	if _, err := b.read(0, 1); !errors.Is(err, errs.ErrUnavailable) {
		t.Errorf("the read fails with %v", err)
	}
}
