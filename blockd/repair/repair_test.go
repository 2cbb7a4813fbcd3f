package repair

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/memstore"
	"ashlar.dev/pkg/stripe"
)

var fourTwo = stripe.Profile{K: 4, M: 2}

// Whatever m stores are lost, every shard comes back on its new store as it was put:
// bytes, sums and slot entries.
func TestLostShardsAreRebuilt(t *testing.T) {
	for _, p := range []stripe.Profile{fourTwo, {K: 2, M: 1}, {K: 1, M: 2}, {K: 1, M: 1}} {
		width := int(p.K + p.M)
		for a := range width {
			for c := a; c < width && (c == a || p.M > 1); c++ {
				t.Run(fmt.Sprintf("%s less %d and %d", p, a, c), func(t *testing.T) {
					b := newBench(t, p)
					segs := []id.Segment{b.write(1, 1), b.write(2, 16), b.write(3, 200), b.write(4, 333)}
					b.lose(a)
					to := map[int]int{a: width}
					if c != a {
						b.lose(c)
						to[c] = width + 1
					}
					b.give(to)
					b.rounds()
					if !b.whole() {
						t.Fatalf("not whole: %+v", b.workers[width].Progress())
					}
					b.allRight(segs...)
				})
			}
		}
	}
}

// A store that is only emptied gives its own shards: one read instead of k.
func TestDrainingStoreIsCopied(t *testing.T) {
	b := newBench(t, fourTwo)
	segs := []id.Segment{b.write(1, 100), b.write(2, 100)}
	b.mark(0, cluster.StoreDraining)
	b.give(map[int]int{0: 6})
	before := make([]int, 6)
	for i := range before {
		before[i] = b.stores[i].Stats().Reads
	}
	b.rounds()
	for i := 1; i < 6; i++ {
		if n := b.stores[i].Stats().Reads; n != before[i] {
			t.Errorf("store %d was read", i)
		}
	}
	if !b.whole() {
		t.Fatal("not whole")
	}
	b.allRight(segs...)
}

// A wrong block must not get into the new shard, and with it under a right sum.
func TestWrongSourceDoesNotPoison(t *testing.T) {
	b := newBench(t, fourTwo)
	seg := b.write(1, 600)
	g := id.Generation{Epoch: owner, N: 1}
	// Each block has four right shards of five left, but no four shards are right everywhere.
	for i := 1; i < 6; i++ {
		if !b.stores[i].Damage(seg, g, uint8(i), uint16(10*i)) {
			t.Fatal("nothing to damage")
		}
	}
	b.lose(0)
	b.give(map[int]int{0: 6})
	b.rounds()
	if err := b.has(seg, 0); err != nil || !b.whole() {
		t.Fatalf("whole %v: %v", b.whole(), err)
	}
}

// A wrong shard on the store that is emptied is coded from the others.
func TestWrongShardOfADrainingStoreIsCoded(t *testing.T) {
	b := newBench(t, fourTwo)
	seg := b.write(1, 100)
	b.stores[2].Damage(seg, id.Generation{Epoch: owner, N: 1}, 2, 5)
	b.mark(2, cluster.StoreDraining)
	b.give(map[int]int{2: 6})
	b.rounds()
	if err := b.has(seg, 2); err != nil || !b.whole() {
		t.Fatalf("whole %v: %v", b.whole(), err)
	}
}

// With too few right shards nothing is put, and the older version, by which a store
// that comes back is found, must stay.
func TestTooFewRightShardsIsNotWhole(t *testing.T) {
	b := newBench(t, fourTwo)
	seg := b.write(1, 100)
	for i := 1; i < 3; i++ {
		b.stores[i].Damage(seg, id.Generation{Epoch: owner, N: 1}, uint8(i), 0)
	}
	b.lose(0)
	b.give(map[int]int{0: 6})
	b.rounds()
	if b.whole() || b.shards(6) != 0 {
		t.Fatalf("whole %v with %d shards", b.whole(), b.shards(6))
	}
	if p := b.workers[6].Progress(); len(p) != 1 || p[0].Stuck == 0 || p[0].Problem == "" {
		t.Fatalf("%+v", p)
	}
}

// A store that is down may be the one that has what others lack. It is waited for
// before the group is called whole, but not with the rebuilding; one that is out is not.
func TestGroupIsNotWholeWhileAStoreIsAway(t *testing.T) {
	b := newBench(t, fourTwo)
	seg := b.write(1, 100)
	b.lose(0)
	b.stores[1].SetFault(func(memstore.Call) memstore.Fault { return memstore.Fault{Err: errs.ErrUnavailable} })
	b.mark(1, cluster.StoreDown)
	b.give(map[int]int{0: 6})
	b.rounds()
	if b.whole() {
		t.Fatal("whole though a store could not be asked")
	}
	if err := b.has(seg, 0); err != nil {
		t.Fatalf("not even rebuilt: %v", err)
	}
	b.mark(1, cluster.StoreOut)
	b.rounds()
	if !b.whole() {
		t.Fatal("waits for a store that is out")
	}
}

// A put that is cut off leaves some shards of a segment that never counted. They must
// not keep the group from ever being whole.
func TestSegmentThatNeverCountedIsNoHindrance(t *testing.T) {
	b := newBench(t, fourTwo)
	right := b.write(1, 100)
	b.write(2, 100, 0, 3, 4, 5) // on stores 1 and 2 alone
	b.lose(0)
	b.give(map[int]int{0: 6})
	b.rounds()
	if !b.whole() || b.shards(6) != 1 {
		t.Fatalf("whole %v with %d shards", b.whole(), b.shards(6))
	}
	b.allRight(right)
}

// A segment that is deleted between the list and the look at its shards is not stuck:
// health would speak of lost data where there is none.
func TestSegmentDeletedAfterTheListIsNotStuck(t *testing.T) {
	b := newBench(t, fourTwo)
	seg := b.write(1, 100)
	b.lose(0)
	b.give(map[int]int{0: 6})
	cfg := b.workers[6].cfg
	cfg.Local = afterList{b.stores[6], func() {
		for i := 1; i < 4; i++ {
			_ = b.delete(i, seg, 2) // the others have not heard yet
		}
	}}
	b.workers[6] = New(cfg)
	b.workers[6].Round(t.Context())
	if p := b.workers[6].Progress(); len(p) != 1 || p[0].Stuck != 0 || !p[0].Whole || b.shards(6) != 0 {
		t.Fatalf("%+v, %d shards", p, b.shards(6))
	}
}

// afterList calls f when all others have been asked what they have.
type afterList struct {
	*memstore.Store
	f func()
}

func (s afterList) ListShards(ctx context.Context, q storeproto.ListShards) (storeproto.ShardList, error) {
	s.f()
	return s.Store.ListShards(ctx, q)
}

// After the list nothing is born under the older version: its shard would be missed.
func TestNothingIsBornUnderTheOlderVersion(t *testing.T) {
	b := newBench(t, fourTwo)
	b.lose(0)
	old := b.top.PGs[0].Current()
	b.give(map[int]int{0: 6})
	b.rounds()
	if !b.whole() {
		t.Fatal("not whole")
	}
	h := &storeproto.ShardHead{Volume: volume, Segment: id.MakeSegment(9, group), Generation: id.Generation{Epoch: owner, N: 1}, Index: 1, K: 4, M: 2,
		PGVersion: old.Version, Slots: 1, Blocks: 1, Sums: make([]uint32, 1)}
	data := make([]byte, storeproto.BlockSize)
	stripe.ShardSums(h.Sums, h.Segment, 1, data)
	if err := b.put(1, &storeproto.PutShard{Head: h, Epoch: owner, Data: [][]byte{data}}); !errors.Is(err, errs.ErrStaleEpoch) {
		t.Fatalf("an owner with the older topology put a shard: %v", err)
	}
}

// beforePut calls f before a shard is put.
type beforePut struct {
	*memstore.Store
	f func()
}

func (s beforePut) PutShard(q *storeproto.PutShard) {
	s.f()
	s.Store.PutShard(q)
}

// The engine deletes a segment while its shard is being rebuilt: everywhere before the
// new store has it, the new store included, or not included because the engine did not
// know of it. Nothing may come back.
func TestDeletedSegmentDoesNotComeBack(t *testing.T) {
	for _, knows := range []bool{true, false} {
		t.Run(fmt.Sprintf("engine knows %v", knows), func(t *testing.T) {
			b := newBench(t, fourTwo)
			seg := b.write(1, 100)
			b.lose(0)
			b.give(map[int]int{0: 6})
			var once atomic.Bool
			cfg := b.workers[6].cfg
			cfg.Local = beforePut{b.stores[6], func() {
				if once.CompareAndSwap(false, true) {
					for i := 1; i < 6; i++ {
						if err := b.delete(i, seg, 2); err != nil {
							t.Error(err)
						}
					}
					if knows {
						if err := b.delete(6, seg, 2); err != nil {
							t.Error(err)
						}
					}
				}
			}}
			b.workers[6] = New(cfg)
			b.rounds()
			if !once.Load() || b.shards(6) != 0 || !b.whole() {
				t.Fatalf("put %v, %d shards, whole %v", once.Load(), b.shards(6), b.whole())
			}
		})
	}
}

// Once the new store may have the shard, a deletion by an engine that does not know of
// it is refused, so that it asks again when it does.
func TestDeletionByTheOlderVersionIsRefused(t *testing.T) {
	b := newBench(t, fourTwo)
	seg := b.write(1, 100)
	b.lose(0)
	b.give(map[int]int{0: 6})
	b.rounds()
	for i := 1; i < 7; i++ {
		if err := b.delete(i, seg, 1); !errors.Is(err, errs.ErrStaleEpoch) {
			t.Fatalf("store %d: %v", i, err)
		}
		if err := b.delete(i, seg, 2); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.shards(6); n != 0 {
		t.Fatalf("%d shards are left", n)
	}
}

// Crashes of the new store, of sources and of the worker cost time and nothing else.
func TestRepairGoesOnAfterCrashes(t *testing.T) {
	b := newBench(t, fourTwo)
	var segs []id.Segment
	for n := range 12 {
		segs = append(segs, b.write(n+1, 50))
	}
	b.lose(0)
	b.give(map[int]int{0: 6})
	puts := 0
	for round := range 20 {
		var calls atomic.Int32
		b.stores[6].SetFault(func(c memstore.Call) memstore.Fault {
			if c == memstore.PutShard && calls.Add(1) > int32(round%4) {
				return memstore.Fault{Err: errs.ErrUnavailable, Lost: round%2 == 0}
			}
			return memstore.Fault{}
		})
		b.stores[1+round%5].SetFault(func(c memstore.Call) memstore.Fault { return memstore.Fault{Err: errs.ErrUnavailable} })
		b.workers[6].Round(t.Context())
		b.clock.Advance(10e9)
		b.stores[6].SetFault(nil)
		b.stores[1+round%5].SetFault(nil)
		if b.shards(6) < puts {
			t.Fatalf("round %d: %d shards after %d", round, b.shards(6), puts)
		}
		puts = b.shards(6)
		b.stores[6].Crash(uint64(round))
		b.stores[6].Restart()
		b.workers[6] = New(b.workers[6].cfg) // its memory goes with the process
	}
	b.rounds()
	if !b.whole() {
		t.Fatalf("not whole: %+v", b.workers[6].Progress())
	}
	b.allRight(segs...)
}

// Losses one after another: a slot may pass through several hands before it is filled.
func TestSlotsMoveAgainBeforeTheyAreFilled(t *testing.T) {
	b := newBench(t, fourTwo)
	segs := []id.Segment{b.write(1, 100), b.write(2, 40)}
	b.lose(0)
	b.give(map[int]int{0: 6})
	b.workers[6].Round(t.Context())
	b.lose(6)
	b.lose(1)
	b.give(map[int]int{0: 7, 1: 8})
	segs = append(segs, b.write(3, 70))
	b.rounds()
	if !b.whole() {
		t.Fatalf("not whole: %+v %+v", b.workers[7].Progress(), b.workers[8].Progress())
	}
	b.allRight(segs...)
}

// A store that comes back after its slot was filled elsewhere must not keep the shards:
// nobody would ever delete them. While any version has it, it keeps everything.
func TestStoreThatLostItsSlotGivesTheRoomBack(t *testing.T) {
	b := newBench(t, fourTwo)
	b.write(1, 100)
	b.mark(0, cluster.StoreOut)
	b.give(map[int]int{0: 6})
	b.rounds()
	b.mark(0, cluster.StoreUp)
	b.rounds()
	if b.shards(0) != 1 {
		t.Fatal("it gave away what an older version says it has")
	}
	b.forget()
	late := b.write(2, 10)
	b.rounds()
	if n := b.shards(0); n != 0 {
		t.Fatalf("%d shards are left", n)
	}
	b.give(map[int]int{0: 0})
	b.rounds()
	if !b.whole() {
		t.Fatal("not whole with the old holder back")
	}
	b.allRight(late)
}

// So must the shards of a slot that a store changed for another: they stay where nobody
// looks for them, rot unmended, and go only with their segments.
func TestStoreThatChangesItsSlotGivesTheOldOneBack(t *testing.T) {
	b := newBench(t, fourTwo)
	segs := []id.Segment{b.write(1, 100), b.write(2, 30)}
	b.give(map[int]int{0: 1, 1: 6})
	b.rounds()
	if !b.whole() || b.shards(1) != 4 {
		t.Fatalf("%d shards while the older version is kept", b.shards(1))
	}
	b.forget()
	late := b.write(3, 10)
	b.rounds()
	if n := b.shards(1); n != 3 {
		t.Fatalf("%d shards, want those of its slot only", n)
	}
	b.allRight(append(segs, late)...)
}

// The group that can lose least comes first.
func TestMostEndangeredFirst(t *testing.T) {
	b := newBench(t, fourTwo)
	b.change(func(t *cluster.Topology) {
		other := t.PGs[0]
		other.Number++
		v := other.Versions[0]
		v.Version, v.Stores = 2, append(b.refs(6), v.Stores[1:]...)
		t.PGs[0].Versions = append(t.PGs[0].Versions[:1:1], v)
		old := other.Versions[0]
		old.Stores = append(b.refs(8), old.Stores[1:]...)
		other.Versions = []cluster.PGVersion{old, v}
		t.PGs = append(t.PGs, other)
		t.Stores[8].State = cluster.StoreLost
	})
	tasks := Tasks(b.top, b.top.Stores[6].StoreRef)
	if len(tasks) != 2 || tasks[0].PG != group+1 || tasks[0].Margin != 1 || tasks[1].Margin != 2 {
		t.Fatalf("%+v", tasks)
	}
}
