package record

import (
	"encoding/binary"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// ReadMeta decodes the Meta bytes of a batch of the meta stream that begins at
// first and has count records. The result shares no memory with meta.
func ReadMeta(place string, meta []byte, first id.LSN, count uint32) ([]Meta, error) {
	if most := min(len(meta)/metaHeadSize, storeproto.BatchRecordsMax); uint64(count) > uint64(most) {
		return nil, &errs.Corrupt{Place: place, What: "meta records", Want: uint64(most), Got: uint64(count)}
	}
	records := make([]Meta, count)
	slots := SlotsMax
	err := codec.Decode(place, meta, func(r *codec.Reader) {
		for i := range records {
			m := &records[i]
			m.Position = first + id.LSN(i)
			m.Kind = MetaKind(r.U8())
			v := r.U8()
			if v != metaVersion && (v == 0 || v > checkpointArchive || m.Kind != MetaCheckpoint) {
				r.Fail("version of a meta record", metaVersion, uint64(v))
			}
			end := int64(r.U32()) + int64(r.Offset())
			readMetaBody(r, m, uint16(v), &slots)
			if r.Err() == nil && int64(r.Offset()) != end {
				r.Fail("end of a meta record", uint64(end), uint64(r.Offset()))
			}
			if r.Err() != nil {
				return
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return records, nil
}

func readMetaBody(r *codec.Reader, m *Meta, version uint16, slots *int) {
	switch m.Kind {
	case MetaCommit:
		m.Commit = readCommit(r, slots)
	case MetaCheckpoint:
		m.Checkpoint = readCheckpoint(r, version)
	case MetaDeleted:
		m.Deleted = readDeleted(r)
	case MetaMoved:
		m.Moved = readMoved(r, slots)
	case MetaRewritten:
		m.Rewritten = readRewritten(r)
	case MetaHydrated:
		m.Hydrated = readHydrated(r, slots)
	default:
		r.Fail("kind of a meta record", uint64(MetaHydrated), uint64(m.Kind))
	}
}

func readCommit(r *codec.Reader, slots *int) *Commit {
	c := &Commit{Covered: id.LSN(r.Uvarint()), Flags: r.U8()}
	if c.Flags != 0 {
		r.Fail("flags of a commit", 0, uint64(c.Flags))
	}
	if n := r.Count(SegmentsMax, segmentSizeMin); n > 0 {
		c.Segments = make([]CommitSegment, n)
	}
	for i := range c.Segments {
		s := &c.Segments[i]
		s.Segment, s.Entry = readSegment(r)
		if *slots -= int(s.Entry.Slots); *slots < 0 {
			r.Fail("slots in a batch", SlotsMax, SlotsMax+1)
		}
		if r.Err() != nil {
			return c
		}
		s.Slots = make([]segment.Entry, s.Entry.Slots)
		segment.DecodeEntries(r, s.Slots)
	}
	c.Zeros = readExtents(r)
	c.Trims = readExtents(r)
	if n := r.Count(ExtentsMax, 3+segmentSizeMin); n > 0 {
		c.Placed = make([]Placed, n)
	}
	var next block.LBA
	for i := range c.Placed {
		e := readExtent(r, next, r.Uvarint())
		c.Placed[i] = readPlaced(r, e)
		next = e.End()
		if r.Err() != nil {
			return c
		}
	}
	if n := r.Count(ExtentsMax, 32); n > 0 {
		c.Marks = make([]SnapshotMark, n)
	}
	for i := range c.Marks {
		c.Marks[i] = readMark(r)
	}
	return c
}

func readRoot(r *codec.Reader) blockmap.Root {
	return blockmap.Root{Location: id.Location(r.U64()), Height: r.U8()}
}

func readCheckpoint(r *codec.Reader, version uint16) *Checkpoint {
	c := new(Checkpoint)
	r.Fill(c.Volume[:])
	c.Epoch = id.Epoch(r.Uvarint())
	c.Map, c.Table = readRoot(r), readRoot(r)
	c.Covered, c.Meta = id.LSN(r.Uvarint()), id.LSN(r.Uvarint())
	c.Watermark, c.Blocks = id.Sequence(r.Uvarint()), block.LBA(r.Uvarint())
	if what := c.check(); what != "" {
		r.Fail(what, 0, 1)
	}
	if n := r.Count(SegmentsMax, segmentSizeMin); n > 0 {
		c.Pages = make([]PageSegment, n)
	}
	for i := range c.Pages {
		c.Pages[i].Segment, c.Pages[i].Entry = readSegment(r)
		if r.Err() != nil {
			break
		}
	}
	if version >= checkpointLineage {
		c.Origin = lineage.Read(r)
	}
	if version >= checkpointSnapshots {
		readSnapshots(r, c, version)
	}
	if version >= checkpointArchive && r.Err() == nil {
		c.Archive = readArchive(r)
	}
	return c
}

// snapshotSizeMin is the least bytes of a snapshot: id, root, watermark and size.
const snapshotSizeMin = 16 + 9 + 1 + 1

func readSnapshots(r *codec.Reader, c *Checkpoint, version uint16) {
	n := r.Count(SnapshotsMax, snapshotSizeMin)
	switch {
	case n > 0:
		c.Snapshots = make([]Snapshot, n)
	case version == checkpointSnapshots:
		r.Fail("snapshots of a checkpoint that has some", 1, 0)
	}
	for i := range c.Snapshots {
		s := &c.Snapshots[i]
		r.Fill(s.ID[:])
		s.Root = readRoot(r)
		s.Watermark, s.Blocks = id.Sequence(r.Uvarint()), block.LBA(r.Uvarint())
		if s.Watermark > id.SequenceMax {
			r.Fail("watermark of a snapshot", uint64(id.SequenceMax), uint64(s.Watermark))
		}
		if version >= checkpointLineage {
			s.Parent = c.readParent(r, i)
		}
		if r.Err() != nil {
			return
		}
	}
	if version >= checkpointLineage {
		if c.Parent = c.readParent(r, len(c.Snapshots)); r.Err() == nil && version == checkpointLineage && c.Origin == nil && c.linear() {
			r.Fail("version of a checkpoint without a lineage", checkpointSnapshots, uint64(version))
		}
	} else {
		c.line()
	}
	if what := c.checkSnapshots(); what != "" {
		r.Fail(what, 0, 1)
	}
}

// readParent reads one of the first n snapshots, or that there is none.
func (c *Checkpoint) readParent(r *codec.Reader, n int) id.Raw {
	switch i := r.Uvarint(); {
	case i > uint64(n):
		r.Fail("parent of a snapshot", uint64(n), i)
	case i > 0:
		return c.Snapshots[i-1].ID
	}
	return id.Raw{}
}

func readDeleted(r *codec.Reader) []storeproto.SegmentGeneration {
	segments := make([]storeproto.SegmentGeneration, r.Count(SegmentsMax, 3))
	for i := range segments {
		s := &segments[i]
		s.Segment = id.Segment(r.Uvarint())
		s.Generation = readGeneration(r)
		if !s.Segment.Valid() {
			r.Fail("deleted segment", 1, uint64(s.Segment))
		}
		if r.Err() != nil {
			break
		}
	}
	return segments
}

// DecodeCheckpoint reads what EncodeCheckpoint wrote.
func DecodeCheckpoint(place string, b []byte) (*Checkpoint, error) {
	if len(b) < checkpointFrame+checkpointSizeMin {
		return nil, &errs.Corrupt{Place: place, What: "checkpoint bytes", Want: checkpointFrame + checkpointSizeMin, Got: uint64(len(b))}
	}
	body, tail := b[:len(b)-4], b[len(b)-4:]
	if want, got := binary.LittleEndian.Uint32(tail), codec.CRC(body); want != got {
		return nil, &errs.Corrupt{Place: place, What: "checkpoint sum", Want: uint64(want), Got: uint64(got)}
	}
	var c *Checkpoint
	err := codec.Decode(place, body, func(r *codec.Reader) {
		if v := r.U32(); v != checkpointMagic {
			r.Fail("checkpoint magic", checkpointMagic, uint64(v))
		}
		v := r.U16()
		if v == 0 || v > checkpointArchive {
			r.Fail("checkpoint version", checkpointArchive, uint64(v))
		}
		r.Zero(2)
		c = readCheckpoint(r, v)
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}
