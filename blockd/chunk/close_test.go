package chunk

import (
	"context"
	"errors"
	"sync"
	"testing"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Without this a store that was removed could not be closed while its process serves others:
// who still has hold of it would meet a closed index, which ends the process.
func TestStoreClosesBesideItsCallers(t *testing.T) {
	const shards = 20
	r := newRotten(t, shards)
	ctx, seg := context.Background(), func(n int) id.Segment { return r.shards[n%shards].Head.Segment }
	volume := r.shards[0].Head.Volume
	calls := []func(n int) error{
		func(n int) error { _, err := r.s.ShardHeads(ctx, seg(n)); return err },
		func(int) error { _, err := r.s.ListShards(ctx, storeproto.ListShards{Volume: volume}); return err },
		func(int) error { _, err := r.s.NextShards(storeproto.ShardName{}, shards); return err },
		func(int) error { _, err := r.s.Care(); return err },
		func(int) error { return r.s.SaveCare(storeproto.Care{Wrong: 1}) },
		func(n int) error { return r.s.RemoveShards(ctx, nameOf(r.shards[n%shards].Head)) },
		func(int) error {
			return r.s.EachShard(volume, func(storeproto.SegmentGeneration, uint8) bool { return true })
		},
	}
	var began, ended sync.WaitGroup
	for i, call := range calls {
		began.Add(1)
		ended.Go(func() {
			for n := 0; ; n++ {
				err := call(n)
				if n == 0 {
					began.Done()
				}
				if errors.Is(err, errs.ErrUnavailable) {
					return
				}
				if err != nil {
					t.Errorf("call %d: %v", i, err)
					return
				}
			}
		})
	}
	began.Wait()
	want(t, "close", r.s.Close(), nil)
	ended.Wait()
	want(t, "the store's life", r.s.Err(), nil)
	r.s.Stats()
}

func nameOf(h *storeproto.ShardHead) storeproto.ShardName {
	return storeproto.ShardName{Segment: h.Segment, Generation: h.Generation, Index: h.Index}
}

// Without this a shard that is named without its generation would give its room back and stay in the index: the room would be
// given to another, and freed once more.
func TestShardNamedWithoutAGenerationIsDeletedOnce(t *testing.T) {
	r := newRotten(t, 2)
	n := nameOf(r.shards[0].Head)
	short := storeproto.ShardName{Segment: n.Segment, Index: n.Index}
	for range 2 {
		want(t, "remove", r.s.RemoveShards(context.Background(), short, n, short), nil)
	}
	if heads, err := r.s.ShardHeads(context.Background(), n.Segment); err != nil || len(heads) != 0 {
		t.Errorf("%d shards are left, %v", len(heads), err)
	}
	if got := r.s.Stats().Shards; got != 1 {
		t.Errorf("%d shards are counted, want the other one", got)
	}
}
