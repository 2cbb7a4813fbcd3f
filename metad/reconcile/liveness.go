// Package reconcile is what a leading metad thinks about: who lives, what the topology
// is, whether placement groups are missing, and how healthy the cluster is. All of it
// is computed from the committed state and from what hosts reported lately; time comes
// as an argument. It commits nothing and sends nothing.
//
// A Liveness is not safe for concurrent use; its owner locks.
package reconcile

import (
	"maps"
	"slices"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Beat is what a host said of itself last.
type Beat struct {
	Holder        id.Holder
	Stores        []StoreBeat
	Volumes       []VolumeBeat
	Memory        []cluster.Memory
	HeapLimit     uint64
	Heap          uint64
	CPU           time.Duration
	ResidentBytes uint64
	Identity      *cluster.Identity   // nil: nothing was said
	Waits         []cluster.StoreWait // since the beat before
}

// StoreBeat is one store of a Beat.
type StoreBeat struct {
	cluster.StoreRef
	Capacity, Used       uint64
	LogUsed, LogCapacity uint64
	Full                 bool
	Dead                 string
	Repairs              []RepairBeat
	Free                 uint64
	Traffic              cluster.StoreTraffic
	Groups               []cluster.GroupUse // by number
	Use                  *cluster.VolumeUsePage
	Remains              []cluster.Remain // by group
	Care                 cluster.Care
	Scrubs               []cluster.ScrubProgress
	Stuck                []id.Segment // of which a shard is wrong or missing, and cannot be rebuilt now
}

// VolumeBeat is one owned volume of a Beat.
type VolumeBeat struct {
	Volume   id.Volume
	Epoch    id.Epoch
	Unpacked uint64
	Sessions uint32
	State    VolumeState
	Problem  string
	Space    *cluster.Space // nil: nothing is known
	Cleaning cluster.Cleaning
	Traffic  cluster.Traffic
	Lost     *cluster.Lost  // the sum of the last look; nil: nobody looked
	Looks    []cluster.Lost // answers to looks that were asked for

	Hydration  *cluster.Hydration  // nil: nothing lies in an archive
	Flattening *cluster.Flattening // nil: it is not to be flattened
}

// VolumeState is how an owned volume fares; the numbers are those of the wire.
type VolumeState uint8

// The states.
const (
	Opening VolumeState = iota + 1
	Serving
	Draining
	Stuck
)

// Liveness is a leader's memory of who lives. A new leader has none, so it takes
// everybody for living until one timeout has passed since its start.
type Liveness struct {
	start             time.Duration
	interval, timeout time.Duration
	hosts             map[id.Host]*hostLife
	stores            map[cluster.StoreRef]*storeLife
	reports           map[cluster.StoreRef]map[id.Host]report
	held              map[id.Volume]hold
	use               map[cluster.StoreRef]volumeUse
	slow              *slowness
}

// hold is when an owner was last known to hold its volume: granted to it, or spoken of.
type hold struct {
	epoch id.Epoch
	at    time.Duration
}

type hostLife struct {
	seen  time.Duration
	spoke bool // a heartbeat came, not the registration alone
	beat  Beat
	paces map[id.Volume]pace
}

type storeLife struct {
	beat StoreBeat
	seen time.Duration
}

type report struct {
	at      time.Duration
	problem string
}

// reportersMax bounds who may complain of one store at a time; more say nothing new.
const reportersMax = 16

// silentBeats is after how many missed heartbeats one complaint is enough.
const silentBeats = 2

// heldTimeout is how long an owner that lives may not speak of its volume before
// another may take it: it gave up without saying so. An opening takes less.
const heldTimeout = 30 * time.Second

// NewLiveness begins at start.
func NewLiveness(start time.Duration, s cluster.Settings) *Liveness {
	return &Liveness{start: start, interval: s.HeartbeatInterval, timeout: s.HeartbeatTimeout,
		hosts: make(map[id.Host]*hostLife), stores: make(map[cluster.StoreRef]*storeLife),
		reports: make(map[cluster.StoreRef]map[id.Host]report), held: make(map[id.Volume]hold),
		use: make(map[cluster.StoreRef]volumeUse), slow: newSlowness()}
}

// Beat takes a heartbeat. The caller has checked that it is of the host's present life.
func (l *Liveness) Beat(now time.Duration, b Beat) {
	h := &hostLife{seen: now, spoke: true, beat: b}
	l.slow.observe(now, b.Holder.Host, b.Waits)
	h.carryPaces(l.hosts[b.Holder.Host])
	l.hosts[b.Holder.Host] = h
	for _, s := range b.Stores {
		if s.Use != nil {
			l.use[s.StoreRef] = l.use[s.StoreRef].take(s.Use)
		}
		l.stores[s.StoreRef] = &storeLife{beat: s, seen: now}
	}
	for _, v := range b.Volumes {
		l.Granted(now, v.Volume, v.Epoch)
	}
}

// Granted hears that a volume was granted, or is held, at epoch e.
func (l *Liveness) Granted(now time.Duration, v id.Volume, e id.Epoch) {
	if l.held[v].epoch <= e {
		l.held[v] = hold{e, now}
	}
}

// Forget drops what is known of a volume that is deleted.
func (l *Liveness) Forget(v id.Volume) { delete(l.held, v) }

// OwnerGone tells whether the owner of v at epoch e may be passed over: its host is
// silent, or speaks but has not spoken of the volume for long.
func (l *Liveness) OwnerGone(now time.Duration, owner id.Holder, v id.Volume, e id.Epoch) bool {
	if !l.HostUp(now, owner.Host) {
		return true
	}
	last := l.start
	if h := l.held[v]; h.epoch == e {
		last = h.at
	}
	return l.Spoke(owner) && now-last >= heldTimeout
}

// Registered hears of a host that registered: it lives, though its stores have not spoken yet.
func (l *Liveness) Registered(now time.Duration, h id.Holder) {
	if x := l.hosts[h.Host]; x != nil && x.beat.Holder == h {
		x.seen = now
		return
	}
	l.hosts[h.Host] = &hostLife{seen: now, beat: Beat{Holder: h}}
}

// Report takes a complaint of by about r.
func (l *Liveness) Report(now time.Duration, by id.Host, r cluster.StoreRef, problem string) {
	l.expire(now)
	m := l.reports[r]
	if m == nil {
		m = make(map[id.Host]report)
		l.reports[r] = m
	}
	if _, known := m[by]; known || len(m) < reportersMax {
		m[by] = report{now, problem}
	}
}

// expire forgets complaints that were not repeated.
func (l *Liveness) expire(now time.Duration) {
	for r, m := range l.reports {
		maps.DeleteFunc(m, func(_ id.Host, x report) bool { return now-x.at >= l.timeout })
		if len(m) == 0 {
			delete(l.reports, r)
		}
	}
}

// seen is when the host was heard last, or this leader's start.
func (l *Liveness) seen(h id.Host) time.Duration {
	if x := l.hosts[h]; x != nil {
		return x.seen
	}
	return l.start
}

// HostUp tells whether the host was heard within the timeout.
func (l *Liveness) HostUp(now time.Duration, h id.Host) bool { return now-l.seen(h) < l.timeout }

// LastSeen tells how long ago the host was heard, and false if this leader never heard it.
func (l *Liveness) LastSeen(now time.Duration, h id.Host) (time.Duration, bool) {
	x := l.hosts[h]
	if x == nil {
		return 0, false
	}
	return now - x.seen, true
}

// HostBeat is the host's last heartbeat.
func (l *Liveness) HostBeat(h id.Host) (Beat, bool) {
	if x := l.hosts[h]; x != nil {
		return x.beat, true
	}
	return Beat{}, false
}

// StoreBeat is the store's part of its host's last heartbeat.
func (l *Liveness) StoreBeat(r cluster.StoreRef) (StoreBeat, bool) {
	if x := l.stores[r]; x != nil {
		return x.beat, true
	}
	return StoreBeat{}, false
}

// StoreUp tells whether a store on host h is taken for usable, and if not, why. It is
// down when its host is silent; when the host speaks but not of the store; when it says
// itself that it died; when two hosts complain of it; or when one does and its host has
// missed some heartbeats.
func (l *Liveness) StoreUp(now time.Duration, r cluster.StoreRef, h id.Host) (up bool, why string) {
	if !l.HostUp(now, h) {
		return false, "its host " + string(h) + " is silent"
	}
	host, s := l.hosts[h], l.stores[r]
	switch {
	case s != nil && s.beat.Dead != "":
		return false, s.beat.Dead
	case host == nil: // a new leader waits
	case s == nil && now-l.start >= l.timeout, s != nil && host.seen-s.seen >= l.timeout:
		return false, "its host does not speak of it"
	}
	complaints, text := 0, ""
	for _, by := range slices.Sorted(maps.Keys(l.reports[r])) {
		if x := l.reports[r][by]; now-x.at < l.timeout {
			complaints++
			text = string(by) + " reports: " + x.problem
		}
	}
	if complaints >= 2 || complaints == 1 && now-l.seen(h) >= silentBeats*l.interval {
		return false, text
	}
	return true, ""
}

// Spoke tells whether a heartbeat of this life was heard.
func (l *Liveness) Spoke(h id.Holder) bool {
	x := l.hosts[h.Host]
	return x != nil && x.spoke && x.beat.Holder == h
}

// Volume is what the owner of v said of it under epoch e, if it did.
func (l *Liveness) Volume(owner id.Holder, v id.Volume, e id.Epoch) (VolumeBeat, bool) {
	x := l.hosts[owner.Host]
	if x == nil || x.beat.Holder != owner {
		return VolumeBeat{}, false
	}
	for _, b := range x.beat.Volumes {
		if b.Volume == v && b.Epoch == e {
			return b, true
		}
	}
	return VolumeBeat{}, false
}
