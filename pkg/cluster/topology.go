package cluster

import (
	"slices"
	"time"

	"ashlar.dev/pkg/id"
)

// StoreState is what metad believes of a store.
type StoreState uint8

// The states. The zero value is none of them.
const (
	StoreUp StoreState = iota + 1
	StoreDown
	StoreLost     // for good: this memory will not come back
	StoreOut      // down for so long, or leaving and down, that its places are given to others
	StoreDraining // up, but to be emptied: it is read and gets nothing new
)

func (s StoreState) String() string {
	switch s {
	case StoreUp:
		return "up"
	case StoreDown:
		return "down"
	case StoreLost:
		return "lost"
	case StoreOut:
		return "out"
	case StoreDraining:
		return "draining"
	}
	return "unknown"
}

// Serves tells whether a store in this state answers.
func (s StoreState) Serves() bool { return s == StoreUp || s == StoreDraining }

// Leaves tells whether the places of a store in this state go to others.
func (s StoreState) Leaves() bool { return s == StoreLost || s == StoreOut || s == StoreDraining }

// Host is one blockd.
type Host struct {
	Host         id.Host
	HolderNumber uint64
	DataAddress  string
	Zone         string
	Up           bool
	Exports      bool
	NBDUnixPath  string // empty: none
	NBDTCP       string // host:port; empty: none
	NBDTLS       bool
	Cordoned     bool // nothing new is placed there; metad's own word, engines do not need it
}

// RemovedHost is one that was taken off the list for good.
type RemovedHost struct {
	Host id.Host
	AtMS int64 // certificates issued until then, in ms of the wall clock, open nothing
}

// Store is one chunk store.
type Store struct {
	StoreRef
	Host  id.Host
	Zone  string
	State StoreState
	Full  bool
	// Slow: it lives, but answers so slowly that what can be kept from it is: new ensembles, reads.
	Slow     bool
	Capacity uint64 // bytes
	Used     uint64 // bytes
}

// JournalHosts is how many hosts a journal is spread over where there are as many. With fewer quick
// ones it keeps a slow store: an acknowledgement needs two of three, so that one costs no time.
const JournalHosts = 3

// QuickHosts counts the hosts that have a store which is up and not slow.
func (t *Topology) QuickHosts() int {
	seen := make(map[id.Host]bool)
	for i := range t.Stores {
		if s := &t.Stores[i]; s.State == StoreUp && !s.Slow {
			seen[s.Host] = true
		}
	}
	return len(seen)
}

// PGVersion is one membership of a placement group. Stores has k+m entries in shard order.
type PGVersion struct {
	Version uint32
	K, M    uint8
	Stores  []StoreRef
	// Relaxed: more than M shards share a host, so the margin against the loss of a
	// host is gone until re-coded.
	Relaxed bool
}

// PG is a placement group with all versions that are kept, oldest first.
type PG struct {
	Number   id.PG
	Versions []PGVersion
	// Preferred: take it for new segments.
	Preferred bool
	// Healthy: all stores of the current version are up and not full.
	Healthy bool
}

// Current is the newest version.
func (p *PG) Current() PGVersion { return p.Versions[len(p.Versions)-1] }

// NewestVersions are the numbers of the current versions of groups.
func NewestVersions(groups []PG) map[id.PG]uint32 {
	out := make(map[id.PG]uint32, len(groups))
	for i := range groups {
		out[groups[i].Number] = groups[i].Current().Version
	}
	return out
}

// Version finds one version by its number.
func (p *PG) Version(n uint32) (PGVersion, bool) {
	for _, v := range p.Versions {
		if v.Version == n {
			return v, true
		}
	}
	return PGVersion{}, false
}

// Holders are the stores that may have shard slot of a segment that was coded k+m
// under version w of the group, the surest first. The slots of versions of one k+m
// continue each other: when a slot is given to another store, that one gets the shard,
// and the older holder keeps it until the older version is forgotten, which is when no
// shard is missing under the newer one. A version that is forgotten is therefore
// continued by the oldest that is kept.
func (p *PG) Holders(w uint32, k, m, slot uint8) []StoreRef {
	var out []StoreRef
	for _, v := range p.Versions {
		if v.Version < w || v.K != k || v.M != m || int(slot) >= len(v.Stores) {
			continue
		}
		if r := v.Stores[slot]; !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// Members are all stores of all kept versions, each once: whoever may have a shard.
func (p *PG) Members() []StoreRef {
	var out []StoreRef
	for _, v := range p.Versions {
		for _, r := range v.Stores {
			if !slices.Contains(out, r) {
				out = append(out, r)
			}
		}
	}
	return out
}

// Topology is the whole of hosts, stores and placement groups, each sorted by its
// name. Of two topologies the one with the higher Version is newer. It is shared and
// never changed.
type Topology struct {
	Version uint64
	Hosts   []Host
	Stores  []Store
	PGs     []PG
	Removed []RemovedHost // whose certificates of before are refused

	stores map[id.Store]int
	hosts  map[id.Host]int
	pgs    map[id.PG]int
}

// Index makes the lookups below fast. Call it once, before the topology is shared.
func (t *Topology) Index() *Topology {
	t.stores = make(map[id.Store]int, len(t.Stores))
	t.hosts = make(map[id.Host]int, len(t.Hosts))
	t.pgs = make(map[id.PG]int, len(t.PGs))
	for i := range t.Stores {
		// A lost memory may stand beside the store's present one; the present one wins.
		if j, ok := t.stores[t.Stores[i].Store]; !ok || t.Stores[j].State == StoreLost {
			t.stores[t.Stores[i].Store] = i
		}
	}
	for i := range t.Hosts {
		t.hosts[t.Hosts[i].Host] = i
	}
	for i := range t.PGs {
		t.pgs[t.PGs[i].Number] = i
	}
	return t
}

// Store finds a store by id.
func (t *Topology) Store(s id.Store) (Store, bool) {
	i, ok := t.stores[s]
	if !ok {
		return Store{}, false
	}
	return t.Stores[i], true
}

// Usable tells whether r answers, with the very memory that r names.
func (t *Topology) Usable(r StoreRef) bool {
	s, ok := t.Store(r.Store)
	return ok && s.Incarnation == r.Incarnation && s.State.Serves()
}

// Host finds a host by name.
func (t *Topology) Host(h id.Host) (Host, bool) {
	i, ok := t.hosts[h]
	if !ok {
		return Host{}, false
	}
	return t.Hosts[i], true
}

// PG finds a placement group by number.
func (t *Topology) PG(n id.PG) (PG, bool) {
	i, ok := t.pgs[n]
	if !ok {
		return PG{}, false
	}
	return t.PGs[i], true
}

// Settings are the cluster's own, the same on every host.
type Settings struct {
	LeaseTerm         time.Duration
	HeartbeatInterval time.Duration
	HeartbeatTimeout  time.Duration
	RangeCount        uint32 // sequences per range
}
