package reconcile

import (
	"slices"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Takers are the healthy stores of hosts that are not cordoned: slots of groups are given
// to no others.
func Takers(t *cluster.Topology, exclude []id.Store) []cluster.StoreRef {
	return slices.DeleteFunc(Healthy(t, exclude), func(r cluster.StoreRef) bool { return cordoned(t, r) })
}

func cordoned(t *cluster.Topology, r cluster.StoreRef) bool {
	s, _ := t.Store(r.Store)
	h, ok := t.Host(s.Host)
	return ok && h.Cordoned
}

// Formers are the stores that groups are formed over: those of hosts that are not cordoned.
// A cordon gives way where groups over the others would keep no failure domain, for writers
// do not wait for an operator, nor lose margin by him.
func Formers(m *state.Machine, t *cluster.Topology, exclude []id.Store) []cluster.StoreRef {
	takers := Takers(t, exclude)
	if s, ok := m.BestOver(takers); ok && !s.Relaxed {
		return takers
	}
	return Healthy(t, exclude)
}

// FormingNeeded tells whether groups are missing: for all the healthy stores, and for those
// that groups may be formed over. Existing groups go on taking segments on a cordoned host.
func FormingNeeded(m *state.Machine, t *cluster.Topology, exclude []id.Store) bool {
	return !m.Rebuilding() && m.PlacementNeeded(Healthy(t, exclude)) && m.PlacementNeeded(Formers(m, t, exclude))
}

// openHosts counts the hosts that are not cordoned and have a store for a new ensemble.
func openHosts(t *cluster.Topology, exclude []id.Store) int {
	seen := make(map[id.Host]bool)
	for _, s := range t.Stores {
		if s.State == cluster.StoreUp && !slices.Contains(exclude, s.Store) && !cordoned(t, s.StoreRef) {
			seen[s.Host] = true
		}
	}
	return len(seen)
}
