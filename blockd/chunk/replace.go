package chunk

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ashlar.dev/blockd/chunk/extent"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// ReplaceShard is part of storeproto.Keeper. The right bytes go to another place, so a
// crash at any moment leaves the shard wrong as it was, or right.
//
// Order: the data in its new place, fdatasync; is the shard still there, where it was;
// its row with the new place, through the one queue, where tombstones stop it, synced;
// reads under way end; the old place is free. Deletions of shards wait from the second
// step on, so no place is freed twice and nothing deleted comes back.
func (s *Store) ReplaceShard(ctx context.Context, req *storeproto.PutShard) error {
	if err := checkPut(req); err != nil {
		return err
	}
	if err := s.alive(); err != nil {
		return err
	}
	h := req.Head
	n := shardName{h.Segment, h.Generation, h.Index}
	old, err := s.replaceable(n, h)
	if err != nil {
		return err
	}
	// Above the mark, too: as much room is free again a moment later.
	place, err := s.ext.allocate(int64(h.Blocks)*storeproto.BlockSize, int64(1)<<40/s.ext.bytes)
	if err != nil {
		return fmt.Errorf("replace shard of %s: %w", h.Segment, err)
	}
	if err := s.writePlace(place, req.Data); err != nil {
		err = fmt.Errorf("replace shard of %s: %w", h.Segment, err)
		s.die(err)
		return fmt.Errorf("%v: %w", err, errs.ErrUnavailable)
	}
	return s.swap(ctx, n, old, place, req)
}

// replaceable finds the row of a shard and compares what the index says of it with h.
func (s *Store) replaceable(n shardName, h *storeproto.ShardHead) (shardRow, error) {
	row, _, err := s.findShard(n)
	if err != nil {
		return row, err
	}
	have := row.head
	switch err := s.wholeHead(&have, n); {
	case errors.Is(err, errs.ErrCorrupt): // then others' words count
	case err != nil:
		return row, err
	case !have.Equal(h):
		return row, fmt.Errorf("replace shard %d of %s %s by other content: %w", n.index, n.segment, n.generation, errs.ErrConflict)
	}
	return row, nil
}

// swap gives a shard its new place.
func (s *Store) swap(ctx context.Context, n shardName, old shardRow, place extent.Place, req *storeproto.PutShard) error {
	s.deleting.Lock()
	defer s.deleting.Unlock()
	q := &putting{name: n, row: shardRow{place: place, head: *req.Head}, entries: encodeEntries(req.Head.Entries), sums: encodeSums(req.Head.Sums)}
	row, _, err := s.findShard(n)
	if err == nil && !slices.Equal(row.place, old.place) {
		err = fmt.Errorf("shard %d of %s moved: %w", n.index, n.segment, errs.ErrNotFound)
	}
	if err == nil {
		// Not bounded by ctx: who left before the end would not know which place is whose.
		_, err = s.control(context.WithoutCancel(ctx), "replace shard", func(ctl *core.Control) {
			ctl.Shard = q
			s.mu.core.CommitShard(req.Head, storeproto.RepairEpoch, ctl)
		})
	}
	if err != nil {
		if s.Err() == nil && !errors.Is(err, errs.ErrUnavailable) {
			s.ext.alloc.Free(place) // no row names it
		}
		return fmt.Errorf("replace shard of %s: %w", n.segment, err)
	}
	s.reads.inUse.Lock()
	s.reads.cache.remove(n)
	s.reads.inUse.Unlock()
	s.mu.Lock()
	s.addUseLocked(&q.row, 1)
	s.addUseLocked(&old, -1)
	s.mu.Unlock()
	s.ext.alloc.Free(old.place)
	s.count.puts.Add(1)
	s.count.putBytes.Add(int64(req.Head.Blocks) * storeproto.BlockSize)
	return nil
}
