package core

import (
	"ashlar.dev/pkg/storeproto"
)

// OpKind says what a shell has to make durable for an op.
type OpKind uint8

// The kinds. All ops of a group must be durable before Durable is called; within
// a group the shell may write in any order, since no answer of a group goes out
// before all of it is durable, but rows of one key change in the order of the ops.
const (
	// OpAnswer writes nothing; it only keeps its place among the answers.
	OpAnswer OpKind = iota
	// OpAppend writes Append.Batch: a journal batch to the log, a meta batch to
	// the index. With Creates the stream's row is written too; a creation counts
	// when both are there. The shell sets Pos. Released of a meta append is part
	// of the row.
	OpAppend
	// OpFence persists Fence.Volume's fence: epoch, holder and naming.
	OpFence
	// OpDrop removes the rows and the meta batches of Control.Dropped, and leaves
	// for each a row that says when it was dropped.
	OpDrop
	// OpTombstones persists Control.Tombstones and forgets Control.Pruned.
	OpTombstones
	// OpShard makes a shard visible whose data is durable: the shell's own write, Control.Shard.
	OpShard
	// OpPG persists Control.PGs.
	OpPG
)

// Op is one entry of the queue.
type Op struct {
	Kind    OpKind
	Append  *storeproto.Append
	Stream  *Stream // of an append; nil if it was refused before one was found
	Creates bool    // this append creates Stream
	Pos     Position
	Fence   *Fencing
	Control *Control
	Err     error // why it was refused; then Kind is OpAnswer

	number int // of the batch in its stream
	bytes  int // of a journal batch as written
	vol    *volume
	start  uint64 // see turns
	turn   uint64
	chosen bool
	next   *Op
}

// Next is the op after this one in its group.
func (op *Op) Next() *Op { return op.next }

type opList struct {
	first, last *Op
	n           int
	records     int // see records
	bytes       int // of journal batches
}

// records is what op counts for among those who wait: an append stands for as many
// writers as it has records.
func (op *Op) records() int {
	if op.Kind == OpAppend {
		return int(op.Append.Batch.Count)
	}
	return 1
}

func (l *opList) push(op *Op) {
	op.next = nil
	if l.last == nil {
		l.first = op
	} else {
		l.last.next = op
	}
	l.last = op
	l.n++
	l.records += op.records()
	l.bytes += op.bytes
}

func (l *opList) pop() *Op {
	op := l.first
	l.first = op.next
	if l.first == nil {
		l.last = nil
	}
	op.next = nil
	l.n--
	l.records -= op.records()
	l.bytes -= op.bytes
	return op
}

// Group is what of the queue becomes durable together.
type Group struct {
	ops opList
	// Journal counts the journal batches to write, and their bytes.
	Journal      int
	JournalBytes int
	// Index counts the ops that change the index.
	Index int
}

// push adds what was taken from the queue.
func (g *Group) push(op *Op) {
	if op.bytes > 0 {
		g.Journal++
		g.JournalBytes += op.bytes
	}
	if op.Kind != OpAnswer && (op.bytes == 0 || op.Creates) {
		g.Index++
	}
	g.ops.push(op)
}

// First is the first op of the group; follow Next.
func (g *Group) First() *Op { return g.ops.first }

// Records is what Queued counted of the group's ops.
func (g *Group) Records() int { return g.ops.records }

// Len is the ops in the group.
func (g *Group) Len() int { return g.ops.n }

func (c *Core) newOp() *Op {
	if op := c.freeOps; op != nil {
		c.freeOps = op.next
		*op = Op{}
		return op
	}
	return &Op{}
}

func (c *Core) freeOp(op *Op) {
	*op = Op{next: c.freeOps}
	c.freeOps = op
}

// enqueue gives op its place, or answers it when there is nothing to wait for.
func (c *Core) enqueue(op *Op) {
	if op.Kind == OpAnswer && c.queue.n == 0 && c.out == nil {
		c.reply(op)
		c.freeOp(op)
		return
	}
	if op.Kind == OpAppend && op.Append.Stream.Kind == storeproto.Journal {
		op.bytes = storeproto.HeaderSize + op.Append.Batch.BodySize()
	}
	c.giveTurn(op)
	c.queue.push(op)
}

// Waiting tells whether Take would give a group.
func (c *Core) Waiting() bool { return c.queue.n > 0 && c.out == nil && c.dead == nil }

// Queued is how much waits for a group: the records of appends, and other requests.
func (c *Core) Queued() int { return c.queue.records }

// Take gives the next group: all of the queue if it fits in both limits, else as
// much as fits of those whose turn it is, at least one op. It gives nil when the queue is empty
// or a group is out. The group is valid until Durable.
func (c *Core) Take(opsMax, journalBytesMax int) *Group {
	if !c.Waiting() {
		return nil
	}
	g := &c.group
	*g = Group{}
	if c.queue.n <= opsMax && c.queue.bytes <= journalBytesMax {
		c.takeAll(g)
	} else {
		c.takeTurns(g, opsMax, journalBytesMax)
	}
	c.out = g
	return g
}

// Durable tells that all of g is durable, with Pos set in its appends. After it
// the answers are there, in order.
func (c *Core) Durable(g *Group) {
	if c.out != g {
		panic("core: a group is durable that is not out")
	}
	if c.dead != nil {
		c.Abandon(g)
		return
	}
	for g.ops.n > 0 {
		op := g.ops.pop()
		c.settle(op)
		c.reply(op)
		c.freeOp(op)
	}
	c.out = nil
}

// Abandon answers a group that was out when the core was killed, or that the
// shell could not write; the core must be dead.
func (c *Core) Abandon(g *Group) {
	if c.out != g || c.dead == nil {
		panic("core: a group is abandoned that is not out, or by a living core")
	}
	for g.ops.n > 0 {
		c.fail(g.ops.pop())
	}
	c.out = nil
}

// settle moves the state by a durable op.
func (c *Core) settle(op *Op) {
	switch op.Kind {
	case OpAppend:
		if !op.Stream.dropped {
			c.appended(op)
		} else {
			// Dropped behind it in the queue: durable, and free by that drop, which
			// has the whole stream forgotten when it is durable itself.
			s := op.Stream
			b := &s.batches()[op.number-s.gone]
			b.Pos = op.Pos
			s.durable = b.Last()
		}
	case OpFence:
		c.fenced(op.Fence)
	case OpDrop:
		c.droppedDurable(op.Control)
	}
}

// reply puts op's answer up for delivery. A fence is answered when it is durable
// and nobody can count a grant any more.
func (c *Core) reply(op *Op) {
	switch {
	case op.Append != nil:
		op.Append.Err = op.Err
		op.Append.Tail = 0
		if op.Err == nil {
			op.Append.Tail = op.Stream.durable
		}
		c.replies = append(c.replies, Reply{Append: op.Append})
	case op.Fence != nil:
		if op.Err != nil {
			op.Fence.Err = op.Err
			c.replies = append(c.replies, Reply{Fence: op.Fence})
		}
	case op.Control != nil:
		op.Control.Err = op.Err
		c.replies = append(c.replies, Reply{Control: op.Control})
	}
}
