package chunk

import (
	"context"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"ashlar.dev/blockd/chunk/log"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// groupOpsMax bounds one group; its journal bytes are bounded by the log.
const groupOpsMax = 1024

// writer is the one goroutine that makes groups durable.
//
// Order for each group: the index batch is handed to the index's goroutine; the
// log write and its fdatasync; the index's sync is awaited; the core moves; the
// answers go out. Both may finish in any order, since no answer of the group goes
// before both have.
func (s *Store) writer(context.Context) error {
	bytesMax := log.BatchBytesMax(s.ident.LogFileBytes)
	var p pace
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for !s.mu.core.Waiting() {
			if s.mu.core.Dead() != nil {
				return nil
			}
			s.wake.Wait()
		}
		if wait := p.gather(s.mu.core.Queued(), s.clock.Now()); wait > 0 && !s.mu.closing {
			s.waitMore(wait)
			continue
		}
		g := s.mu.core.Take(groupOpsMax, min(bytesMax, 4<<20))
		s.mu.writing = true
		s.mu.Unlock()
		p.begin(s.clock.Now())
		err := s.write(g)
		if err != nil {
			s.die(err)
		}
		s.mu.Lock()
		now := s.clock.Now()
		if g.Journal > 0 {
			s.count.groups.Add(1)
			s.count.groupTime.Add(int64(now - p.began))
		}
		p.end(g.Records(), s.mu.core.Queued(), now)
		if err != nil {
			s.mu.core.Kill(err)
		}
		s.mu.core.Durable(g)
		s.settleFreedLocked()
		s.mu.writing = false
		if s.mu.closing {
			s.wake.Broadcast()
		}
		s.deliverLocked()
		s.scheduleLocked()
		if err != nil {
			return nil
		}
		s.mu.Unlock()
		err = s.reserve()
		s.mu.Lock()
		if err != nil {
			s.die(err)
			s.mu.core.Kill(err)
			s.deliverLocked()
			return nil
		}
	}
}

// waitMore waits until something is queued, at most for d. Under mu.
func (s *Store) waitMore(d time.Duration) {
	t := s.clock.AfterFunc(d, func() {
		s.mu.Lock()
		s.wake.Broadcast()
		s.mu.Unlock()
	})
	s.wake.Wait()
	t.Stop()
}

// write makes a group durable.
func (s *Store) write(g *core.Group) error {
	var pending *commit
	if g.Index > 0 {
		b := s.index.newBatch()
		for op := g.First(); op != nil; op = op.Next() {
			if err := s.index.addOp(b, op, s.jlog.Seq()); err != nil {
				return err
			}
		}
		pending = s.index.commitAsync(b, pebble.Sync)
	}
	if g.Journal > 0 {
		if err := s.writeJournal(g); err != nil {
			return err
		}
	}
	if pending != nil {
		return s.index.await(pending)
	}
	return nil
}

func (s *Store) writeJournal(g *core.Group) error {
	s.jlog.Begin(log.Appends)
	for op := g.First(); op != nil; op = op.Next() {
		if op.Kind == core.OpAppend && op.Append.Stream.Kind == storeproto.Journal {
			s.jlog.Add(op.Append)
		}
	}
	if err := s.jlog.Flush(); err != nil {
		return err
	}
	i := 0
	for op := g.First(); op != nil; op = op.Next() {
		if op.Kind == core.OpAppend && op.Append.Stream.Kind == storeproto.Journal {
			op.Pos = s.jlog.Position(i)
			i++
		}
	}
	return nil
}

// settleFreedLocked gives back the room of batches that the core let go.
func (s *Store) settleFreedLocked() {
	s.mu.freed = s.mu.core.Freed(s.mu.freed[:0])
	for i := range s.mu.freed {
		f := &s.mu.freed[i]
		if f.Stream.Kind == storeproto.Journal {
			s.jlog.Free(f.Batch.Pos, f.Batch.Bytes)
		} else {
			s.index.forgetMeta(f.Stream, f.Batch.First)
		}
	}
}

// reserve keeps a log file in hand.
func (s *Store) reserve() error {
	wanted, err := s.jlog.Reserve()
	if wanted {
		s.wantLogFile()
	}
	return err
}

// Append is part of storeproto.Store. The batch is checked on the caller's
// goroutine; it never waits for the disk.
func (s *Store) Append(a *storeproto.Append) {
	err := a.Batch.Verify("append")
	if err == nil {
		err = s.enter()
	}
	if err != nil {
		a.Err, a.Tail = err, 0
		a.Done(a)
		return
	}
	s.mu.core.Append(a)
	s.leave()
}

// Confirm is part of storeproto.Store. It is answered inside the call.
func (s *Store) Confirm(c *storeproto.Confirm) {
	if c.Err = s.enter(); c.Err == nil {
		c.Err = s.mu.core.Confirm(c.Volume, c.Epoch)
		s.mu.Unlock()
	}
	c.Done(c)
}

// Lease is part of storeproto.Store.
func (s *Store) Lease(l *storeproto.Lease) {
	if l.Err = s.enter(); l.Err != nil {
		l.Done(l)
		return
	}
	s.mu.core.Lease(s.clock.Now(), l)
	s.leave()
}

// Fence is part of storeproto.Store. When ctx ends first the fence stays in force.
func (s *Store) Fence(ctx context.Context, f storeproto.Fence) (storeproto.FenceReply, error) {
	done := make(chan struct{})
	fencing := &core.Fencing{Req: f, Done: func(*core.Fencing) { close(done) }}
	if err := s.enter(); err != nil {
		return storeproto.FenceReply{}, err
	}
	s.mu.core.Fence(s.clock.Now(), fencing)
	s.leave()
	select {
	case <-done:
		return fencing.Reply, fencing.Err
	case <-ctx.Done():
		return storeproto.FenceReply{}, fmt.Errorf("fence %s: %w: %w", f.Volume, context.Cause(ctx), errs.ErrTimeout)
	}
}

// control passes one request through the queue and waits for its answer. When ctx
// ends first it may still be carried out.
func (s *Store) control(ctx context.Context, what string, step func(*core.Control)) (*core.Control, error) {
	done := make(chan struct{})
	ctl := &core.Control{Done: func(*core.Control) { close(done) }}
	if err := s.enter(); err != nil {
		return nil, err
	}
	step(ctl)
	s.leave()
	select {
	case <-done:
		return ctl, ctl.Err
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w: %w", what, context.Cause(ctx), errs.ErrTimeout)
	}
}

// Drop is part of storeproto.Store.
func (s *Store) Drop(ctx context.Context, d storeproto.Drop) error {
	_, err := s.control(ctx, "drop", func(ctl *core.Control) { s.mu.core.Drop(d, ctl) })
	return err
}

// Release is part of storeproto.Store.
func (s *Store) Release(ctx context.Context, r storeproto.Release) error {
	_, err := s.control(ctx, "release", func(ctl *core.Control) { s.mu.core.Release(r, ctl) })
	return err
}

// SetPGVersions raises the newest versions known of placement groups: shards for
// lower ones are refused from then on. Durable when it returns.
func (s *Store) SetPGVersions(ctx context.Context, versions ...core.PGVersion) error {
	_, err := s.control(ctx, "set group versions", func(ctl *core.Control) { s.mu.core.SetPGVersions(versions, ctl) })
	return err
}

// fetchMax bounds what one Fetch reads, whatever it asks for.
const fetchMax = 64 << 20

// Fetch is part of storeproto.Store. The limit counts whole batches, their meta
// included.
func (s *Store) Fetch(ctx context.Context, f storeproto.Fetch) (reply storeproto.FetchReply, err error) {
	if err := s.enter(); err != nil {
		return reply, err
	}
	batches, more, err := s.planFetchLocked(f)
	s.mu.Unlock()
	if err != nil {
		return reply, err
	}
	reply.More = more
	defer s.unpin(f.Stream, batches)
	defer func() {
		if err != nil {
			for _, b := range reply.Batches {
				b.Release()
			}
			reply = storeproto.FetchReply{}
		}
	}()
	r := s.jlog.NewReader()
	defer r.Close()
	for _, b := range batches {
		if err := ctx.Err(); err != nil {
			return reply, fmt.Errorf("fetch: %w: %w", err, errs.ErrTimeout)
		}
		var got *storeproto.Batch
		if f.Stream.Kind == storeproto.Journal {
			got, err = r.Batch(f.Stream, b)
		} else {
			got, err = s.index.metaBatch(f.Stream, b)
		}
		if err != nil {
			return reply, fmt.Errorf("fetch %d of %s: %w", b.First, f.Stream.Ensemble, err)
		}
		reply.Batches = append(reply.Batches, got)
	}
	return reply, nil
}

// planFetchLocked chooses the batches and pins their log files.
func (s *Store) planFetchLocked(f storeproto.Fetch) (batches []core.Batch, more bool, err error) {
	if err := s.mu.core.Dead(); err != nil {
		return nil, false, err
	}
	st := s.mu.core.Stream(f.Stream)
	if st == nil {
		return nil, false, fmt.Errorf("fetch from a stream that is not there: %w", errs.ErrNotFound)
	}
	bytes := 0
	st.Batches(f.From, func(b core.Batch) bool {
		if bytes += int(b.Bytes); len(batches) > 0 && bytes > min(f.BytesMax, fetchMax) {
			more = true
			return false
		}
		batches = append(batches, b)
		if f.Stream.Kind == storeproto.Journal {
			s.jlog.Pin(b.Pos.File)
		}
		return true
	})
	return batches, more, nil
}

func (s *Store) unpin(name storeproto.Stream, batches []core.Batch) {
	if name.Kind == storeproto.Journal {
		for _, b := range batches {
			s.jlog.Unpin(b.Pos.File)
		}
	}
}
