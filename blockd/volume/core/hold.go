package core

import (
	"fmt"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// A group of snapshots is of one point in time over several volumes if nothing that came after
// the mark of one was acknowledged, or could be read, before the marks of all had their places: then
// whoever wrote B to one disk because A on another was acknowledged finds no B without
// its A in the group, for such a B has its place behind the mark of its disk. So a mark may come with a hold: what has its
// place behind the mark is not sent to the stores until the hold is released, when all marks are known to have their places, or its
// deadline has passed. Who releases hears whether the hold still stood: if not, the group does not count. Nor does it before all
// marks are durable, under the epochs of their places: but for that no writer waits.

// hold keeps back what comes after a mark.
type hold struct {
	snapshot id.Raw
	mark     id.LSN // the last LSN that may be sent
	since    time.Duration
	until    time.Duration // the deadline; 0: there is no hold
}

// errHeld: one hold at a time.
var errHeld = fmt.Errorf("another group of snapshots with this disk is being taken: %w", errs.ErrConflict)

// beginHold puts a hold behind the record that was added last, the end of its batch.
func (c *Core) beginHold(now time.Duration, op *Op) {
	if op.Hold <= 0 {
		return
	}
	c.keep = hold{op.Snapshot, c.taken, now, now + op.Hold}
	c.queue = append(c.queue, c.open)
	c.open = nil
}

// holding tells whether everything up to a hold's mark is sent, and nothing more may be.
func (c *Core) holding() bool { return c.keep.until != 0 && c.assigned >= c.keep.mark }

// Holds tells whether a snapshot's mark has its place and what comes behind it is held back.
func (c *Core) Holds(x id.Raw) bool { return c.keep.until != 0 && c.keep.snapshot == x }

// ReleaseHold ends the hold that came with a snapshot's mark and lets go on what it kept back. It tells how long that was, and
// whether the hold stood until now.
func (c *Core) ReleaseHold(now time.Duration, x id.Raw, fx *Effects) (held time.Duration, stood bool) {
	if !c.Holds(x) {
		return 0, false
	}
	held, stood = now-c.keep.since, now < c.keep.until && c.state == stateServing
	c.letGo(now, fx)
	return held, stood
}

// EndHold ends a hold whose deadline has passed, and tells how long it stood; 0: there is none, or it stands still. Ticks do it as
// well, but later.
func (c *Core) EndHold(now time.Duration, fx *Effects) (held time.Duration) {
	if c.keep.until == 0 || now < c.keep.until {
		return 0
	}
	held = now - c.keep.since
	c.letGo(now, fx)
	return held
}

// letGo ends the hold, and sends what it kept back.
func (c *Core) letGo(now time.Duration, fx *Effects) {
	c.keep = hold{}
	if c.state != stateFenced && c.state != stateDrained {
		c.pump(now, fx)
		c.absorb(now, fx)
	}
}
