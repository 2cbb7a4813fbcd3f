package storetest

import (
	"testing"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

func list(t *testing.T, h *Harness, q storeproto.ListShards) (all []storeproto.ShardInfo) {
	t.Helper()
	lister, isLister := h.Store.(storeproto.Lister)
	if !isLister {
		t.Fatal("the store does not list")
	}
	for {
		l, err := lister.ListShards(t.Context(), q)
		ok(t, "list", err)
		all = append(all, l.Shards...)
		if !l.More {
			return all
		}
		q.After = l.Next
	}
}

// A list that does not raise the version could miss a segment that is born a moment
// later under the older one, and nobody would rebuild its shard.
func listRaisesVersion(t *testing.T, h *Harness) {
	ok(t, "put", Put(h.Store, Shard(seg1, gen1, 0, 4, 1)))
	version := Shard(seg1, gen1, 0, 4, 1).Head.PGVersion
	got := list(t, h, storeproto.ListShards{PG: seg1.PG(), Version: version + 1})
	if len(got) != 1 || got[0] != Shard(seg1, gen1, 0, 4, 1).Head.Info() {
		t.Fatalf("%+v", got)
	}
	want(t, "put under the older version", Put(h.Store, Shard(seg2, gen1, 0, 4, 1)), errs.ErrStaleEpoch)
	if got := list(t, h, storeproto.ListShards{PG: seg1.PG() + 1, Version: 1}); len(got) != 0 {
		t.Fatalf("of another group %+v", got)
	}
	d := storeproto.DeleteShards{Volume: Volume, Epoch: 9, Segments: []storeproto.SegmentGeneration{{Segment: seg1, Generation: gen1}}}
	for _, known := range []uint32{0, version} {
		d.Groups = []storeproto.GroupVersion{{PG: seg1.PG(), Version: known}}
		want(t, "deletion by who does not know the new holder", h.Store.DeleteShards(t.Context(), d), errs.ErrStaleEpoch)
	}
	d.Groups[0].Version = version + 1
	ok(t, "deletion by who knows", h.Store.DeleteShards(t.Context(), d))
	if got := list(t, h, storeproto.ListShards{PG: seg1.PG(), Version: version + 1}); len(got) != 0 {
		t.Fatalf("deleted, and %+v", got)
	}
}

func listInPages(t *testing.T, h *Harness) {
	var names []storeproto.ShardName
	for n := range 7 {
		for pg := range 2 {
			seg := id.MakeSegment(id.Sequence(200+n), id.PG(3+pg))
			for index := range uint8(2) {
				ok(t, "put", Put(h.Store, Shard(seg, gen1, index, 2, 1)))
				if pg == 0 {
					names = append(names, storeproto.ShardName{Segment: seg, Generation: gen1, Index: index})
				}
			}
		}
	}
	for _, limit := range []int{1, 2, 5, 14, 100} {
		got := list(t, h, storeproto.ListShards{PG: 3, Version: 1, Limit: limit})
		if len(got) != len(names) {
			t.Fatalf("%d of %d in pages of %d", len(got), len(names), limit)
		}
		for i := range got {
			if got[i].ShardName != names[i] {
				t.Fatalf("%d is %+v", i, got[i])
			}
		}
	}
}

// A rebuilt shard is taken whatever the fence and the version of the group, for it is
// old. But what was deleted stays deleted.
func repairPuts(t *testing.T, h *Harness) {
	ok(t, "fence", (<-Fence(t, h.Store, storeproto.Fence{Volume: Volume, Epoch: 9, By: HolderA})).Err)
	list(t, h, storeproto.ListShards{PG: seg1.PG(), Version: 9})
	p := Shard(seg1, gen1, 0, 4, 1)
	want(t, "put of an old owner", Put(h.Store, p), errs.ErrStaleEpoch)
	p = Shard(seg1, gen1, 0, 4, 1)
	p.Epoch = storeproto.RepairEpoch
	ok(t, "repair", Put(h.Store, p))
	d := storeproto.DeleteShards{Volume: Volume, Epoch: 9, Segments: []storeproto.SegmentGeneration{{Segment: seg1, Generation: gen1}},
		Groups: []storeproto.GroupVersion{{PG: seg1.PG(), Version: 9}}}
	ok(t, "delete", h.Store.DeleteShards(t.Context(), d))
	p = Shard(seg1, gen1, 0, 4, 1)
	p.Epoch = storeproto.RepairEpoch
	want(t, "repair of what is deleted", Put(h.Store, p), errs.ErrNotFound)
	p = Shard(seg1, gen2, 0, 4, 1)
	p.Epoch = storeproto.RepairEpoch
	ok(t, "repair of a later generation", Put(h.Store, p))
}
