package api

import (
	"ashlar.dev/pkg/cluster"
)

// FromFlatten makes the message of an order; nil: there is none.
func FromFlatten(f *cluster.Flatten) *Flatten {
	if f == nil {
		return nil
	}
	return &Flatten{BytesPerSecond: f.Rate}
}

// Value reads the message; nil stays nil.
func (x *Flatten) Value() *cluster.Flatten {
	if x == nil {
		return nil
	}
	return &cluster.Flatten{Rate: x.BytesPerSecond}
}

// FromFlattening makes the message of f; nil: there is nothing to tell.
func FromFlattening(f *cluster.Flattening) *Flattening {
	if f == nil {
		return nil
	}
	x := &Flattening{State: uint32(f.State), DoneBytes: f.Done, LeftBytes: f.Left, BytesPerSecond: f.PerSecond, Problem: f.Problem, Snapshots: f.Snapshots}
	for i := range f.SnapshotIDs[:min(len(f.SnapshotIDs), cluster.FlattenHeldMax)] {
		x.SnapshotIds = append(x.SnapshotIds, f.SnapshotIDs[i][:])
	}
	return x
}

// Value reads the message; nil stays nil. Of what is too much the rest is left out.
func (x *Flattening) Value() (*cluster.Flattening, error) {
	if x == nil {
		return nil, nil
	}
	f := &cluster.Flattening{State: cluster.FlattenState(min(x.State, uint32(cluster.FlattenForgets))), Done: x.DoneBytes, Left: x.LeftBytes,
		PerSecond: x.BytesPerSecond, Problem: x.Problem, Snapshots: x.Snapshots}
	for _, b := range x.SnapshotIds[:min(len(x.SnapshotIds), cluster.FlattenHeldMax)] {
		s, err := SnapshotID(b)
		if err != nil {
			return nil, err
		}
		f.SnapshotIDs = append(f.SnapshotIDs, s)
	}
	return f, nil
}
