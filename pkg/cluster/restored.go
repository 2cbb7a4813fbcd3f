package cluster

import (
	"slices"

	"ashlar.dev/pkg/id"
)

// Restored is what a disk that was made from an archive was allotted when it was made, never
// to be changed: the i-th segment of the manifest has sequence First+i and group PGs[i mod
// len(PGs)]. It is kept until nothing of the disk lies in the archive any more, and holds the
// manifest for as long.
type Restored struct {
	Manifest string // key
	Segments uint32
	First    id.Sequence
	PGs      []id.PG
	Rate     uint64 // bytes a second brought in at most; 0: the owner's default
}

// RestoreGroupsMax bounds the groups of an allotment, ManifestKeyMax the bytes of a key, and
// RestoreSegmentsMax the segments.
const (
	RestoreGroupsMax   = 256
	ManifestKeyMax     = 1024
	RestoreSegmentsMax = 1 << 22
)

// Clone copies r with what it points to.
func (r *Restored) Clone() *Restored {
	if r == nil {
		return nil
	}
	c := *r
	c.PGs = slices.Clone(r.PGs)
	return &c
}

// Hydration is how far a disk is brought in from its archive, as its owner says.
type Hydration struct {
	Segments, Left uint32
	Bytes          uint64 // brought in since the owner opened the disk
	Problem        string // what keeps the rest there, or clients from it; empty: nothing
}
