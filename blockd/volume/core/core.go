package core

import (
	"fmt"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Limits are the bounds of one volume. The zero value of a field takes the default.
type Limits struct {
	// UnpackedBytesMax bounds the journal payload that is not yet packed, in
	// flight included; at it writers wait.
	UnpackedBytesMax int64
	// SealBlocks and SealBytes: the active memtable is sealed at as many distinct
	// blocks, or as many journalled bytes.
	SealBlocks int
	SealBytes  int64
	// SealIdle: it is sealed when nothing was written for as long.
	SealIdle time.Duration
	// BatchesInFlight bounds the journal appends that are not yet acknowledged;
	// what arrives meanwhile shares the next one.
	BatchesInFlight int
	// PacksInFlight bounds the segments that are being written behind, LongInFlight those of long writes.
	PacksInFlight int
	LongInFlight  int
	// LongBlocksMin: a write of as many whole blocks goes straight to a segment. 0 takes the default, negative: never.
	LongBlocksMin int
	// CheckpointBytes of packed data or CheckpointMeta bytes of meta records since the last cause a
	// checkpoint, and so do CheckpointDirty dirty pages or CheckpointDead bytes of dead segments.
	CheckpointBytes int64
	CheckpointMeta  int64
	CheckpointDirty int
	CheckpointDead  int64
}

// EnsureDefaults fills what is zero.
func (l *Limits) EnsureDefaults() {
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	defInt := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&l.UnpackedBytesMax, 128<<20)
	defInt(&l.SealBlocks, id.SlotsMax)
	def(&l.SealBytes, 32<<20)
	if l.SealIdle == 0 {
		l.SealIdle = 2 * time.Minute
	}
	defInt(&l.BatchesInFlight, 3)
	defInt(&l.PacksInFlight, 3)
	defInt(&l.LongInFlight, 3)
	defInt(&l.LongBlocksMin, 64)
	def(&l.CheckpointBytes, 1<<30)
	def(&l.CheckpointMeta, 8<<20)
	defInt(&l.CheckpointDirty, 8192)
	def(&l.CheckpointDead, 1<<30)
}

// Validate refuses limits that could not work together.
func (l *Limits) Validate() error {
	if l.SealBlocks < 1 || l.SealBlocks > id.SlotsMax {
		return fmt.Errorf("seal at %d blocks: want 1 to %d: %w", l.SealBlocks, id.SlotsMax, errs.ErrInvalid)
	}
	if l.UnpackedBytesMax < 2*l.SealBytes {
		return fmt.Errorf("unpacked limit of %d bytes is below two memtables of %d: %w", l.UnpackedBytesMax, l.SealBytes, errs.ErrInvalid)
	}
	return nil
}

// Config fixes what does not change while one epoch owns the volume.
type Config struct {
	Volume id.Volume
	Epoch  id.Epoch
	Blocks block.LBA // size
	Budget *blockmap.Budget
	Limits Limits
}

// state is how far the volume is.
type state uint8

const (
	stateLoading state = iota // tables, commits and the run are being read back
	stateServing
	stateDraining
	stateDrained
	stateFenced
)

// Core is one volume's engine as a step function: it owns the journal core, the
// memtables, the block map and the segment table. It starts no goroutine, reads
// no clock and does no I/O; the caller serializes its methods (any goroutine may
// step it under the volume's mutex) and carries out the Effects.
//
// now is a duration on a clock that never goes back.
type Core struct {
	cfg     Config
	state   state
	journal *journal.Core
	blocks  block.LBA

	// The write path, in the order in which a write meets them.
	room     []*Op // wait for memory
	unpacked int64 // bytes of payload admitted and not yet packed
	locks    lockTable
	open     *appendBatch   // being filled
	queue    []*appendBatch // full, not sent
	inflight []*appendBatch // sent, not acknowledged, in LSN order
	barriers []*Op          // sub-block writes and flushes that wait for an acknowledgement
	taken    id.LSN         // the LSN that the newest record taken has or will have
	assigned id.LSN         // the last LSN sent
	acked    id.LSN

	active      *memtable
	sealed      []*memtable // the oldest first; those before applied are in the map
	touched     time.Duration
	long        longState
	ids         idRanges
	groups      groupView
	packs       int // jobs in flight behind
	retry       []*PackJob
	retryAt     time.Duration
	pageRetryAt time.Duration
	pageWaiters map[blockmap.Miss][]*Op
	pageBusy    map[blockmap.Miss]bool
	readWaiters []readWaiter

	m        *blockmap.Map
	table    *blockmap.Table
	pageSegs map[id.Segment]*pageSegment
	meta     metaState
	apply    []*commitState
	check    checkState
	deletes  map[id.Segment]bool // on their way
	load     loadState
	stats    Stats
}

// Stats are facts about the volume for status and metrics.
type Stats struct {
	UnpackedBytes   int64
	Memtables       int
	MapPages        int
	MapDirty        int
	Segments        int
	DeadSegments    int
	Checkpoints     uint64
	SegmentsPacked  uint64
	SegmentsLong    uint64
	BlocksPacked    uint64
	PackRetries     uint64
	WaitingForRoom  int
	JournalAcked    id.LSN
	CheckpointAt    id.LSN
	SegmentsDeleted uint64
	Problem         string // plain words; empty: none
}

// Stats gives the present facts.
func (c *Core) Stats() Stats {
	s := c.stats
	s.UnpackedBytes, s.Memtables = c.unpacked, len(c.sealed)+1
	s.WaitingForRoom, s.JournalAcked = len(c.room), c.acked
	if c.m != nil {
		st := c.m.Stats()
		s.MapPages, s.MapDirty = st.Pages, st.Dirty
	}
	if c.table != nil {
		s.Segments = c.table.Len()
	}
	s.CheckpointAt = c.check.committed
	return s
}

// Blocks is the size of the volume.
func (c *Core) Blocks() block.LBA { return c.blocks }

// Resize makes the volume larger; a smaller size is ignored, it cannot happen.
func (c *Core) Resize(blocks block.LBA) {
	if blocks > c.blocks {
		c.blocks = blocks
		c.m.Grow(blocks)
	}
}

// Submit takes one operation.
func (c *Core) Submit(now time.Duration, op *Op, fx *Effects) {
	if err := c.refuse(op); err != nil {
		op.Err = err
		fx.Done = append(fx.Done, op)
		return
	}
	switch op.Kind {
	case OpRead, OpStatus:
		c.read(now, op, fx)
	case OpFlush:
		c.wait(now, op, c.taken, fx) // a flush waits for the writes taken before it
	default:
		c.admit(now, op, fx)
	}
	c.absorb(now, fx)
}

// refuse gives the error for an operation that cannot be taken.
func (c *Core) refuse(op *Op) error {
	switch {
	case c.state == stateFenced:
		return errs.ErrStaleEpoch
	case c.state == stateDrained || c.state == stateDraining:
		return errs.ErrClosed
	case c.state == stateLoading:
		return errs.ErrUnavailable
	case op.Kind != OpFlush && (op.Extent.Count == 0 || op.Extent.End() > c.blocks):
		return fmt.Errorf("%v of a volume of %d blocks: %w", op.Extent, c.blocks, block.ErrRange)
	}
	return nil
}

// Fence ends the core as a later epoch does: every operation fails.
func (c *Core) Fence(fx *Effects) { c.fence(fx) }

// fence ends everything: a later epoch is in force.
func (c *Core) fence(fx *Effects) {
	if c.state == stateFenced {
		return
	}
	c.state = stateFenced
	fx.Fenced = true
	fail := func(op *Op) {
		if op.parent != nil {
			op = op.parent
		}
		if op.Err == errs.ErrStaleEpoch {
			return // met in another list already
		}
		op.Err = errs.ErrStaleEpoch
		fx.Done = append(fx.Done, op)
	}
	for _, op := range c.room {
		fail(op)
	}
	for _, op := range c.locks.drain() {
		fail(op)
	}
	for _, op := range c.barriers {
		fail(op)
	}
	for _, w := range c.readWaiters {
		fail(w.op)
	}
	for _, ops := range c.pageWaiters {
		for _, op := range ops {
			fail(op)
		}
	}
	for _, b := range append(append(c.inflight, c.queue...), c.open) {
		if b != nil {
			b.each(fail)
		}
	}
	c.room, c.barriers, c.readWaiters, c.pageWaiters = nil, nil, nil, nil
	c.inflight, c.queue, c.open = nil, nil, nil
}

// drop releases what the core holds, after a fence or a drain; the core is of no use then.
func (c *Core) drop() {
	for _, m := range append(c.sealed, c.active) {
		if m != nil {
			m.drop()
		}
	}
	c.sealed, c.active = nil, nil
}

// takeMeta is what carries a meta record to the stream.
type metaState struct {
	acked    id.LSN
	inflight []metaEntry
	bytes    int64 // since the last checkpoint
}

// metaEntry is a record of the meta stream on its way.
type metaEntry struct {
	position id.LSN
	commit   *commitState
	check    *checkpointState
}

// appendMeta sends one meta record.
func (c *Core) appendMeta(now time.Duration, rec []byte, e metaEntry, fx *Effects) id.LSN {
	b := &storeproto.Batch{Count: 1, Meta: rec}
	if err := c.journal.Append(now, storeproto.Meta, b, &fx.Journal); err != nil {
		c.fence(fx)
		return 0
	}
	e.position = b.First
	c.meta.inflight = append(c.meta.inflight, e)
	c.meta.bytes += int64(len(rec))
	return e.position
}
