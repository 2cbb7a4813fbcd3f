package volume_test

import (
	"context"
	"testing"
	"time"

	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// blocks says of each block of a disk whether a look lists it: 0 no, 1 lost, 2 away.
func blocks(t *testing.T, l cluster.Lost, size int) []byte {
	t.Helper()
	out := make([]byte, size/4096)
	var lost, away, end uint64
	for i, r := range l.Ranges {
		kind, sum := byte(1), &lost
		if r.Away {
			kind, sum = 2, &away
		}
		*sum += r.Length
		if r.Length == 0 || i > 0 && (r.Offset < end || r.Offset == end && r.Away == l.Ranges[i-1].Away) {
			t.Fatalf("range %d of %+v is empty, out of order or not merged", i, l.Ranges)
		}
		end = r.Offset + r.Length
		for b := r.Offset; b < end; b += 4096 {
			out[b/4096] = kind
		}
	}
	if l.Next == 0 && (lost != l.Bytes || away != l.Away || int(l.Count) != len(l.Ranges)) {
		t.Fatalf("%d bytes lost, %d away in %d ranges; the list says %d, %d, %d", l.Bytes, l.Away, l.Count, lost, away, len(l.Ranges))
	}
	return out
}

func look(t *testing.T, v *volume.Volume, doubts ...id.Segment) cluster.Lost {
	t.Helper()
	ctx, cancel := timeout(20 * time.Second)
	defer cancel()
	l, err := v.Lost(ctx, cluster.Look{}, doubts)
	if err != nil || l.Problem != "" {
		t.Fatalf("look: %v, %s", err, l.Problem)
	}
	return l
}

// agrees holds a look against what reads say, block for block, and gives how many fail.
func (f *flat) agrees(v *volume.Volume, l cluster.Lost) (failing int) {
	f.t.Helper()
	for b, said := range blocks(f.t, l, len(f.data)) {
		_, err := readBack(v, uint64(b)*4096, 4096)
		if (err != nil) != (said != 0) {
			f.t.Fatalf("block %d: a read says %v, the look %d", b, err, said)
		}
		if err != nil {
			failing++
			continue
		}
		f.check(v, uint64(b)*4096, 4096)
	}
	return failing
}

// patchy fills a disk in pieces that end up in many segments, cleans some, and opens it anew.
func (r *rig) patchy(size uint64) (*volume.Volume, *flat, *engine) {
	r.limits.LongBlocksMin, r.limits.CheckpointDead, r.limits.ReadPatience = 1<<16, 64<<10, 300*time.Millisecond
	vol, f, e := r.disk(size)
	for off := uint64(0); off < size; off += 128 << 10 {
		f.put(vol, off, 96<<10)
	}
	for range 300 {
		f.put(vol, f.rng.Uint64N(size/4096)*4096, 4096)
	}
	closed(r.t, vol)
	r.limits.CleanPercent = -1 // what was looked at stays where it is
	return e.mustOpen(vol.ID()), f, e
}

// segmentsOf lists the segments of data that stores have: with a page of the map all that lies
// under it is gone, and those here have few slots.
func (r *rig) segmentsOf() (out []id.Segment) {
	seen := make(map[id.Segment]bool)
	for _, s := range r.stores {
		s.Shards(func(h storeproto.ShardHead) {
			if !seen[h.Segment] && h.Blocks >= 8 {
				seen[h.Segment] = true
				out = append(out, h.Segment)
			}
		})
	}
	return out
}

// What a look lists is what reads fail of, block for block: with shards missing at random,
// with whole stores gone for good, and after what was lost is written or trimmed again.
func TestLostRangesAreTheBlocksThatCannotBeRead(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	vol, f, _ := r.patchy(4 * mib)
	if l := look(t, vol); l.Count != 0 {
		t.Fatalf("nothing is lost, and a look lists %+v", l)
	}
	for _, s := range r.segmentsOf() {
		if f.rng.IntN(2) == 0 {
			continue
		}
		for _, i := range f.rng.Perm(6)[:f.rng.IntN(6)] {
			r.stores[i].LoseShards(s)
		}
	}
	l := look(t, vol)
	n := f.agrees(vol, l)
	t.Logf("%d blocks fail, in %d ranges", n, l.Count)
	if l.Away != 0 {
		t.Errorf("%d bytes are said to come back", l.Away)
	}
	f.heal(vol, l)
}

// heal writes or trims what is lost; then nothing is any more.
func (f *flat) heal(vol *volume.Volume, l cluster.Lost) {
	f.t.Helper()
	for i, x := range l.Ranges {
		if i%2 == 0 {
			f.put(vol, x.Offset, x.Length)
			continue
		}
		req, err := do(vol, nbd.OpTrim, x.Offset, x.Length, nil)
		req.Recycle()
		if err != nil {
			f.t.Fatal(err)
		}
		clear(f.data[x.Offset : x.Offset+x.Length])
	}
	if l := look(f.t, vol); l.Count != 0 {
		f.t.Errorf("all of it was written again, and a look lists %+v", l.Ranges)
	}
	f.all(vol)
}

// Stores that are down for now lose nothing: what they alone could give is away, and comes
// back with them. Given up, it is lost.
func TestStoresThatAreDownLoseNothing(t *testing.T) {
	r := newRig(t, 6, 1, 4, 2)
	vol, f, _ := r.patchy(2 * mib)
	f.all(vol) // the map is in memory now: its pages are not what is tried here
	mark := func(st cluster.StoreState) {
		for _, s := range r.stores[:3] {
			r.metad.Mark(s.ID(), st)
		}
	}
	mark(cluster.StoreDown)
	l := look(t, vol)
	if l.Bytes != 0 || l.Away == 0 {
		t.Fatalf("%d bytes are lost and %d away, while three stores are down", l.Bytes, l.Away)
	}
	for _, st := range []cluster.StoreState{cluster.StoreOut, cluster.StoreLost} {
		mark(st)
		if gone := look(t, vol); gone.Away != 0 || gone.Bytes != l.Away {
			t.Errorf("stores are %v: %d bytes lost, %d away; %d were away", st, gone.Bytes, gone.Away, l.Away)
		}
	}
	if n := f.agrees(vol, look(t, vol)); n == 0 {
		t.Error("three stores of six are lost, and everything is read")
	}
	mark(cluster.StoreUp)
	if l := look(t, vol); l.Count != 0 {
		t.Errorf("all stores are back, and a look lists %+v", l)
	}
}

// Shards that are there and wrong are found by reading the blocks of the segments that
// stores name, so a block of a wrong shard that can still be rebuilt is not listed.
func TestWrongShardsAreReadToSee(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	vol, f, _ := r.patchy(2 * mib)
	var named []id.Segment
	for _, s := range r.segmentsOf() {
		block := f.rng.IntN(8)
		for _, i := range f.rng.Perm(6)[:2+f.rng.IntN(3)] {
			st := r.stores[i]
			var heads []storeproto.ShardHead
			st.Shards(func(h storeproto.ShardHead) { heads = append(heads, h) })
			for _, h := range heads {
				if h.Segment == s {
					st.Damage(s, h.Generation, h.Index, uint16(block))
				}
			}
		}
		named = append(named, s)
	}
	n := f.agrees(vol, look(t, vol, named...))
	t.Logf("%d blocks fail", n)
}

// The answer is bounded, and goes on where it ended: page after page is the whole list.
func TestLostRangesArePaged(t *testing.T) {
	var whole, paged cluster.Lost
	var all []cluster.LostRange
	add := func(l *cluster.Lost, from uint64) {
		for off := from &^ 8191; off < 8192*3000; off += 8192 {
			if off >= from {
				l.Add(off, 4096, off%5 == 0)
			}
		}
	}
	add(&whole, 0)
	if whole.Count != 3000 || len(whole.Ranges) != cluster.LostRangesMax || whole.Bytes+whole.Away != 3000*4096 {
		t.Fatalf("%d ranges of %d bytes, %d listed", whole.Count, whole.Bytes+whole.Away, len(whole.Ranges))
	}
	for paged = whole; ; {
		all = append(all, paged.Ranges...)
		if paged.Next == 0 {
			break
		}
		next := paged.Next
		paged = cluster.Lost{}
		add(&paged, next)
	}
	if len(all) != 3000 {
		t.Errorf("%d ranges on all pages", len(all))
	}
}

// A look that is given up ends, and one at a closed volume is refused.
func TestLookEnds(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	vol, _, _ := r.patchy(1 * mib)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := vol.Lost(ctx, cluster.Look{}, nil); err == nil {
		t.Error("a look without time says something")
	}
	closed(t, vol)
	if _, err := vol.Lost(context.Background(), cluster.Look{}, nil); err == nil {
		t.Error("a look at a closed volume says something")
	}
}

// With a page of the map all that lies under it is lost, but for what was written since and
// is in memory still.
func TestBlocksUnderALostPageAreLost(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	vol, f, _ := r.patchy(1 * mib) // opened anew: its map is read when it is needed
	lost := make(map[id.Segment]bool)
	for _, s := range r.stores {
		s.Shards(func(h storeproto.ShardHead) {
			if len(h.Entries) > 0 && segment.Entry(h.Entries[0]).Kind() != segment.Data {
				lost[h.Segment] = true
			}
		})
	}
	for s := range lost {
		for _, st := range r.stores {
			st.LoseShards(s)
		}
	}
	f.put(vol, 40960, 8192)
	l := look(t, vol)
	if n := f.agrees(vol, l); n == 0 || l.Away != 0 || blocks(t, l, len(f.data))[10] != 0 {
		t.Errorf("%d blocks fail; the look: %d bytes lost, %d away in %+v", n, l.Bytes, l.Away, l.Ranges)
	}
}
