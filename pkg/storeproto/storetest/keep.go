package storetest

import (
	"bytes"
	"testing"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

func keeper(t *testing.T, s storeproto.Store) storeproto.Keeper {
	t.Helper()
	k, is := s.(storeproto.Keeper)
	if !is {
		t.Skip("shards are looked after on the store's own host only")
	}
	return k
}

func replaceKeepsPromises(t *testing.T, h *Harness) {
	k := keeper(t, h.Store)
	p := Shard(seg1, gen1, 0, 150, 1)
	want(t, "replace what is not there", k.ReplaceShard(t.Context(), p), errs.ErrNotFound)
	ok(t, "put", Put(h.Store, p))
	want(t, "replace by other content", k.ReplaceShard(t.Context(), Shard(seg1, gen1, 0, 150, 2)), errs.ErrConflict)
	damaged := Shard(seg1, gen1, 0, 150, 1)
	damaged.Data[0][5000] ^= 1
	want(t, "replace by wrong bytes", k.ReplaceShard(t.Context(), damaged), errs.ErrCorrupt)
	ok(t, "replace", k.ReplaceShard(t.Context(), p))
	got := Read(h.Store, seg1, gen1, 0, 0, 150)
	ok(t, "read", got.Err)
	if !bytes.Equal(got.Dst, p.Data[0]) {
		t.Error("other bytes")
	}
	verify(t, h.Store, p, nil)
	d := storeproto.DeleteShards{Volume: Volume, Epoch: 9, Segments: []storeproto.SegmentGeneration{{Segment: seg1, Generation: gen1}}}
	ok(t, "delete", h.Store.DeleteShards(t.Context(), d))
	want(t, "replace what is deleted", k.ReplaceShard(t.Context(), p), errs.ErrNotFound)
	verify(t, h.Store, p, errs.ErrNotFound)
}

func verify(t *testing.T, s storeproto.Store, p *storeproto.PutShard, class error) {
	t.Helper()
	paced := 0
	err := keeper(t, s).VerifyShard(t.Context(), p.Head.Info().ShardName, func(n int) error { paced += n; return nil })
	want(t, "verify", err, class)
	if class == nil && paced < int(p.Head.Blocks)*storeproto.BlockSize {
		t.Errorf("%d bytes paced", paced)
	}
}

func nextShardsInOrder(t *testing.T, h *Harness) {
	var names []storeproto.ShardName
	for n := range 5 {
		seg := id.MakeSegment(id.Sequence(300+n), id.PG(n%2))
		for index := range uint8(2) {
			ok(t, "put", Put(h.Store, Shard(seg, gen1, index, 2, 1)))
			names = append(names, storeproto.ShardName{Segment: seg, Generation: gen1, Index: index})
		}
	}
	for _, limit := range []int{1, 3, 10, 100} {
		var after storeproto.ShardName
		for n := 0; ; {
			page, err := keeper(t, h.Store).NextShards(after, limit)
			ok(t, "next", err)
			if len(page) == 0 {
				if n != len(names) {
					t.Fatalf("%d of %d by %d", n, len(names), limit)
				}
				break
			}
			for _, x := range page {
				if after = x.ShardName; after != names[n] {
					t.Fatalf("%d is %+v", n, after)
				}
				n++
			}
		}
	}
}

func careIsKept(t *testing.T, h *Harness) {
	c, err := keeper(t, h.Store).Care()
	ok(t, "care of a new store", err)
	if c != (storeproto.Care{}) {
		t.Fatalf("%+v", c)
	}
	c = storeproto.Care{BeganMS: 1, After: storeproto.ShardName{Segment: seg1, Generation: gen2, Index: 3}, Shards: 4, Wrong: 5, Score: 6, Flagged: true}
	ok(t, "save", keeper(t, h.Store).SaveCare(c))
	got, err := keeper(t, h.Restart()).Care()
	ok(t, "care after a restart", err)
	if got != c {
		t.Fatalf("%+v", got)
	}
}
