package core

import (
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
)

// A clone is flattened when its user wants it to stand alone: what the head still has in
// segments of its ancestors is copied into segments of its own, at a rate, as the cleaner
// merges: the record of such a segment moves a block only if it still is where it was copied
// from, so that a write or a trim that came meanwhile wins (flattenjob.go). How far that is
// nobody writes down: the map says it, and each owner looks for itself.
//
// The head is gone over in passes. The first counts; if something is there the next copies it,
// and then it is counted again. A pass that finds nothing ends the copying: nothing that is
// committed ever brings an ancestor's location back, but for a rollback, and that begins anew.
// A page of an ancestor always has a block of an ancestor below it, so when the head has none
// the next checkpoint has no such page either.
//
// Snapshots are left as they are: their blocks are not copied again for each of them, and while
// one of them reads an ancestor the volume keeps its origin. Which do is looked for in their
// trees (flattensnaps.go). When none does, the origin is forgotten by the next checkpoint, and
// with metad's knowledge of that one the ancestors may go (Effects.Flat).

// flattenState is how far a clone is flattened.
type flattenState struct {
	on   bool
	rate int64
	next time.Duration // nothing is copied before

	pass    flattenPass
	at      block.LBA // where the pass is
	holes   bool      // it passed by a page that cannot be read
	lost    uint64    // blocks that could not be read in it
	pause   time.Duration
	passAt  time.Duration // the next pass does not begin before
	counted block.LBA     // left is right for the blocks below
	left    uint64        // blocks of ancestors in the head

	gather  *FlattenJob // not full yet
	jobs    []*FlattenJob
	flatAt  id.LSN // what was applied when the head was found to have nothing of ancestors
	snaps   flattenSnaps
	problem string

	copied           uint64 // blocks, since the volume was opened
	windowAt         time.Duration
	windowCopied     uint64
	blocksPerSecond  uint64
	told, forgetting bool
}

// flattenPass is what goes on.
type flattenPass uint8

const (
	flattenCounting flattenPass = iota
	flattenCopying
	flattenFlat // the head has nothing of ancestors
)

// FlattenState says how far a clone is flattened.
type FlattenState uint8

// The states.
const (
	FlattenOff      FlattenState = iota
	FlattenCounts                // what is to be copied is being counted
	FlattenCopies                // blocks are being copied
	FlattenSnapshot              // all is copied; snapshots are looked at, or still read ancestors
	FlattenForgets               // nothing reads an ancestor any more; metad does not know it yet
)

const (
	// flattenWalkMax blocks with something in them, and flattenSpan with or without, are gone over in one step.
	flattenWalkMax = 1 << 14
	flattenSpan    = 1 << 24
	// flattenJobMin blocks are copied at once, or as many as the rate wants in a second.
	flattenJobMin = 256
	// flattenPauseMax is the longest pause before it is looked again for what could not be read.
	flattenPauseMax = 10 * time.Minute
	// flattenWindow is over what the speed is measured.
	flattenWindow = 2 * time.Second
)

// SetFlatten says whether a clone is to be flattened, and how many bytes a second are copied at most; 0: the default.
// What was copied stays when it is stopped.
func (c *Core) SetFlatten(on bool, rate int64) {
	f := &c.flatten
	if rate <= 0 {
		rate = flattenRate
	}
	if rate > f.rate { // the pause was that of the lower one
		f.next = 0
	}
	f.rate = rate
	if f.on == on {
		return
	}
	f.on = on
	c.restartFlatten()
}

// restartFlatten begins to look at the head anew. What is on its way to stores goes on.
func (c *Core) restartFlatten() {
	f := &c.flatten
	c.dropFlattens(false)
	f.pass, f.at, f.counted, f.left, f.gather, f.problem = flattenCounting, 0, 0, 0, nil, ""
	f.passAt, f.pause, f.snaps = 0, 0, flattenSnaps{}
}

// flattening tells that there is something to do.
func (c *Core) flattening() bool {
	return c.flatten.on && c.origin != nil && c.state == stateServing && c.snaps.roll == nil && !c.cfg.Frozen && !c.load.founding
}

// startFlatten goes on with the jobs under way, and with the pass.
func (c *Core) startFlatten(now time.Duration, fx *Effects) {
	c.flattenOn(now, fx)
	f := &c.flatten
	if f.forgetting && c.state == stateServing {
		c.stir(now, fx)
	}
	if !c.flattening() {
		return
	}
	if now-f.windowAt >= flattenWindow {
		f.blocksPerSecond = (f.copied - f.windowCopied) * uint64(time.Second) / uint64(now-f.windowAt)
		f.windowAt, f.windowCopied = now, f.copied
	}
	if f.pass == flattenFlat {
		c.flattened(now, fx)
		return
	}
	if now >= f.passAt && now >= c.pageRetryAt {
		c.flattenWalk(now, fx)
	}
}

// flattenWalk goes on with a pass over the head.
func (c *Core) flattenWalk(now time.Duration, fx *Effects) {
	f := &c.flatten
	if f.gather.full() {
		c.flattenRead(now, fx) // it had no turn before
		return
	}
	if f.pass == flattenCopying && !c.mayCopy(now) {
		return
	}
	if f.pass == flattenCounting && f.at == 0 {
		f.counted, f.left = 0, 0
	}
	work, last := 0, f.at
	next, miss := c.m.Walk(block.Extent{Start: f.at, Count: uint32(min(c.blocks-f.at, flattenSpan))}, func(l block.LBA, loc id.Location) bool {
		work += 1 + int(min((l-last)/64, blockmap.Fanout))
		last = l
		switch {
		case !c.origin.Has(loc.Segment()):
		case f.pass == flattenCounting:
			f.left++
		default:
			f.take(l, loc)
		}
		return work < flattenWalkMax && !f.gather.full()
	})
	f.at = next
	if f.pass == flattenCounting {
		f.counted = next
	}
	switch {
	case f.gather.full():
		c.flattenRead(now, fx)
	case !miss.None():
		c.wantPage(pageOwner{}, miss, fx)
		var more [prefetchMax]blockmap.Miss
		for _, x := range c.m.Missing([]block.Extent{{Start: f.at, Count: uint32(min(c.blocks-f.at, prefetchMax*blockmap.Fanout/2))}}, more[:0]) {
			c.wantPage(pageOwner{}, x, fx)
		}
	case f.at >= c.blocks:
		c.endPass(now, fx)
	default:
		fx.Again = true
	}
}

// flattenPageFailed: a page of the head cannot be read. If it is gone for good the pass goes by it, and what lies
// under it stays: the volume keeps its origin.
func (c *Core) flattenPageFailed(k pageKey, err error) {
	f := &c.flatten
	first, after := k.Page.Blocks()
	if !c.flattening() || k.pageOwner != (pageOwner{}) || passing(err) || f.pass == flattenFlat || f.at < first || f.at >= after {
		return
	}
	f.problem = fmt.Sprintf("where blocks %d to %d lie cannot be read, and they are not copied: %v", first, after-1, err)
	f.at, f.holes = min(after, c.blocks), true
}

// endPass ends a pass at the end of the disk.
func (c *Core) endPass(now time.Duration, fx *Effects) {
	f := &c.flatten
	if f.gather != nil {
		c.flattenRead(now, fx)
		return
	}
	if len(f.jobs) > 0 || len(c.apply) > 0 && c.apply[0].begun {
		return // a job that fails is looked at again; what is applied in part is in no checkpoint
	}
	whole := !f.holes && f.lost == 0
	f.at, f.holes, f.lost = 0, false, 0
	switch {
	case f.pass == flattenCopying:
		f.pass = flattenCounting
		if whole {
			f.pause, f.problem = 0, ""
		} else {
			f.pause = min(max(2*f.pause, hydrateShyFor), flattenPauseMax)
		}
		f.passAt = now + f.pause
	case f.left > 0 || !whole:
		f.pass = flattenCopying
	default:
		f.pass, f.problem, f.flatAt, f.snaps = flattenFlat, "", c.check.metaApplied, flattenSnaps{}
	}
	fx.Again = true
}

// flattened: the head has nothing of ancestors. The origin is forgotten when the tree that stands and
// those of the snapshots have nothing either, and nothing is under way that may still ask for it.
func (c *Core) flattened(now time.Duration, fx *Effects) {
	f, s := &c.flatten, &c.snaps
	if !c.snapshotsFlat(now, fx) {
		return
	}
	if c.check.running != nil || s.walk != nil || c.marking() || len(f.jobs) > 0 {
		return
	}
	if c.check.last < f.flatAt {
		c.stir(now, fx)
		return
	}
	c.origin, f.forgetting = nil, true
	s.settle(c.floor())
	f.snaps = flattenSnaps{}
	c.stir(now, fx)
}

// flatDurable: a checkpoint stands. Perhaps it is the first that knows of no origin.
func (c *Core) flatDurable(st *checkpointState) {
	if st.rec.Origin == nil {
		c.flatten.forgetting = false
	}
}

// tellFlat: metad has a checkpoint. It may forget what the volume began with when that has.
func (c *Core) tellFlat(origin bool, fx *Effects) {
	if c.cfg.Origin != nil && !origin && !c.flatten.told {
		c.flatten.told = true
		fx.Flat = true
	}
}

// leftAncestor notes that the head has dropped a block of an ancestor's.
func (f *flattenState) leftAncestor(l block.LBA) {
	if f.left > 0 && l < f.counted {
		f.left--
	}
}

func (c *Core) flattenStats(s *Stats) {
	f := &c.flatten
	s.FlattenCopied, s.FlattenLeft, s.FlattenProblem, s.FlattenBlocksPerSecond = f.copied, f.left, f.problem, f.blocksPerSecond
	switch {
	case !f.on || c.cfg.Origin == nil && c.origin == nil:
	case c.origin == nil:
		s.Flatten = FlattenForgets
	case f.pass == flattenFlat:
		s.Flatten = FlattenSnapshot
		s.FlattenHeld = slices.Clone(f.snaps.foreign)
	case f.pass == flattenCopying, f.at == 0 && f.left > 0:
		s.Flatten = FlattenCopies
	default:
		s.Flatten = FlattenCounts
	}
}
