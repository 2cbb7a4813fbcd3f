package core

import (
	"ashlar.dev/blockd/journal"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Effects is what a step wants done. The shell takes the mutex, steps, unlocks,
// and only then carries effects out; each outcome comes back as another step.
// Nothing in it says that an earlier effect must have ended before a later one
// begins: where an order matters, the core waits for the outcome itself.
type Effects struct {
	Journal journal.Effects

	// Done are operations that have ended: Err says how. A write in Done is durable on two stores.
	Done []*Op
	// Reads may be filled: the shell reads the pieces and ends the operation. It
	// gives the operation to Core.Reread when a segment has gone meanwhile.
	Reads []*Op
	// Pages are pages of the block map to read (Core.PageDone).
	Pages []PageRead
	// Packs are segments to encode and put (Core.PackDone).
	Packs []*PackJob
	// CleanList asks for the headers of a job's victims (Core.CleanListed), CleanRead for its
	// blocks (Core.CleanRead). The shell reports both, whatever became of the core.
	CleanList, CleanRead *CleanJob
	// Deletes are segments to delete by name on all their stores (Core.DeleteDone).
	Deletes []Delete
	// Range asks metad for segment ids (Core.RangeDone); Placement for a placement
	// group without the suspects (Core.PlacementDone).
	Range     bool
	Placement []id.Store
	AskPlace  bool
	// Checkpoint is to be committed in metad (Core.CheckpointDone).
	Checkpoint *Checkpoint
	// Reap asks for what stores have of older epochs (Core.Leftovers, Core.ReapListed); Reaped:
	// nothing of it is left.
	Reap   bool
	Reaped bool
	// Gone are snapshots of which no checkpoint in force has anything any more.
	Gone []id.Raw
	// HydrateList asks what the slots of segments in the archive hold (Core.HydrateListed), HydrateRead
	// for blocks of them (Core.HydrateRead). Both are reported, whatever became of the core.
	HydrateList, HydrateRead []*HydrateJob
	// FlattenRead asks for blocks of ancestors (Core.FlattenRead). It is reported, whatever became of the core.
	FlattenRead []*FlattenJob
	// Flat: nothing of the volume reads an ancestor any more, and no checkpoint in force says so.
	Flat bool
	// Whole: nothing lies in the archive any more, and no checkpoint in force says so.
	Whole bool
	// RolledBack: metad has a checkpoint in which the volume is as Core.Rollback asked.
	RolledBack bool
	// Again asks for another Core.Continue soon: work was cut to keep a step short.
	Again bool
	// Opened, Drained and Fenced are said once each: the volume serves; everything
	// is packed and released, after Core.Drain; a later epoch is in force and
	// every operation has been failed.
	Opened  bool
	Drained bool
	Fenced  bool
	// Broken: the volume cannot go on (its own metadata is unreadable); nothing was acknowledged since.
	Broken error
}

// reset empties fx but keeps its memory.
func (fx *Effects) Reset() {
	fx.Journal.Reset()
	clear(fx.Done)
	clear(fx.Reads)
	clear(fx.Packs)
	clear(fx.HydrateList)
	clear(fx.HydrateRead)
	clear(fx.FlattenRead)
	*fx = Effects{
		Journal: fx.Journal, Done: fx.Done[:0], Reads: fx.Reads[:0], Pages: fx.Pages[:0],
		Packs: fx.Packs[:0], Deletes: fx.Deletes[:0], Gone: fx.Gone[:0],
		HydrateList: fx.HydrateList[:0], HydrateRead: fx.HydrateRead[:0], FlattenRead: fx.FlattenRead[:0],
	}
}

// PageRead asks for the bytes of one page of the map or the segment table.
type PageRead struct {
	Miss  blockmap.Miss
	Where Where
	Table bool

	of pageOwner
}

// pageOwner says who wants a page: the head's map or table (zero), the tree of a
// snapshot, the walk that deletes one, or the look for ancestors in one.
type pageOwner struct {
	watermark id.Sequence
	walk      bool
	look      bool
}

// pageKey is a page that somebody wants.
type pageKey struct {
	pageOwner
	blockmap.Miss
}

// PackJob is one segment to be written: its blocks in slot order. Data of blocks
// belongs to the core and stays until PackDone or, where that says Held, until
// PackFreed. The shell encodes k+m shards, puts each on the store of its place in
// the version of the group, and reports success only when all are durable. It
// reports every job, whatever became of the core.
type PackJob struct {
	Segment id.Segment
	Entry   blockmap.Entry // generation, version of the group, k, m, slots
	Blocks  []PackBlock
	Lane    Lane
	Room    storeproto.Room // how far it may fill the stores

	// Encode, if set, writes the block of slot i; its Sum is then the shell's to compute.
	// It may run beside other steps of the core.
	Encode func(i int, dst []byte)

	// Slots, of a segment that is rewritten: the entries of all slots, zero for those that
	// are dropped. Blocks are the others.
	Slots []uint64

	table   *memtable
	pages   *checkpointState
	long    *longRun
	clean   *CleanJob
	hydrate *HydrateJob
	flatten *FlattenJob
	failed  int
	refused bool   // stores had no room for it
	marks   uint64 // of snapshots that were taken when it got its name
}

// Lane is a job's urgency.
type Lane uint8

// A long write's client waits for its job; the others run behind.
const (
	LaneLong Lane = iota
	LanePack
	LaneCheckpoint
	LaneClean
	LaneHydrate
	LaneFlatten
)

// PackBlock is one slot: its header entry, the CRC-32C of its bytes, and the bytes (4 KiB).
type PackBlock struct {
	Entry uint64
	Sum   uint32
	Data  []byte // nil where the job has Encode
}

// PackResult is what became of a job. Suspects are the stores that failed it,
// Full those that have no room for it.
// Held: a store that did not answer in time may still read the blocks; the shell
// calls Core.PackFreed when none does any more.
type PackResult struct {
	Err      error
	Suspects []id.Store
	Full     []id.Store
	Held     bool
}

// Delete names a segment and how it was kept. All its generations up to Upto go, from the stores of its group and
// from those of On.
type Delete struct {
	Segment id.Segment
	Where   Where
	Upto    id.Generation
	On      []cluster.StoreRef

	replaced id.Generation // what has taken its place; zero: nothing

	abandoned bool // never committed: not in any table
	leftover  bool // of an older epoch, and counted by the reaping
}

// Checkpoint is what metad keeps of one: the numbers it compares and the record itself.
type Checkpoint struct {
	Epoch    id.Epoch
	Position id.LSN // in the meta stream; what it stands for
	Covered  id.LSN
	Record   []byte
}

// batchSend is the form in which a journal batch travels through the pool.
type batchSend = storeproto.Batch
