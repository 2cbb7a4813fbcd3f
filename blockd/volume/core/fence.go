package core

import (
	"cmp"
	"slices"

	"ashlar.dev/pkg/errs"
)

// Fence ends the core as a later epoch does: every operation fails.
func (c *Core) Fence(fx *Effects) { c.fence(fx) }

// fence ends everything: a later epoch is in force, or nobody wants this one any
// more. Every operation that the core holds ends with ErrStaleEpoch, once; those
// that a read effect has handed out end when the shell is done with them. What
// was acknowledged is in the journal, and what was not has an unknown outcome.
func (c *Core) fence(fx *Effects) {
	if c.state == stateFenced {
		return
	}
	c.state = stateFenced
	fx.Fenced = true
	fail := func(op *Op) {
		if op.parent != nil {
			op = op.parent
		}
		if op.edges != nil {
			op.edges.buf.Release()
			op.edges = nil
		}
		if !op.ended { // or it was met in another list
			c.finish(op, errs.ErrStaleEpoch, fx)
		}
	}
	each(c.room, fail)
	each(c.locks.drain(), fail)
	each(c.barriers, fail)
	for _, w := range c.readWaiters {
		fail(w.op)
	}
	for _, p := range c.parked {
		fail(p.op)
	}
	for _, k := range c.pagesInOrder() {
		each(c.pageWaiters[k], fail)
	}
	each(c.snaps.waiting, fail)
	c.snaps.waiting = nil
	for _, b := range c.inflight {
		b.each(fail) // the journal and the sends hold it
	}
	for _, b := range append(c.queue, c.open) {
		if b != nil {
			b.each(fail)
			b.recycle() // nobody else holds it
		}
	}
	c.room, c.barriers, c.readWaiters, c.parked, c.pageWaiters = nil, nil, nil, nil, nil
	c.inflight, c.queue, c.open, c.long.queue = nil, nil, nil, nil
	c.endClean(0, 0)
	c.dropHydrates(true)
	c.dropFlattens(true)
}

func each(ops []*Op, f func(*Op)) {
	for _, op := range ops {
		f(op)
	}
}

// pagesInOrder are the pages that operations wait for, in an order that does not
// hang on the map's.
func (c *Core) pagesInOrder() []pageKey {
	out := make([]pageKey, 0, len(c.pageWaiters))
	for m := range c.pageWaiters {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b pageKey) int {
		return cmp.Or(cmp.Compare(a.watermark, b.watermark), cmp.Compare(a.Level, b.Level), cmp.Compare(a.Index, b.Index), cmp.Compare(a.Location, b.Location))
	})
	return out
}

// Close lets go of everything, after Drained, Fenced or a failed opening. Bytes
// of jobs that are still out go with their PackDone or PackFreed.
func (c *Core) Close() {
	if c.journal != nil {
		c.journal.Close()
	}
	c.charge(-c.unpacked)
	for _, m := range append(c.sealed, c.active) {
		if m != nil {
			m.retire()
		}
	}
	c.sealed, c.active = nil, nil
	for _, b := range c.load.run {
		if b != nil {
			b.Release()
		}
	}
	c.load.run = nil
	for _, s := range c.snaps.list {
		s.closeTree()
	}
	if c.m != nil {
		c.m.Close()
		c.m = nil
	}
}
