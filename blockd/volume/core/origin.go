package core

import (
	"time"

	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
)

// Whose segment is this? A volume may begin with the tree of a snapshot of another one (its
// origin). Then its map, its snapshots' trees and the pages of these have locations in
// segments of ancestors, which its own table does not know. It only reads them: their
// owners count, clean, rewrite and delete them, and keep what the snapshot has as long as
// metad keeps the snapshot. Which is which follows from the sequence alone: those at or
// below the origin's watermark are ancestors', all others the volume's own, for its ranges
// were taken after that watermark was committed. How an ancestor's segment is kept now only
// its shards' headers say: Where is zero for it, and the reader asks them.
//
// The origin is part of every checkpoint. A volume that has none yet makes one before it
// serves: its first acknowledged write must not be found, by whoever has only what is on the
// stores, beside a map that begins empty.

// placeOf says how a segment is kept; false: nobody knows of it.
func (c *Core) placeOf(s id.Segment) (Where, bool) {
	if e, ok := c.table.Get(s); ok {
		return whereOf(e), true
	}
	if r, ok := c.long.known[s]; ok {
		return whereOf(r.entry), true
	}
	if c.foreign(s) {
		return Where{Foreign: true}, true
	}
	return Where{}, c.origin.Has(s)
}

// Inherited tells that the segment is an ancestor's, to be found by its shards' headers.
func (w Where) Inherited() bool { return w == Where{} }

// floor is the watermark below which nothing is the volume's own.
func (c *Core) floor() id.Sequence { return c.origin.Floor() }

// begin takes in where the volume's map comes from: the last checkpoint, else its origin, or an archive.
func (c *Core) begin(opts *blockmap.Options) (table blockmap.Root, err error) {
	k := c.load.check
	if k == nil {
		if c.origin = c.cfg.Origin; c.origin != nil {
			opts.Root = c.origin.Root
			c.load.founding = true
		}
		if err := c.beginArchive(&opts.Root); err != nil {
			return blockmap.Root{}, err
		}
		c.check.root = opts.Root
		c.snaps.settle(c.floor())
		return blockmap.Root{}, nil
	}
	c.origin, c.archive.Archive = k.Origin, k.Archive
	c.load.founding = !c.load.inRecord && (k.Origin != nil || k.Archive != nil)
	opts.Root = k.Map
	return k.Table, nil
}

// opened says that the volume serves, but of one that must write down first where it comes from,
// and of none whose opening is not on record yet.
func (c *Core) opened(now time.Duration, fx *Effects) {
	if c.load.founding {
		c.lay(now, fx)
		return
	}
	if !c.onRecord(now, fx) {
		return
	}
	c.stats.Problem = ""
	c.load.served, fx.Opened = true, true
	c.archiveOpened(fx)
}

// onRecord tells whether the journal has a record of this epoch, and writes one that says nothing where it has
// none. What the opening discarded was never acknowledged, but a metad restored from a backup may name the
// ensembles again that have it. Reads are served only when that can show nothing any more: a record proves
// to every later opening that the one of its epoch ended.
func (c *Core) onRecord(now time.Duration, fx *Effects) bool {
	if c.load.proof == 0 {
		if c.open == nil { // else one of this epoch waits to be sent
			c.noop(now, fx)
		}
		c.load.proof = c.taken
	}
	return c.acked >= c.load.proof
}

// proven: the journal is acknowledged so far that the opening may be on record now.
func (c *Core) proven(now time.Duration, fx *Effects) {
	if c.load.proof != 0 && !c.load.served && c.acked >= c.load.proof && c.state == stateServing {
		c.opened(now, fx)
	}
}

// lay has the first checkpoint cut of a volume that must write down where it comes from.
func (c *Core) lay(now time.Duration, fx *Effects) {
	if c.load.founding && c.check.running == nil && c.check.asking == nil {
		c.stir(now, fx)
	}
}

// founded: metad has a checkpoint that says what the volume began with. That stores have it is not enough: a
// metad that is restored from a backup learns from each store once what it has, and the checkpoint
// may come just after.
func (c *Core) founded(now time.Duration, fx *Effects) {
	if !c.load.founding {
		return
	}
	c.load.founding = false
	if c.state == stateServing { // else it is not loaded yet
		c.opened(now, fx)
	}
}
