package reconcile

import (
	"slices"
	"time"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

const (
	// rescueAfter is how long a store or an owner may be away before journals of volumes that
	// nobody looks after are copied. A restart takes less; what is lost or out is not waited for.
	rescueAfter = 60 * time.Second
	rescueEvery = time.Second
	rescuesMax  = 4 // asked of one host at a time
)

// Rescuer finds volumes that no engine looks after, because nobody owns them or the owner is
// gone, and whose journal has lost a store: their unpacked writes are one or two losses from
// being gone. A host that is asked to open one copies the journal to a full ensemble. One
// whose owner stays away is opened too: it is packed and let go, as its owner would have done.
// So is one of which stores have something that is to be coded anew, or of which something lies
// in an archive: only an owner does that. And one that was put into the trash while somebody had it.
// The zero value is ready.
type Rescuer struct {
	down   map[cluster.StoreRef]time.Duration // since when
	silent map[id.Host]time.Duration          // since when
	next   time.Duration
	round  int
}

// Rescue names a volume to be opened, as long as it is at Epoch: at a later one
// somebody has opened it.
type Rescue struct {
	Volume id.Volume
	Epoch  id.Epoch
}

// Plan tells, once a second, which host is to rescue which volumes.
func (r *Rescuer) Plan(now time.Duration, m *state.Machine, l *Liveness, t *cluster.Topology) (all map[id.Host][]Rescue, due bool) {
	if now < r.next {
		return nil, false
	}
	r.next = now + rescueEvery
	r.round++
	missing, absent, remain := r.missing(now, t), r.absent(now, t), remainOf(l, t)
	hosts := exporters(t)
	restoring, thrown := m.HeldManifests(), slices.ContainsFunc(m.Trashed(), (*state.Volume).Unsettled)
	if len(missing) == 0 && len(absent) == 0 && len(remain) == 0 && len(restoring) == 0 && !thrown && !m.Flattening() || len(hosts) == 0 {
		return nil, true
	}
	var needy []*state.Volume
	for _, v := range m.Volumes() {
		if !v.Deleted && unowned(now, m, l, v) && needs(t, missing, v, absent[v.Owner.Host] || remain[v.ID] || v.Restored != nil || v.Unsettled() || v.Flatten != nil) {
			needy = append(needy, v)
		}
	}
	// Begin elsewhere each time, so that some which cannot be opened do not hold up the rest.
	all = make(map[id.Host][]Rescue)
	for i := range needy {
		v := needy[(i+r.round)%len(needy)]
		h := hosts[int(v.ID[15])%len(hosts)]
		if len(all[h]) < rescuesMax {
			all[h] = append(all[h], Rescue{v.ID, v.Epoch})
		}
	}
	return all, true
}

// missing are the present memories that have been down for long. Others than those, and
// than the ones that are up, are lost.
func (r *Rescuer) missing(now time.Duration, t *cluster.Topology) map[cluster.StoreRef]bool {
	down := make(map[cluster.StoreRef]time.Duration)
	missing := make(map[cluster.StoreRef]bool)
	for _, s := range t.Stores {
		if s.State == cluster.StoreDown {
			since, known := r.down[s.StoreRef]
			if !known {
				since = now
			}
			down[s.StoreRef] = since
			missing[s.StoreRef] = now-since >= rescueAfter
		} else if s.State.Leaves() {
			missing[s.StoreRef] = true
		}
	}
	r.down = down
	return missing
}

// absent are the hosts that have been silent for long, or of which a store was given up.
func (r *Rescuer) absent(now time.Duration, t *cluster.Topology) map[id.Host]bool {
	silent := make(map[id.Host]time.Duration)
	absent := make(map[id.Host]bool)
	for _, h := range t.Hosts {
		if h.Up {
			continue
		}
		since, known := r.silent[h.Host]
		if !known {
			since = now
		}
		silent[h.Host] = since
		if now-since >= rescueAfter || slices.ContainsFunc(t.Stores, func(s cluster.Store) bool { return s.Host == h.Host && s.State.Leaves() }) {
			absent[h.Host] = true
		}
	}
	r.silent = silent
	return absent
}

// exporters are the hosts that may open disks: those that are cordoned only if there is no other.
func exporters(t *cluster.Topology) (out []id.Host) {
	for _, cordoned := range []bool{false, true} {
		for _, h := range t.Hosts {
			if h.Up && h.Exports && h.Cordoned == cordoned {
				out = append(out, h.Host)
			}
		}
		if len(out) > 0 {
			break
		}
	}
	return out
}

// unowned: nobody has it, or who had it is gone.
func unowned(now time.Duration, m *state.Machine, l *Liveness, v *state.Volume) bool {
	if (v.Owner == id.Holder{}) {
		return true
	}
	h, _ := m.Host(v.Owner.Host)
	return h.HolderNumber > v.Owner.Number || l.OwnerGone(now, v.Owner, v.ID, v.Epoch)
}

// needs: the owner stays away or some ensemble misses a store, all of them can be recovered
// now, and there are enough stores for another one.
func needs(t *cluster.Topology, missing map[cluster.StoreRef]bool, v *state.Volume, ownerless bool) bool {
	short := ownerless
	for _, e := range v.List {
		stores, need := recovery(e)
		have := 0
		for _, s := range stores {
			if t.Usable(s) {
				have++
				short = short || missing[s]
				continue
			}
			known, ok := t.Store(s.Store)
			replaced := !ok || known.Incarnation != s.Incarnation
			short = short || replaced || missing[s]
		}
		if have < need && !e.LossAccepted {
			return false
		}
	}
	up := slices.DeleteFunc(slices.Clone(t.Stores), func(s cluster.Store) bool { return s.State != cluster.StoreUp })
	return short && len(up) >= 2
}

// recovery tells of which stores recovery asks e's records, and how many must answer:
// of an open ensemble two of three, or one of two; of a closed one either holder; of one that was found all who
// told of it (blockd/journal).
func recovery(e cluster.Ensemble) (stores []cluster.StoreRef, need int) {
	switch {
	case e.Closed:
		return e.Holders, 1
	case e.Found:
		return e.Stores, len(e.Stores)
	}
	return e.Stores, len(e.Stores) - 1
}
