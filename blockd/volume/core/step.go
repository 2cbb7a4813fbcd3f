package core

import (
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/storeproto"
)

// absorb takes what the journal core has to say after any step of it.
func (c *Core) absorb(now time.Duration, fx *Effects) {
	j := &fx.Journal
	for {
		acked, readable, nudge := j.Acked, j.Readable, j.Nudge
		j.Acked, j.Readable, j.Nudge = [storeproto.Kinds]id.LSN{}, 0, [storeproto.Kinds]bool{}
		if j.Fenced {
			j.Fenced = false
			c.fence(fx)
			return
		}
		if acked == ([storeproto.Kinds]id.LSN{}) && readable == 0 && nudge == ([storeproto.Kinds]bool{}) || c.state == stateFenced {
			return
		}
		if acked[storeproto.Journal] != 0 {
			c.journalAcked(now, acked[storeproto.Journal], fx)
		}
		if acked[storeproto.Meta] != 0 {
			c.metaAcked(now, acked[storeproto.Meta], fx)
		}
		if readable != 0 {
			c.readable(readable, fx)
		}
		c.nudge(now, nudge, fx)
		c.drained(now, fx)
	}
}

// nudge writes a record that says nothing, so that stores of a quiet stream learn what is released.
func (c *Core) nudge(now time.Duration, nudge [storeproto.Kinds]bool, fx *Effects) {
	if nudge[storeproto.Journal] && c.open == nil && len(c.queue) == 0 && c.state == stateServing {
		c.open = newBatch()
		c.open.Meta = c.open.writer.Mark(c.open.Meta, record.SnapshotMark{})
		c.open.Count = 1
		c.taken++
		c.pump(now, fx)
	}
	if nudge[storeproto.Meta] && c.journal.Room(storeproto.Meta) {
		c.appendMeta(now, record.AppendDeleted(nil, nil), metaEntry{}, fx)
	}
}

// Journal runs f, a step of the journal core, and takes what comes of it. The
// shell brings completions of sends, confirms, asks and drops, and hints, this way.
func (c *Core) Journal(now time.Duration, fx *Effects, f func(*journal.Core, *journal.Effects)) {
	f(c.journal, &fx.Journal)
	c.absorb(now, fx)
}

// AppendDone is Journal for the completion of a send, without a closure.
func (c *Core) AppendDone(now time.Duration, s *journal.Send, fx *Effects) {
	c.journal.Done(now, s, &fx.Journal)
	c.absorb(now, fx)
}

// Continue goes on with work that a step cut short (Effects.Again).
func (c *Core) Continue(now time.Duration, fx *Effects) {
	if c.state == stateFenced || c.state == stateDrained || c.table == nil {
		return
	}
	c.continueApply(now, fx)
	c.absorb(now, fx)
}

// Tick drives all limits of time; call it some ten times a second.
func (c *Core) Tick(now time.Duration, fx *Effects) {
	if c.state == stateFenced || c.state == stateDrained || c.journal == nil {
		return
	}
	c.journal.Tick(now, &fx.Journal)
	c.absorb(now, fx)
	if c.state != stateServing && c.state != stateDraining {
		return
	}
	if !c.active.empty() && now-c.touched >= c.cfg.Limits.SealIdle {
		c.seal(now, fx)
	}
	if c.check.asking != nil && c.check.askAt != 0 && now >= c.check.askAt {
		c.check.askAt = 0
		c.askCheckpoint(fx)
	}
	if len(c.room) > 0 {
		c.press(now, fx)
	}
	if c.pageRetryAt != 0 && now >= c.pageRetryAt {
		c.pageRetryAt = 0
		c.stats.Problem = ""
	}
	c.commitReady(now, fx)
	c.startPacks(now, fx)
	c.continueApply(now, fx)
	c.pump(now, fx)
	c.absorb(now, fx)
}

// Drain ends the volume in peace: nothing new is taken; what is in memory is
// packed and committed, a checkpoint is committed in metad, the journal is
// released; then Effects.Drained.
func (c *Core) Drain(now time.Duration, fx *Effects) {
	if c.state != stateServing {
		return
	}
	c.state = stateDraining
	c.drained(now, fx)
	c.absorb(now, fx)
}

// quiet tells that nothing is on its way and nothing is unpacked.
func (c *Core) quiet() bool {
	return len(c.room) == 0 && len(c.locks.held) == 0 && len(c.locks.waiting) == 0 && c.open == nil && len(c.queue) == 0 &&
		len(c.inflight) == 0 && len(c.sealed) == 0 && c.active.empty() && len(c.apply) == 0 && len(c.meta.inflight) == 0 &&
		len(c.readWaiters) == 0 && len(c.pageWaiters) == 0
}

// drained moves a draining volume on.
func (c *Core) drained(now time.Duration, fx *Effects) {
	if c.state != stateDraining {
		return
	}
	if len(c.room) == 0 && len(c.locks.held) == 0 && c.open == nil && len(c.queue) == 0 && len(c.inflight) == 0 {
		c.seal(now, fx)
	}
	if !c.quiet() {
		return
	}
	c.maybeCheckpoint(now, fx)
	if c.check.running == nil && c.check.asking == nil {
		c.state = stateDrained
		fx.Drained = true
	}
}

// Close lets go of everything, after Drained, Fenced or a failed opening.
func (c *Core) Close() {
	if c.journal != nil {
		c.journal.Close()
	}
	c.drop()
	for _, b := range c.load.run {
		b.Release()
	}
	if c.m != nil {
		c.m.Close()
	}
}
