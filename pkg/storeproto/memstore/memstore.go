// Package memstore is a chunk store in memory: the rules of package core without
// a disk. It is for tests of what talks to stores. It can be slow, paused, full,
// faulty, damaged and killed, loses what was not durable when it is killed, and
// remembers the rest when it is started again.
//
// Without a delay a request is carried out and answered inside the call. With
// one, a group becomes durable when the clock has moved on by it. Only one group
// is out at a time, as on a disk.
//
// A Store is safe for concurrent use. Nothing is ever answered while its mutex is
// held, and answers come in the order of the queue.
package memstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// Options make a Store. Only Clock is needed.
type Options struct {
	ID          id.Store
	Incarnation id.Incarnation
	Clock       clock.Clock
	LeaseTerm   time.Duration // core.LeaseTermDefault if zero
	// Delay is how long a group takes to become durable.
	Delay time.Duration
	// JournalBytesMax bounds unreleased journal bytes; ErrNoSpace above. No limit if zero.
	JournalBytesMax int64
}

// Call names a method of storeproto.Store for Fault.
type Call string

// The calls.
const (
	Append       Call = "append"
	ReadShard    Call = "read"
	PutShard     Call = "put"
	Confirm      Call = "confirm"
	Lease        Call = "lease"
	Fence        Call = "fence"
	Fetch        Call = "fetch"
	Drop         Call = "drop"
	Release      Call = "release"
	DeleteShards Call = "delete"
	ShardHeads   Call = "heads"
	ListShards   Call = "list"
)

// Fault is what goes wrong with one request: Err nil means nothing. With Lost the
// request is carried out and only its answer replaced by Err.
type Fault struct {
	Err  error
	Lost bool
}

// Store is the store. See the package comment.
type Store struct {
	opts Options

	mu struct {
		sync.Mutex
		core       *core.Core
		disk       image
		inc        id.Incarnation
		out        *core.Group
		delay      time.Duration
		delivering bool
		down       bool
		paused     bool
		parked     []func() // requests and completions that came while paused
		life       uint32
		timer      clock.Timer
		due        time.Duration
		fault      func(Call) Fault
		stats      Stats
		suspects   map[storeproto.ShardName]bool
	}
	suspected chan struct{}
}

var _ storeproto.Store = (*Store)(nil)

// Stats counts what the store did since New.
type Stats struct {
	Groups  int // syncs, as it were
	Appends int
	Bytes   int64 // of journal and meta batches
	Reads   int
	Puts    int
}

// New makes an empty store that serves.
func New(o Options) *Store {
	if o.Clock == nil {
		panic("memstore: Options.Clock is not set")
	}
	s := &Store{opts: o, suspected: make(chan struct{}, 1)}
	s.mu.suspects = make(map[storeproto.ShardName]bool)
	s.mu.delay = o.Delay
	s.mu.inc = o.Incarnation
	s.mu.disk = newImage()
	s.startLocked()
	return s
}

func (s *Store) startLocked() {
	s.mu.life++
	s.mu.core = core.New(core.Config{
		Store: s.opts.ID, Incarnation: s.mu.inc, Life: s.mu.life, Started: s.opts.Clock.Now(),
		LeaseTerm: s.opts.LeaseTerm, JournalBytesMax: s.opts.JournalBytesMax,
	})
	s.mu.disk.restore(s.mu.core)
	s.mu.down = false
}

// ID is the store's identity.
func (s *Store) ID() id.Store { return s.opts.ID }

// Incarnation is the one in force; Wipe changes it.
func (s *Store) Incarnation() id.Incarnation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.inc
}

// SetDelay changes how long groups take from now on.
func (s *Store) SetDelay(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.delay = d
}

// SetFull makes the store refuse meta appends or shards with ErrNoSpace.
func (s *Store) SetFull(meta, shards bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.core.SetFull(meta, shards)
}

// SetFault asks f about every request that comes from now on; nil ends it. f
// must not call the store.
func (s *Store) SetFault(f func(Call) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.fault = f
}

// Pause stops the store as SIGSTOP does: requests wait and nothing is answered,
// but time goes on.
func (s *Store) Pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.paused = true
}

// Resume lets it go on with what came meanwhile, in order.
func (s *Store) Resume() {
	s.mu.Lock()
	s.mu.paused = false
	parked := s.mu.parked
	s.mu.parked = nil
	s.mu.Unlock()
	for _, f := range parked {
		f()
	}
	s.tick()
}

// Crash kills the store: requests under way are answered with ErrUnavailable. Of
// the group that was not durable yet, a part chosen by seed survives. Until
// Restart every request is answered with ErrUnavailable.
func (s *Store) Crash(seed uint64) {
	s.mu.Lock()
	if s.mu.down {
		s.mu.Unlock()
		return
	}
	s.mu.down = true
	if g := s.mu.out; g != nil {
		keep := rand.New(rand.NewPCG(seed, 1)).IntN(g.Len() + 1)
		for op := g.First(); op != nil && keep > 0; op = op.Next() {
			s.mu.disk.write(op)
			keep--
		}
	}
	s.mu.core.Kill(nil)
	if g := s.mu.out; g != nil {
		s.mu.core.Abandon(g)
		s.mu.out = nil
	}
	parked := s.mu.parked
	s.mu.parked, s.mu.paused = nil, false
	s.mu.Unlock()
	for _, f := range parked {
		f()
	}
	s.run()
}

// Restart starts a crashed store again with what was durable. A running one is killed first.
func (s *Store) Restart() {
	s.Crash(0)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.startLocked()
}

// Wipe replaces the disk: the store is empty and has another incarnation.
func (s *Store) Wipe(inc id.Incarnation) {
	s.Crash(0)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.disk.free()
	s.mu.disk = newImage()
	s.mu.inc = inc
	s.startLocked()
}

// Stats gives the counts.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.stats
}

// Volumes calls f for what the store has of each volume.
func (s *Store) Volumes(f func(core.VolumeState)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.core.Volumes(f)
}

// enter passes a request to do, now or after Resume; do runs with the mutex held.
// If a fault is due, refuse gets its error instead, and with lost set do runs as well.
func (s *Store) enter(call Call, refuse func(err error, lost bool), do func()) {
	s.mu.Lock()
	if s.mu.paused {
		s.mu.parked = append(s.mu.parked, func() { s.enter(call, refuse, do) })
		s.mu.Unlock()
		return
	}
	if s.mu.fault != nil {
		if f := s.mu.fault(call); f.Err != nil {
			s.mu.Unlock()
			refuse(f.Err, f.Lost)
			if !f.Lost {
				return
			}
			s.mu.Lock()
		}
	}
	do()
	s.mu.Unlock()
	s.run()
}

// run carries out what is queued and delivers answers, one goroutine at a time.
func (s *Store) run() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.delivering {
		return
	}
	s.mu.delivering = true
	var replies []core.Reply
	for {
		if s.mu.out == nil && !s.mu.paused {
			s.takeLocked()
		}
		replies = s.mu.core.Replies(replies[:0])
		if len(replies) == 0 {
			if s.scheduleLocked() {
				break
			}
			s.mu.core.Tick(s.opts.Clock.Now())
			continue
		}
		s.mu.Unlock()
		for _, r := range replies {
			r.Deliver()
		}
		s.mu.Lock()
	}
	s.mu.delivering = false
}

func (s *Store) takeLocked() {
	g := s.mu.core.Take(1024, 4<<20)
	if g == nil {
		return
	}
	s.mu.out = g
	if s.mu.delay <= 0 {
		s.durableLocked(g)
		return
	}
	life := s.mu.life
	s.opts.Clock.AfterFunc(s.mu.delay, func() { s.durable(g, life) })
}

func (s *Store) durable(g *core.Group, life uint32) {
	s.mu.Lock()
	if s.mu.down || s.mu.life != life {
		s.mu.Unlock()
		return
	}
	if s.mu.paused {
		s.mu.parked = append(s.mu.parked, func() { s.durable(g, life) })
		s.mu.Unlock()
		return
	}
	s.durableLocked(g)
	s.mu.Unlock()
	s.run()
}

func (s *Store) durableLocked(g *core.Group) {
	for op := g.First(); op != nil; op = op.Next() {
		s.mu.disk.write(op)
		if op.Kind == core.OpAppend {
			s.mu.stats.Appends++
			s.mu.stats.Bytes += int64(op.Append.Batch.BodySize())
		}
	}
	s.mu.stats.Groups++
	s.mu.out = nil
	s.mu.core.Durable(g)
	for _, f := range s.mu.core.Freed(nil) {
		s.mu.disk.forget(f)
	}
}

// scheduleLocked sees to it that tick runs when the core next wants it. It is false when
// that is now: whoever saw an answer may have moved the clock before the timer was set.
func (s *Store) scheduleLocked() bool {
	due, ok := s.mu.core.NextTick()
	if !ok || s.mu.paused {
		return true
	}
	now := s.opts.Clock.Now()
	if s.mu.timer == nil || s.mu.due > due || s.mu.due <= now {
		if s.mu.timer != nil {
			s.mu.timer.Stop()
		}
		s.mu.due = due
		s.mu.timer = s.opts.Clock.AfterFunc(due-now, s.tick)
		set := now
		if now = s.opts.Clock.Now(); now != set && now < due {
			s.mu.timer.Reset(due - now) // the clock moved between reading and setting
		}
	}
	return due > now
}

func (s *Store) tick() {
	s.mu.Lock()
	s.mu.timer = nil
	if !s.mu.paused {
		s.mu.core.Tick(s.opts.Clock.Now())
	}
	s.mu.Unlock()
	s.run()
}

// control runs a control request and waits for its answer.
func (s *Store) control(ctx context.Context, call Call, do func(*core.Control)) error {
	done := make(chan error, 2)
	ctl := &core.Control{Done: func(c *core.Control) { done <- c.Err }}
	s.enter(call, func(err error, _ bool) { done <- err }, func() { do(ctl) })
	return await(ctx, call, done)
}

func await(ctx context.Context, call Call, done chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s: %w: %w", call, context.Cause(ctx), errs.ErrTimeout)
	}
}
