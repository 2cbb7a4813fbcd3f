package storetest

import (
	"bytes"
	"fmt"
	"testing"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

var (
	seg1 = id.MakeSegment(100, 3)
	seg2 = id.MakeSegment(101, 3)
	gen1 = id.Generation{Epoch: 3, N: 1}
	gen2 = id.Generation{Epoch: 3, N: 2}
)

func shardReadBack(t *testing.T, h *Harness) {
	const blocks = 37
	p := Shard(seg1, gen1, 5, blocks, 1)
	want(t, "read before the put", Read(h.Store, seg1, gen1, 5, 0, 1).Err, errs.ErrNotFound)
	ok(t, "put", Put(h.Store, p))
	for _, r := range [][2]uint16{{0, blocks}, {0, 1}, {blocks - 1, 1}, {7, 16}} {
		got := Read(h.Store, seg1, gen1, 5, r[0], r[1])
		ok(t, "read", got.Err)
		if !bytes.Equal(got.Dst, p.Data[0][int(r[0])*storeproto.BlockSize:][:len(got.Dst)]) || got.Got != gen1 {
			t.Errorf("read %v: other bytes, or generation %s", r, got.Got)
		}
		for i, sum := range got.Sums {
			if sum != p.Head.Sums[int(r[0])+i] {
				t.Errorf("read %v: sum %d differs", r, i)
			}
		}
	}
	ok(t, "put of a later generation", Put(h.Store, Shard(seg1, gen2, 5, 3, 2)))
	if r := Read(h.Store, seg1, id.Generation{}, 5, 0, 1); r.Err != nil || r.Got != gen2 {
		t.Errorf("newest: %s %v", r.Got, r.Err)
	}
	want(t, "read of another index", Read(h.Store, seg1, gen1, 4, 0, 1).Err, errs.ErrNotFound)
	heads, err := h.Store.ShardHeads(t.Context(), seg1)
	ok(t, "heads", err)
	if len(heads) != 2 || !heads[0].Equal(p.Head) || heads[1].Generation != gen2 {
		t.Errorf("heads %+v", heads)
	}
	if heads, err = h.Store.ShardHeads(t.Context(), seg2); err != nil || len(heads) != 0 {
		t.Errorf("heads of nothing: %v %v", heads, err)
	}
}

func putAgain(t *testing.T, h *Harness) {
	ok(t, "put", Put(h.Store, Shard(seg1, gen1, 0, 4, 1)))
	ok(t, "put again", Put(h.Store, Shard(seg1, gen1, 0, 4, 1)))
	want(t, "put of other content", Put(h.Store, Shard(seg1, gen1, 0, 4, 2)), errs.ErrConflict)
	done := make(chan error, 8)
	for range cap(done) {
		p := Shard(seg2, gen1, 0, 4, 1)
		p.Done = func(p *storeproto.PutShard) { done <- p.Err }
		h.Store.PutShard(p)
	}
	for range cap(done) {
		ok(t, "the same many times at once", <-done)
	}
}

func putFenced(t *testing.T, h *Harness) {
	ok(t, "fence", (<-Fence(t, h.Store, storeproto.Fence{Volume: Volume, Epoch: 4, By: HolderA})).Err)
	want(t, "put below the fence", Put(h.Store, Shard(seg1, gen1, 0, 4, 1)), errs.ErrStaleEpoch)
	want(t, "delete below the fence", h.Store.DeleteShards(t.Context(), storeproto.DeleteShards{Volume: Volume, Epoch: 3,
		Segments: []storeproto.SegmentGeneration{{Segment: seg1, Generation: gen1}}}), errs.ErrStaleEpoch)
}

func damagedShard(t *testing.T, h *Harness) {
	p := Shard(seg1, gen1, 0, 4, 1)
	p.Data[0][5000] ^= 1
	want(t, "damaged data", Put(h.Store, p), errs.ErrCorrupt)
	p = Shard(seg1, gen1, 0, 4, 1)
	p.Data[0] = p.Data[0][:3*storeproto.BlockSize]
	want(t, "missing data", Put(h.Store, p), errs.ErrInvalid)
	p = Shard(seg1, gen1, 0, 4, 1)
	p.Head.Index = 6
	want(t, "index beyond k+m", Put(h.Store, p), errs.ErrInvalid)
}

func deletedShard(t *testing.T, h *Harness) {
	for i := range uint8(3) {
		ok(t, "put", Put(h.Store, Shard(seg1, gen1, i, 4, uint64(i))))
	}
	ok(t, "read", Read(h.Store, seg1, gen1, 1, 0, 1).Err)
	d := storeproto.DeleteShards{Volume: Volume, Epoch: 3, Segments: []storeproto.SegmentGeneration{{Segment: seg1, Generation: gen1}, {Segment: seg2, Generation: gen1}}}
	ok(t, "delete", h.Store.DeleteShards(t.Context(), d))
	want(t, "read of a deleted one", Read(h.Store, seg1, gen1, 1, 0, 1).Err, errs.ErrNotFound)
	want(t, "late put", Put(h.Store, Shard(seg1, gen1, 1, 4, 1)), errs.ErrNotFound)
	want(t, "late put of what never was there", Put(h.Store, Shard(seg2, gen1, 1, 4, 1)), errs.ErrNotFound)
	ok(t, "delete again", h.Store.DeleteShards(t.Context(), d))
	if heads, err := h.Store.ShardHeads(t.Context(), seg1); err != nil || len(heads) != 0 {
		t.Errorf("heads: %v %v", heads, err)
	}
}

func deleteKeepsHigher(t *testing.T, h *Harness) {
	ok(t, "put", Put(h.Store, Shard(seg1, gen1, 0, 4, 1)))
	ok(t, "put", Put(h.Store, Shard(seg1, gen2, 0, 4, 2)))
	ok(t, "delete", h.Store.DeleteShards(t.Context(), storeproto.DeleteShards{Volume: Volume, Epoch: 3,
		Segments: []storeproto.SegmentGeneration{{Segment: seg1, Generation: gen1}}}))
	want(t, "lower generation", Read(h.Store, seg1, gen1, 0, 0, 1).Err, errs.ErrNotFound)
	ok(t, "higher generation", Read(h.Store, seg1, gen2, 0, 0, 4).Err)
	ok(t, "put of a higher generation", Put(h.Store, Shard(seg1, id.Generation{Epoch: 4, N: 1}, 0, 4, 2)))
}

func readOutOfRange(t *testing.T, h *Harness) {
	ok(t, "put", Put(h.Store, Shard(seg1, gen1, 0, 4, 1)))
	want(t, "beyond the end", Read(h.Store, seg1, gen1, 0, 3, 2).Err, errs.ErrInvalid)
	want(t, "nothing", Read(h.Store, seg1, gen1, 0, 3, 0).Err, errs.ErrInvalid)
}

func restart(t *testing.T, h *Harness) {
	if h.Restart == nil {
		t.Skip("this body cannot be restarted by the suite")
	}
	j, m := Stream(3, 9, storeproto.Journal), Stream(3, 9, storeproto.Meta)
	for i := range id.LSN(20) {
		_, err := Append(h.Store, &storeproto.Append{Stream: j, Epoch: 3, Batch: Batch(3, 1+i, 1, 2, 0), Base: i == 0, Released: i / 4})
		ok(t, "append", err)
		_, err = Append(h.Store, &storeproto.Append{Stream: m, Epoch: 3, Batch: Batch(3, 1+i, 1, 0, 0), Base: i == 0, Released: i / 2})
		ok(t, "append", err)
	}
	_, err := Next(h.Store, Stream(3, 1, storeproto.Journal), Batch(3, 1, 1, 1, 0))
	ok(t, "append", err)
	ok(t, "drop", h.Store.Drop(t.Context(), storeproto.Drop{Volume: Volume, Epoch: 3, Keep: []id.Ensemble{j.Ensemble}}))
	ok(t, "put", Put(h.Store, Shard(seg1, gen1, 0, 4, 1)))
	ok(t, "put", Put(h.Store, Shard(seg2, gen1, 0, 4, 1)))
	ok(t, "delete", h.Store.DeleteShards(t.Context(), storeproto.DeleteShards{Volume: Volume, Epoch: 3,
		Segments: []storeproto.SegmentGeneration{{Segment: seg2, Generation: gen1}}}))
	for i := range 2 {
		h.Store = h.Restart()
		ok(t, "read", Read(h.Store, seg1, gen1, 0, 0, 4).Err)
		want(t, "deleted shard", Read(h.Store, seg2, gen1, 0, 0, 4).Err, errs.ErrNotFound)
		want(t, "late put", Put(h.Store, Shard(seg2, gen1, 0, 4, 1)), errs.ErrNotFound)
		_, err := Next(h.Store, Stream(3, 1, storeproto.Journal), Batch(3, 1, 1, 1, 0))
		want(t, fmt.Sprintf("base of a dropped stream after restart %d", i), err, errs.ErrConflict)
		r := <-Fence(t, h.Store, storeproto.Fence{Volume: Volume, Epoch: 3, By: HolderA})
		ok(t, "fence", r.Err)
		if len(r.Reply.Streams) != 2 || r.Reply.Lossy || r.Reply.Streams[0].Tail != 20 || r.Reply.Streams[1].Tail != 20 {
			t.Fatalf("streams %+v", r.Reply)
		}
		if a, b := r.Reply.Streams[0].Released, r.Reply.Streams[1].Released; a > 4 || b > 9 {
			t.Errorf("released %d and %d", a, b)
		}
		got, err := FetchAll(t.Context(), h.Store, j, 5)
		if ok(t, "fetch", err); len(got) != 16 {
			t.Errorf("fetched %d batches", len(got))
		}
	}
	r := <-Fence(t, h.Store, storeproto.Fence{Volume: Volume, Epoch: 5, By: HolderA})
	ok(t, "fence", r.Err)
	h.Store = h.Restart()
	want(t, "confirm below a fence from before", Confirm(h.Store, Volume, 4), errs.ErrStaleEpoch)
	// Right after its start a store waits out what it may have granted before.
	done := Fence(t, h.Store, storeproto.Fence{Volume: Volume, Epoch: 6, By: HolderB, Prior: []id.Host{HolderA.Host}})
	mustWait(t, done)
	h.Advance(h.LeaseTerm)
	ok(t, "fence", (<-done).Err)
}
