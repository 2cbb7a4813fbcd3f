package core

import (
	"time"

	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/storeproto"
)

// drainState is how far the end in peace is.
type drainState struct {
	farewell bool          // the last records are on their way: they tell the stores what is released
	until    time.Duration // how long deletions are waited for; 0: not yet
}

// drainDeletes bounds the wait for deletions at the end: a store that is away
// must not hold up the rest. The next opening asks for them again.
const drainDeletes = 2 * time.Second

// Drain ends the volume in peace: nothing new is taken; what is in memory is
// packed and committed, a checkpoint is committed in metad, the journal is
// released and its stores are told; then Effects.Drained.
func (c *Core) Drain(now time.Duration, fx *Effects) {
	if c.state != stateServing {
		return
	}
	c.state = stateDraining
	if j := c.clean.job; j != nil && j.phase < cleanPacking {
		c.endClean(now, 0)
	}
	c.dropHydrates(false)
	c.dropFlattens(false)
	c.drained(now, fx)
	c.absorb(now, fx)
}

// still tells that no operation is under way.
func (c *Core) still() bool {
	return len(c.room) == 0 && len(c.locks.held) == 0 && len(c.locks.waiting) == 0 && c.open == nil && len(c.queue) == 0 &&
		len(c.inflight) == 0 && len(c.barriers) == 0 && len(c.readWaiters) == 0 && len(c.parked) == 0 && len(c.pageWaiters) == 0
}

// quiet tells that nothing is on its way and nothing is unpacked.
func (c *Core) quiet() bool {
	return c.still() && len(c.sealed) == 0 && c.active.empty() && len(c.apply) == 0 && len(c.meta.inflight) == 0 &&
		c.clean.job == nil && len(c.archive.jobs) == 0 && len(c.flatten.jobs) == 0 && !c.marking()
}

// drained moves a draining volume on. It is called after whatever may have been the last of something.
func (c *Core) drained(now time.Duration, fx *Effects) {
	if c.state != stateDraining {
		return
	}
	if c.still() {
		c.seal(now, fx)
	}
	if !c.quiet() {
		return
	}
	c.maybeCheckpoint(now, fx)
	if c.check.running != nil || c.check.asking != nil || c.check.metaApplied != c.check.last {
		return
	}
	if c.deletesSoon() {
		if c.drain.until == 0 {
			c.drain.until = now + drainDeletes
		}
		if now < c.drain.until {
			return
		}
	}
	if !c.drain.farewell {
		c.drain.farewell = true
		c.farewell(now, fx)
		return
	}
	c.state = stateDrained
	fx.Drained = true
}

// deletesSoon tells whether some deletion may be confirmed soon. One that a store which is away
// has to confirm is not waited for: nobody is served meanwhile.
func (c *Core) deletesSoon() bool {
	for s := range c.deletes {
		if _, ok := c.groups.lively[s.PG()]; ok {
			return true
		}
	}
	return false
}

// farewell writes one record that says nothing to each stream: the releases
// travel with them, and the stores forget the rest.
func (c *Core) farewell(now time.Duration, fx *Effects) {
	if c.assigned == 0 {
		c.drained(now, fx) // nothing was ever written
		return
	}
	c.noop(now, fx)
	c.appendMeta(now, record.AppendDeleted(nil, nil), metaEntry{}, fx)
}

// noop appends a journal record that says nothing.
func (c *Core) noop(now time.Duration, fx *Effects) {
	c.open = newBatch()
	c.open.Meta = c.open.writer.Mark(c.open.Meta, record.SnapshotMark{})
	c.open.Count = 1
	c.taken++
	c.pump(now, fx)
}

// nudge writes a record that says nothing, so that stores of a quiet stream learn what is released.
func (c *Core) nudge(now time.Duration, nudge [storeproto.Kinds]bool, fx *Effects) {
	if c.state != stateServing {
		return
	}
	if nudge[storeproto.Journal] && c.open == nil && len(c.queue) == 0 {
		c.noop(now, fx)
	}
	if nudge[storeproto.Meta] && c.journal.Room(storeproto.Meta) {
		c.appendMeta(now, record.AppendDeleted(nil, nil), metaEntry{}, fx)
	}
}
