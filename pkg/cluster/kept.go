package cluster

import "time"

// Kept says that a disk is deleted and why something of it is there still: snapshots that its
// user kept, or that clones read, or that it is in the trash. Nobody uses it, its name is another's to take, and what only
// the disk itself had is given back, unless it is in the trash. It goes with the last of those snapshots.
type Kept struct {
	Since time.Time
	// Emptied: what only the disk itself had is given back.
	Emptied bool
	// Until is when its time in the trash is over, on the trash's own clock. Until then the whole disk is kept, and may be
	// brought back; 0: it is not in the trash, or not any more.
	Until time.Duration
	// By is who put it into the trash.
	By string
	// Settled: an owner has fenced those from before the deletion, packed the disk and let it go.
	Settled bool
}

// Trashed says of a snapshot that it is in the trash: nobody reads it, all of it is kept, and it may be brought back.
type Trashed struct {
	Since time.Time
	Until time.Duration // on the trash's own clock; 0 with With
	By    string
	Name  string // that it had; empty with With, where it keeps it
	With  bool   // it went with its disk, and shares its fate
}

// Live tells whether the disk is there for its user.
func (v *Volume) Live() bool { return !v.Deleted && v.Kept == nil }

// Trashed tells whether the disk is in the trash.
func (v *Volume) Trashed() bool { return !v.Deleted && v.Kept != nil && v.Kept.Until != 0 }

// Needed tells whether somebody may read a snapshot, so that its disk must stay.
func (s *Snapshot) Needed() bool { return s.State != SnapshotDeleting }

// Listed tells whether people see a snapshot.
func (s *Snapshot) Listed() bool { return s.State != SnapshotHidden && s.State != SnapshotTrashed }
