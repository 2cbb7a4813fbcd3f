package api

import (
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// FromRestored makes the message of what a disk was allotted; nil: nothing.
func FromRestored(r *cluster.Restored) *Restored {
	if r == nil {
		return nil
	}
	x := &Restored{Manifest: r.Manifest, Segments: r.Segments, First: uint64(r.First), BytesPerSecond: r.Rate}
	for _, g := range r.PGs {
		x.Groups = append(x.Groups, uint32(g))
	}
	return x
}

// Value reads the message; nil stays nil.
func (x *Restored) Value() *cluster.Restored {
	if x == nil {
		return nil
	}
	r := &cluster.Restored{Manifest: x.Manifest, Segments: x.Segments, First: id.Sequence(x.First), Rate: x.BytesPerSecond}
	for _, g := range x.Groups {
		r.PGs = append(r.PGs, id.PG(min(g, uint32(id.PGMax))))
	}
	return r
}

// FromHydration makes the message of h; nil: there is nothing to tell.
func FromHydration(h *cluster.Hydration) *Hydration {
	if h == nil {
		return nil
	}
	return &Hydration{Segments: h.Segments, Left: h.Left, Bytes: h.Bytes, Problem: h.Problem}
}

// Value reads the message; nil stays nil.
func (x *Hydration) Value() *cluster.Hydration {
	if x == nil {
		return nil
	}
	return &cluster.Hydration{Segments: x.Segments, Left: x.Left, Bytes: x.Bytes, Problem: x.Problem}
}
