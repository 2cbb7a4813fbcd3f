package journal

import (
	"fmt"
	"sync/atomic"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Core is the journal of an open volume: it appends, acknowledges, changes
// ensembles, and says when a read may be served. An Opener makes it. See the
// package comment for who may call it.
type Core struct {
	volume    id.Volume
	epoch     id.Epoch
	limits    Limits
	leases    *Leases
	claim     *Claim
	completed func(*Send)
	confirmed func(*ConfirmSend)

	streams    [storeproto.Kinds]stream
	ensembles  []*ensemble // the last is the newest
	version    uint64
	checkpoint id.LSN // meta position of the last checkpoint committed in metad
	opening    *opening
	fenced     bool
	closed     bool

	asker   asker
	down    map[id.Store]bool
	shunned map[id.Store]time.Duration // not asked for before
	grow    bool                       // a better ensemble may be had
	narrow  bool                       // the shell says so
	scarce  bool                       // metad found no two stores
	growAt  time.Duration              // not before
	drops   []owedDrop

	readSeq  uint64 // tokens given
	readable uint64 // tokens satisfied
	reads    atomic.Pointer[readSet]

	sends    *Send
	confirms *ConfirmSend
}

// opening is what a core knows while its Opener still fills it.
type opening struct {
	before   []id.Ensemble // the list as it was
	ready    bool          // the fences stand: a fresh ensemble may be asked for
	filled   bool          // the runs are complete
	replaced bool
	problem  error
}

func (c *Core) newest() *ensemble {
	if len(c.ensembles) == 0 {
		return nil
	}
	return c.ensembles[len(c.ensembles)-1]
}

// fill adds a batch of a recovered run as it is and takes over the reference.
func (c *Core) fill(now time.Duration, kind storeproto.Kind, b *storeproto.Batch, fx *Effects) {
	s := &c.streams[kind]
	if s.tail == 0 {
		s.begin(b.First)
	}
	s.push(b)
	if e := c.newest(); e != nil {
		for _, m := range e.members {
			c.pump(now, m, kind, fx)
		}
	}
}

// Append adds b to the end of a stream. The caller has filled Meta, Sums, Payload,
// Count and Free; the core sets Epoch and First, seals b and so takes the first
// reference, kept until b is released. A caller that keeps b retains it after the call and not before.
// The caller has asked Room. The error is ErrStaleEpoch after a fence; b is then
// not taken.
//
// b is acknowledged when Effects.Acked reaches b.Last().
func (c *Core) Append(now time.Duration, kind storeproto.Kind, b *storeproto.Batch, fx *Effects) error {
	if c.fenced {
		return fmt.Errorf("append to the %s of %s under %s: %w", kind, c.volume, c.epoch, errs.ErrStaleEpoch)
	}
	s := &c.streams[kind]
	b.Epoch, b.First = c.epoch, s.next
	b.Seal()
	s.push(b)
	s.appendedAt = now
	for _, m := range c.newest().members {
		c.pump(now, m, kind, fx)
	}
	return nil
}

// Room tells whether another batch may be appended to a stream. It turns true
// again with Effects.Acked only.
func (c *Core) Room(kind storeproto.Kind) bool {
	s := &c.streams[kind]
	n := s.tail - s.ackedAt
	return n == 0 || n < uint64(c.limits.UnackedBatches) && s.bytes-s.startOf(s.ackedAt) < uint64(c.limits.UnackedBytes)
}

func (c *Core) acknowledged(now time.Duration, k storeproto.Kind, fx *Effects) {
	if c.opening != nil {
		c.advance(now, fx)
		return
	}
	fx.Acked[k] = c.streams[k].acked
}

// Release says that the volume needs no LSN of the stream up to and including
// upto any more: for the journal, that a durable commit covers them; for the meta
// stream, that a later checkpoint is committed in metad. upto is at most the last
// acknowledged LSN.
func (c *Core) Release(now time.Duration, kind storeproto.Kind, upto id.LSN, fx *Effects) {
	if c.fenced {
		return
	}
	c.streams[kind].release(upto)
	if len(c.ensembles) > 1 {
		c.advance(now, fx)
	}
}

// CheckpointCommitted says that metad has committed a checkpoint at position of the meta stream.
func (c *Core) CheckpointCommitted(now time.Duration, position id.LSN, fx *Effects) {
	c.checkpoint = max(c.checkpoint, position)
	c.advance(now, fx)
}

// Tick drives time limits; call it some ten times a second.
func (c *Core) Tick(now time.Duration, fx *Effects) {
	if c.fenced {
		return
	}
	if c.claim.Fenced() {
		c.Fence(fx)
		return
	}
	for _, e := range c.ensembles {
		if e.closed {
			continue
		}
		for _, m := range e.all() {
			c.tend(now, m, fx)
		}
	}
	for s, until := range c.shunned {
		if until <= now {
			delete(c.shunned, s)
			if e := c.newest(); e != nil && len(e.members) <= quorum {
				c.mayGrow(now)
			}
		}
	}
	if c.narrow {
		c.mayGrow(now)
	}
	c.nudge(now, fx)
	c.askConfirms(now, fx)
	c.sendDrops(now, fx)
	c.advance(now, fx)
}

// tend judges one member and goes on sending to it.
func (c *Core) tend(now time.Duration, m *member, fx *Effects) {
	c.judge(now, m, fx)
	for k := range m.cursors {
		c.pump(now, m, storeproto.Kind(k), fx)
	}
}

// nudgeBytes is what must be released and not told before a quiet stream is nudged:
// more than no-op records, so that nudges end.
const nudgeBytes = 64 << 10

func (c *Core) nudge(now time.Duration, fx *Effects) {
	if c.opening != nil {
		return
	}
	for k := range c.streams {
		s := &c.streams[k]
		if s.ackedAt != s.tail || now-s.appendedAt < c.limits.NudgeAfter || s.releasedBytes < s.nudged+nudgeBytes {
			continue
		}
		for _, m := range c.newest().members {
			if cur := &m.cursors[k]; m.ok() && cur.based && s.releasedBytes >= cur.told+nudgeBytes {
				fx.Nudge[k], s.nudged = true, s.releasedBytes
			}
		}
	}
}

// StoreDown is a hint of metad's topology: the store is replaced at once.
func (c *Core) StoreDown(now time.Duration, s id.Store, fx *Effects) {
	c.down[s] = true
	for _, e := range c.ensembles {
		if e.closed {
			continue
		}
		for _, m := range e.all() {
			c.judge(now, m, fx)
		}
	}
	c.advance(now, fx)
}

// StoreUp says that a store lives (again): what waits for it is tried at once.
func (c *Core) StoreUp(now time.Duration, s id.Store, fx *Effects) {
	if c.down[s] {
		delete(c.down, s)
		delete(c.shunned, s)
	}
	for i := range c.drops {
		if c.drops[i].Store == s {
			c.drops[i].at, c.drops[i].tries = now, 0
		}
	}
	if e := c.newest(); e != nil && e.of(s) == nil && len(e.members) <= quorum {
		c.mayGrow(now)
	}
	for _, e := range c.ensembles {
		if e.closed {
			continue
		}
		for _, m := range e.all() {
			if m.Store != s {
				continue
			}
			if m.problem == errDown {
				m.bad = false
			}
			for k := range m.cursors {
				m.cursors[k].retryAt = now
				c.pump(now, m, storeproto.Kind(k), fx)
			}
		}
	}
	c.sendDrops(now, fx)
	c.advance(now, fx)
}

// Narrow says whether the newest ensemble could be on more hosts than it is.
func (c *Core) Narrow(yes bool) { c.narrow = yes }

// mayGrow lets an ensemble of two, or one on too few hosts, be followed by a better one; now
// and then, for metad may have its reasons not to give one.
func (c *Core) mayGrow(now time.Duration) {
	if c.opening != nil || c.grow || now < c.growAt {
		return
	}
	c.grow, c.growAt = true, now+shunFor*c.limits.ReplaceAfter
}

// Fence ends the core as a stale epoch does.
func (c *Core) Fence(fx *Effects) {
	if c.fenced {
		return
	}
	c.fenced = true
	c.claim.fenced.Store(true)
	fx.Fenced = true
}

// Close ends the core: it drops its references and its claim. Sends in flight are
// still to be brought to Done.
func (c *Core) Close() {
	if c.closed {
		return
	}
	c.closed, c.fenced = true, true
	c.claim.fenced.Store(true)
	c.leases.unclaim(c.claim)
	if r := c.reads.Swap(nil); r != nil {
		c.leases.unuse(r.sessions)
	}
	for k := range c.streams {
		c.streams[k].trim(c.streams[k].tail)
	}
}

// Next is the LSN that the next appended batch will begin with.
func (c *Core) Next(kind storeproto.Kind) id.LSN { return c.streams[kind].next }

// Acked is the last acknowledged LSN.
func (c *Core) Acked(kind storeproto.Kind) id.LSN { return c.streams[kind].acked }

// Exposed is the last LSN of the stream such that it or an unreleased one below
// counts in a closed ensemble with fewer than two live holders; 0: none. Packing
// up to it is urgent.
func (c *Core) Exposed(kind storeproto.Kind) id.LSN {
	var last id.LSN
	for _, e := range c.ensembles {
		if !e.closed || !c.needs(e, kind) {
			continue
		}
		live := 0
		for _, h := range e.holders {
			if m := c.newest().of(h.Store); !c.down[h.Store] && (m == nil || m.ok()) {
				live++
			}
		}
		if live < quorum {
			last = e.toLSN[kind]
		}
	}
	return last
}
