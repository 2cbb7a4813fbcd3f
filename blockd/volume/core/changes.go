package core

import (
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// A status that names a snapshot in Since tells what differs from it: of the disk, or of
// another of its snapshots, older or newer. It is exact by places, not by bytes: a block that was written
// again with what it had is one that changed; what lies where it lay then is the same, for
// nothing is ever written twice to a place. Subtrees that both maps have are passed by, so
// the cost follows what changed. All that is in memory was written after every snapshot that stands.

// resolveChanges finds the runs of such a status, or what it waits for.
func (c *Core) resolveChanges(now time.Duration, op *Op, fx *Effects) {
	m, owner := c.m, pageOwner{}
	var memory []memoryRun
	if op.Snapshot != (id.Raw{}) {
		s := c.standing(op, op.Snapshot, fx)
		if s == nil {
			return
		}
		if op.Extent.End() > s.Blocks {
			c.finish(op, fmt.Errorf("%v of a snapshot of %d blocks: %w", op.Extent, s.Blocks, errs.ErrInvalid), fx)
			return
		}
		m, owner = c.treeOf(now, s), pageOwner{watermark: s.Watermark}
	}
	base := c.standing(op, op.Since, fx)
	if base == nil {
		return
	}
	old := c.treeOf(now, base)
	if op.Snapshot == (id.Raw{}) {
		memory = c.memoryRuns(op.Extent)
	}
	op.Runs = op.Runs[:0]
	of, miss := op.changesOf(m, old, memory)
	switch {
	case of == nil:
		c.finish(op, nil, fx)
	case of == old && old != m:
		c.awaitPage(op, pageOwner{watermark: base.Watermark}, miss, fx)
	default:
		c.awaitPage(op, owner, miss, fx)
	}
}

// standing gives a snapshot that op is about. While it is not passed yet op waits; if it is not there, op has failed.
func (c *Core) standing(op *Op, x id.Raw, fx *Effects) *snapshot {
	s, ok := c.snapshot(x)
	switch {
	case !ok && slices.ContainsFunc(c.snaps.marks, func(m *mark) bool { return m.Snapshot == x }):
		c.snaps.waiting = append(c.snaps.waiting, op)
		return nil
	case !ok || c.snaps.doomed[x]:
		c.finish(op, fmt.Errorf("snapshot: %w", errs.ErrNotFound), fx)
		return nil
	}
	return s
}

// changesOf finds the runs in which a map, and what is in memory above it, differs from an older one. A
// page that is missing is given with its map.
func (op *Op) changesOf(m, base *blockmap.Map, memory []memoryRun) (of *blockmap.Map, miss blockmap.Miss) {
	e := op.Extent
	work := 0
	for at := e.Start; at < e.End(); {
		if len(op.Runs) > statusRunsMax || work > statusWorkMax {
			return nil, blockmap.Miss{}
		}
		for len(memory) > 0 && memory[0].end <= at {
			memory = memory[1:]
		}
		stop := e.End()
		var over *memoryRun
		if len(memory) > 0 {
			if r := &memory[0]; r.start <= at {
				over, stop = r, min(r.end, stop)
			} else {
				stop = min(stop, r.start)
			}
		}
		run, of, miss := op.changed(block.Extent{Start: at, Count: uint32(stop - at)}, over, m, base)
		if of != nil {
			if len(op.Runs) > 0 {
				return nil, blockmap.Miss{} // what is known so far is an answer
			}
			return of, miss
		}
		op.addRun(run)
		at += block.LBA(run.Count)
		work += 1 + min(int(run.Count)/blockmap.Fanout, statusWorkMax/4)
	}
	return nil, blockmap.Miss{}
}

// changed finds the first run of e, which is wholly over a run in memory or not at all.
func (op *Op) changed(e block.Extent, over *memoryRun, m, base *blockmap.Map) (run Run, of *blockmap.Map, miss blockmap.Miss) {
	switch {
	case over == nil:
		got, how, of, miss := m.Compare(base, e)
		return Run{Count: got.Count, Changed: how != blockmap.Same, Hole: how == blockmap.Cleared}, of, miss
	case !over.hole:
		return Run{Count: e.Count, Changed: true}, nil, miss
	case e.Start >= base.Blocks():
		return Run{Count: e.Count}, nil, miss
	}
	e.Count = uint32(min(block.LBA(e.Count), base.Blocks()-e.Start))
	got, allocated, miss := base.NextRun(e)
	if !miss.None() && got.Count == 0 {
		return Run{}, base, miss
	}
	return Run{Count: got.Count, Changed: allocated, Hole: allocated}, nil, blockmap.Miss{}
}
