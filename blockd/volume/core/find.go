package core

import (
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
)

// A find looks for the blocks whose bytes lie in some segments: those of which the shell
// knows that shards are missing. It goes over the map in small steps, each of them the
// volume of one moment; a block that is written or trimmed meanwhile is found or not. What
// a memtable knows is not found: its bytes are in the journal, or it is a hole.
const (
	findWorkMax   = 1 << 14 // blocks of the map looked at in one step, about
	findPlacesMax = 4096    // of one answer
)

// Find is the question and the answer of an OpFind.
type Find struct {
	Segments map[id.Segment]bool
	Places   []Place // in order
	Next     block.LBA
}

// Place is a run of blocks in consecutive slots from Location on; or, where Page is set,
// blocks of which the map cannot tell where they lie, because the page that could is in
// that slot.
type Place struct {
	Start, End block.LBA
	Location   id.Location
	Where      Where
	Page       bool
}

// Segments lists the segments of the volume of which something lives, and how each is
// kept: those of data, of pages of the map and of pages of the table.
func (c *Core) Segments() map[id.Segment]Where {
	if c.table == nil {
		return nil
	}
	out := make(map[id.Segment]Where, c.table.Len())
	c.table.Range(0, func(s id.Segment, e blockmap.Entry) bool {
		if e.Live > 0 {
			out[s] = whereOf(e)
		}
		return true
	})
	return out
}

// resolveFind goes on from op.Find.Next. It ends before the extent does when the answer is
// long enough, or the step.
func (c *Core) resolveFind(op *Op) blockmap.Miss {
	f := op.Find
	f.Next = max(f.Next, op.Extent.Start)
	work := 0
	for end := op.Extent.End(); f.Next < end && work < findWorkMax && len(f.Places) < findPlacesMax; {
		last := f.Next
		next, miss := c.m.Walk(block.Extent{Start: f.Next, Count: uint32(end - f.Next)}, func(l block.LBA, loc id.Location) bool {
			work += 1 + int(min((l-last)/64, blockmap.Fanout)) // a leaf with little in it costs, too
			last = l
			c.found(f, l, loc)
			return work < findWorkMax && len(f.Places) < findPlacesMax
		})
		f.Next = next
		switch {
		case miss.None():
		case !f.Segments[miss.Location.Segment()]:
			return miss
		default:
			c.foundPage(f, miss, end)
		}
	}
	return blockmap.Miss{}
}

// found adds block l at loc, joined to the place before it when the slots follow.
func (c *Core) found(f *Find, l block.LBA, loc id.Location) {
	if !f.Segments[loc.Segment()] || c.inMemory(l) {
		return
	}
	if n := len(f.Places); n > 0 {
		last := &f.Places[n-1]
		if !last.Page && last.End == l && last.Location+id.Location(l-last.Start) == loc && loc.Slot() != 0 {
			last.End++
			return
		}
	}
	f.Places = append(f.Places, Place{Start: l, End: l + 1, Location: loc, Where: c.where(loc.Segment())})
}

// foundPage adds the blocks up to end that lie under a page, but those in memory.
func (c *Core) foundPage(f *Find, miss blockmap.Miss, end block.LBA) {
	_, after := miss.Page.Blocks()
	end = min(end, after)
	add := func(start, stop block.LBA) {
		if start < stop {
			f.Places = append(f.Places, Place{Start: start, End: stop, Location: miss.Location, Where: c.where(miss.Location.Segment()), Page: true})
		}
	}
	at := f.Next
	for _, r := range c.memoryRuns(block.Extent{Start: at, Count: uint32(end - at)}) {
		add(at, r.start)
		at = r.end
	}
	add(at, end)
	f.Next = end
}
