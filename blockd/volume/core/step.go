package core

import (
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/pkg/id"
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
			c.readable(now, readable, fx)
		}
		c.nudge(now, nudge, fx)
		if c.state == stateDraining {
			c.drained(now, fx)
		}
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
	c.walkOn(now, fx)
	c.startClean(now, fx)
	c.startHydrate(now, fx)
	c.startFlatten(now, fx)
	c.absorb(now, fx)
}

// Tick drives all limits of time; call it some ten times a second.
func (c *Core) Tick(now time.Duration, fx *Effects) {
	if c.state == stateFenced || c.state == stateDrained || c.journal == nil {
		return
	}
	c.journal.Tick(now, &fx.Journal)
	c.absorb(now, fx)
	if c.state == stateFenced {
		return
	}
	if c.pageRetryAt != 0 && now >= c.pageRetryAt {
		c.pageRetryAt = 0
	}
	if c.check.asking != nil && c.check.askAt != 0 && now >= c.check.askAt {
		c.check.askAt = 0
		c.askCheckpoint(fx)
	}
	if c.load.loader != nil {
		c.loadTable(now, fx)
	}
	if c.state == stateServing || c.state == stateDraining {
		c.tickServing(now, fx)
	}
	if c.table != nil {
		c.continueApply(now, fx)
	}
	c.absorb(now, fx)
}

func (c *Core) tickServing(now time.Duration, fx *Effects) {
	idle := now - c.touched
	if !c.active.empty() && (idle >= c.cfg.Limits.SealIdle || idle >= freeSealIdle && c.freesMuch()) {
		c.seal(now, fx)
	}
	c.groups.relent(now)
	c.hurry(now, fx)
	c.unpark(now, fx)
	if c.cfg.Memory.scarce() && len(c.sealed) == 0 && c.active.journalled > 0 {
		c.seal(now, fx) // others need it
	}
	if len(c.room) > 0 {
		c.roomFreed(now, 0, fx) // by others
		c.press(now, fx)
		c.doubt(now, fx)
	}
	c.m.Shrink()
	c.lay(now, fx)
	c.closeTrees(now)
	c.walkOn(now, fx)
	c.rollOn(now, fx)
	c.measure(now)
	c.commitReady(now, fx)
	c.startPacks(now, fx)
	c.startClean(now, fx)
	c.startHydrate(now, fx)
	c.startFlatten(now, fx)
	c.hastenReap(now, fx)
	c.startReap(now, fx)
	c.EndHold(now, fx)
	corks := c.corks
	c.corks = 0 // a client that was slow between a Cork and its Uncork holds nobody up for long
	c.pump(now, fx)
	c.corks = corks
}

// doubt asks the stores whether the epoch is still in force, where writers wait for memory and nothing is being
// appended that would tell: an owner that was replaced meanwhile packs nothing any more, so its
// memory never comes back, and its writers would wait for ever.
func (c *Core) doubt(now time.Duration, fx *Effects) {
	if len(c.room) > 0 && len(c.inflight) == 0 {
		c.journal.AskRead(now, &fx.Journal)
	}
}

// hurryAfter is the pause between two attempts to become rid of an old ensemble.
const hurryAfter = 30 * time.Second

// hurry packs and checkpoints early for the sake of the journal: at once while
// records are held by fewer than two live stores, and now and then while the list
// has an ensemble that only waits for its records to be released.
func (c *Core) hurry(now time.Duration, fx *Effects) {
	bare := c.journal.Exposed(storeproto.Journal)
	bareMeta := c.journal.Exposed(storeproto.Meta) > c.check.committed
	if c.journal.Ensembles() < 2 && bare == 0 && !bareMeta {
		c.hurried = now
		return
	}
	if bare >= c.active.first && !c.active.empty() {
		c.seal(now, fx)
	}
	if now-c.hurried >= hurryAfter {
		c.hurried = now
		if c.active.empty() && c.acked >= c.active.first {
			c.active.last = c.acked // records that say nothing are covered, too
		}
		c.seal(now, fx)
		bareMeta = true
	}
	if !bareMeta {
		return
	}
	c.check.force = true
	if c.state == stateServing && c.check.asking == nil {
		c.stir(now, fx) // the last records may be a checkpoint's own, which only a later one covers
	}
	c.maybeCheckpoint(now, fx)
}
