package record

import (
	"cmp"
	"encoding/binary"
	"fmt"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
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
	MetaMoved        MetaKind = 5
	MetaRewritten    MetaKind = 6
	MetaHydrated     MetaKind = 7
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

// Moved says that blocks lie in another segment now as well, with the same bytes:
// slot i of the new segment has what is at From[i]. It counts for those blocks that
// are still at From[i] when it is applied, and for no other.
type Moved struct {
	CommitSegment               // data in every slot
	From          []id.Location // one for each slot
}

// Rewritten says that a segment has another generation, with fewer slots kept or of another code, and the rest as it was.
type Rewritten struct {
	Segment id.Segment
	Entry   blockmap.Entry
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
	Watermark id.Sequence // of the newest snapshot; 0 for none
	Blocks    block.LBA   // size of the disk
	Pages     []PageSegment
	Snapshots []Snapshot // the oldest first
	Parent    id.Raw     // the snapshot that the disk goes on from, one of Snapshots; zero for none
	// Origin is what the volume began with, if not empty: until it is flattened its map has
	// locations at or below the origin's watermark, which its table does not know.
	Origin  *lineage.Origin
	Archive *Archive // nil: nothing of the volume lies in one
}

// Snapshot is one that a checkpoint keeps: the tree of what the disk held at its mark.
// Every segment id at or below the watermark was committed before the mark, or is of
// this tree's pages, or never counts; the watermarks of a list rise.
type Snapshot struct {
	ID        id.Raw
	Root      blockmap.Root
	Watermark id.Sequence
	Blocks    block.LBA // size of the disk then, or more
	// Parent is the snapshot that the disk went on from when this one was taken, one before it in
	// the list, or what that one went on from if it was deleted since; zero for none.
	Parent id.Raw
}

// Meta is one record of the meta stream; the field of its kind is set.
type Meta struct {
	Position   id.LSN
	Kind       MetaKind
	Commit     *Commit
	Checkpoint *Checkpoint
	Deleted    []storeproto.SegmentGeneration
	Moved      *Moved
	Rewritten  *Rewritten
	Hydrated   *Hydrated
}

// Limits of what a reader accepts, and a writer must keep to.
const (
	// ExtentsMax bounds each list of extents, placed extents and marks in a commit.
	ExtentsMax = 1 << 20
	// SegmentsMax bounds the segments in a commit or checkpoint or deleted record.
	SegmentsMax = 1 << 16
	// SnapshotsMax bounds the snapshots of a volume.
	SnapshotsMax = 256
	// SlotsMax bounds the slots of all segments of all commits in one batch.
	SlotsMax = 1 << 22
)

const (
	metaVersion = 1

	// A checkpoint with snapshots is of version 2, as a record and alone; one of a volume with an
	// origin, or whose snapshots do not follow one another, of version 3; one that has something in
	// an archive of version 4; any other is as it always was.
	checkpointSnapshots = 2
	checkpointLineage   = 3
	checkpointArchive   = 4

	checkpointMagic   = 0x50435341 // "ASCP"
	checkpointVersion = 1
	checkpointFrame   = 4 + 2 + 2 + 4 // magic, version, reserved, sum
	checkpointSizeMin = 16 + 1 + 9 + 9 + 5
)

// A record is kind, version, length of the body in four bytes, body.
const metaHeadSize = 6

// begin appends the head of a record; end puts in the length of what was appended since.
func begin(dst []byte, kind MetaKind) []byte {
	return append(dst, uint8(kind), metaVersion, 0, 0, 0, 0)
}

func end(b []byte, start int) []byte {
	binary.LittleEndian.PutUint32(b[start+2:], uint32(len(b)-start-metaHeadSize))
	return b
}

// AppendCommit appends a commit record to the Meta bytes of a batch. It panics if
// c breaks the rules of its parts.
func AppendCommit(dst []byte, c *Commit) []byte {
	b := binary.AppendUvarint(begin(dst, MetaCommit), uint64(c.Covered))
	b = append(b, c.Flags)
	b = binary.AppendUvarint(b, uint64(len(c.Segments)))
	for i := range c.Segments {
		s := &c.Segments[i]
		if len(s.Slots) != int(s.Entry.Slots) {
			panic(fmt.Sprintf("record: segment %s of %d slots with %d", s.Segment, s.Entry.Slots, len(s.Slots)))
		}
		b = appendSegment(b, s.Segment, s.Entry)
		b = segment.AppendEntries(b, s.Slots)
	}
	b = appendExtents(b, c.Zeros)
	b = appendExtents(b, c.Trims)
	b = binary.AppendUvarint(b, uint64(len(c.Placed)))
	var next block.LBA
	for i := range c.Placed {
		p := &c.Placed[i]
		checkExtent(p.Extent)
		b = binary.AppendUvarint(b, uint64(p.Extent.Count))
		b = appendStart(b, next, p.Extent.Start)
		b = appendPlaced(b, p)
		next = p.Extent.End()
	}
	b = binary.AppendUvarint(b, uint64(len(c.Marks)))
	for i := range c.Marks {
		b = appendMark(b, &c.Marks[i])
	}
	return end(b, len(dst))
}

// AppendCheckpoint appends a checkpoint record to the Meta bytes of a batch. It
// panics if c breaks its rules.
func AppendCheckpoint(dst []byte, c *Checkpoint) []byte {
	at := len(dst)
	dst = begin(dst, MetaCheckpoint)
	dst[at+1] = uint8(c.version())
	return end(appendCheckpoint(dst, c), at)
}

// version is that of a checkpoint, alone and as a record: the lowest that can say what it has to.
func (c *Checkpoint) version() uint16 {
	switch {
	case c.Archive != nil:
		return checkpointArchive
	case c.Origin != nil || !c.linear():
		return checkpointLineage
	case len(c.Snapshots) > 0:
		return checkpointSnapshots
	}
	return checkpointVersion
}

// linear tells whether each snapshot follows the one before it, and the disk the newest.
func (c *Checkpoint) linear() bool {
	var last id.Raw
	for i := range c.Snapshots {
		if c.Snapshots[i].Parent != last {
			return false
		}
		last = c.Snapshots[i].ID
	}
	return c.Parent == last
}

// line makes it so.
func (c *Checkpoint) line() {
	c.Parent = id.Raw{}
	for i := range c.Snapshots {
		c.Snapshots[i].Parent, c.Parent = c.Parent, c.Snapshots[i].ID
	}
}

// parentIndex is the place of a parent among the first n snapshots, from 1 on; 0: there is none. -1: it is not there.
func (c *Checkpoint) parentIndex(p id.Raw, n int) int {
	if p == (id.Raw{}) {
		return 0
	}
	for i := range n {
		if c.Snapshots[i].ID == p {
			return i + 1
		}
	}
	return -1
}

// AppendDeleted appends the record that segments were dropped by name.
func AppendDeleted(dst []byte, s []storeproto.SegmentGeneration) []byte {
	b := binary.AppendUvarint(begin(dst, MetaDeleted), uint64(len(s)))
	for _, s := range s {
		if !s.Segment.Valid() {
			panic("record: deleted segment " + s.Segment.String())
		}
		b = binary.AppendUvarint(b, uint64(s.Segment))
		b = binary.AppendUvarint(b, uint64(s.Generation.Epoch))
		b = binary.AppendUvarint(b, uint64(s.Generation.N))
	}
	return end(b, len(dst))
}

// check gives what is wrong with the checkpoint; "" for nothing.
func (c *Checkpoint) check() string {
	switch {
	case c.Epoch == 0:
		return "epoch of a checkpoint"
	case !c.Map.Valid():
		return "root of the map"
	case !c.Table.Valid():
		return "root of the table"
	case c.Watermark > id.SequenceMax:
		return "watermark"
	case c.Blocks > block.LBAMax:
		return "size in blocks"
	}
	return ""
}

// checkSnapshots gives what is wrong with the list; "" for nothing.
func (c *Checkpoint) checkSnapshots() string {
	for i := range c.Snapshots {
		s := &c.Snapshots[i]
		switch {
		case s.ID == id.Raw{}:
			return "id of a snapshot"
		case !s.Root.Valid():
			return "root of a snapshot"
		case s.Blocks > block.LBAMax:
			return "size of a snapshot"
		case c.parentIndex(s.Parent, i) < 0:
			return "parent of a snapshot"
		case s.Watermark <= c.Origin.Floor() || i > 0 && s.Watermark <= c.Snapshots[i-1].Watermark:
			return "watermark of a snapshot"
		case i == len(c.Snapshots)-1 && s.Watermark != c.Watermark:
			return "watermark of the newest snapshot"
		}
	}
	if c.parentIndex(c.Parent, len(c.Snapshots)) < 0 {
		return "parent of the disk"
	}
	return ""
}

func appendCheckpoint(dst []byte, c *Checkpoint) []byte {
	what := cmp.Or(c.check(), c.checkSnapshots())
	if c.Archive != nil {
		what = cmp.Or(what, c.Archive.Check())
	}
	if what != "" {
		panic("record: a checkpoint with a wrong " + what)
	}
	version := c.version()
	dst = append(dst, c.Volume[:]...)
	dst = binary.AppendUvarint(dst, uint64(c.Epoch))
	dst = appendRoot(appendRoot(dst, c.Map), c.Table)
	dst = binary.AppendUvarint(dst, uint64(c.Covered))
	dst = binary.AppendUvarint(dst, uint64(c.Meta))
	dst = binary.AppendUvarint(dst, uint64(c.Watermark))
	dst = binary.AppendUvarint(dst, uint64(c.Blocks))
	dst = binary.AppendUvarint(dst, uint64(len(c.Pages)))
	for i := range c.Pages {
		dst = appendSegment(dst, c.Pages[i].Segment, c.Pages[i].Entry)
	}
	if version >= checkpointLineage {
		dst = lineage.Append(dst, c.Origin)
	}
	if version < checkpointSnapshots {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(len(c.Snapshots)))
	for i := range c.Snapshots {
		s := &c.Snapshots[i]
		dst = appendRoot(append(dst, s.ID[:]...), s.Root)
		dst = binary.AppendUvarint(dst, uint64(s.Watermark))
		dst = binary.AppendUvarint(dst, uint64(s.Blocks))
		if version >= checkpointLineage {
			dst = binary.AppendUvarint(dst, uint64(c.parentIndex(s.Parent, i)))
		}
	}
	if version >= checkpointLineage {
		dst = binary.AppendUvarint(dst, uint64(c.parentIndex(c.Parent, len(c.Snapshots))))
	}
	if version >= checkpointArchive {
		dst = appendArchive(dst, c.Archive)
	}
	return dst
}

func appendRoot(dst []byte, r blockmap.Root) []byte {
	return append(binary.LittleEndian.AppendUint64(dst, uint64(r.Location)), r.Height)
}

// EncodeCheckpoint gives a checkpoint alone, with magic, version and sum: the
// form that is committed to metad.
func EncodeCheckpoint(c *Checkpoint) []byte {
	b := binary.LittleEndian.AppendUint32(nil, checkpointMagic)
	b = append(binary.LittleEndian.AppendUint16(b, c.version()), 0, 0)
	b = appendCheckpoint(b, c)
	return binary.LittleEndian.AppendUint32(b, codec.CRC(b))
}
