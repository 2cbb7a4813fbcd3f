package core

import (
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/segment"
)

// Long writes skip the journal: their blocks go straight into a segment, and an
// index record follows when all its shards are durable. Their ranges are held
// from admission until the index record has its place, so nothing that overlaps
// can be ordered between the bytes and the record.

// longState is what long writes need.
type longState struct {
	queue   []*Op // hold their ranges, wait for a segment
	running int
	blocks  int // in those that run
	// known are segments of long writes that some index record names which no
	// applied commit covers yet. They are never dead, whatever the table counts.
	known map[id.Segment]*longSegment
}

type longSegment struct {
	entry blockmap.Entry
	refs  int // index records not covered yet
}

// longRun is some long writes that share a segment.
type longRun struct {
	ops    []*Op
	blocks int
	bufs   []*buf.Buffer // their payload, until no store reads it any more
	job    *PackJob
}

// isLong tells a write that may skip the journal.
func (c *Core) isLong(op *Op) bool {
	n := c.cfg.Limits.LongBlocksMin
	return op.Kind == OpWrite && n > 0 && int(op.Extent.Count) >= n && op.Extent.Count <= id.SlotsMax && !op.partial() && !op.journalled
}

func (c *Core) queueLong(now time.Duration, op *Op, fx *Effects) {
	c.long.queue = append(c.long.queue, op)
	c.startLongs(now, fx)
}

// startLongs puts what waits into segments: as many writes as fit share one. A put costs its stores
// much the same whatever its size, and the cleaner merges small segments, which writes their blocks a
// second time. So while one is on its way the next gathers until it is full, or has half as much: one that is
// coded beside one that is sent or synced. While two are, only a full one follows.
func (c *Core) startLongs(now time.Duration, fx *Effects) {
	l := &c.long
	for len(l.queue) > 0 && l.running < c.cfg.Limits.LongInFlight {
		n, blocks, full := l.next()
		if l.running > 0 && !full && !c.marking() && (l.running > 1 || 2*blocks < l.blocks) {
			return
		}
		c.startLong(now, n, fx)
	}
}

// next tells how many of the waiting writes share the next segment, their blocks, and whether it has no room for more.
func (l *longState) next() (n, blocks int, full bool) {
	for _, op := range l.queue {
		if blocks+int(op.Extent.Count) > id.SlotsMax {
			return n, blocks, true
		}
		blocks += int(op.Extent.Count)
		n++
	}
	return n, blocks, blocks == id.SlotsMax
}

// startLong puts the first n waiting writes into one segment.
func (c *Core) startLong(now time.Duration, n int, fx *Effects) {
	l := &c.long
	run := &longRun{job: &PackJob{Lane: LaneLong}}
	run.job.long = run
	for _, op := range l.queue[:n] {
		op.slot = uint16(len(run.job.Blocks))
		run.ops = append(run.ops, op)
		run.job.addWrite(op)
	}
	rest := copy(l.queue, l.queue[n:])
	clear(l.queue[rest:])
	l.queue = l.queue[:rest]
	l.running++
	run.blocks = len(run.job.Blocks)
	l.blocks += run.blocks
	if !c.marking() && c.issue(now, run.job, fx) {
		for _, op := range run.ops {
			run.bufs = append(run.bufs, op.Buf.Retain())
		}
	} else {
		c.longDone(now, run, errNoSegment, fx)
	}
}

// addWrite gives the blocks of op the next slots.
func (j *PackJob) addWrite(op *Op) {
	for i := range op.Extent.Count {
		off := op.BufOff + i*block.Size
		j.Blocks = append(j.Blocks, PackBlock{
			Entry: uint64(segment.MakeData(op.Extent.Start + block.LBA(i))),
			Sum:   op.Sums[i],
			Data:  op.Buf.Bytes()[off : off+block.Size],
		})
	}
}

// longDone: the segment is durable, and each write gets its index record; or it
// failed, and they go through the journal.
func (c *Core) longDone(now time.Duration, run *longRun, err error, fx *Effects) {
	c.long.running--
	c.long.blocks -= run.blocks
	for _, op := range run.ops {
		freed := int64(0)
		if err != nil && c.groups.full() {
			c.finish(op, errFull, fx) // it was not acknowledged, and there is no room to pack it later
			c.unlock(now, op, fx)
			c.roomFreed(now, op.bytes, fx)
			continue
		}
		if err != nil {
			op.journalled = true
		} else {
			op.long = run
			c.know(run.job.Segment, run.job.Entry, 1)
			freed, op.bytes = op.bytes, 0
		}
		c.add(op)
		c.unlock(now, op, fx)
		c.roomFreed(now, freed, fx)
		if c.state == stateFenced {
			return
		}
	}
	run.ops = nil
	if err == nil {
		c.stats.SegmentsLong++
	}
	c.pump(now, fx)
}

// know counts an index record that names s.
func (c *Core) know(s id.Segment, e blockmap.Entry, n int) {
	k := c.long.known[s]
	if k == nil {
		k = &longSegment{entry: e}
		c.long.known[s] = k
	}
	k.refs += n
}

// forget says that n index records that name s are covered by an applied commit.
func (c *Core) forget(s id.Segment, n int) {
	k := c.long.known[s]
	k.refs -= n
	if k.refs == 0 {
		delete(c.long.known, s)
	}
}

// placed is the index record of a long write whose segment is durable.
func (op *Op) placed() record.Placed {
	return record.Placed{Extent: op.Extent, Segment: op.long.job.Segment, FirstSlot: op.slot, Entry: op.long.job.Entry}
}
