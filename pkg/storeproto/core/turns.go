package core

import (
	"cmp"
	"slices"
)

// Volumes take turns when more waits than one group may hold. Each op is given a turn when it
// enters the queue: where its volume stands on a clock that counts bytes, plus its own. A group takes
// those with the lowest turns. So each volume gets the same of what is written while several want
// more than there is, one that had little goes before those that had much, and what is large waits
// for no more than its own size of every other volume: nobody waits for ever.
//
// Within a volume turns rise, so its ops keep their order: appends of a stream, a fence
// behind what was admitted before it, a drop, the shards that an owner put. What concerns all volumes
// (versions of groups) passes nothing and is passed by nothing.
//
// While all that waits fits in one group there is nothing to choose, and nothing is.

// opCostMin is what an op counts for that writes less, or nothing.
const opCostMin = 4096

// turns is the clock of the queue.
type turns struct {
	// clock is where a volume stands that did not ask for a while. It follows the start of what
	// has waited longest for its turn.
	clock uint64
	top   uint64 // the highest turn given
	// nobody stands for the volumes that the core does not know.
	nobody volume
	order  []*Op // reused
}

// giveTurn decides where op stands among those that wait.
func (c *Core) giveTurn(op *Op) {
	t := &c.turns
	if op.Kind == OpPG {
		t.clock = t.top
		op.start, op.turn = t.top, t.top
		return
	}
	vol := op.vol
	if vol == nil {
		vol = &t.nobody
	}
	op.start = max(vol.turn, t.clock)
	op.turn = op.start + uint64(max(op.bytes, opCostMin))
	vol.turn = op.turn
	t.top = max(t.top, op.turn)
}

// takeAll moves the whole queue into g.
func (c *Core) takeAll(g *Group) {
	for c.queue.n > 0 {
		g.push(c.queue.pop())
	}
	c.turns.clock = c.turns.top
}

// takeTurns moves those of the queue into g whose turn it is, in the order in which they came.
func (c *Core) takeTurns(g *Group, opsMax, journalBytesMax int) {
	t := &c.turns
	t.order = t.order[:0]
	for op := c.queue.first; op != nil; op = op.next {
		t.order = append(t.order, op)
	}
	slices.SortStableFunc(t.order, func(a, b *Op) int { return cmp.Compare(a.turn, b.turn) })
	bytes, journal := 0, false
	for _, op := range t.order[:min(opsMax, len(t.order))] {
		if bytes += op.bytes; journal && bytes > journalBytesMax {
			break
		}
		journal = journal || op.bytes > 0
		op.chosen = true
	}
	clear(t.order)
	left, oldest := opList{}, t.top
	for c.queue.n > 0 {
		op := c.queue.pop()
		if op.chosen {
			g.push(op)
			continue
		}
		oldest = min(oldest, op.start)
		left.push(op)
	}
	c.queue = left
	t.clock = max(t.clock, oldest)
}
