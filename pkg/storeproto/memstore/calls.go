package memstore

import (
	"context"
	"fmt"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// Append is part of storeproto.Store.
func (s *Store) Append(a *storeproto.Append) {
	if err := a.Batch.Verify("append"); err != nil {
		a.Err = err
		a.Done(a)
		return
	}
	done := a.Done
	s.enter(Append, func(err error, lost bool) {
		if !lost {
			a.Err, a.Tail = err, 0
			done(a)
			return
		}
		a.Done = func(a *storeproto.Append) { a.Done, a.Err, a.Tail = done, err, 0; done(a) }
	}, func() { s.mu.core.Append(a) })
}

// Confirm is part of storeproto.Store.
func (s *Store) Confirm(c *storeproto.Confirm) {
	var fault error
	s.enter(Confirm, func(err error, lost bool) {
		if fault = err; !lost {
			c.Err = err
			c.Done(c)
		}
	}, func() {
		c.Err = s.mu.core.Confirm(c.Volume, c.Epoch)
		if fault != nil {
			c.Err = fault
		}
		s.mu.Unlock()
		c.Done(c)
		s.mu.Lock()
	})
}

// Lease is part of storeproto.Store.
func (s *Store) Lease(l *storeproto.Lease) {
	done := l.Done
	s.enter(Lease, func(err error, lost bool) {
		if !lost {
			l.Err = err
			done(l)
			return
		}
		l.Done = func(l *storeproto.Lease) { l.Done, l.Err = done, err; done(l) }
	}, func() { s.mu.core.Lease(s.opts.Clock.Now(), l) })
}

// Fence is part of storeproto.Store.
func (s *Store) Fence(ctx context.Context, f storeproto.Fence) (storeproto.FenceReply, error) {
	done := make(chan error, 2)
	fencing := &core.Fencing{Req: f, Done: func(f *core.Fencing) { done <- f.Err }}
	s.enter(Fence, func(err error, _ bool) { done <- err },
		func() { s.mu.core.Fence(s.opts.Clock.Now(), fencing) })
	if err := await(ctx, Fence, done); err != nil {
		return storeproto.FenceReply{}, err
	}
	return fencing.Reply, nil
}

// Fetch is part of storeproto.Store.
func (s *Store) Fetch(ctx context.Context, f storeproto.Fetch) (storeproto.FetchReply, error) {
	var reply storeproto.FetchReply
	done := make(chan error, 2)
	s.enter(Fetch, func(err error, _ bool) { done <- err }, func() {
		err := s.mu.core.Dead()
		if err == nil {
			reply, err = s.fetchLocked(f)
		}
		done <- err
	})
	if err := await(ctx, Fetch, done); err != nil {
		return storeproto.FetchReply{}, err
	}
	return reply, nil
}

func (s *Store) fetchLocked(f storeproto.Fetch) (reply storeproto.FetchReply, err error) {
	st := s.mu.core.Stream(f.Stream)
	if st == nil {
		return reply, fmt.Errorf("fetch from a stream that is not there: %w", errs.ErrNotFound)
	}
	bytes := 0
	st.Batches(f.From, func(b core.Batch) bool {
		have := s.mu.disk.batches[f.Stream][b.First]
		if len(reply.Batches) > 0 && bytes+have.PayloadBytes() > f.BytesMax {
			reply.More = true
			return false
		}
		bytes += have.PayloadBytes()
		reply.Batches = append(reply.Batches, copyBatch(have))
		return true
	})
	return reply, nil
}

func copyBatch(b *storeproto.Batch) *storeproto.Batch {
	c := &storeproto.Batch{Epoch: b.Epoch, First: b.First, Count: b.Count, Meta: append([]byte(nil), b.Meta...),
		Sums: append([]uint32(nil), b.Sums...)}
	if n := b.PayloadBytes(); n > 0 {
		p := make([]byte, 0, n)
		for _, q := range b.Payload {
			p = append(p, q...)
		}
		c.Payload = [][]byte{p}
	}
	c.Seal()
	return c
}

// Drop is part of storeproto.Store.
func (s *Store) Drop(ctx context.Context, d storeproto.Drop) error {
	return s.control(ctx, Drop, func(ctl *core.Control) { s.mu.core.Drop(d, ctl) })
}

// Release is part of storeproto.Store.
func (s *Store) Release(ctx context.Context, r storeproto.Release) error {
	return s.control(ctx, Release, func(ctl *core.Control) { s.mu.core.Release(r, ctl) })
}

// PutShard is part of storeproto.Store.
func (s *Store) PutShard(p *storeproto.PutShard) {
	sh, err := newShard(p)
	if err != nil {
		p.Err = err
		p.Done(p)
		return
	}
	var fault error
	s.enter(PutShard, func(err error, lost bool) {
		if fault = err; !lost {
			p.Err = err
			p.Done(p)
		}
	}, func() {
		ctl := &core.Control{Shard: sh, Done: func(ctl *core.Control) {
			if p.Err = ctl.Err; p.Err == nil {
				p.Err = sh.err
			}
			if fault != nil {
				p.Err = fault
			}
			p.Done(p)
		}}
		s.mu.stats.Puts++
		if err := s.mu.core.AdmitShard(p.Head, p.Epoch); err != nil {
			s.mu.Unlock()
			ctl.Err = err
			ctl.Done(ctl)
			s.mu.Lock()
			return
		}
		s.mu.core.CommitShard(p.Head, p.Epoch, ctl)
	})
}

// ReadShard is part of storeproto.Store.
func (s *Store) ReadShard(r *storeproto.ReadShard) {
	var fault error
	s.enter(ReadShard, func(err error, lost bool) {
		if fault = err; !lost {
			r.Err = err
			r.Done(r)
		}
	}, func() {
		s.mu.stats.Reads++
		if r.Err = s.mu.core.Dead(); r.Err == nil {
			r.Err = s.mu.disk.read(r)
			s.suspectLocked(r)
		}
		if fault != nil {
			r.Err = fault
		}
		s.mu.Unlock()
		r.Done(r)
		s.mu.Lock()
	})
}

// DeleteShards is part of storeproto.Store.
func (s *Store) DeleteShards(ctx context.Context, d storeproto.DeleteShards) error {
	return s.control(ctx, DeleteShards, func(ctl *core.Control) { s.mu.core.DeleteShards(d, ctl) })
}

// ShardHeads is part of storeproto.Store.
func (s *Store) ShardHeads(ctx context.Context, seg id.Segment) ([]storeproto.ShardHead, error) {
	var heads []storeproto.ShardHead
	done := make(chan error, 2)
	s.enter(ShardHeads, func(err error, _ bool) { done <- err }, func() {
		err := s.mu.core.Dead()
		if err == nil {
			heads = s.mu.disk.heads(seg)
		}
		done <- err
	})
	if err := await(ctx, ShardHeads, done); err != nil {
		return nil, err
	}
	return heads, nil
}

// SetPGVersions tells the store the newest versions of placement groups, as its daemon does.
func (s *Store) SetPGVersions(ctx context.Context, versions ...core.PGVersion) error {
	return s.control(ctx, "pg", func(ctl *core.Control) { s.mu.core.SetPGVersions(versions, ctl) })
}

// ListShards is part of storeproto.Lister.
func (s *Store) ListShards(ctx context.Context, q storeproto.ListShards) (list storeproto.ShardList, err error) {
	if q.Volume.IsZero() {
		if err := s.SetPGVersions(ctx, core.PGVersion{PG: q.PG, Version: q.Version}); err != nil {
			return list, err
		}
	}
	done := make(chan error, 2)
	s.enter(ListShards, func(err error, _ bool) { done <- err }, func() {
		err := s.mu.core.Dead()
		if err == nil {
			list = s.mu.disk.list(q)
		}
		done <- err
	})
	return list, await(ctx, ListShards, done)
}
