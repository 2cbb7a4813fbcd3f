package core

import (
	"fmt"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
	"ashlar.dev/pkg/storeproto"
)

// Config fixes what does not change while one epoch owns the volume.
type Config struct {
	Volume id.Volume
	Epoch  id.Epoch
	Blocks block.LBA // size
	Budget *blockmap.Budget
	Memory *Memory // of the process; nil: only Limits.UnpackedBytesMax counts
	Limits Limits
	// Leftovers: older epochs took segment ids, and nobody has looked for what they left since.
	Leftovers bool
	// Origin is what the volume began with, by metad's word; nil: empty. It counts until there is a checkpoint.
	Origin *lineage.Origin
	// Restored, of a volume that was made from an archive: what was allotted to it.
	Restored *Restored
	// Frozen: it takes no writes, for it is to be rolled back.
	Frozen bool
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
	corks    int            // above zero: more writes are coming at once
	keep     hold           // nothing behind a mark is sent
	inflight []*appendBatch // sent, not acknowledged, in LSN order
	entering []*appendBatch // scratch
	barriers []*Op          // sub-block writes and flushes that wait for an acknowledgement
	taken    id.LSN         // the LSN that the newest record taken has or will have
	assigned id.LSN         // the last LSN sent
	acked    id.LSN

	active      *memtable
	spare       []map[block.LBA]entry // of memtables that are gone
	sealed      []*memtable           // the oldest first; those before applied are in the map
	touched     time.Duration
	long        longState
	ids         idRanges
	groups      groupView
	packs       int // jobs in flight behind
	retry       []*PackJob
	retryAt     time.Duration
	pageRetryAt time.Duration
	pageWaiters map[pageKey][]*Op
	pageBusy    map[pageKey]bool
	readWaiters []readWaiter
	parked      []parkedRead // too few shards answered; tried again

	origin   *lineage.Origin // nil: all its map has is its own
	m        *blockmap.Map
	table    *blockmap.Table
	pageSegs map[id.Segment]blockmap.Entry // segments that hold pages of the segment table
	meta     metaState
	apply    []*commitState
	check    checkState
	deletes  map[id.Segment]bool // on their way
	usage    usage
	clean    cleanState
	recode   recodeState
	reap     reapState
	snaps    snapState
	archive  foreignState
	flatten  flattenState
	drain    drainState
	hurried  time.Duration // when an old ensemble was last worked for
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
	Full            bool // new bytes are refused, for stores have no room
	Refused         bool // a store is taken for full, for it refused new bytes lately
	JournalAcked    id.LSN
	CheckpointAt    id.LSN
	SegmentsDeleted uint64
	Problem         string // plain words; empty: none

	// What the segments hold: bytes of blocks that the map refers to, of those beside them
	// that nobody does, and of segments that are dead wholly and wait for a checkpoint.
	LiveBytes, DeadBytes, DeadSegmentBytes uint64
	// PageBytes are those of segments with pages of the map.
	PageBytes uint64
	// Cleaning: a job is under way. Counts since the volume was opened; BlocksCleaned were written for it.
	Cleaning           bool
	SegmentsRecoded    uint64 // of those rewritten
	PagesRenewed       uint64 // moved by a checkpoint, so that their segments die
	SegmentsRewritten  uint64
	SegmentsMerged     uint64
	BlocksCleaned      uint64
	GenerationsDeleted uint64
	CleanProblem       string
	Snapshots          int    // that stand, or whose mark is taken
	SnapshotsLeaving   int    // of these, being deleted
	Leftovers          uint64 // segments of older epochs that nothing names, found and deleted
	// CleanLeftBytes are dead beyond what may lie about; BlocksReclaimed were dropped by cleaning.
	CleanLeftBytes  uint64
	BlocksReclaimed uint64

	// Of a volume that was made from an archive: its segments, those that still lie there,
	// what was brought in since it was opened, and what keeps the rest from it.
	ArchiveSegments, ArchiveLeft     uint32
	SegmentsHydrated, BlocksHydrated uint64
	HydrateProblem                   string

	// Of a clone that is being flattened: blocks copied since it was opened, those of ancestors that its head was found
	// to have, what keeps them from being copied, and the snapshots that read ancestors.
	Flatten                    FlattenState
	FlattenCopied, FlattenLeft uint64
	FlattenBlocksPerSecond     uint64
	FlattenProblem             string
	FlattenHeld                []id.Raw
}

// Stats gives the present facts.
func (c *Core) Stats() Stats {
	s := c.stats
	s.UnpackedBytes, s.Memtables = c.unpacked, len(c.sealed)+1
	s.WaitingForRoom, s.JournalAcked, s.Full, s.Refused = len(c.room), c.acked, c.groups.full(), c.groups.relentAt != 0
	if c.m != nil {
		st := c.m.Stats()
		s.MapPages, s.MapDirty = st.Pages, st.Dirty
	}
	if c.table != nil {
		s.Segments = c.table.Len()
		u := &c.usage
		s.DeadSegments = u.Dead
		s.LiveBytes, s.DeadBytes = u.Live*block.Size, (u.Slots-u.Live)*block.Size
		s.DeadSegmentBytes, s.PageBytes = u.DeadSlots*block.Size, u.Pages*block.Size
		for i := range c.clean.older {
			s.DeadSegmentBytes += uint64(c.clean.older[i].where.stored()) * block.Size
		}
		s.Cleaning = c.clean.job != nil
		if allowed, _, _ := c.cleanPace(); c.cfg.Limits.CleanPercent >= 0 && u.Slots-u.Live > allowed {
			s.CleanLeftBytes = (u.Slots - u.Live - allowed) * block.Size
		}
	}
	s.CheckpointAt = c.check.committed
	c.archiveStats(&s)
	c.flattenStats(&s)
	s.Snapshots, s.SnapshotsLeaving = len(c.snaps.list)+len(c.snaps.marks), len(c.snaps.doomed)
	return s
}

// Blocks is the size of the volume.
func (c *Core) Blocks() block.LBA { return c.blocks }

// Resize makes the volume larger; a smaller size is ignored, it cannot happen.
func (c *Core) Resize(blocks block.LBA) {
	c.blocks = max(c.blocks, blocks)
	if c.m != nil {
		c.m.Grow(blocks)
	}
}

// Submit takes one operation.
func (c *Core) Submit(now time.Duration, op *Op, fx *Effects) {
	if err := c.refuse(op); err != nil {
		c.finish(op, err, fx)
		return
	}
	switch op.Kind {
	case OpRead, OpStatus, OpFind:
		c.read(now, op, fx)
	case OpMark:
		c.takeMark(now, op, fx)
	case OpFlush:
		c.wait(now, op, c.taken, fx) // a flush waits for the writes taken before it
	default:
		c.admit(now, op, fx)
	}
	c.absorb(now, fx)
}

// finish ends op: it goes back to its sender.
func (c *Core) finish(op *Op, err error, fx *Effects) {
	if op.ended {
		panic("volume: an operation ended twice")
	}
	op.ended, op.Err = true, err
	fx.Done = append(fx.Done, op)
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
	case c.frozen(op):
		return errRolling
	case c.groups.full() && (op.Kind == OpWrite || op.partial()):
		return errFull
	case op.Kind != OpFlush && op.Kind != OpMark && op.Snapshot == id.Raw{} && (op.Extent.Count == 0 || op.Extent.End() > c.blocks):
		return fmt.Errorf("%v of a volume of %d blocks: %w", op.Extent, c.blocks, block.ErrRange)
	}
	return nil
}

// metaState is what carries a meta record to the stream.
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

// errFull is the answer to new bytes when no store has room.
var errFull = fmt.Errorf("all stores are full: %w", errs.ErrNoSpace)
