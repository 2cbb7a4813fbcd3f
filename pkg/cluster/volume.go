// Package cluster has the words in which metad speaks of the cluster to everybody
// else, as plain values: volumes with their journal lists, hosts, stores, placement
// groups and the topology made of them. It decides nothing, starts nothing and knows
// no wire; cores may import it. Values are not changed after they are handed out;
// who wants another one copies it (Clone).
package cluster

import (
	"slices"
	"time"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
)

// StoreRef names a store together with the memory it had when it was chosen. The
// same store with another incarnation is another store's memory.
type StoreRef struct {
	Store       id.Store
	Incarnation id.Incarnation
}

func (r StoreRef) String() string { return r.Store.String() + "/" + r.Incarnation.String()[:8] }

// Ensemble is one entry of a volume's journal list.
type Ensemble struct {
	ID     id.Ensemble
	Stores []StoreRef
	// Closed tells that the bounds below stand: only LSNs in [From, To] and meta
	// sequences in [MetaFrom, MetaTo] count (To = From-1: none), and the two Holders
	// have both streams whole.
	Closed           bool
	From, To         id.LSN
	MetaFrom, MetaTo id.LSN
	Holders          []StoreRef
	// LossAccepted: it lost two stores for good and an operator said to go on.
	LossAccepted bool
	// Found: a restored metad did not know of it, stores had it. It counts whatever its epoch.
	Found bool
}

// InForce is the part of a journal list that an opening recovers: the ensembles of the
// first one's epoch, and those that were found. The others are targets of openings that
// never finished: nothing was acknowledged there, and no list can become theirs.
func InForce(list []Ensemble) []Ensemble {
	var out []Ensemble
	for _, e := range list {
		if e.ID.Epoch == list[0].ID.Epoch || e.Found {
			out = append(out, e)
		}
	}
	return out
}

// Checkpoint is the last one committed for a volume: the numbers that metad
// compares, and bytes that only the engine understands (CheckpointBytesMax).
type Checkpoint struct {
	Epoch   id.Epoch
	Meta    id.LSN // position in the meta stream
	Covered id.LSN // covered LSN
	Opaque  []byte
}

// CheckpointBytesMax bounds Checkpoint.Opaque.
const CheckpointBytesMax = 64 << 10

// Above tells whether c is later than o: by epoch, then by meta position.
func (c Checkpoint) Above(o Checkpoint) bool {
	return c.Epoch > o.Epoch || c.Epoch == o.Epoch && c.Meta > o.Meta
}

// Span bounds the segment sequences issued to a volume under one epoch: [First, End).
// Sequences of other volumes may lie in between.
type Span struct {
	Epoch      id.Epoch
	First, End id.Sequence
}

// Loss is the mark an operator left by accepting that an ensemble lost its records.
type Loss struct {
	Ensemble id.Ensemble
	Lost     []StoreRef
	At       time.Time
	By       string
}

// SnapshotsMax bounds the snapshots of a disk.
const SnapshotsMax = 256

// SnapshotState is how far a snapshot is.
type SnapshotState uint8

// A snapshot is asked for, then there for good, until it is asked to go and is gone. Values
// are those of metad's log.
const (
	SnapshotCreating SnapshotState = 1 + iota
	SnapshotReady
	SnapshotDeleting
	// SnapshotHidden is one that its owner deleted and that clones or images still need: it goes with the last of them.
	SnapshotHidden
	// SnapshotGrouped is one that is being taken with others: all of them become ready, or none.
	SnapshotGrouped
	// SnapshotTrashed is one that is in the trash.
	SnapshotTrashed
)

func (s SnapshotState) String() string {
	switch s {
	case SnapshotCreating, SnapshotGrouped:
		return "creating"
	case SnapshotReady:
		return "ready"
	case SnapshotDeleting:
		return "deleting"
	case SnapshotHidden:
		return "hidden"
	case SnapshotTrashed:
		return "in the trash"
	}
	return "unknown"
}

// Snapshot is one of a disk.
type Snapshot struct {
	ID      id.Snapshot
	Name    string // no other of the disk has it
	Size    uint64 // bytes that the disk had
	Created time.Time
	State   SnapshotState
	// Branch counts the rollbacks of the disk before it was taken: those of one branch follow one another.
	Branch uint32
	// Archived says how far it is on its way into the archive.
	Archived Archived
	// Trash is not nil in the trash. It is not changed.
	Trash *Trashed
}

// Rollback says to which of its snapshots a disk goes back, and which one keeps what it was before.
type Rollback struct{ To, Safety id.Snapshot }

// FindSnapshot takes the name of one of v's snapshots, or its id as text.
func (v *Volume) FindSnapshot(nameOrID string) (Snapshot, bool) {
	for _, s := range v.Snapshots {
		if s.Name == nameOrID || s.ID.String() == nameOrID {
			return s, true
		}
	}
	return Snapshot{}, false
}

// Volume is all that metad knows of a volume by consensus.
type Volume struct {
	ID      id.Volume
	Name    string
	Size    uint64 // bytes
	Created time.Time
	QoS     QoS

	Epoch id.Epoch
	// Owner is zero when nobody owns the volume.
	Owner id.Holder
	// OpenComplete: the owner replaced the list in this epoch and may serve.
	OpenComplete bool

	ListVersion uint64
	List        []Ensemble // oldest first
	Checkpoint  *Checkpoint
	// Prior are the hosts that may have served since the last completed open and did
	// not release the volume.
	Prior  []id.Host
	Losses []Loss
	Spans  []Span
	// Snapshots are the disk's, the oldest first, those under way included.
	Snapshots []Snapshot
	// Origin is what the volume began with; nil: empty.
	Origin *lineage.Origin
	// Restored is nil unless something of the disk lies in an archive.
	Restored *Restored
	// Lent are the allotments of ancestors of which something lies in an archive: of a clone, and only in the
	// record that its owner is given.
	Lent []Restored
	// ArchiveBase is the newest archived snapshot of the disk's history.
	ArchiveBase ArchiveBase
	// Flatten is the order to flatten a clone; nil: there is none.
	Flatten *Flatten
	// Rollback is one that is under way; nil: none.
	Rollback *Rollback
	// Branch is that of the snapshots that are taken now.
	Branch uint32
	// Protected: it is not to be deleted.
	Protected bool
	// Kept is nil unless the disk is deleted and snapshots of it are kept.
	Kept *Kept
	// Deleted: unlinked, waits for its stores to purge it.
	Deleted bool
}

// Ensemble finds an entry of the list.
func (v *Volume) Ensemble(e id.Ensemble) (Ensemble, bool) {
	for _, x := range v.List {
		if x.ID == e {
			return x, true
		}
	}
	return Ensemble{}, false
}

// Newest is the last entry of the list.
func (v *Volume) Newest() (Ensemble, bool) {
	if len(v.List) == 0 {
		return Ensemble{}, false
	}
	return v.List[len(v.List)-1], true
}

// Clone copies e with everything it points to.
func (e Ensemble) Clone() Ensemble {
	e.Stores, e.Holders = slices.Clone(e.Stores), slices.Clone(e.Holders)
	return e
}

// Clone copies v with everything it points to.
func (v *Volume) Clone() *Volume {
	c := *v
	c.List = make([]Ensemble, len(v.List))
	for i, e := range v.List {
		c.List[i] = e.Clone()
	}
	if v.Checkpoint != nil {
		cp := *v.Checkpoint
		cp.Opaque = slices.Clone(cp.Opaque)
		c.Checkpoint = &cp
	}
	c.Prior, c.Spans, c.Snapshots = slices.Clone(v.Prior), slices.Clone(v.Spans), slices.Clone(v.Snapshots)
	c.Losses, c.Origin, c.Restored = slices.Clone(v.Losses), v.Origin.Clone(), v.Restored.Clone()
	c.Lent = slices.Clone(v.Lent)
	if v.Rollback != nil {
		r := *v.Rollback
		c.Rollback = &r
	}
	if v.Flatten != nil {
		f := *v.Flatten
		c.Flatten = &f
	}
	if v.Kept != nil {
		k := *v.Kept
		c.Kept = &k
	}
	for i := range c.Losses {
		c.Losses[i].Lost = slices.Clone(c.Losses[i].Lost)
	}
	return &c
}

// Summary is a volume in a list.
type Summary struct {
	ID   id.Volume
	Name string
	Size uint64
}
