package cluster

import (
	"time"

	"ashlar.dev/pkg/id"
)

// Figures are what daemons tell of themselves for people and programs to look at.
// Nothing correct depends on them.

// Space is what the segments of an open disk hold, in bytes of blocks, parity not counted.
type Space struct {
	Live   uint64 // that the disk refers to
	Dead   uint64 // beside them, that nobody does: the cleaner's work
	Doomed uint64 // of segments wholly dead, which go with the next checkpoint
	Pages  uint64 // of the disk's own map

	Segments uint64
}

// Reclaimable tells how many of used bytes on stores are of no use, if they are spread
// over what the segments hold.
func (s Space) Reclaimable(used uint64) uint64 {
	idle := s.Dead + s.Doomed
	all := s.Live + idle + s.Pages
	if all == 0 {
		return 0
	}
	return uint64(float64(used) * (float64(idle) / float64(all)))
}

// Cleaning is what the cleaner of a disk does.
type Cleaning struct {
	Active  bool
	Left    uint64 // bytes that are dead beyond what may lie about
	Done    uint64 // bytes given back since the disk was opened
	Problem string
}

// Traffic is what clients did on a disk since it was opened.
type Traffic struct {
	Reads, Writes, Others   uint64
	ReadBytes, WriteBytes   uint64
	TimedReads, TimedWrites uint64 // those of which the time was taken
	ReadTime, WriteTime     time.Duration
	Failed                  uint64
}

// Add sums up.
func (t *Traffic) Add(x Traffic) {
	t.Reads, t.Writes, t.Others = t.Reads+x.Reads, t.Writes+x.Writes, t.Others+x.Others
	t.ReadBytes, t.WriteBytes = t.ReadBytes+x.ReadBytes, t.WriteBytes+x.WriteBytes
	t.TimedReads, t.TimedWrites = t.TimedReads+x.TimedReads, t.TimedWrites+x.TimedWrites
	t.ReadTime, t.WriteTime = t.ReadTime+x.ReadTime, t.WriteTime+x.WriteTime
	t.Failed += x.Failed
}

// StoreTraffic is what a store did on its disk since it was opened.
type StoreTraffic struct {
	Syncs, Writes, WriteBytes uint64
	Reads, ReadBytes          uint64
}

// Identity is what a daemon says of its certificate.
type Identity struct {
	TrustHash [32]byte // of the CAs that it trusts
	Issuer    [32]byte // the CA that signed its certificate
	Expires   time.Time
}

// GroupUse is the room that shards of one placement group take on a store.
type GroupUse struct {
	PG    id.PG
	Bytes uint64
}

// VolumeUse is the room that shards of one volume take on a store.
type VolumeUse struct {
	Volume id.Volume
	Bytes  uint64
}

// VolumeUsePage tells of all volumes after After, up to the last of Uses, or of all
// further ones if it is the Last page.
type VolumeUsePage struct {
	After id.Volume
	Uses  []VolumeUse // in order of ids, at most VolumeUsesMax
	Last  bool
}

// VolumeUsesMax bounds a page.
const VolumeUsesMax = 1024

// StoreWait is how long a host waited for answers of a store: appends and reads.
type StoreWait struct {
	Store id.Store
	Count uint64
	Total time.Duration
}

// StoreWaitsMax bounds those of one heartbeat.
const StoreWaitsMax = 4096
