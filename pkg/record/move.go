package record

import (
	"encoding/binary"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
)

// What the cleaner writes to the meta stream.

// check gives what is wrong with m; "" for nothing.
func (m *Moved) check() string {
	if len(m.Slots) != int(m.Entry.Slots) || len(m.From) != len(m.Slots) || m.Entry.Kept != 0 {
		return "slots of a move"
	}
	for i, e := range m.Slots {
		if e.Kind() != segment.Data || !m.From[i].Segment().Valid() || m.From[i].Segment() == m.Segment {
			return "slot of a move"
		}
	}
	return ""
}

// AppendMoved appends the record that blocks were moved. It panics if m breaks its rules.
func AppendMoved(dst []byte, m *Moved) []byte {
	if what := m.check(); what != "" {
		panic("record: wrong " + what)
	}
	b := appendSegment(begin(dst, MetaMoved), m.Segment, m.Entry)
	b = segment.AppendEntries(b, m.Slots)
	from := make(map[id.Segment]uint64)
	var order []id.Segment
	for _, l := range m.From {
		if _, ok := from[l.Segment()]; !ok {
			from[l.Segment()] = uint64(len(order))
			order = append(order, l.Segment())
		}
	}
	b = binary.AppendUvarint(b, uint64(len(order)))
	for _, s := range order {
		b = binary.AppendUvarint(b, uint64(s))
	}
	for _, l := range m.From {
		b = binary.AppendUvarint(b, from[l.Segment()])
		b = binary.AppendUvarint(b, uint64(l.Slot()))
	}
	return end(b, len(dst))
}

func readMoved(r *codec.Reader, slots *int) *Moved {
	m := new(Moved)
	m.Segment, m.Entry = readSegment(r)
	if *slots -= int(m.Entry.Slots); *slots < 0 {
		r.Fail("slots in a batch", SlotsMax, SlotsMax+1)
	}
	if r.Err() != nil {
		return m
	}
	m.Slots = make([]segment.Entry, m.Entry.Slots)
	segment.DecodeEntries(r, m.Slots)
	victims := make([]id.Segment, r.Count(id.SlotsMax, 2))
	for i := range victims {
		victims[i] = id.Segment(r.Uvarint())
		if !victims[i].Valid() {
			r.Fail("segment moved from", 1, uint64(victims[i]))
		}
	}
	m.From = make([]id.Location, len(m.Slots))
	for i := range m.From {
		v, slot := r.Uvarint(), r.Uvarint()
		if v >= uint64(len(victims)) || slot >= id.SlotsMax {
			r.Fail("place moved from", uint64(len(victims)), v)
		}
		if r.Err() != nil {
			return m
		}
		m.From[i] = id.MakeLocation(victims[v], uint16(slot))
	}
	if what := m.check(); what != "" {
		r.Fail(what, 0, 1)
	}
	return m
}

// AppendRewritten appends the record that a segment has another generation. It panics if w breaks its rules.
func AppendRewritten(dst []byte, w *Rewritten) []byte {
	return end(appendSegment(begin(dst, MetaRewritten), w.Segment, w.Entry), len(dst))
}

func readRewritten(r *codec.Reader) *Rewritten {
	w := new(Rewritten)
	w.Segment, w.Entry = readSegment(r)
	return w
}
