package placement

import (
	"cmp"
	"slices"

	"ashlar.dev/pkg/cluster"
)

// Slot is one place of a group: who has it, and whether it goes to another store.
type Slot struct {
	Candidate
	Leaves bool
}

// Move gives the slots that leave to stores that are in no slot of the group: where at
// most m share a host if there is such a store, else where least is lost; of equals to
// the one with the least load. Slots for which there is no store stay as they are. It
// tells how many were given away.
func Move(slots []Slot, m uint8, healthy []Candidate, seed uint64) (stores []cluster.StoreRef, moved int) {
	x := mover{m: int(m), seed: seed, stores: sorted(healthy), hosts: make(map[string]int), zones: make(map[string]int)}
	for _, s := range slots {
		stores = append(stores, s.Ref)
		if !s.Leaves {
			x.hosts[byHost(s.Candidate)]++
			x.zones[byZone(s.Candidate)]++
		}
	}
	for i, s := range slots {
		if !s.Leaves {
			continue
		}
		if c, ok := x.best(stores, i); ok {
			stores[i] = c.Ref
			x.hosts[byHost(c)]++
			x.zones[byZone(c)]++
			moved++
		}
	}
	return stores, moved
}

// Spread is Move for a group of which a host has more than m shards: those too many go
// to stores of hosts that have room. False if there is nothing to do, or no such store.
func Spread(slots []Slot, m uint8, healthy []Candidate, seed uint64) ([]cluster.StoreRef, bool) {
	hosts := make(map[string]int)
	for _, s := range slots {
		hosts[byHost(s.Candidate)]++
	}
	stores, moved := make([]cluster.StoreRef, len(slots)), false
	for i, s := range slots {
		stores[i] = s.Ref
	}
	for i, s := range slots {
		if hosts[byHost(s.Candidate)] <= int(m) {
			continue
		}
		room := slices.DeleteFunc(sorted(healthy), func(c Candidate) bool { return hosts[byHost(c)] >= int(m) })
		x := mover{m: int(m), seed: seed, stores: room, hosts: hosts, zones: make(map[string]int)}
		if c, ok := x.best(stores, i); ok {
			hosts[byHost(s.Candidate)]--
			hosts[byHost(c)]++
			stores[i], moved = c.Ref, true
		}
	}
	return stores, moved
}

type mover struct {
	m            int
	seed         uint64
	stores       []Candidate
	hosts, zones map[string]int
}

// best is the store for slot i of the group; false if all are in it.
func (x *mover) best(group []cluster.StoreRef, i int) (Candidate, bool) {
	free := slices.DeleteFunc(slices.Clone(x.stores), func(c Candidate) bool {
		return slices.ContainsFunc(group, func(r cluster.StoreRef) bool { return r.Store == c.Ref.Store })
	})
	if len(free) == 0 {
		return Candidate{}, false
	}
	return slices.MinFunc(free, func(a, b Candidate) int {
		return compareFirst(
			cmp.Compare(max(x.hosts[byHost(a)]-x.m+1, 0), max(x.hosts[byHost(b)]-x.m+1, 0)),
			cmp.Compare(x.zones[byZone(a)], x.zones[byZone(b)]),
			cmp.Compare(x.hosts[byHost(a)], x.hosts[byHost(b)]),
			cmp.Compare(a.Load, b.Load),
			cmp.Compare(tie(x.seed, i, a.Ref), tie(x.seed, i, b.Ref)))
	}), true
}
