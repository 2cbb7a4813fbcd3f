package core

import (
	"fmt"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
)

// readWaiter is a read that waits for a round in which the stores confirm the epoch.
type readWaiter struct {
	op    *Op
	token uint64
}

// rereadMax bounds how often a read looks its blocks up again because a segment
// had gone; each time the map has changed in between.
const rereadMax = 8

// read starts a read or a status: at once under a lease, else after a confirm round
// begun now.
func (c *Core) read(now time.Duration, op *Op, fx *Effects) {
	if !c.journal.MayRead(now) {
		c.readWaiters = append(c.readWaiters, readWaiter{op, c.journal.AskRead(now, &fx.Journal)})
		return
	}
	c.resolve(op, fx)
}

// readable: rounds up to token have confirmed the epoch.
func (c *Core) readable(token uint64, fx *Effects) {
	n := 0
	for n < len(c.readWaiters) && c.readWaiters[n].token <= token {
		c.resolve(c.readWaiters[n].op, fx)
		n++
	}
	if n > 0 {
		rest := copy(c.readWaiters, c.readWaiters[n:])
		clear(c.readWaiters[rest:])
		c.readWaiters = c.readWaiters[:rest]
	}
}

// Reread: a segment that op's pieces name was not found. It was cleaned or
// deleted since the lookup if the lookup now says otherwise. The shell has
// released the pieces.
func (c *Core) Reread(now time.Duration, op *Op, err error, fx *Effects) {
	op.retries++
	if c.state == stateFenced || op.retries > rereadMax {
		c.endRead(now, op, err, fx)
		return
	}
	c.read(now, op, fx)
}

// endRead fails a read, or the sub-block write that it serves.
func (c *Core) endRead(now time.Duration, op *Op, err error, fx *Effects) {
	if op.parent != nil {
		c.EdgeRead(now, op, nil, err, fx)
		return
	}
	op.Err = err
	fx.Done = append(fx.Done, op)
}

// resolve finds the pieces of op; if a page of the map is missing op waits for it
// and starts again, so that its answer is the volume of one moment.
func (c *Core) resolve(op *Op, fx *Effects) {
	op.Pieces, op.Runs = op.Pieces[:0], op.Runs[:0]
	var miss blockmap.Miss
	if op.Kind == OpStatus {
		miss = c.resolveStatus(op)
	} else {
		miss = c.resolveRead(op)
	}
	if !miss.None() {
		for i := range op.Pieces {
			op.Pieces[i].Buf.Release()
		}
		op.Pieces = op.Pieces[:0]
		c.awaitPage(op, miss, fx)
		return
	}
	if op.Kind == OpStatus {
		fx.Done = append(fx.Done, op)
		return
	}
	fx.Reads = append(fx.Reads, op)
}

// locateMax is the blocks looked up in the map at a time.
const locateMax = 64

func (c *Core) resolveRead(op *Op) blockmap.Miss {
	var locs [locateMax]id.Location
	e := op.Extent
	for i := uint32(0); i < e.Count; {
		if n := c.fromMemory(op, i); n > 0 {
			i += n
			continue
		}
		// The blocks up to the next one in memory come from the map.
		n := uint32(1)
		for n < locateMax && i+n < e.Count && !c.inMemory(e.Start+block.LBA(i+n)) {
			n++
		}
		got, miss := c.m.Lookup(e.Start+block.LBA(i), locs[:n])
		if uint32(got) < n {
			return miss
		}
		for j, loc := range locs[:n] {
			c.slotPiece(op, i+uint32(j), loc)
		}
		i += n
	}
	return blockmap.Miss{}
}

// inMemory tells whether a memtable knows the block.
func (c *Core) inMemory(l block.LBA) bool {
	_, found, zero := c.findMemory(l)
	return found || zero
}

// findMemory asks the memtables, the newest first.
func (c *Core) findMemory(l block.LBA) (e entry, found, zero bool) {
	if e, found, zero = c.active.find(l); found || zero {
		return e, found, zero
	}
	for i := len(c.sealed) - 1; i >= 0; i-- {
		if e, found, zero = c.sealed[i].find(l); found || zero {
			return e, found, zero
		}
	}
	return entry{}, false, false
}

// fromMemory adds the piece for block i if a memtable has it; it gives the blocks added.
func (c *Core) fromMemory(op *Op, i uint32) uint32 {
	en, found, zero := c.findMemory(op.Extent.Start + block.LBA(i))
	switch {
	case zero:
		op.addZero(i)
	case !found:
		return 0
	case en.buf == nil:
		c.slotPiece(op, i, en.loc)
	default:
		if n := len(op.Pieces); n > 0 {
			last := &op.Pieces[n-1]
			if last.Kind == PieceMemory && last.Buf == en.buf && last.Off+last.Count*block.Size == en.off {
				last.Count++
				return 1
			}
		}
		op.Pieces = append(op.Pieces, Piece{Kind: PieceMemory, At: i, Count: 1, Buf: en.buf.Retain(), Off: en.off})
	}
	return 1
}

func (op *Op) addZero(i uint32) {
	if n := len(op.Pieces); n > 0 && op.Pieces[n-1].Kind == PieceZero {
		op.Pieces[n-1].Count++
		return
	}
	op.Pieces = append(op.Pieces, Piece{Kind: PieceZero, At: i, Count: 1})
}

// slotPiece adds block i at loc, joined to the piece before it when the slots follow.
func (c *Core) slotPiece(op *Op, i uint32, loc id.Location) {
	if loc == 0 {
		op.addZero(i)
		return
	}
	if n := len(op.Pieces); n > 0 {
		last := &op.Pieces[n-1]
		if last.Kind == PieceSlots && last.Location+id.Location(last.Count) == loc && loc.Slot() != 0 {
			last.Count++
			return
		}
	}
	op.Pieces = append(op.Pieces, Piece{Kind: PieceSlots, At: i, Count: 1, Location: loc, Where: c.where(loc.Segment())})
}

// where says how a segment is kept. A location in the map or a memtable always
// has its segment in a table: anything else is a broken promise of our own.
func (c *Core) where(s id.Segment) Where {
	if e, ok := c.table.Get(s); ok {
		return whereOf(e)
	}
	if r, ok := c.long.known[s]; ok {
		return whereOf(r.entry)
	}
	panic(fmt.Sprintf("volume %s: segment %s is referred to but not in the table", c.cfg.Volume, s))
}

func whereOf(e blockmap.Entry) Where {
	return Where{Generation: e.Generation, PGVersion: e.PGVersion, K: e.K, M: e.M, Slots: e.Slots}
}

// resolveStatus finds the runs of written blocks and holes.
func (c *Core) resolveStatus(op *Op) blockmap.Miss {
	e := op.Extent
	for at := e.Start; at < e.End(); {
		if len(op.Runs) > statusRunsMax {
			return blockmap.Miss{}
		}
		_, found, zero := c.findMemory(at)
		if found || zero {
			op.addRun(1, zero)
			at++
			continue
		}
		rest := block.Extent{Start: at, Count: uint32(e.End() - at)}
		n := uint32(1)
		if !c.memoryEmpty() {
			for n < rest.Count && n < block.Size && !c.inMemory(at+block.LBA(n)) {
				n++
			}
			rest.Count = n
		}
		run, allocated, miss := c.m.NextRun(rest)
		if !miss.None() && run.Count == 0 {
			if len(op.Runs) > 0 {
				return blockmap.Miss{} // what is known so far is an answer
			}
			return miss
		}
		op.addRun(run.Count, !allocated)
		at += block.LBA(run.Count)
	}
	return blockmap.Miss{}
}

// statusRunsMax bounds the runs of one answer; a shorter answer than asked is allowed.
const statusRunsMax = 4096

func (c *Core) memoryEmpty() bool { return len(c.sealed) == 0 && c.active.empty() }

func (op *Op) addRun(n uint32, hole bool) {
	if k := len(op.Runs); k > 0 && op.Runs[k-1].Hole == hole {
		op.Runs[k-1].Count += n
		return
	}
	op.Runs = append(op.Runs, Run{Count: n, Hole: hole})
}

// awaitPage parks op until the page is there.
func (c *Core) awaitPage(op *Op, miss blockmap.Miss, fx *Effects) {
	c.pageWaiters[miss] = append(c.pageWaiters[miss], op)
	c.wantPage(miss, false, fx)
}

// wantPage asks for a page once, however many wait for it.
func (c *Core) wantPage(miss blockmap.Miss, table bool, fx *Effects) {
	if c.pageBusy[miss] {
		return
	}
	s, ok := c.pageSegs[miss.Location.Segment()]
	if !ok {
		panic(fmt.Sprintf("volume %s: page %v lies in segment %s, which holds no pages", c.cfg.Volume, miss.Page, miss.Location.Segment()))
	}
	c.pageBusy[miss] = true
	fx.Pages = append(fx.Pages, PageRead{Miss: miss, Where: whereOf(s.entry), Table: table})
}

// PageDone: the shell has read the page of p, checked against its sum, or failed
// for good (more shards are missing than the code can bear).
func (c *Core) PageDone(now time.Duration, p PageRead, data []byte, err error, fx *Effects) {
	delete(c.pageBusy, p.Miss)
	if c.state == stateFenced || c.state == stateDrained {
		return
	}
	if p.Table {
		c.tablePage(now, p, data, err, fx)
		return
	}
	if err == nil {
		err = c.m.Fill(p.Miss, data)
	}
	ops := c.pageWaiters[p.Miss]
	delete(c.pageWaiters, p.Miss)
	for _, op := range ops {
		if err != nil {
			c.endRead(now, op, fmt.Errorf("read map page %d.%d: %w", p.Miss.Level, p.Miss.Index, err), fx)
			continue
		}
		c.resolve(op, fx)
	}
	if err != nil {
		c.applyBlocked(now, err, fx)
		return
	}
	c.continueApply(now, fx)
}
