package core

import (
	"errors"
	"fmt"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/errs"
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

// read starts a read, a status or a find: at once under a lease, else after a confirm round
// begun now.
func (c *Core) read(now time.Duration, op *Op, fx *Effects) {
	if op.Snapshot != (id.Raw{}) {
		c.resolve(now, op, fx)
		return
	}
	if !c.journal.MayRead(now) {
		c.readWaiters = append(c.readWaiters, readWaiter{op, c.journal.AskRead(now, &fx.Journal)})
		return
	}
	c.resolve(now, op, fx)
}

// readable: rounds up to token have confirmed the epoch.
func (c *Core) readable(now time.Duration, token uint64, fx *Effects) {
	n := 0
	for n < len(c.readWaiters) && c.readWaiters[n].token <= token {
		c.resolve(now, c.readWaiters[n].op, fx)
		n++
	}
	if n > 0 {
		rest := copy(c.readWaiters, c.readWaiters[n:])
		clear(c.readWaiters[rest:])
		c.readWaiters = c.readWaiters[:rest]
	}
}

// readRetryAfter is the pause before a read is tried again of which too few shards answered.
const readRetryAfter = 200 * time.Millisecond

// parkedRead is a read that waits for its next try.
type parkedRead struct {
	op *Op
	at time.Duration
}

// Reread: a read that the shell was filling failed with err, and its pieces are
// released. A segment that is not found was cleaned or deleted since the lookup,
// if the lookup now says otherwise. Where too few shards answer, the read waits for
// them as long as Limits.ReadPatience allows.
func (c *Core) Reread(now time.Duration, op *Op, err error, fx *Effects) {
	gone := errors.Is(err, errs.ErrNotFound)
	away := !gone && (errors.Is(err, errs.ErrUnavailable) || errors.Is(err, errs.ErrTimeout))
	switch {
	case c.state == stateFenced || c.state == stateDrained:
		c.endRead(now, op, errs.ErrStaleEpoch, fx)
	case gone && op.retries < rereadMax:
		op.retries++
		c.read(now, op, fx)
	case away && (op.failedAt == 0 || now-op.failedAt < c.cfg.Limits.ReadPatience):
		if op.failedAt == 0 {
			op.failedAt = now
		}
		c.parked = append(c.parked, parkedRead{op, now + readRetryAfter})
	default:
		c.endRead(now, op, err, fx)
	}
	c.absorb(now, fx)
}

// unpark tries reads again whose pause is over.
func (c *Core) unpark(now time.Duration, fx *Effects) {
	n := 0
	for n < len(c.parked) && now >= c.parked[n].at {
		n++
	}
	if n == 0 {
		return
	}
	due := c.parked[:n:n]
	c.parked = c.parked[n:]
	for _, p := range due {
		c.read(now, p.op, fx)
	}
}

// endRead fails a read, or the sub-block write that it serves.
func (c *Core) endRead(now time.Duration, op *Op, err error, fx *Effects) {
	if op.parent != nil {
		c.EdgeRead(now, op, nil, err, fx)
		return
	}
	c.finish(op, err, fx)
}

// resolve finds the pieces of op; if a page of the map is missing op waits for it
// and starts again, so that its answer is the volume of one moment.
func (c *Core) resolve(now time.Duration, op *Op, fx *Effects) {
	if op.Since != (id.Raw{}) {
		c.resolveChanges(now, op, fx)
		return
	}
	if op.Snapshot != (id.Raw{}) {
		c.resolveSnapshot(now, op, fx)
		return
	}
	op.Pieces, op.Runs = op.Pieces[:0], op.Runs[:0]
	var miss blockmap.Miss
	switch op.Kind {
	case OpStatus:
		miss = op.statusOf(c.m, c.memoryRuns(op.Extent))
	case OpFind:
		miss = c.resolveFind(op)
	default:
		miss = c.resolveRead(op)
	}
	if !miss.None() {
		for i := range op.Pieces {
			op.Pieces[i].Buf.Release()
		}
		op.Pieces = op.Pieces[:0]
		c.awaitPage(op, pageOwner{}, miss, fx)
		return
	}
	if op.Kind != OpRead {
		c.finish(op, nil, fx)
		return
	}
	fx.Reads = append(fx.Reads, op)
}

// locate finds the pieces of op in a map alone.
func (c *Core) locate(op *Op, m *blockmap.Map) blockmap.Miss {
	var locs [locateMax]id.Location
	for i := uint32(0); i < op.Extent.Count; {
		n := min(locateMax, op.Extent.Count-i)
		if got, miss := m.Lookup(op.Extent.Start+block.LBA(i), locs[:n]); uint32(got) < n {
			return miss
		}
		for j, loc := range locs[:n] {
			c.slotPiece(op, i+uint32(j), loc)
		}
		i += n
	}
	return blockmap.Miss{}
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
// has its segment in a table, or an ancestor has it, or an archive: anything else is a broken promise of our own.
func (c *Core) where(s id.Segment) Where {
	if w, ok := c.placeOf(s); ok {
		return w
	}
	panic(fmt.Sprintf("volume %s: segment %s is referred to but not in the table", c.cfg.Volume, s))
}

func whereOf(e blockmap.Entry) Where {
	return Where{Generation: e.Generation, PGVersion: e.PGVersion, K: e.K, M: e.M, Slots: e.Slots, Kept: e.Kept}
}

// awaitPage parks op until the page is there.
func (c *Core) awaitPage(op *Op, of pageOwner, miss blockmap.Miss, fx *Effects) {
	k := pageKey{of, miss}
	c.pageWaiters[k] = append(c.pageWaiters[k], op)
	c.wantPage(of, miss, fx)
}

// wantPage asks for a page once, however many wait for it.
func (c *Core) wantPage(of pageOwner, miss blockmap.Miss, fx *Effects) {
	k := pageKey{of, miss}
	if c.pageBusy[k] {
		return
	}
	s := miss.Location.Segment()
	e, ok := c.pageSegs[s]
	w := whereOf(e)
	if !ok && c.table != nil {
		w, ok = c.placeOf(s)
	}
	if !ok {
		panic(fmt.Sprintf("volume %s: page %v lies in segment %s, which is not in the table", c.cfg.Volume, miss.Page, s))
	}
	c.pageBusy[k] = true
	fx.Pages = append(fx.Pages, PageRead{Miss: miss, Where: w, Table: c.load.loader != nil, of: of})
}

// PageDone: the shell has read the page of p, checked against its sum, or failed.
// Then only the reads that need the page wait, and the commits; both try again.
func (c *Core) PageDone(now time.Duration, p PageRead, data []byte, err error, fx *Effects) {
	k := pageKey{p.of, p.Miss}
	delete(c.pageBusy, k)
	if c.state == stateFenced || c.state == stateDrained {
		return
	}
	if p.Table {
		c.tablePage(now, p, data, err, fx)
		c.absorb(now, fx)
		return
	}
	if err = c.takePage(now, p, data, err); err != nil {
		err = fmt.Errorf("read map page %d.%d: %w", p.Miss.Level, p.Miss.Index, err)
		if p.of == (pageOwner{}) {
			c.applyBlocked(now, err, fx)
		}
		c.hydratePageFailed(now, k, err)
		c.flattenPageFailed(k, err)
	}
	ops := c.pageWaiters[k]
	delete(c.pageWaiters, k)
	for _, op := range ops {
		if err != nil {
			c.Reread(now, op, err, fx)
		} else {
			c.resolve(now, op, fx)
		}
	}
	if p.of.walk {
		c.walkOn(now, fx)
	} else if err == nil {
		c.continueApply(now, fx)
		c.cleanOn(now, fx)
		c.hydrateOn(now, fx)
		c.startFlatten(now, fx)
	}
	c.absorb(now, fx)
}
