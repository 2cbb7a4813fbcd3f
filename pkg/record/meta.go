package record

import (
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// MetaKind is the kind of a record in the meta stream.
type MetaKind uint8

// The kinds of meta records. Values are part of the format.
const (
	MetaCommit       MetaKind = 1
	MetaCheckpoint   MetaKind = 2
	MetaDeleted      MetaKind = 3
	MetaSnapshotRoot MetaKind = 4 // reserved; nothing writes it yet and readers refuse it
)

// Commit says where the blocks of a sealed memtable lie now. Once all earlier
// commits are applied too, everything at or below Covered is covered. The parts
// are disjoint: each block is in at most one of them, with its final state, so
// they may be applied in any order.
type Commit struct {
	Covered  id.LSN
	Flags    uint8 // none is defined yet: zero
	Segments []CommitSegment
	Zeros    []block.Extent
	Trims    []block.Extent
	Placed   []Placed // what remains of index records
	Marks    []SnapshotMark
}

// CommitSegment is one new segment: its table entry, and what each slot holds,
// Entry.Slots of them in slot order.
type CommitSegment struct {
	Segment id.Segment
	Entry   blockmap.Entry
	Slots   []segment.Entry
}

// PageSegment is a segment with pages of a checkpoint, and its table entry.
type PageSegment struct {
	Segment id.Segment
	Entry   blockmap.Entry
}

// Checkpoint has everything to open a volume but the journal and the commits after it.
type Checkpoint struct {
	Volume    id.Volume
	Epoch     id.Epoch
	Map       blockmap.Root
	Table     blockmap.Root
	Covered   id.LSN      // journal records at or below are in the map
	Meta      id.LSN      // meta records at or below are in the map and table
	Watermark id.Sequence // see the lineage of snapshots; 0 for none
	Blocks    block.LBA   // size of the disk
	Pages     []PageSegment
}

// Meta is one record of the meta stream; the field of its kind is set.
type Meta struct {
	Position   id.LSN
	Kind       MetaKind
	Commit     *Commit
	Checkpoint *Checkpoint
	Deleted    []storeproto.SegmentGeneration
}

// AppendCommit appends a commit record to the Meta bytes of a batch.
func AppendCommit(dst []byte, c *Commit) []byte { panic("record: being written") }

// AppendCheckpoint appends a checkpoint record to the Meta bytes of a batch.
func AppendCheckpoint(dst []byte, c *Checkpoint) []byte { panic("record: being written") }

// AppendDeleted appends the record that segments were dropped by name.
func AppendDeleted(dst []byte, s []storeproto.SegmentGeneration) []byte {
	panic("record: being written")
}

// EncodeCheckpoint gives a checkpoint alone, with magic, version and sum: the
// form that is committed to metad.
func EncodeCheckpoint(c *Checkpoint) []byte { panic("record: being written") }

// DecodeCheckpoint reads what EncodeCheckpoint wrote.
func DecodeCheckpoint(place string, b []byte) (*Checkpoint, error) { panic("record: being written") }

// ReadMeta decodes the Meta bytes of a batch of the meta stream that begins at
// first and has count records. The result shares no memory with meta.
func ReadMeta(place string, meta []byte, first id.LSN, count uint32) ([]Meta, error) {
	panic("record: being written")
}
