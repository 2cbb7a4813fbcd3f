package core

import (
	"fmt"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// A group of snapshots is of one point in time over several volumes if nothing that came after
// the mark of one was acknowledged, or could be read, before the marks of all were durable: then
// whoever wrote B to one disk because A on another was acknowledged finds no B without
// its A in the group. So a mark may come with a hold: what has its place behind the mark is not sent to
// the stores until the hold is released, when all marks are known to be durable, or its
// deadline has passed. Who releases hears whether the hold still stood: if not, the group does not count.

// hold keeps back what comes after a mark.
type hold struct {
	snapshot id.Raw
	mark     id.LSN        // the last LSN that may be sent
	until    time.Duration // the deadline; 0: there is no hold
}

// errHeld: one hold at a time.
var errHeld = fmt.Errorf("another group of snapshots with this disk is being taken: %w", errs.ErrConflict)

// beginHold puts a hold behind the record that was added last, the end of its batch.
func (c *Core) beginHold(now time.Duration, op *Op) {
	if op.Hold <= 0 {
		return
	}
	c.keep = hold{op.Snapshot, c.taken, now + op.Hold}
	c.queue = append(c.queue, c.open)
	c.open = nil
}

// holding tells whether everything up to a hold's mark is sent, and nothing more may be.
func (c *Core) holding() bool { return c.keep.until != 0 && c.assigned >= c.keep.mark }

// ReleaseHold ends the hold that came with a snapshot's mark and lets go on what it kept back. It tells whether the hold
// stood until now.
func (c *Core) ReleaseHold(now time.Duration, x id.Raw, fx *Effects) (stood bool) {
	if c.keep.until == 0 || c.keep.snapshot != x {
		return false
	}
	stood = now < c.keep.until && c.state == stateServing
	c.keep = hold{}
	if c.state != stateFenced && c.state != stateDrained {
		c.pump(now, fx)
		c.absorb(now, fx)
	}
	return stood
}

// endHold ends a hold whose deadline has passed.
func (c *Core) endHold(now time.Duration) {
	if c.keep.until != 0 && now >= c.keep.until {
		c.keep = hold{}
	}
}
