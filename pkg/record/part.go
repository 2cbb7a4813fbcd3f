package record

import (
	"encoding/binary"
	"fmt"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
)

// The parts that both streams' records are made of.

// checkExtent panics at an extent that a reader would refuse.
func checkExtent(e block.Extent) {
	if e.Count == 0 || e.Start >= block.LBAMax || e.End() > block.LBAMax {
		panic(fmt.Sprintf("record: extent %v", e))
	}
}

// appendStart writes the start of an extent as its distance from next, the end of the one before.
func appendStart(dst []byte, next, start block.LBA) []byte {
	return binary.AppendVarint(dst, int64(start)-int64(next))
}

// readExtent reads the start, relative to next, and puts the extent together.
func readExtent(r *codec.Reader, next block.LBA, count uint64) block.Extent {
	z := r.Uvarint()
	start := uint64(next) + (z>>1 ^ -(z & 1))
	if start >= uint64(block.LBAMax) {
		r.Fail("start of an extent", uint64(block.LBAMax), start)
		return block.Extent{}
	}
	if count == 0 || count > 1<<32-1 || count > uint64(block.LBAMax)-start {
		r.Fail("blocks in an extent", uint64(block.LBAMax)-start, count)
		return block.Extent{}
	}
	return block.Extent{Start: block.LBA(start), Count: uint32(count)}
}

func appendExtents(dst []byte, extents []block.Extent) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(extents)))
	var next block.LBA
	for _, e := range extents {
		checkExtent(e)
		dst = binary.AppendUvarint(dst, uint64(e.Count))
		dst = appendStart(dst, next, e.Start)
		next = e.End()
	}
	return dst
}

func readExtents(r *codec.Reader) []block.Extent {
	n := r.Count(ExtentsMax, 2)
	if n == 0 {
		return nil
	}
	extents := make([]block.Extent, n)
	var next block.LBA
	for i := range extents {
		extents[i] = readExtent(r, next, r.Uvarint())
		next = extents[i].End()
	}
	return extents
}

// appendSegment writes a segment's id and its table entry.
func appendSegment(dst []byte, s id.Segment, e blockmap.Entry) []byte {
	e.PG = s.PG()
	if !s.Valid() || !e.Valid() {
		panic(fmt.Sprintf("record: segment %s with entry %+v", s, e))
	}
	dst = binary.AppendUvarint(dst, uint64(s))
	dst = binary.AppendUvarint(dst, uint64(e.Generation.Epoch))
	dst = binary.AppendUvarint(dst, uint64(e.Generation.N))
	dst = binary.AppendUvarint(dst, uint64(e.PGVersion))
	dst = append(dst, e.K, e.M, uint8(e.Flags))
	dst = binary.AppendUvarint(dst, uint64(e.Slots))
	dst = binary.AppendUvarint(dst, uint64(e.Live))
	return binary.AppendUvarint(dst, uint64(e.Kept))
}

// segmentSizeMin is the least bytes of a segment with its entry: two of the id, for
// sequences begin at 1, and one of each other field.
const segmentSizeMin = 11

func readSegment(r *codec.Reader) (id.Segment, blockmap.Entry) {
	s := id.Segment(r.Uvarint())
	e := blockmap.Entry{PG: s.PG()}
	e.Generation = readGeneration(r)
	e.PGVersion = readUint32(r, "placement group version")
	e.K, e.M, e.Flags = r.U8(), r.U8(), blockmap.Flags(r.U8())
	slots, live, kept := r.Uvarint(), r.Uvarint(), r.Uvarint()
	if slots > id.SlotsMax || live > slots || kept > slots {
		r.Fail("slots of a segment", id.SlotsMax, slots)
	}
	e.Slots, e.Live, e.Kept = uint16(slots), uint16(live), uint16(kept)
	if !s.Valid() || !e.Valid() {
		r.Fail("segment and its entry", 0, uint64(s))
	}
	return s, e
}

func readGeneration(r *codec.Reader) id.Generation {
	g := id.Generation{Epoch: id.Epoch(r.Uvarint())}
	g.N = readUint32(r, "generation")
	return g
}

func readUint32(r *codec.Reader, what string) uint32 {
	v := r.Uvarint()
	if v > 1<<32-1 {
		r.Fail(what, 1<<32-1, v)
	}
	return uint32(v)
}

func checkPlaced(p *Placed) bool {
	return uint64(p.FirstSlot)+uint64(p.Extent.Count) <= uint64(p.Entry.Slots)
}

// appendPlaced writes what is known of p but its extent.
func appendPlaced(dst []byte, p *Placed) []byte {
	if !checkPlaced(p) {
		panic(fmt.Sprintf("record: %v from slot %d of %d", p.Extent, p.FirstSlot, p.Entry.Slots))
	}
	dst = binary.AppendUvarint(dst, uint64(p.FirstSlot))
	return appendSegment(dst, p.Segment, p.Entry)
}

func readPlaced(r *codec.Reader, e block.Extent) Placed {
	p := Placed{Extent: e}
	first := r.Uvarint()
	if first >= id.SlotsMax {
		r.Fail("first slot", id.SlotsMax-1, first)
	}
	p.FirstSlot = uint16(first)
	p.Segment, p.Entry = readSegment(r)
	if !checkPlaced(&p) {
		r.Fail("slots of an extent", uint64(p.Entry.Slots), first+uint64(e.Count))
	}
	return p
}

func appendMark(dst []byte, m *SnapshotMark) []byte {
	dst = append(dst, m.Snapshot[:]...)
	return append(dst, m.Group[:]...)
}

func readMark(r *codec.Reader) (m SnapshotMark) {
	r.Fill(m.Snapshot[:])
	r.Fill(m.Group[:])
	return m
}
