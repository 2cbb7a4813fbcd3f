package repair

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/memstore"
	"ashlar.dev/pkg/stripe"
)

var first = id.Generation{Epoch: owner, N: 1}

func shardOf(seg id.Segment, slot int) storeproto.ShardName {
	return storeproto.ShardName{Segment: seg, Generation: first, Index: uint8(slot)}
}

// read reads a block as a client's engine does.
func (b *bench) read(store int, seg id.Segment, slot uint8, block uint16) error {
	done := make(chan struct{})
	q := &storeproto.ReadShard{Segment: seg, Generation: first, Index: slot, First: block, Count: 1,
		Dst: make([]byte, storeproto.BlockSize), Sums: make([]uint32, 1), Done: func(*storeproto.ReadShard) { close(done) }}
	b.stores[store].ReadShard(q)
	<-done
	return q.Err
}

// Without it a shard that rots is rebuilt for every reader until m others have rotted, too.
func TestShardFoundWrongByAReadIsMended(t *testing.T) {
	for _, p := range []stripe.Profile{fourTwo, {K: 2, M: 1}, {K: 1, M: 2}, {K: 1, M: 1}} {
		for slot := range p.K + p.M {
			b := newBench(t, p)
			seg := b.write(1, 200)
			w := b.workers[slot]
			b.stores[slot].Damage(seg, first, slot, 7)
			if err := b.read(int(slot), seg, slot, 7); !errors.Is(err, errs.ErrCorrupt) {
				t.Fatal(err)
			}
			w.CareRound(t.Context())
			b.allRight(seg)
			if h := w.Health(); h.Wrong != 1 || h.Mended != 1 || h.Stuck != 0 || h.Flagged {
				t.Errorf("%s slot %d: %+v", p, slot, h)
			}
			if c, err := b.stores[slot].Care(); err != nil || c.Wrong != 1 {
				t.Errorf("not remembered: %+v %v", c, err)
			}
		}
	}
}

// A wrong word of a reader, or of anybody, must not have right bytes written over.
func TestRightShardIsNotWritten(t *testing.T) {
	b := newBench(t, fourTwo)
	seg := b.write(1, 100)
	puts := b.stores[0].Stats().Puts
	if out, err := b.workers[0].mend(t.Context(), shardOf(seg, 0)); out != right || err != nil || b.stores[0].Stats().Puts != puts {
		t.Fatal(out, err)
	}
}

// The store's own index says what the shard must be: whatever others say, nothing else is put.
func TestMendedShardIsWhatTheIndexSays(t *testing.T) {
	b := newBench(t, fourTwo)
	seg := b.write(1, 100)
	var head storeproto.ShardHead
	b.stores[0].Shards(func(h storeproto.ShardHead) { head = h })
	head.Sums = slices.Clone(head.Sums)
	data := make([]byte, int(head.Blocks)*storeproto.BlockSize)
	stripe.ShardSums(head.Sums, seg, 0, data)
	err := b.stores[0].ReplaceShard(t.Context(), &storeproto.PutShard{Head: &head, Epoch: storeproto.RepairEpoch, Data: [][]byte{data}})
	if !errors.Is(err, errs.ErrConflict) {
		t.Fatal(err)
	}
	b.allRight(seg)
}

// beforeReplace calls f when the right bytes are made and not yet put.
type beforeReplace struct {
	*memstore.Store
	f func()
}

func (s beforeReplace) ReplaceShard(ctx context.Context, p *storeproto.PutShard) error {
	s.f()
	return s.Store.ReplaceShard(ctx, p)
}

// A segment is deleted while its wrong shard is being rebuilt. It must not come back: nobody
// would ever delete it again.
func TestDeletedShardIsNotMended(t *testing.T) {
	b := newBench(t, fourTwo)
	seg := b.write(1, 100)
	b.stores[0].Damage(seg, first, 0, 0)
	cfg := b.workers[0].cfg
	cfg.Local = beforeReplace{b.stores[0], func() {
		for i := range 6 {
			if err := b.delete(i, seg, 1); err != nil {
				t.Error(err)
			}
		}
	}}
	w := New(cfg)
	if out, err := w.mend(t.Context(), shardOf(seg, 0)); out != gone || err != nil || b.shards(0) != 0 {
		t.Fatal(out, err, b.shards(0))
	}
}

// A shard that is gone from its store, or was never put there, is put back when others show
// that it should be there.
func TestMissingShardIsPutBack(t *testing.T) {
	for slot := range 6 {
		b := newBench(t, fourTwo)
		seg, other := b.write(1, 200), b.write(2, 30)
		b.stores[slot].LoseShard(shardOf(seg, slot))
		w := b.workers[slot]
		if err := b.read(slot, seg, uint8(slot), 0); !errors.Is(err, errs.ErrNotFound) {
			t.Fatal(err)
		}
		w.CareRound(t.Context())
		b.allRight(seg, other)
		if h := w.Health(); h.Missing != 1 || h.Mended != 1 || h.Wrong != 0 {
			t.Errorf("%+v", h)
		}
	}
}

// A reader with an old map asks for a shard of a segment that is deleted, on some stores
// before others. The put is stopped by the tombstone, or taken back by the look back.
func TestMissingShardOfADeletedSegmentDoesNotComeBack(t *testing.T) {
	for _, knows := range []bool{true, false} {
		b := newBench(t, fourTwo)
		seg := b.write(1, 100)
		b.stores[0].LoseShard(shardOf(seg, 0)) // and its tombstone is forgotten
		cfg := b.workers[0].cfg
		cfg.Local = beforePut{b.stores[0], func() {
			for i := range 6 {
				if i == 0 && !knows {
					continue
				}
				if err := b.delete(i, seg, 1); err != nil {
					t.Error(err)
				}
			}
		}}
		w := New(cfg)
		if out, err := w.mend(t.Context(), shardOf(seg, 0)); out != gone || err != nil || b.shards(0) != 0 {
			t.Fatal(knows, out, err, b.shards(0))
		}
	}
}

// The slot is another store's by now: what is put here then nobody would take away.
func TestMissingShardIsNotPutBackWhereItDoesNotBelong(t *testing.T) {
	b := newBench(t, fourTwo)
	seg := b.write(1, 100)
	b.stores[0].LoseShard(shardOf(seg, 0))
	b.give(map[int]int{0: 6})
	b.rounds()
	b.forget()
	if out, err := b.workers[0].mend(t.Context(), shardOf(seg, 0)); out != gone || err != nil || b.shards(0) != 0 {
		t.Fatal(out, err, b.shards(0))
	}
	b.allRight(seg)
}

// Without this a store that has just taken another's place would count what it has not
// been brought yet as lost, and be flagged for it.
func TestMissingShardOfAMovingGroupIsLeftToTheRepair(t *testing.T) {
	b := newBench(t, fourTwo)
	seg := b.write(1, 100)
	b.give(map[int]int{0: 6})
	if err := b.read(6, seg, 0, 0); !errors.Is(err, errs.ErrNotFound) {
		t.Fatal(err)
	}
	b.workers[6].CareRound(t.Context())
	if h := b.workers[6].Health(); h.Missing != 0 || h.Stuck != 0 || b.shards(6) != 0 {
		t.Errorf("%+v", h)
	}
	b.rounds()
	b.forget()
	b.allRight(seg)
}

// A put that is cut off leaves fewer than k shards; the others are not missing.
func TestShardOfASegmentThatNeverCountedIsNotMissing(t *testing.T) {
	b := newBench(t, fourTwo)
	seg := b.write(1, 100, 0, 3, 4, 5)
	if out, err := b.workers[0].mend(t.Context(), shardOf(seg, 0)); out != gone || err != nil || b.shards(0) != 0 {
		t.Fatal(out, err, b.shards(0))
	}
}

// With more than m wrong shards nothing may be written, and status must say so; when one
// of them is right again, so must be the others.
func TestTooManyWrongShardsAreStuck(t *testing.T) {
	b := newBench(t, fourTwo)
	seg := b.write(1, 100)
	for i := range 3 {
		b.stores[i].Damage(seg, first, uint8(i), 0)
		b.workers[i].suspect(shardOf(seg, i))
		b.workers[i].CareRound(t.Context())
		b.workers[i].CareRound(t.Context())
	}
	// The first two are mended, one after the other.
	b.allRight(seg)
	for i := range 3 {
		b.stores[i].Damage(seg, first, uint8(i), 0)
		b.workers[i].suspect(shardOf(seg, i))
	}
	for i := range 3 {
		b.workers[i].CareRound(t.Context())
		if h := b.workers[i].Health(); h.Stuck != 1 || h.Problem == "" || h.Wrong != 2 || h.Mended != 1 {
			t.Fatalf("store %d: %+v", i, h)
		}
	}
	b.stores[2].Damage(seg, first, 2, 0) // flips it back
	for range 2 {
		b.clock.Advance(time.Minute)
		for i := range 3 {
			b.workers[i].CareRound(t.Context())
		}
	}
	b.allRight(seg)
	for i := range 3 {
		if h := b.workers[i].Health(); h.Stuck != 0 || h.Wrong != 2 {
			t.Errorf("store %d: %+v", i, h)
		}
	}
}

// A deletion reaches the stores of a segment one after the other. A wrong shard of what is
// gone elsewhere is not stuck, nor counted against the store; where it stays like that the
// segment is lost, and status must say so.
func TestWrongShardOfADeletedSegmentIsNotStuck(t *testing.T) {
	for name, others := range map[string][]int{"all others": {1, 2, 3, 4, 5}, "most": {1, 2, 3}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, fourTwo)
			segs := []id.Segment{b.write(1, 100), b.write(2, 100)}
			w := b.workers[0]
			for _, seg := range segs {
				b.stores[0].Damage(seg, first, 0, 0)
				for _, i := range others {
					if err := b.delete(i, seg, 1); err != nil {
						t.Fatal(err)
					}
				}
				w.suspect(shardOf(seg, 0))
			}
			w.CareRound(t.Context())
			if h := w.Health(); h.Stuck != 0 || h.Wrong != 0 {
				t.Fatalf("%+v", h)
			}
			if err := b.delete(0, segs[0], 1); err != nil {
				t.Fatal(err)
			}
			b.clock.Advance(againAfter)
			w.CareRound(t.Context())
			if h := w.Health(); h.Stuck != 1 || h.Wrong != 1 || h.Problem == "" {
				t.Fatalf("%+v", h)
			}
		})
	}
}

// While a source is away it is not known whether the shard can be mended: it is tried again.
func TestMendingWaitsForStoresThatAreAway(t *testing.T) {
	b := newBench(t, fourTwo)
	seg := b.write(1, 100)
	b.stores[0].Damage(seg, first, 0, 0)
	for i := 1; i < 4; i++ {
		b.stores[i].SetFault(func(memstore.Call) memstore.Fault { return memstore.Fault{Err: errs.ErrUnavailable} })
	}
	w := b.workers[0]
	w.suspect(shardOf(seg, 0))
	w.CareRound(t.Context())
	if h := w.Health(); h.Stuck != 0 || h.Wrong != 0 {
		t.Fatalf("%+v", h)
	}
	for i := 1; i < 4; i++ {
		b.stores[i].SetFault(nil)
	}
	b.clock.Advance(time.Minute)
	w.CareRound(t.Context())
	b.allRight(seg)
}

// One bad sector is no pattern; a flag that came must not go and come with each shard.
func TestStoreWithAPatternIsFlaggedWithHysteresis(t *testing.T) {
	var c storeproto.Care
	now := time.Unix(1e9, 0)
	for range 3 {
		blame(&c, now, 1)
		now = now.Add(time.Hour)
	}
	if c.Flagged {
		t.Fatal("flagged by three")
	}
	blame(&c, now, 2)
	if !c.Flagged {
		t.Fatalf("not flagged: %+v", c)
	}
	for range 24 {
		now = now.Add(time.Hour)
		fade(&c, now)
	}
	if !c.Flagged {
		t.Fatalf("cleared after a day: %+v", c)
	}
	now = now.Add(48 * time.Hour)
	if fade(&c, now); c.Flagged {
		t.Fatalf("flagged after quiet days: %+v", c)
	}
	if blame(&c, now, 1); c.Flagged {
		t.Fatal("flagged again by one")
	}
}

// scrubbed asks a store for a scrub and waits for its end.
func (b *bench) scrubbed(store int, v id.Volume) cluster.ScrubProgress {
	b.t.Helper()
	w := b.workers[store]
	q := Scrub{ID: [16]byte{byte(len(w.Scrubs()) + 1)}, Volume: v}
	for range 2 { // the same again is the same scrub
		if !w.AskScrub(q) {
			b.t.Fatal("refused")
		}
	}
	ended, end := context.WithCancel(b.t.Context())
	go func() { w.asked(b.t.Context()); end() }()
	for b.clock.AwaitPending(ended, 1) == nil { // it waits for what settles, or for its pace
		b.clock.Advance(settle)
	}
	all := w.Scrubs()
	return all[len(all)-1]
}

// What nobody reads rots unseen until too much of it has.
func TestScrubFindsWhatIsWrongAndWhatIsMissing(t *testing.T) {
	b := newBench(t, fourTwo)
	var segs []id.Segment
	for n := range 5 {
		segs = append(segs, b.write(n+1, 150))
	}
	b.stores[2].Damage(segs[0], first, 2, 3)
	b.stores[2].Damage(segs[4], first, 2, 0)
	b.stores[2].LoseShard(shardOf(segs[1], 2))
	p := b.scrubbed(2, id.Volume{})
	if p.State != cluster.ScrubDone || p.Shards != 4 || p.AllShards != 4 || p.Bytes != p.AllBytes || p.Wrong != 2 || p.Missing != 1 || p.Mended != 3 || p.Stuck != 0 || p.NotCompared != 0 {
		t.Fatalf("%+v", p)
	}
	b.allRight(segs...)
	if p := b.scrubbed(2, id.Volume{}); p.Wrong+p.Missing != 0 || p.Shards != 5 {
		t.Fatalf("again: %+v", p)
	}
}

// A scrub of one disk is not one of the whole store.
func TestScrubOfOneVolumeLooksAtItsShardsOnly(t *testing.T) {
	b := newBench(t, fourTwo)
	seg := b.write(1, 50)
	b.stores[1].Damage(seg, first, 1, 0)
	b.stores[1].LoseShard(shardOf(b.write(2, 50), 1))
	if p := b.scrubbed(1, id.Volume{2}); p.AllShards != 0 || p.Wrong+p.Missing != 0 {
		t.Fatalf("%+v", p)
	}
	if p := b.scrubbed(1, volume); p.AllShards != 1 || p.Wrong != 1 || p.Missing != 1 {
		t.Fatalf("%+v", p)
	}
}

// A shard that is being put while lists are compared is not missing, and the count of
// missing shards, which flags stores, must not say so.
func TestShardBeingPutIsNotMissing(t *testing.T) {
	b := newBench(t, fourTwo)
	seg := b.write(1, 50, 3)
	h := b.heads[shardOf(seg, 3)]
	ended, end := context.WithCancel(t.Context())
	w := b.workers[3]
	go func() {
		w.lookForMissing(t.Context(), id.Volume{}, func(outcome, string) { t.Error("found") }, func(err error) { t.Error(err) })
		end()
	}()
	if b.clock.AwaitPending(ended, 1) != nil {
		t.Fatal("it did not wait")
	}
	data := make([]byte, 0)
	for i := range int(h.Blocks) {
		block := make([]byte, storeproto.BlockSize)
		if slot := 48 + i; slot < 50 {
			copy(block, b.slots[seg][slot])
		}
		data = append(data, block...)
	}
	if err := b.put(3, &storeproto.PutShard{Head: h, Epoch: owner, Data: [][]byte{data}}); err != nil {
		t.Fatal(err)
	}
	b.clock.Advance(settle)
	<-ended.Done()
	if h := w.Health(); h.Missing != 0 {
		t.Fatalf("%+v", h)
	}
}

// The pass that goes by itself comes to its end though the daemon restarts, and begins
// again when it is due and not before.
func TestPassGoesOnAfterARestart(t *testing.T) {
	b := newBench(t, fourTwo)
	var segs []id.Segment
	for n := range 10 {
		segs = append(segs, b.write(n+1, 20))
	}
	b.stores[0].Damage(segs[9], first, 0, 0)
	cfg := b.workers[0].cfg
	ctx, cancel := context.WithCancel(t.Context())
	seen := 0
	cfg.Local = onVerify{b.stores[0], func(storeproto.ShardName) {
		b.clock.Advance(saveEvery)
		if seen++; seen == 5 {
			cancel()
		}
	}}
	New(cfg).ScrubRound(ctx)
	if c, _ := b.stores[0].Care(); c.BeganMS == 0 || c.Shards == 0 || c.Shards > 5 {
		t.Fatalf("%+v", c)
	}
	was, _ := b.stores[0].Care()
	again := make(map[storeproto.ShardName]bool)
	cfg.Local = onVerify{b.stores[0], func(n storeproto.ShardName) { b.clock.Advance(time.Minute); again[n] = true }}
	w := New(cfg)
	w.ScrubRound(t.Context())
	c, _ := b.stores[0].Care()
	if c.EndedMS == 0 || c.BeganMS != 0 || c.Shards != 10 || c.Wrong != 1 || len(again) != 10-int(was.Shards) {
		t.Fatalf("%+v after %+v, %d looked at", c, was, len(again))
	}
	b.allRight(segs...)
	clear(again)
	w.ScrubRound(t.Context())
	if len(again) != 0 {
		t.Fatal("a second pass at once")
	}
	b.clock.SetWall(b.clock.Wall().Add(15 * 24 * time.Hour))
	if w.ScrubRound(t.Context()); len(again) != 10 {
		t.Fatalf("%d looked at when it was due", len(again))
	}
}

// onVerify calls f before each look; pacing costs no time.
type onVerify struct {
	*memstore.Store
	f func(storeproto.ShardName)
}

func (s onVerify) VerifyShard(ctx context.Context, n storeproto.ShardName, _ func(int) error) error {
	s.f(n)
	return s.Store.VerifyShard(ctx, n, func(int) error { return ctx.Err() })
}

// A group that moves on is left to the repair: what its new holder lacks is not missing.
func TestScrubLeavesMovingGroupsToTheRepair(t *testing.T) {
	b := newBench(t, fourTwo)
	b.write(1, 50)
	b.mark(0, cluster.StoreOut)
	b.give(map[int]int{0: 6})
	if p := b.scrubbed(6, id.Volume{}); p.Missing != 0 || b.shards(6) != 0 {
		t.Fatalf("%+v", p)
	}
}
