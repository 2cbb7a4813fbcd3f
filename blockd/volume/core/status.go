package core

import (
	"slices"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
)

// A status looks at what is in memory once, sorted, and then walks it and the
// map side by side. Its work is bounded whatever its extent: a shorter answer than
// asked is allowed.
const (
	statusRunsMax = 4096  // runs of one answer
	statusWorkMax = 16384 // pages of the map looked at, at most
)

// memoryRun is a run of blocks that a memtable knows.
type memoryRun struct {
	start, end block.LBA
	hole       bool
}

// statusOf finds the runs of written blocks and holes of a map and what is in memory above it.
func (op *Op) statusOf(m *blockmap.Map, memory []memoryRun) blockmap.Miss {
	e := op.Extent
	work := 0
	for at := e.Start; at < e.End(); {
		if len(op.Runs) > statusRunsMax || work > statusWorkMax {
			return blockmap.Miss{}
		}
		for len(memory) > 0 && memory[0].end <= at {
			memory = memory[1:]
		}
		stop := e.End()
		if len(memory) > 0 {
			if r := memory[0]; r.start <= at {
				n := min(r.end, stop) - at
				op.addRun(Run{Count: uint32(n), Hole: r.hole})
				at += n
				continue
			}
			stop = min(stop, memory[0].start)
		}
		run, allocated, miss := m.NextRun(block.Extent{Start: at, Count: uint32(stop - at)})
		if !miss.None() && run.Count == 0 {
			if len(op.Runs) > 0 {
				return blockmap.Miss{} // what is known so far is an answer
			}
			return miss
		}
		op.addRun(Run{Count: run.Count, Hole: !allocated})
		at += block.LBA(run.Count)
		work += 1 + min(int(run.Count)/blockmap.Fanout, statusWorkMax/4)
	}
	return blockmap.Miss{}
}

// memoryRuns lists, in order and apart, what the memtables know of e.
func (c *Core) memoryRuns(e block.Extent) []memoryRun {
	var written []block.LBA
	var holes extentSet
	tables := append(slices.Clone(c.sealed), c.active) // the oldest first
	for _, m := range tables {
		for _, r := range m.zeros.runs {
			holes.add(max(r.start, e.Start), min(r.end, e.End()))
		}
		for l := range m.blocks {
			if e.Contains(l) {
				written = append(written, l)
			}
		}
	}
	slices.Sort(written)
	written = slices.Compact(written)
	var out []memoryRun
	add := func(start, end block.LBA, hole bool) {
		if n := len(out); n > 0 && out[n-1].end == start && out[n-1].hole == hole {
			out[n-1].end = end
		} else if start < end {
			out = append(out, memoryRun{start, end, hole})
		}
	}
	h := holes.runs
	holesTo := func(limit block.LBA) {
		for len(h) > 0 && h[0].start < limit {
			end := min(h[0].end, limit)
			add(h[0].start, end, true)
			if h[0].start = end; h[0].start == h[0].end {
				h = h[1:]
			}
		}
	}
	for _, l := range written {
		holesTo(l)
		_, found, zero := c.findMemory(l) // a newer memtable may have made it a hole again
		if len(h) > 0 && h[0].start <= l {
			if h[0].start = l + 1; h[0].start >= h[0].end {
				h = h[1:]
			}
		}
		add(l, l+1, zero && !found)
	}
	holesTo(e.End())
	return out
}

func (op *Op) addRun(r Run) {
	if k := len(op.Runs); k > 0 && op.Runs[k-1].Hole == r.Hole && op.Runs[k-1].Changed == r.Changed {
		op.Runs[k-1].Count += r.Count
		return
	}
	op.Runs = append(op.Runs, r)
}
