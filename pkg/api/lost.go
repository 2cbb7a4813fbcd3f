package api

import (
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// FromLost makes the message of l; of nil, nil.
func FromLost(l *cluster.Lost) *Lost {
	if l == nil {
		return nil
	}
	out := &Lost{From: l.From, LostBytes: l.Bytes, AwayBytes: l.Away, RangesTotal: l.Count, Next: l.Next, Problem: text(l.Problem)}
	if l.ID != [16]byte{} {
		out.LookId = l.ID[:]
	}
	for _, r := range l.Ranges {
		out.Ranges = append(out.Ranges, &LostRange{Offset: r.Offset, Length: r.Length, Away: r.Away})
	}
	return out
}

// Value reads it; of nil, nil.
func (x *Lost) Value() (*cluster.Lost, error) {
	if x == nil {
		return nil, nil
	}
	n, err := LookID(x.LookId)
	out := &cluster.Lost{Look: cluster.Look{ID: n, From: x.From}, Bytes: x.LostBytes, Away: x.AwayBytes, Count: x.RangesTotal, Next: x.Next, Problem: text(x.Problem)}
	for _, r := range x.Ranges[:min(len(x.Ranges), cluster.LostRangesMax)] {
		out.Ranges = append(out.Ranges, cluster.LostRange{Offset: r.GetOffset(), Length: r.GetLength(), Away: r.GetAway()})
	}
	return out, err
}

// LookID reads the 16 bytes that name a look, or nothing: one that nobody asked for.
func LookID(b []byte) ([16]byte, error) {
	if len(b) == 0 {
		return [16]byte{}, nil
	}
	return sixteen("look id", b)
}

// FromSegments makes the numbers of segments, at most max of them.
func FromSegments(in []id.Segment, max int) (out []uint64) {
	for _, s := range in[:min(len(in), max)] {
		out = append(out, uint64(s))
	}
	return out
}

// Segments reads them, leaving out what is none.
func Segments(in []uint64, max int) (out []id.Segment) {
	for _, x := range in[:min(len(in), max)] {
		if s := id.Segment(x); s.Valid() {
			out = append(out, s)
		}
	}
	return out
}
