package reconcile

import (
	"fmt"
	"slices"

	"ashlar.dev/metad/placement"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
)

// drainFillMax is how full, in percent, the stores that stay may become by a drain.
const drainFillMax = 85

// Drainable refuses, with the reason, to empty a store when something that lies on it
// could have no other place, or the others have no room for it.
func Drainable(m *state.Machine, t *cluster.Topology, s state.Store) error {
	healthy := slices.DeleteFunc(Takers(t, nil), func(r cluster.StoreRef) bool { return r == s.StoreRef })
	if len(healthy) < 2 {
		return fmt.Errorf("store %s cannot be emptied: only %d others are healthy, and writing needs two: %w", s.Store, len(healthy), errs.ErrConflict)
	}
	stuck, relaxed := 0, 0
	profile := placement.Profile{}
	for _, p := range m.PGs() {
		current := p.Current()
		slot := slices.Index(current.Stores, s.StoreRef)
		if slot < 0 {
			continue
		}
		next, moved := m.MoveAway(current, s.StoreRef, healthy)
		switch was, is := m.Scheme(current), m.Scheme(next); {
		case !moved:
			stuck++
			profile = was.Profile
		case is.Relaxed && !was.Relaxed:
			relaxed++
			profile = was.Profile
		}
	}
	switch {
	case stuck > 0:
		return fmt.Errorf("store %s cannot be emptied: %d placement groups of %s need %d stores and no other is free to take its place; add a store first: %w",
			s.Store, stuck, profile, profile.Width(), errs.ErrConflict)
	case relaxed > 0:
		return fmt.Errorf("store %s cannot be emptied: %d placement groups of %s would have more than %d shards on one host; add a store on another host first: %w",
			s.Store, relaxed, profile, profile.M, errs.ErrConflict)
	}
	return roomFor(t, s)
}

// roomFor looks whether what the store has fits into the others.
func roomFor(t *cluster.Topology, s state.Store) error {
	var used, capacity uint64
	for _, x := range t.Stores {
		if x.StoreRef == s.StoreRef {
			used += x.Used
		} else if x.State == cluster.StoreUp && !cordoned(t, x.StoreRef) {
			used, capacity = used+x.Used, capacity+x.Capacity
		}
	}
	if capacity > 0 && used > capacity/100*drainFillMax {
		return fmt.Errorf("store %s cannot be emptied: the others would be %d%% full; delete or trim something, or add a store first: %w",
			s.Store, used*100/capacity, errs.ErrNoSpace)
	}
	return nil
}

// Losable refuses to give a store up while something can only be read with it.
func Losable(m *state.Machine, t *cluster.Topology, s state.Store) error {
	groups := 0
	for _, p := range m.PGs() {
		for _, v := range p.Versions {
			missing := 0
			for _, r := range v.Stores {
				if r != s.StoreRef && !t.Usable(r) {
					missing++
				}
			}
			if slices.Contains(v.Stores, s.StoreRef) && missing >= int(v.M) {
				groups++
				break
			}
		}
	}
	if groups > 0 {
		return fmt.Errorf("store %s cannot be given up: %d placement groups miss as many stores as they can already, and what lies in them would be lost: %w",
			s.Store, groups, errs.ErrConflict)
	}
	return nil
}
