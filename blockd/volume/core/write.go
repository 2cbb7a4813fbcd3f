package core

import (
	"sync"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/codec"
)

// batchPool is shared by all volumes: batches are released on any goroutine.
var batchPool sync.Pool

// admit is the start of a write's way: memory first, then its range, then its
// place in the order. In this order, so that what holds a range never waits for
// memory, and a write that waits has no place in the order yet.
func (c *Core) admit(now time.Duration, op *Op, fx *Effects) {
	op.bytes = 0
	if op.Kind == OpWrite || op.partial() {
		op.bytes = int64(op.Extent.Count) * block.Size
	}
	// What needs no memory does not wait for it: a trim must get through when
	// everything is full, and what waits has no place in the order yet.
	if op.bytes > 0 && (len(c.room) > 0 || !c.hasRoom(op.bytes)) {
		c.room = append(c.room, op)
		c.press(now, fx)
		return
	}
	c.charge(op.bytes)
	c.lock(now, op, fx)
}

// roomFreed lets waiting writes in, in their order.
func (c *Core) roomFreed(now time.Duration, n int64, fx *Effects) {
	c.charge(-n)
	for len(c.room) > 0 && c.state != stateFenced && c.hasRoom(c.room[0].bytes) {
		op := c.room[0]
		c.room[0] = nil
		c.room = c.room[1:]
		c.charge(op.bytes)
		c.lock(now, op, fx)
	}
	c.pump(now, fx)
}

// lock takes op's range, or queues it behind those that hold it.
func (c *Core) lock(now time.Duration, op *Op, fx *Effects) {
	if c.locks.admit(op, op.partial() || c.isLong(op)) {
		c.locked(now, op, fx)
	}
}

// locked: op's turn has come.
func (c *Core) locked(now time.Duration, op *Op, fx *Effects) {
	switch {
	case op.partial():
		c.startRMW(now, op, fx)
	case c.isLong(op):
		c.queueLong(now, op, fx)
	default:
		c.add(op)
		c.pump(now, fx)
	}
}

// unlock ends op's hold and lets the next in.
func (c *Core) unlock(now time.Duration, op *Op, fx *Effects) {
	for _, next := range c.locks.release(op, nil) {
		c.locked(now, next, fx)
	}
}

// rmw is a sub-block write on its way: it holds its range, waits until all
// earlier records are acknowledged (so that a read sees them), reads the
// blocks at its edges, and becomes a write of whole blocks.
type rmw struct {
	reads   int // inner reads not yet back
	buf     *buf.Buffer
	failure error
}

func (c *Core) startRMW(now time.Duration, op *Op, fx *Effects) {
	op.edges = &rmw{}
	c.wait(now, op, c.taken, fx)
}

// readEdges asks for the first and last block, whichever op leaves bytes of.
func (c *Core) readEdges(now time.Duration, op *Op, fx *Effects) {
	e := op.Extent
	op.edges.buf = buf.Get(int(e.Count) * block.Size)
	var first, last bool
	first = op.Head != 0
	last = op.Tail != 0 && (e.Count > 1 || !first)
	ask := func(l block.LBA) {
		op.edges.reads++
		c.read(now, &Op{Kind: OpRead, Extent: block.Extent{Start: l, Count: 1}, parent: op}, fx)
	}
	if first && last {
		op.edges.reads++ // so that an inline failure of the first does not end op early
		ask(e.Start)
		op.edges.reads--
	} else if first {
		ask(e.Start)
	}
	if last {
		ask(e.End() - 1)
	}
}

// EdgeRead: the shell has filled data, the 4 KiB of an inner read, or failed.
func (c *Core) EdgeRead(now time.Duration, inner *Op, data []byte, err error, fx *Effects) {
	if c.state == stateFenced {
		return // the write has failed, and may be another one by now
	}
	op := inner.parent
	r := op.edges
	r.reads--
	if err != nil {
		r.failure = err
	} else {
		at := int(inner.Extent.Start-op.Extent.Start) * block.Size
		copy(r.buf.Bytes()[at:at+block.Size], data)
	}
	if r.reads == 0 {
		c.endRMW(now, op, fx)
	}
}

// endRMW lays the client's bytes over the edges and gives the write its place.
func (c *Core) endRMW(now time.Duration, op *Op, fx *Effects) {
	r := op.edges
	op.edges = nil
	if r.failure != nil {
		r.buf.Release()
		c.finish(op, r.failure, fx)
		c.unlock(now, op, fx)
		c.roomFreed(now, op.bytes, fx)
		return
	}
	n := int(op.Extent.Count) * block.Size
	dst := r.buf.Bytes()[op.Head : n-int(op.Tail)]
	if op.Buf != nil {
		copy(dst, op.Buf.Bytes()[op.BufOff:])
		op.Buf.Release()
	} else {
		clear(dst) // a write of zeros that does not cover its blocks
	}
	op.Buf, op.BufOff, op.Head, op.Tail, op.Kind = r.buf, 0, 0, 0, OpWrite
	op.Sums = op.Sums[:0]
	for i := 0; i < n; i += block.Size {
		op.Sums = append(op.Sums, codec.CRC(r.buf.Bytes()[i:i+block.Size]))
	}
	c.add(op)
	c.unlock(now, op, fx)
	c.pump(now, fx)
}

// barrierMet ends a flush, or lets a sub-block write read.
func (c *Core) barrierMet(now time.Duration, op *Op, fx *Effects) {
	if op.edges != nil {
		c.readEdges(now, op, fx)
		return
	}
	c.finish(op, nil, fx)
}
