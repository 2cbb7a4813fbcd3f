package core_test

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
	"ashlar.dev/pkg/storeproto/storetest"
)

// crowd is a core with the appends of several volumes.
type crowd struct {
	c    *core.Core
	tail map[storeproto.Stream]id.LSN
}

func newCrowd() *crowd {
	return &crowd{c: core.New(core.Config{Life: 1}), tail: map[storeproto.Stream]id.LSN{}}
}

func crowdStream(v byte, k storeproto.Kind) storeproto.Stream {
	name := storetest.Stream(3, 1, k)
	name.Volume = id.Volume{v}
	return name
}

// next appends so many blocks to a volume's stream.
func (w *crowd) next(v byte, k storeproto.Kind, blocks int) *storeproto.Append {
	name := crowdStream(v, k)
	first := w.tail[name] + 1
	w.tail[name] = first
	b := &storeproto.Batch{Epoch: 3, First: first, Count: 1, Sums: make([]uint32, blocks), Payload: [][]byte{zeros[:blocks*storeproto.BlockSize]}}
	a := &storeproto.Append{Stream: name, Epoch: 3, Batch: b, Base: first == 1, Done: func(*storeproto.Append) {}}
	w.c.Append(a)
	return a
}

// group makes the next group durable and tells what was in it.
func (w *crowd) group(opsMax, bytesMax int) (ops []any) {
	g := w.c.Take(opsMax, bytesMax)
	if g == nil {
		return nil
	}
	for op := g.First(); op != nil; op = op.Next() {
		switch {
		case op.Append != nil:
			ops = append(ops, op.Append)
		case op.Fence != nil:
			ops = append(ops, op.Fence)
		default:
			ops = append(ops, op.Control)
		}
	}
	w.c.Durable(g)
	w.c.Replies(nil)
	return ops
}

const groupBytes = 4 << 20

var zeros = make([]byte, groupBytes)

// Without this a disk with one write at a time waits behind the queues of all others, which are of
// any length: it goes with the group after the one under way, a bounded number of bytes.
func TestSmallDiskGoesWithTheNextGroup(t *testing.T) {
	w := newCrowd()
	for range 3 {
		for v := byte(10); v < 40; v++ {
			w.next(v, storeproto.Journal, 500)
		}
	}
	w.group(1024, groupBytes)
	for n := range 100 {
		small := w.next(1, storeproto.Journal, 1)
		ops := w.group(1024, groupBytes)
		if !slices.Contains(ops, any(small)) {
			t.Fatalf("write %d of the small disk is not in the next group, which has %d others", n, len(ops))
		}
		for _, op := range ops {
			if a := op.(*storeproto.Append); a != small {
				w.next(a.Stream.Volume[0], storeproto.Journal, 500) // as greedy as before
			}
		}
	}
}

// Without this a disk would get more the more, or the larger, its appends in the queue are.
func TestDisksWithQueuesGetTheSame(t *testing.T) {
	w := newCrowd()
	blocks := map[byte]int{1: 1, 2: 16, 3: 500, 4: 500}
	queued := map[byte]int{1: 2000, 2: 60, 3: 3, 4: 9}
	for v := byte(1); v <= 4; v++ {
		for range queued[v] {
			w.next(v, storeproto.Journal, blocks[v])
		}
	}
	got := map[byte]int{}
	for range 60 {
		for _, op := range w.group(1024, groupBytes) {
			v := op.(*storeproto.Append).Stream.Volume[0]
			got[v] += blocks[v]
			w.next(v, storeproto.Journal, blocks[v])
		}
	}
	for v := byte(1); v <= 4; v++ {
		if d := got[v] - got[4]; d < -1024 || d > 1024 {
			t.Errorf("blocks of the disks %v: they differ by more than two of the largest appends", got)
		}
	}
}

// Without this a group could be larger than a file of the log, or a large append wait for ever
// behind small ones.
func TestGroupsKeepTheirLimits(t *testing.T) {
	w := newCrowd()
	large := w.next(1, storeproto.Journal, 500)
	for n := 0; ; n++ {
		if n > 20 {
			t.Fatal("the large append is not served")
		}
		for v := byte(2); v < 8; v++ {
			for range 120 {
				w.next(v, storeproto.Journal, 1)
			}
		}
		g := w.c.Take(300, 1<<20)
		found := slices.Contains(appends(g), large)
		if bytes := g.JournalBytes; g.Len() > 300 || bytes > 1<<20 && g.Journal > 1 {
			t.Fatalf("a group of %d ops and %d bytes", g.Len(), bytes)
		}
		w.c.Durable(g)
		if found {
			return
		}
	}
}

func appends(g *core.Group) (all []*storeproto.Append) {
	for op := g.First(); op != nil; op = op.Next() {
		all = append(all, op.Append)
	}
	return all
}

// came is what TestTurnsKeepTheOrderOfAVolume expects of one op.
type came struct {
	op     any
	volume byte // 0: of all
}

// Without this a fence would be answered before what was admitted ahead of it is durable, a stream
// have a hole, a deleted shard come back, or repair list a group's shards while one of the older
// version is still on its way.
func TestTurnsKeepTheOrderOfAVolume(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	r := rand.New(rand.NewPCG(seed, 1))
	w := newCrowd()
	var queue []came
	version, number := uint32(0), uint64(0)
	for step := range 1500 {
		for range r.IntN(6) {
			v := byte(1 + r.IntN(5))
			op := w.random(r, v, &version, &number)
			if ctl, ok := op.(*core.Control); ok && ctl.PGs != nil {
				v = 0
			}
			if len(w.c.Replies(nil)) == 0 { // else it was refused, with nothing to wait for
				queue = append(queue, came{op, v})
			}
		}
		ops := w.group(1+r.IntN(12), 1+r.IntN(1<<20))
		for _, op := range ops {
			i := slices.IndexFunc(queue, func(c came) bool { return c.op == op })
			if i < 0 {
				t.Fatalf("SEED=%d: step %d: %T in a group that never came", seed, step, op)
			}
			for _, before := range queue[:i] {
				if before.volume == queue[i].volume || before.volume == 0 || queue[i].volume == 0 {
					t.Fatalf("SEED=%d: step %d: %T of volume %d passed %T of volume %d", seed, step, op, queue[i].volume, before.op, before.volume)
				}
			}
			queue = slices.Delete(queue, i, i+1)
		}
		if w.c.Queued() == 0 && len(queue) > 0 {
			t.Fatalf("SEED=%d: step %d: %d are in no group", seed, step, len(queue))
		}
	}
}

// random sends something of a volume; shards come before the store has heard of the volume too.
func (w *crowd) random(r *rand.Rand, v byte, version *uint32, number *uint64) any {
	ctl := &core.Control{Done: func(*core.Control) {}}
	switch k := r.IntN(20); {
	case k < 10:
		return w.next(v, storeproto.Journal, 1+r.IntN(100))
	case k < 12:
		return w.next(v, storeproto.Meta, 0)
	case k < 15:
		*number++
		h := storetest.Shard(id.MakeSegment(id.Sequence(*number), 2), id.Generation{Epoch: 3, N: 1}, 0, 1, 1).Head
		h.Volume, h.PGVersion = id.Volume{v}, *version
		w.c.CommitShard(h, 3, ctl)
	case k < 17:
		gone := storeproto.SegmentGeneration{Segment: id.MakeSegment(id.Sequence(1+r.Uint64N(*number+1)), 2), Generation: id.Generation{Epoch: 3, N: 1}}
		w.c.DeleteShards(storeproto.DeleteShards{Volume: id.Volume{v}, Epoch: 3, Segments: []storeproto.SegmentGeneration{gone},
			Groups: []storeproto.GroupVersion{{PG: 2, Version: *version}}}, ctl)
	case k < 19:
		f := &core.Fencing{Req: storeproto.Fence{Volume: id.Volume{v}, Epoch: 3, By: storetest.HolderA}, Done: func(*core.Fencing) {}}
		w.c.Fence(term, f)
		return f
	default:
		*version++
		w.c.SetPGVersions([]core.PGVersion{{PG: 2, Version: *version}}, ctl)
	}
	return ctl
}

// Without this who did not write for a while would have everything to himself until he had caught up.
func TestNobodyCatchesUp(t *testing.T) {
	for _, before := range []int{1, 9} { // in the queue: all fits in a group, or not
		w := newCrowd()
		more := func(v byte, n int) {
			for range n {
				w.next(v, storeproto.Journal, 500)
			}
		}
		more(1, before)
		got := map[byte]int{}
		for n := range 100 {
			if n == 50 {
				more(1, 9-before)
				more(2, 9)
			}
			for _, op := range w.group(1024, groupBytes) {
				v := op.(*storeproto.Append).Stream.Volume[0]
				if n >= 50 {
					got[v]++
				}
				more(v, 1)
			}
		}
		if d := got[1] - got[2]; d < -2 || d > 2 {
			t.Errorf("%d before: since the second disk came they had %v appends", before, got)
		}
	}
}

// Without this the deletion of a shard would pass the shard, where the store heard of its volume only then:
// it would be there for ever.
func TestDeletionDoesNotPassTheShardOfAnUnknownVolume(t *testing.T) {
	w := newCrowd()
	w.next(9, storeproto.Journal, 1)
	out := w.c.Take(1, 1)
	shard := func(v byte) *core.Control {
		ctl := &core.Control{Done: func(*core.Control) {}}
		h := storetest.Shard(id.MakeSegment(5, 2), id.Generation{Epoch: 3, N: 1}, 0, 1, 1).Head
		h.Volume = id.Volume{v}
		w.c.CommitShard(h, 3, ctl)
		return ctl
	}
	for range 5 {
		shard(8)
	}
	put, del := shard(1), &core.Control{Done: func(*core.Control) {}}
	w.c.DeleteShards(storeproto.DeleteShards{Volume: id.Volume{1}, Epoch: 3,
		Segments: []storeproto.SegmentGeneration{{Segment: id.MakeSegment(5, 2), Generation: id.Generation{Epoch: 3, N: 1}}}}, del)
	w.c.Durable(out)
	var order []any
	for len(order) < 7 {
		order = append(order, w.group(1, 1)...)
	}
	if slices.Index(order, any(put)) > slices.Index(order, any(del)) {
		t.Error("the deletion passed the shard")
	}
}
