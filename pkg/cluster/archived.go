package cluster

import (
	"slices"
	"time"

	"ashlar.dev/pkg/id"
)

// ArchiveState is how far a snapshot is on its way into the archive. Values are those of metad's log.
type ArchiveState uint8

// The states. A snapshot is archived when its manifest is in the archive, never before.
const (
	ArchiveNone ArchiveState = iota
	ArchiveQueued
	ArchiveUploading
	ArchiveDone
	ArchiveFailed
)

func (s ArchiveState) String() string {
	switch s {
	case ArchiveNone:
		return ""
	case ArchiveQueued:
		return "queued"
	case ArchiveUploading:
		return "uploading"
	case ArchiveDone:
		return "archived"
	case ArchiveFailed:
		return "failed"
	}
	return "unknown"
}

// Archived is what is known of a snapshot's archive.
type Archived struct {
	State    ArchiveState
	Upload   id.Raw      // under which objects are uploaded; the same again after a failure
	Base     id.Snapshot // that it is uploaded against; zero: whole
	Epoch    uint64      // of the lease, rises with each
	Worker   string      // who has the lease
	Bytes    uint64      // that the upload took in the archive
	Manifest string      // key, once archived
	Reason   string      // of a failure
}

// Pending tells whether it is on its way: the snapshot must not go then, nor what it is uploaded against.
func (a *Archived) Pending() bool { return a.State == ArchiveQueued || a.State == ArchiveUploading }

// ArchiveReasonMax bounds the reason of a failure in bytes.
const ArchiveReasonMax = 512

// ArchiveBase is the newest archived snapshot of a disk's history: of its branch, or of what that began with. It may be deleted here: what is
// in the archive stays something to upload against.
type ArchiveBase struct {
	Snapshot id.Snapshot
	Created  time.Time // when it was taken
}

// BaseOf is what a snapshot of v may be uploaded against: the newest that was taken before it on its
// branch and is archived, or else what the present branch began with. One of another branch may lack what this one has.
func (v *Volume) BaseOf(s id.Snapshot) (base id.Snapshot) {
	var created time.Time
	at := slices.IndexFunc(v.Snapshots, func(x Snapshot) bool { return x.ID == s })
	if at < 0 {
		return base
	}
	branch := v.Snapshots[at].Branch
	for _, x := range v.Snapshots {
		if x.ID == s {
			if b := v.ArchiveBase; branch == v.Branch && !b.Snapshot.IsZero() && b.Snapshot != s && b.Created.Before(x.Created) && b.Created.After(created) {
				return b.Snapshot
			}
			return base
		}
		if x.Archived.State == ArchiveDone && x.Branch == branch {
			base, created = x.ID, x.Created
		}
	}
	return id.Snapshot{}
}
