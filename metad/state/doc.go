// Package state is metad's truth: a pure, deterministic state machine that the Raft
// log drives. Apply takes one command and gives one result; the same log gives the
// same state, the same results and the same bytes of snapshot on every member.
//
// It reads no clock and no randomness: times, seeds and what the leader believed of
// the living (who is silent, which stores are healthy) come in the commands. It holds
// every rule about epochs, journal lists, ranges and checkpoints; what a leader thinks
// up outside can only be refused here, not made true.
//
// A Machine is not safe for concurrent use; its owner locks. Volume records are never
// changed after Apply has put them in place, so a reader may keep one.
package state

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Limits. What is above is refused with ErrInvalid or ErrNoSpace.
const (
	NameMax          = 128
	AddressMax       = 256
	DiskSizeMin      = 1 << 20
	DiskSizeMax      = 1 << 50
	HostsMax         = 1024
	StoresMax        = 4096 // present memories; lost ones are counted apart
	LostMax          = 65536
	StoresPerHostMax = 64
	VolumesMax       = 100_000
	EnsemblesMax     = 64 // entries of one list
	EnsembleWidthMax = 3
	VersionsMax      = 255 // of one placement group
	SpansMax         = 1 << 20
	groupWidthMax    = 64
	LossesMax        = 1024
	PriorMax         = HostsMax
)

// DefaultSettings are what a new cluster starts with.
var DefaultSettings = cluster.Settings{
	LeaseTerm: 3 * time.Second, HeartbeatInterval: 500 * time.Millisecond, HeartbeatTimeout: 3 * time.Second,
	RangeCount: 4096,
}

// Machine is the state. The zero value is not usable; see New and Restore.
type Machine struct {
	index     uint64 // of the last command applied
	clusterID [16]byte
	settings  cluster.Settings
	hosts     map[id.Host]*Host
	stores    map[id.Store]*Store
	lost      map[cluster.StoreRef]struct{} // memories that were replaced by others of the same store
	pgs       []PG                          // by number
	volumes   map[id.Volume]*Volume
	names     map[string]id.Volume
	members   map[string]Member
	tokens    map[TokenID]*Token
	rebuild   *Rebuild
	level     uint16
	events    eventLog
	trust     Trust
	cordons   map[id.Host]struct{}
	removed   map[id.Host]int64 // when, in ms
	// balancingPaused: an operator wants stores to stay as unequal as they are.
	balancingPaused bool
	policies        map[string]*Policy
	images          map[id.Image]*Image
	trash           trash
	// Kept beside the records, by put alone: which are deleted, and in how many open
	// ensembles each memory is.
	deleted map[id.Volume]struct{}
	// kept are the deleted disks of which there are snapshots, and keptNames how many had a name.
	kept      map[id.Volume]struct{}
	keptNames map[string]int
	// trashed are disks that are in the trash, or have snapshots there.
	trashed map[id.Volume]struct{}
	// snapWork are disks with snapshots to be taken or to go.
	snapWork map[id.Volume]struct{}
	// archiveWork are disks with snapshots on their way into the archive.
	archiveWork map[id.Volume]struct{}
	// children count the volumes that began with a snapshot and still may read it.
	children map[id.Snapshot]int
	// imaged count the images that hold a snapshot.
	imaged map[id.Snapshot]int
	inUse  map[cluster.StoreRef]uint64
	// lastVolume is the highest id given out, so that none recurs.
	lastVolume   id.Volume
	nextSequence id.Sequence
}

// Host is one blockd as it registered.
type Host struct {
	Host         id.Host
	HolderNumber uint64
	DataAddress  string
	Zone         string
	Exports      bool
	NBDUnixPath  string
	NBDTCP       string
	NBDTLS       bool
}

// Store is one chunk store with its present memory.
type Store struct {
	cluster.StoreRef
	Host     id.Host
	Capacity uint64
	Lost     bool // declared so; this memory does not come back
	Leaving  bool // to be emptied, and then removed
	Out      bool // was away for so long that its places went to others
}

// PG is a placement group with its versions, oldest first.
type PG struct {
	Number   id.PG
	Versions []cluster.PGVersion // Relaxed is not kept: it follows from where the stores are now
}

// Current is the newest version.
func (p *PG) Current() cluster.PGVersion { return p.Versions[len(p.Versions)-1] }

// Volume is a record with what others need not see.
type Volume struct {
	cluster.Volume
	requestID string // of its creation
	lastN     uint32 // the last ensemble number given out in this epoch
	// purging are the memories that have not confirmed its deletion.
	purging []cluster.StoreRef
}

// Purging are the memories that have not confirmed the volume's deletion, in order.
func (v *Volume) Purging() []cluster.StoreRef { return v.purging }

// New is an empty cluster, before its first command.
func New() *Machine {
	return &Machine{
		settings: DefaultSettings,
		hosts:    make(map[id.Host]*Host),
		stores:   make(map[id.Store]*Store),
		lost:     make(map[cluster.StoreRef]struct{}),
		volumes:  make(map[id.Volume]*Volume),
		names:    make(map[string]id.Volume),
		members:  make(map[string]Member),
		tokens:   make(map[TokenID]*Token),
		cordons:  make(map[id.Host]struct{}), removed: make(map[id.Host]int64),
		policies: make(map[string]*Policy),
		deleted:  make(map[id.Volume]struct{}),
		kept:     make(map[id.Volume]struct{}), keptNames: make(map[string]int), trashed: make(map[id.Volume]struct{}),
		snapWork: make(map[id.Volume]struct{}), archiveWork: make(map[id.Volume]struct{}),
		children: make(map[id.Snapshot]int),
		images:   make(map[id.Image]*Image), imaged: make(map[id.Snapshot]int),
		inUse: make(map[cluster.StoreRef]uint64),

		nextSequence: 1,
		level:        LevelFirst,
	}
}

// Index is that of the last command applied.
func (m *Machine) Index() uint64 { return m.index }

// ClusterID is zero before Init.
func (m *Machine) ClusterID() [16]byte { return m.clusterID }

// Settings are the cluster's.
func (m *Machine) Settings() cluster.Settings { return m.settings }

// Host finds a host.
func (m *Machine) Host(h id.Host) (Host, bool) {
	if x := m.hosts[h]; x != nil {
		return *x, true
	}
	return Host{}, false
}

// Hosts are all hosts, by name.
func (m *Machine) Hosts() []Host {
	out := make([]Host, 0, len(m.hosts))
	for _, k := range slices.Sorted(maps.Keys(m.hosts)) {
		out = append(out, *m.hosts[k])
	}
	return out
}

// Store finds a store with its present memory.
func (m *Machine) Store(s id.Store) (Store, bool) {
	if x := m.stores[s]; x != nil {
		return *x, true
	}
	return Store{}, false
}

// Forgotten tells whether a memory is gone for good: emptied and removed, given up and
// rebuilt elsewhere, or replaced by a newer one.
func (m *Machine) Forgotten(r cluster.StoreRef) bool {
	_, is := m.lost[r]
	return is
}

// Stores are all stores with their present memories, by id.
func (m *Machine) Stores() []Store {
	out := make([]Store, 0, len(m.stores))
	for _, x := range m.stores {
		out = append(out, *x)
	}
	slices.SortFunc(out, func(a, b Store) int { return bytes.Compare(a.Store[:], b.Store[:]) })
	return out
}

// Alive tells whether r names a present memory that is not lost.
func (m *Machine) Alive(r cluster.StoreRef) bool {
	s := m.stores[r.Store]
	return s != nil && s.Incarnation == r.Incarnation && !s.Lost
}

// PGs are the placement groups by number. The caller does not change them.
func (m *Machine) PGs() []PG { return m.pgs }

// Volume finds a record, deleted ones too. It is never changed.
func (m *Machine) Volume(v id.Volume) (*Volume, bool) {
	x, ok := m.volumes[v]
	return x, ok
}

// Find takes a disk's name, or its id as text. Of deleted ones it finds none; see FindKept.
func (m *Machine) Find(nameOrID string) (*Volume, bool) {
	if v, ok := m.names[nameOrID]; ok {
		return m.volumes[v], true
	}
	v, err := id.ParseVolume(nameOrID)
	if err != nil {
		return nil, false
	}
	x, ok := m.volumes[v]
	if !ok || !x.Live() {
		return nil, false
	}
	return x, true
}

// Volumes are all records in order of ids, deleted ones too.
func (m *Machine) Volumes() []*Volume {
	out := slices.Collect(maps.Values(m.volumes))
	slices.SortFunc(out, func(a, b *Volume) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return out
}

// Deleted are the records that wait to be purged, in order of ids.
func (m *Machine) Deleted() []*Volume {
	return m.inOrder(m.deleted)
}

// inOrder are some records, by id.
func (m *Machine) inOrder(some map[id.Volume]struct{}) []*Volume {
	out := make([]*Volume, 0, len(some))
	for v := range some {
		out = append(out, m.volumes[v])
	}
	slices.SortFunc(out, func(a, b *Volume) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return out
}

// EnsembleCount tells in how many open ensembles a memory is.
func (m *Machine) EnsembleCount(r cluster.StoreRef) uint64 { return m.inUse[r] }

// Named gives up to limit records whose names come after after, in order of names, and
// whether there are more.
func (m *Machine) Named(after string, limit int) ([]*Volume, bool) {
	names := make([]string, 0, len(m.names))
	for n := range m.names {
		if n > after {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	more := len(names) > limit
	out := make([]*Volume, 0, min(limit, len(names)))
	for _, n := range names[:min(limit, len(names))] {
		out = append(out, m.volumes[m.names[n]])
	}
	return out, more
}

// Result is what a command came to. Err is nil when it was carried out; then the
// fields that belong to the command are set. Refusals of class ErrStaleEpoch and
// ErrConflict set Volume to the record in force.
type Result struct {
	Err     error
	Volume  *Volume
	Refused map[id.Store]string // RegisterHost
	Owner   id.Holder           // Acquire: set when refused
	First   id.Sequence         // AllocRange
	Count   uint32
	Added   int // EnsurePlacement: groups or versions
}

func compareRefs(a, b cluster.StoreRef) int {
	return cmp.Or(bytes.Compare(a.Store[:], b.Store[:]), bytes.Compare(a.Incarnation[:], b.Incarnation[:]))
}

// clone is where every change of a record begins.
func (v *Volume) clone() *Volume {
	c := *v
	c.Volume = *v.Volume.Clone()
	c.purging = slices.Clone(v.purging)
	return &c
}
