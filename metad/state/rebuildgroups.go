package state

import (
	"cmp"
	"maps"
	"slices"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

func compareGroupVersions(a, b groupVersion) int {
	return cmp.Or(cmp.Compare(a.pg, b.pg), cmp.Compare(a.version, b.version), cmp.Compare(a.layer, b.layer))
}

// takeGroups adds the versions that the state does not have. Numbers and versions that are
// in use somewhere are never given to others, and whoever has a shard of a slot stands in
// that slot of some version, where readers and repair look for it (cluster.PG.Holders). In the
// end the current version comes again under a number that no store has heard of, so that new segments go where they
// went: stores refuse what comes by an older version than the newest that repair has told them, which the state may not know. What the
// stores lack under the new number is repaired like after any move.
func (m *Machine) takeGroups() {
	keys := slices.SortedFunc(maps.Keys(m.rebuild.groups), compareGroupVersions)
	before := m.pgs
	keys = slices.DeleteFunc(keys, func(k groupVersion) bool {
		return k.layer == known && forgottenBefore(before, k.pg, m.rebuild.groups[k])
	})
	m.pgs = slices.Clone(m.pgs)
	for _, k := range keys {
		if k.layer == known {
			m.takeVersion(k.pg, *m.rebuild.groups[k])
		}
	}
	for _, k := range keys {
		if k.layer == 0 && !forgottenBefore(before, k.pg, m.rebuild.groups[k]) {
			m.takeVersion(k.pg, m.filled(k.pg, *m.rebuild.groups[k]))
		}
	}
	for i := range m.pgs {
		p := &m.pgs[i]
		current := p.Current()
		m.takeHolders(p, keys)
		if len(p.Versions) < VersionsMax {
			current.Version = p.Current().Version + groupVersionJump
			p.Versions = append(slices.Clone(p.Versions), current)
		}
	}
}

// forgottenBefore tells whether the backup knows that all of a version was elsewhere: shards keep its
// number, and the oldest version that is kept continues it. Taken back it would wait for stores
// of its own, which may be long gone.
func forgottenBefore(before []PG, pg id.PG, v *cluster.PGVersion) bool {
	at, ok := slices.BinarySearchFunc(before, pg, func(p PG, n id.PG) int { return cmp.Compare(p.Number, n) })
	if !ok || v.Version >= before[at].Versions[0].Version {
		return false
	}
	return slices.ContainsFunc(before[at].Versions, func(x cluster.PGVersion) bool { return x.K == v.K && x.M == v.M })
}

// takeVersion adds v to a group, unless it has that version.
func (m *Machine) takeVersion(pg id.PG, v cluster.PGVersion) {
	at, ok := slices.BinarySearchFunc(m.pgs, pg, func(p PG, n id.PG) int { return cmp.Compare(p.Number, n) })
	if !ok {
		m.pgs = slices.Insert(m.pgs, at, PG{Number: pg})
	}
	p := &m.pgs[at]
	i, have := slices.BinarySearchFunc(p.Versions, v.Version, func(x cluster.PGVersion, n uint32) int { return cmp.Compare(x.Version, n) })
	if !have && len(p.Versions) < VersionsMax {
		p.Versions = slices.Insert(slices.Clone(p.Versions), i, v)
	}
}

// filled puts the stores of an older version into slots that no shard told of: versions of
// one code continue each other.
func (m *Machine) filled(pg id.PG, v cluster.PGVersion) cluster.PGVersion {
	_, p := m.pg(pg)
	v.Stores = slices.Clone(v.Stores)
	for slot, r := range v.Stores {
		if r != (cluster.StoreRef{}) || p == nil {
			continue
		}
		for _, x := range p.Versions {
			if x.Version < v.Version && x.K == v.K && x.M == v.M && !slices.Contains(v.Stores, x.Stores[slot]) {
				v.Stores[slot] = x.Stores[slot]
			}
		}
	}
	return v
}

// takeHolders adds versions for stores of a group that have shards of slots in which no
// version that counts for them has them, as after repairs of which nobody told.
func (m *Machine) takeHolders(p *PG, keys []groupVersion) {
	for _, k := range keys {
		if k.pg != p.Number {
			continue
		}
		seen := m.rebuild.groups[k]
		more := *seen
		more.Stores = make([]cluster.StoreRef, len(seen.Stores))
		lacking := false
		for slot, r := range seen.Stores {
			view := cluster.PG{Versions: p.Versions}
			if r != (cluster.StoreRef{}) && !slices.Contains(view.Holders(seen.Version, seen.K, seen.M, uint8(slot)), r) {
				more.Stores[slot], lacking = r, true
			}
		}
		if lacking && len(p.Versions) < VersionsMax-1 {
			more.Version = p.Current().Version + 1
			more = m.filled(p.Number, more)
			p.Versions = append(slices.Clone(p.Versions), more)
		}
	}
}
