package archproto

import (
	"encoding/binary"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
)

// Version is the one version of the protocol.
const Version = 1

const (
	opPlan = 1
	opRead = 2
)

// Limits of messages.
const (
	heldMax = 1 << 15 // segments of one page of a plan without their slots
	fullMax = 1 << 10 // with them
	setSize = id.SlotsMax / 8
)

var le = binary.LittleEndian

// PlanQuery asks what a snapshot holds.
type PlanQuery struct {
	Volume   id.Volume
	Snapshot id.Snapshot
	Base     id.Sequence // watermark of the base: above it slots are told, too
	After    id.Sequence // where the page before ended
}

// Held is a segment of which a snapshot holds slots.
type Held struct {
	Segment id.Segment
	Slots   *segment.SlotSet // nil at or below the base's watermark
}

// Plan is a page of the answer, ascending by sequence.
type Plan struct {
	Root      blockmap.Root
	Blocks    block.LBA
	Watermark id.Sequence
	Held      []Held
	More      bool // ask again, after the last one
}

// ReadQuery asks for slots that the snapshot holds.
type ReadQuery struct {
	Volume   id.Volume
	Snapshot id.Snapshot
	Segment  id.Segment
	Slots    *segment.SlotSet
}

func (q *PlanQuery) append(b []byte) []byte {
	b = append(append(b, q.Volume[:]...), q.Snapshot[:]...)
	return le.AppendUint64(le.AppendUint64(b, uint64(q.Base)), uint64(q.After))
}

func (q *PlanQuery) read(r *codec.Reader) {
	r.Fill(q.Volume[:])
	r.Fill(q.Snapshot[:])
	q.Base, q.After = id.Sequence(r.U64()), id.Sequence(r.U64())
}

func (q *ReadQuery) append(b []byte) []byte {
	b = append(append(b, q.Volume[:]...), q.Snapshot[:]...)
	return appendSet(le.AppendUint64(b, uint64(q.Segment)), q.Slots)
}

func (q *ReadQuery) read(r *codec.Reader) {
	r.Fill(q.Volume[:])
	r.Fill(q.Snapshot[:])
	q.Segment = readSegment(r)
	q.Slots = readSet(r)
	if r.Err() == nil && q.Slots.Count() == 0 {
		r.Fail("slots to read", 1, 0)
	}
}

func readSegment(r *codec.Reader) id.Segment {
	s := id.Segment(r.U64())
	if r.Err() == nil && !s.Valid() {
		r.Fail("segment", 1<<12, uint64(s))
	}
	return s
}

func appendSet(b []byte, s *segment.SlotSet) []byte {
	for _, w := range s {
		b = le.AppendUint64(b, w)
	}
	return b
}

func readSet(r *codec.Reader) *segment.SlotSet {
	s := &segment.SlotSet{}
	for i := range s {
		s[i] = r.U64()
	}
	return s
}

// append encodes a page; those without slots come first, for they are below those with.
func (p *Plan) append(b []byte) []byte {
	b = append(le.AppendUint64(b, uint64(p.Root.Location)), p.Root.Height)
	b = le.AppendUint64(le.AppendUint64(b, uint64(p.Blocks)), uint64(p.Watermark))
	more := byte(0)
	if p.More {
		more = 1
	}
	b = append(b, more)
	n := 0
	for n < len(p.Held) && p.Held[n].Slots == nil {
		n++
	}
	b = le.AppendUint32(le.AppendUint32(b, uint32(n)), uint32(len(p.Held)-n))
	for i := range p.Held {
		if b = le.AppendUint64(b, uint64(p.Held[i].Segment)); i >= n {
			b = appendSet(b, p.Held[i].Slots)
		}
	}
	return b
}

func (p *Plan) read(r *codec.Reader, after id.Sequence) {
	p.Root = blockmap.Root{Location: id.Location(r.U64()), Height: r.U8()}
	p.Blocks, p.Watermark = block.LBA(r.U64()), id.Sequence(r.U64())
	more := r.U8()
	held, full := int(r.U32()), int(r.U32())
	switch {
	case r.Err() != nil:
		return
	case !p.Root.Valid() || more > 1 || p.Blocks > block.LBAMax:
		r.Fail("tree of a snapshot", 0, uint64(p.Root.Location))
	case held > heldMax || full > fullMax:
		r.Fail("segments of a plan", heldMax, uint64(held)+uint64(full))
	case more == 1 && held+full == 0:
		r.Fail("segments of a plan that goes on", 1, 0)
	}
	p.More = more == 1
	for i := 0; i < held+full && r.Err() == nil; i++ {
		h := Held{Segment: readSegment(r)}
		if i >= held {
			if h.Slots = readSet(r); r.Err() == nil && h.Slots.Count() == 0 {
				r.Fail("slots that are held", 1, 0)
			}
		}
		if q := h.Segment.Sequence(); r.Err() == nil && (q <= after || q > p.Watermark) {
			r.Fail("segment after another", uint64(after)+1, uint64(q))
		}
		after = h.Segment.Sequence()
		p.Held = append(p.Held, h)
	}
}

// Slots is the answer to a ReadQuery: what each slot is, its CRC-32C, and the blocks.
type Slots struct {
	Entries []segment.Entry
	Sums    []uint32
	Data    []byte
}

func (s *Slots) appendHead(b []byte) []byte {
	for i, e := range s.Entries {
		b = le.AppendUint32(le.AppendUint64(b, uint64(e)), s.Sums[i])
	}
	return b
}

// readHead reads n entries.
func (s *Slots) readHead(r *codec.Reader, n int) {
	s.Entries, s.Sums = make([]segment.Entry, n), make([]uint32, n)
	for i := range n {
		s.Entries[i], s.Sums[i] = segment.Entry(r.U64()), r.U32()
		if e := s.Entries[i]; r.Err() == nil && (!e.Valid() || e.Kind() != segment.Data && e.Kind() != segment.MapPage) {
			r.Fail("entry of a slot", 1, uint64(e))
		}
	}
}
