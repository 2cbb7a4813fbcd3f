package cluster

import "time"

// Kept says that a disk is deleted and why something of it is there still: snapshots that its
// user kept, or that clones read. Nobody uses it, its name is another's to take, and what only
// the disk itself had is given back. It goes with the last of those snapshots.
type Kept struct {
	Since time.Time
	// Emptied: what only the disk itself had is given back.
	Emptied bool
}

// Live tells whether the disk is there for its user.
func (v *Volume) Live() bool { return !v.Deleted && v.Kept == nil }

// Needed tells whether somebody may read a snapshot, so that its disk must stay.
func (s *Snapshot) Needed() bool { return s.State != SnapshotDeleting }

// Listed tells whether people see a snapshot.
func (s *Snapshot) Listed() bool { return s.State != SnapshotHidden }
