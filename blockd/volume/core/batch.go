package core

import (
	"slices"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/storeproto"
)

// appendBatch is a journal batch with the operations it carries and the buffers
// its payload lies in. It goes back to the pool of its core when the journal, the
// sends and the memtable have all released it.
type appendBatch struct {
	storeproto.Batch
	writer record.JournalWriter
	bufs   []*buf.Buffer
	head   *Op // operations in the order of their records
	tail   *Op
}

// batchRecordsMax bounds the records of one batch well below the stores' limit.
const batchRecordsMax = 1024

// each calls f for the operations of the batch; the batch forgets them.
func (b *appendBatch) each(f func(*Op)) {
	for op := b.head; op != nil; {
		next := op.next
		op.next = nil
		f(op)
		op = next
	}
	b.head, b.tail = nil, nil
}

// newBatch gives an empty batch.
func newBatch() *appendBatch {
	b, _ := batchPool.Get().(*appendBatch)
	if b == nil {
		b = new(appendBatch)
		b.Free = func(*batchSend) { b.recycle() }
	}
	return b
}

// recycle is the end of a batch: nobody reads its payload any more.
func (b *appendBatch) recycle() {
	for i, x := range b.bufs {
		x.Release()
		b.bufs[i] = nil
	}
	clear(b.Payload)
	b.Meta, b.Sums, b.Payload, b.bufs = b.Meta[:0], b.Sums[:0], b.Payload[:0], b.bufs[:0]
	b.writer = record.JournalWriter{}
	b.Count, b.First, b.Epoch, b.Sum = 0, 0, 0, 0
	b.head, b.tail = nil, nil
	batchPool.Put(b)
}

// add puts op's record at the end of the batch that is being filled, which gives
// it its place in the order of all writes.
func (c *Core) add(op *Op) {
	if c.open != nil && !c.open.fits(op) {
		c.queue = append(c.queue, c.open) // the limit on unpacked bytes bounds the queue
		c.open = nil
	}
	if c.open == nil {
		c.open = newBatch()
	}
	b := c.open
	switch {
	case op.long != nil:
		b.Meta = b.writer.Index(b.Meta, op.placed())
	case op.Kind == OpWrite:
		b.Meta = b.writer.Write(b.Meta, op.Extent)
		n := op.Extent.Count * block.Size
		b.Payload = append(b.Payload, op.Buf.Bytes()[op.BufOff:op.BufOff+n])
		b.Sums = append(b.Sums, op.Sums...)
		b.bufs = append(b.bufs, op.Buf.Retain())
	case op.Kind == OpMark:
		b.Meta = b.writer.Mark(b.Meta, op.mark.SnapshotMark)
	case op.Kind == OpZero:
		b.Meta = b.writer.Zero(b.Meta, op.Extent, false)
	default:
		b.Meta = b.writer.Trim(b.Meta, op.Extent)
	}
	b.Count++
	c.taken++
	if b.tail == nil {
		b.head = op
	} else {
		b.tail.next = op
	}
	b.tail = op
}

// fits tells whether the batch has room for op's record and payload.
func (b *appendBatch) fits(op *Op) bool {
	blocks := 0
	if op.Kind == OpWrite && op.long == nil {
		blocks = int(op.Extent.Count)
	}
	return int(b.Count) < batchRecordsMax && len(b.Sums)+blocks <= storeproto.BatchBlocksMax
}

// pump sends batches while the pipeline has room. What arrives while appends are in
// flight shares the next one: group commit on the engine's side.
func (c *Core) pump(now time.Duration, fx *Effects) {
	if c.corks > 0 && len(c.queue) == 0 {
		return // more is coming at once; Uncork comes back here
	}
	for len(c.inflight) < c.cfg.Limits.BatchesInFlight && c.journal.Room(storeproto.Journal) && !c.holding() {
		b := c.open
		if len(c.queue) > 0 {
			b = c.queue[0]
			c.queue[0] = nil
			c.queue = c.queue[1:]
		} else {
			c.open = nil
		}
		if b == nil {
			return
		}
		if err := c.journal.Append(now, storeproto.Journal, &b.Batch, &fx.Journal); err != nil {
			c.queue = append(c.queue, b) // fenced: it ends with the rest
			c.fence(fx)
			return
		}
		c.assigned = b.Last()
		c.inflight = append(c.inflight, b)
	}
}

// journalAcked: everything up to lsn is durable on two stores. The records enter
// the memtable in their order and their clients hear of it.
func (c *Core) journalAcked(now time.Duration, lsn id.LSN, fx *Effects) {
	if lsn <= c.acked {
		return
	}
	c.acked = lsn
	n := 0
	for n < len(c.inflight) && c.inflight[n].Last() <= lsn {
		n++
	}
	c.entering = append(c.entering[:0], c.inflight[:n]...)
	c.inflight = slices.Delete(c.inflight, 0, n)
	for _, b := range c.entering {
		c.enter(now, b, fx)
	}
	clear(c.entering)
	c.proven(now, fx)
	c.wake(now, fx)
	c.pump(now, fx)
	if len(c.room) > 0 {
		c.press(now, fx)
	}
}

// enter puts an acknowledged batch of this engine into the active memtable. A
// memtable that is worth a segment is sealed between two records, so that it fills
// one segment and not a bit of another.
func (c *Core) enter(now time.Duration, b *appendBatch, fx *Effects) {
	lsn := b.First
	head := b.head
	b.head, b.tail = nil, nil
	for op := head; op != nil; lsn++ {
		next := op.next
		op.next = nil
		if op.Kind == OpWrite && !c.active.fits(int(op.Extent.Count), c.cfg.Limits.SealBlocks) {
			c.seal(now, fx)
		}
		m := c.active
		m.hold(b)
		switch {
		case op.long != nil:
			m.place(op.Extent, op.long.job.Segment, op.long.job.Entry, op.slot)
		case op.Kind == OpWrite:
			m.write(op.Extent, op.Buf, op.BufOff, op.Sums)
		case op.Kind == OpMark:
			m.mark = op.mark
		default:
			m.zero(op.Extent)
		}
		m.last = lsn
		m.journalled += op.bytes
		c.finish(op, nil, fx)
		if m.mark != nil {
			c.seal(now, fx) // what comes after it is packed apart
		}
		op = next
	}
	c.touched = now
	c.sealIfFull(now, fx)
}

// wait parks op until everything up to lsn is acknowledged.
func (c *Core) wait(now time.Duration, op *Op, lsn id.LSN, fx *Effects) {
	if lsn <= c.acked {
		c.barrierMet(now, op, fx)
		return
	}
	op.barrier = lsn
	c.barriers = append(c.barriers, op)
}

// wake lets go on what waited for an acknowledgement.
func (c *Core) wake(now time.Duration, fx *Effects) {
	if len(c.barriers) == 0 {
		return
	}
	waiting := c.barriers
	c.barriers = nil
	var kept []*Op
	for _, op := range waiting {
		if op.barrier > c.acked {
			kept = append(kept, op)
			continue
		}
		c.barrierMet(now, op, fx)
	}
	c.barriers = append(kept, c.barriers...)
}

// Cork holds the batch that is being filled back until the Uncork that belongs to
// it, unless it is full. Between the two little time may pass.
func (c *Core) Cork() { c.corks++ }

// Uncork ends a Cork and sends what has gathered.
func (c *Core) Uncork(now time.Duration, fx *Effects) {
	c.corks--
	if c.corks == 0 && (c.open != nil || len(c.queue) > 0) {
		c.pump(now, fx)
		c.absorb(now, fx)
	}
}
