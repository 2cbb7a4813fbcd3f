package reconcile

import (
	"slices"
	"time"

	"ashlar.dev/metad/placement"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Topology is what everybody is to know of hosts, stores and groups now. Version is
// left zero; see Same.
func Topology(m *state.Machine, l *Liveness, now time.Duration) *cluster.Topology {
	t := &cluster.Topology{Removed: m.Removed()}
	zones := make(map[id.Host]string)
	for _, h := range m.Hosts() {
		zones[h.Host] = h.Zone
		t.Hosts = append(t.Hosts, cluster.Host{Host: h.Host, HolderNumber: h.HolderNumber, DataAddress: h.DataAddress, Zone: h.Zone,
			Up: l.HostUp(now, h.Host), Exports: h.Exports, NBDUnixPath: h.NBDUnixPath, NBDTCP: h.NBDTCP, NBDTLS: h.NBDTLS, Cordoned: m.Cordoned(h.Host)})
	}
	good := make(map[cluster.StoreRef]bool)
	for _, s := range m.Stores() {
		x := cluster.Store{StoreRef: s.StoreRef, Host: s.Host, Zone: zones[s.Host], Capacity: s.Capacity, State: cluster.StoreLost}
		if !s.Lost {
			up, _ := l.StoreUp(now, s.StoreRef, s.Host)
			// A new leader takes everybody for up at first, but not whom its predecessors gave up.
			up = up && (!s.Out || l.heard(s.StoreRef, s.Host))
			x.State = stateOf(s, up)
		}
		if b, ok := l.StoreBeat(s.StoreRef); ok {
			x.Full, x.Used = b.Full, b.Used
			x.Capacity = max(b.Capacity, x.Capacity)
		}
		good[s.StoreRef] = x.State == cluster.StoreUp && !x.Full
		t.Stores = append(t.Stores, x)
	}
	l.leaveOut(now, t.Stores)
	best := -1
	schemes := make([]placement.Scheme, len(m.PGs()))
	for i, p := range m.PGs() {
		pg := cluster.PG{Number: p.Number, Versions: slices.Clone(p.Versions), Healthy: true}
		for j := range pg.Versions {
			pg.Versions[j].Relaxed = m.Scheme(pg.Versions[j]).Relaxed
		}
		current := p.Current()
		for _, r := range current.Stores {
			pg.Healthy = pg.Healthy && good[r]
		}
		schemes[i] = m.Scheme(current)
		if rank := schemes[i].Rank(); pg.Healthy && (best < 0 || rank < best) {
			best = rank
		}
		t.PGs = append(t.PGs, pg)
	}
	for i := range t.PGs {
		t.PGs[i].Preferred = t.PGs[i].Healthy && schemes[i].Rank() == best
	}
	return t.Index()
}

func stateOf(s state.Store, up bool) cluster.StoreState {
	switch {
	case up && s.Leaving:
		return cluster.StoreDraining
	case up:
		return cluster.StoreUp
	case s.Out || s.Leaving:
		return cluster.StoreOut
	}
	return cluster.StoreDown
}

// Same tells whether two topologies differ at most in version and in bytes used, of
// which nobody needs to hear at once.
func Same(a, b *cluster.Topology) bool {
	return slices.Equal(a.Hosts, b.Hosts) && slices.Equal(a.Removed, b.Removed) &&
		slices.EqualFunc(a.Stores, b.Stores, func(x, y cluster.Store) bool {
			x.Used, y.Used = 0, 0
			return x == y
		}) &&
		slices.EqualFunc(a.PGs, b.PGs, func(x, y cluster.PG) bool {
			return x.Number == y.Number && x.Preferred == y.Preferred && x.Healthy == y.Healthy &&
				slices.EqualFunc(x.Versions, y.Versions, func(v, w cluster.PGVersion) bool {
					return v.Version == w.Version && v.Relaxed == w.Relaxed && v.K == w.K && v.M == w.M && slices.Equal(v.Stores, w.Stores)
				})
		})
}

// Healthy are the stores on which groups may be formed: up, not full, not excluded.
func Healthy(t *cluster.Topology, exclude []id.Store) []cluster.StoreRef {
	var out []cluster.StoreRef
	for _, s := range t.Stores {
		if s.State == cluster.StoreUp && !s.Full && !slices.Contains(exclude, s.Store) {
			out = append(out, s.StoreRef)
		}
	}
	return out
}

// fullLoad makes full stores the last choice for an ensemble. They still have their
// log, which is allotted beforehand, and a full cluster must be able to trim.
const fullLoad = 1 << 32

// EnsembleCandidates are the stores an ensemble may be given.
func EnsembleCandidates(t *cluster.Topology, exclude []id.Store) []state.EnsembleCandidate {
	var out []state.EnsembleCandidate
	quick := t.QuickHosts() >= cluster.JournalHosts
	open := openHosts(t, exclude) >= cluster.JournalHosts
	for _, s := range t.Stores {
		if s.State != cluster.StoreUp || slices.Contains(exclude, s.Store) || s.Slow && quick || open && cordoned(t, s.StoreRef) {
			continue
		}
		c := state.EnsembleCandidate{StoreRef: s.StoreRef}
		if s.Full {
			c.Load = fullLoad
		}
		out = append(out, c)
	}
	return out
}
