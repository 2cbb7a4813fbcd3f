package core

import (
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
)

// Space that has died is given back by the checkpoint after: a busy volume cuts
// them often enough. Here is what makes a quiet one cut one, and when not: never
// for trifles, never twice for the same bytes, and while clients write only if
// what comes back is worth several times the pages that have to be written.
const (
	// freeSealIdle is how long nothing was written before trims that free much are committed.
	freeSealIdle = 3 * time.Second
	// freeBlocksMin is how much they must free: a MiB.
	freeBlocksMin = 256
	// freeShare is how many times its pages a checkpoint must free to be cut for that alone.
	freeShare = 4
)

// freesMuch tells that the active memtable has little to pack and much to free.
func (c *Core) freesMuch() bool {
	n := block.LBA(0)
	for _, r := range c.active.zeros.runs {
		n += r.end - r.start
	}
	return n >= freeBlocksMin && uint64(n) >= freeShare*uint64(len(c.active.blocks))
}

// deadEnough tells that so much has died since the last cut that a checkpoint is
// due, whatever else is going on: a sixteenth of what lives, but not for small change.
func (c *Core) deadEnough() bool {
	l := &c.cfg.Limits
	return c.check.deadBytes >= min(l.CheckpointDead, max(l.CheckpointDeadMin, c.usage.liveBytes()/16))
}

// worthFreeing tells that a checkpoint would give back more than it costs, or costs
// nobody anything for the volume is idle.
func (c *Core) worthFreeing(now time.Duration) bool {
	l, k := &c.cfg.Limits, &c.check
	if k.deadBytes < l.CheckpointTrifle || now-k.cutAt < l.CheckpointIdle {
		return false
	}
	if now-c.touched >= l.CheckpointIdle {
		return true
	}
	pages := c.m.Stats().Dirty + c.table.Len()/blockmap.TableLeafEntries + 1
	return k.deadBytes >= freeShare*int64(pages)*blockmap.PageSize
}
