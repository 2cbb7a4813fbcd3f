package memstore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

var _ storeproto.Keeper = (*Store)(nil)

// suspectLocked notes a shard that a read found wrong or did not find.
func (s *Store) suspectLocked(r *storeproto.ReadShard) {
	n := storeproto.ShardName{Segment: r.Segment, Generation: r.Got, Index: r.Index}
	switch {
	case errors.Is(r.Err, errs.ErrCorrupt):
	case errors.Is(r.Err, errs.ErrNotFound) && r.Generation != (id.Generation{}):
		n.Generation = r.Generation
	default:
		return
	}
	s.mu.suspects[n] = true
	select {
	case s.suspected <- struct{}{}:
	default:
	}
}

// Suspects is part of storeproto.Keeper.
func (s *Store) Suspects() (out []storeproto.ShardName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.mu.suspects {
		out = append(out, n)
	}
	clear(s.mu.suspects)
	return out
}

// Suspected is part of storeproto.Keeper.
func (s *Store) Suspected() <-chan struct{} { return s.suspected }

// Care is part of storeproto.Keeper.
func (s *Store) Care() (storeproto.Care, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.disk.care, s.mu.core.Dead()
}

// SaveCare is part of storeproto.Keeper.
func (s *Store) SaveCare(c storeproto.Care) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.mu.core.Dead(); err != nil {
		return err
	}
	s.mu.disk.care = c
	return nil
}

// NextShards is part of storeproto.Keeper.
func (s *Store) NextShards(after storeproto.ShardName, limit int) ([]storeproto.ShardInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.mu.core.Dead(); err != nil {
		return nil, err
	}
	var all []storeproto.ShardInfo
	for _, shards := range s.mu.disk.shards {
		for _, sh := range shards {
			if x := sh.head.Info(); x.Compare(after) > 0 {
				all = append(all, x)
			}
		}
	}
	slices.SortFunc(all, func(a, b storeproto.ShardInfo) int { return a.Compare(b.ShardName) })
	return all[:min(len(all), limit)], nil
}

// VerifyShard is part of storeproto.Keeper.
func (s *Store) VerifyShard(ctx context.Context, n storeproto.ShardName, pace func(bytes int) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	sh := s.mu.disk.find(n.Segment, n.Generation, n.Index)
	dead := s.mu.core.Dead()
	s.mu.Unlock()
	switch {
	case dead != nil:
		return dead
	case sh == nil:
		return fmt.Errorf("verify shard %d of %s: %w", n.Index, n.Segment, errs.ErrNotFound)
	}
	if err := pace(len(sh.data)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range sh.head.Blocks {
		if err := checkBlock("shard", &sh.head, sh.data[int(i)*storeproto.BlockSize:][:storeproto.BlockSize], i); err != nil {
			return err
		}
	}
	return nil
}

// ReplaceShard is part of storeproto.Keeper.
func (s *Store) ReplaceShard(_ context.Context, p *storeproto.PutShard) error {
	sh, err := newShard(p)
	if err != nil {
		return err
	}
	n := p.Head.Info().ShardName
	done := make(chan error, 1)
	s.enter(PutShard, func(err error, _ bool) { done <- err }, func() {
		have := s.mu.disk.find(n.Segment, n.Generation, n.Index)
		switch {
		case s.mu.core.Dead() != nil:
			done <- s.mu.core.Dead()
		case have == nil:
			done <- fmt.Errorf("replace shard %d of %s: %w", n.Index, n.Segment, errs.ErrNotFound)
		case !have.head.Equal(p.Head):
			done <- fmt.Errorf("replace shard %d of %s by other content: %w", n.Index, n.Segment, errs.ErrConflict)
		default:
			s.mu.core.CommitShard(p.Head, storeproto.RepairEpoch, &core.Control{Shard: sh, Done: func(c *core.Control) {
				if c.Err == nil {
					s.mu.Lock()
					copy(have.data, sh.data)
					s.mu.Unlock()
				}
				done <- c.Err
			}})
		}
	})
	return <-done
}

// RemoveShards is part of storeproto.Keeper.
func (s *Store) RemoveShards(_ context.Context, names ...storeproto.ShardName) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		s.mu.disk.delete(n.Segment, func(h *storeproto.ShardHead) bool { return h.Info().ShardName == n })
	}
	return nil
}

// LoseShard loses one shard, as if it had never been put.
func (s *Store) LoseShard(n storeproto.ShardName) { _ = s.RemoveShards(context.Background(), n) }
