package cluster

import "ashlar.dev/pkg/id"

// Flatten is the order that a clone is to copy what it reads of its ancestors. It is kept until
// the clone needs them no more, or somebody stops it.
type Flatten struct {
	Rate uint64 // bytes a second at most; 0: the owner's default
}

// FlattenHeldMax bounds the snapshots that are named by a Flattening.
const FlattenHeldMax = 16

// Flattening is how far a clone is flattened, as its owner says.
type Flattening struct {
	State       FlattenState
	Done        uint64 // bytes copied since the owner opened the disk
	Left        uint64 // bytes of ancestors that the disk itself still has
	PerSecond   uint64 // bytes, lately
	Problem     string // what keeps the rest from being copied; empty: nothing
	Snapshots   uint32 // of the clone, that still read ancestors
	SnapshotIDs []id.Snapshot
}

// FlattenState is what goes on. Values are those of the wire.
type FlattenState uint8

// The states.
const (
	FlattenWaits    FlattenState = iota // for an owner
	FlattenCounts                       // what is to be copied is being counted
	FlattenCopies                       // blocks are being copied
	FlattenSnapshot                     // all is copied; snapshots are looked at, or still read ancestors
	FlattenForgets                      // nothing reads an ancestor any more; the origin is about to be forgotten
)

func (s FlattenState) String() string {
	switch s {
	case FlattenCounts:
		return "counting"
	case FlattenCopies:
		return "copying"
	case FlattenSnapshot:
		return "copied"
	case FlattenForgets:
		return "ending"
	}
	return "waiting"
}
