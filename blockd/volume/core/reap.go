package core

import (
	"slices"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
)

// A packer, a cleaner or a repairer that dies between a put and the commit leaves shards
// that nothing names: leftovers. The next owner finds them by their generation's epoch,
// which is below its own, and by what it knows: whatever of an older epoch counts is in
// its table, or nothing ever will.
//
// That is so once a checkpoint of its own epoch is committed in metad that covers the
// whole recovered run. Before, a segment may be named by records of the run alone, which
// are not in the table yet; after, no owner ever recovers from anything older. What an
// older owner has under way then cannot count: its records are refused. And what is put
// under the present epoch is never a leftover, for its commit may be under way.

// Leftover is the highest generation of an older epoch that some store has of a segment, and the stores that have some: one that
// its group has forgotten may be among them, and come back into the group with it.
type Leftover struct {
	Segment    id.Segment
	Generation id.Generation
	On         []cluster.StoreRef
}

// Add notes that a store has a generation of the segment.
func (x *Leftover) Add(g id.Generation, on cluster.StoreRef) {
	if x.Generation.Less(g) {
		x.Generation = g
	}
	if !slices.Contains(x.On, on) {
		x.On = append(x.On, on)
	}
}

type reapState struct {
	wanted bool          // by Config.Leftovers, until it is done
	run    id.LSN        // the last record of the recovered run
	ready  bool          // a checkpoint that covers it, of this epoch, is in metad
	hasty  time.Duration // when one is cut for this alone; 0: that is done
	busy   bool          // the shell lists
	whole  bool          // and every store has answered
	again  time.Duration
	doomed map[id.Segment]id.Generation // leftovers whose deletes are on their way
}

// reapReady: metad has committed a checkpoint.
func (c *Core) reapReady(k *record.Checkpoint) {
	r := &c.reap
	r.ready = r.ready || k.Epoch == c.cfg.Epoch && k.Covered >= r.run
}

// hastenReap has, once an epoch, that checkpoint cut where none is due by itself: an owner of a disk that
// nobody writes to cuts none, and what dead owners left there would stay, and keep its group's
// older code.
func (c *Core) hastenReap(now time.Duration, fx *Effects) {
	r := &c.reap
	if !r.wanted || r.ready || r.hasty == 0 || now < r.hasty || c.state != stateServing || c.cfg.Frozen {
		return
	}
	if c.check.covered < r.run {
		if c.active.empty() && c.acked >= c.active.first {
			c.active.last = c.acked // records that say nothing are covered, too
		}
		if c.active.first <= r.run {
			c.seal(now, fx)
		}
		return
	}
	if c.check.running == nil && c.check.asking == nil { // else that one may do
		r.hasty = 0
		c.stir(now, fx)
	}
}

// startReap asks the shell for what stores have of older epochs. Deletes on their way are not
// waited for: one may wait for a store that is gone until its group forgets that store, and
// the group for another leftover that no listing has shown yet.
func (c *Core) startReap(now time.Duration, fx *Effects) {
	if r := &c.reap; r.wanted && r.ready && !r.busy && !r.whole && now >= r.again && c.state == stateServing {
		r.busy = true
		fx.Reap = true
	}
}

// IsLeftover tells whether a generation that a store listed is one: of most that are listed something counts, and the shell
// need not remember them.
func (c *Core) IsLeftover(s id.Segment, g id.Generation) bool {
	return g.Epoch < c.cfg.Epoch && c.state == stateServing && !c.knows(s)
}

// Leftovers judges some of what the shell found.
func (c *Core) Leftovers(found []Leftover, fx *Effects) {
	for _, x := range found {
		if !c.IsLeftover(x.Segment, x.Generation) {
			continue
		}
		if at, ok := c.reap.doomed[x.Segment]; ok && !at.Less(x.Generation) {
			continue
		}
		if c.reap.doomed == nil {
			c.reap.doomed = make(map[id.Segment]id.Generation)
		}
		c.reap.doomed[x.Segment] = x.Generation
		c.stats.Leftovers++
		fx.Deletes = append(fx.Deletes, Delete{Segment: x.Segment, Upto: x.Generation, On: x.On, abandoned: true, leftover: true})
	}
}

// knows tells whether anything refers to a segment, or did until it began to be deleted.
func (c *Core) knows(s id.Segment) bool {
	if _, ok := c.table.Get(s); ok {
		return true
	}
	if _, ok := c.pageSegs[s]; ok {
		return true
	}
	return c.long.known[s] != nil || c.deletes[s]
}

// ReapListed: the shell has listed what every store has, or not all of them. If the volume is being let go meanwhile nobody
// has judged it: the next owner looks again.
func (c *Core) ReapListed(now time.Duration, whole bool, fx *Effects) {
	r := &c.reap
	r.busy, r.whole, r.again = false, whole && c.state == stateServing, now+c.cfg.Limits.ReapRetry
	c.reaped(fx)
}

// reaped: when all stores were asked and all leftovers are gone, metad may forget that there were any.
func (c *Core) reaped(fx *Effects) {
	if r := &c.reap; r.wanted && r.whole && len(r.doomed) == 0 {
		r.wanted = false
		fx.Reaped = true
	}
}
