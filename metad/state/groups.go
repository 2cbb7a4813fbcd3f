package state

import (
	"slices"

	"ashlar.dev/metad/placement"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Leaves tells whether the places of the memory r go to others: it is lost, out or to be emptied.
func (m *Machine) Leaves(r cluster.StoreRef) bool {
	s := m.stores[r.Store]
	return s == nil || s.Incarnation != r.Incarnation || s.Lost || s.Out || s.Leaving
}

// markStore says what the leader found, or an operator wants, of a store that is not lost.
func (m *Machine) markStore(c *MarkStore) Result {
	s := m.stores[c.Store.Store]
	switch {
	case s == nil:
		return refuse(errs.ErrNotFound, "store %s", c.Store)
	case s.Incarnation != c.Store.Incarnation || s.Lost:
		return refuse(errs.ErrConflict, "store %s is lost or has another memory", c.Store)
	}
	next := *s
	next.Leaving, next.Out = c.Leaving, c.Out
	m.stores[s.Store] = &next
	return Result{}
}

// pg finds a group by number.
func (m *Machine) pg(n id.PG) (int, *PG) {
	i, ok := slices.BinarySearchFunc(m.pgs, n, func(p PG, n id.PG) int { return int(p.Number) - int(n) })
	if !ok {
		return 0, nil
	}
	return i, &m.pgs[i]
}

// moveGroup adds a version in which slots belong to other stores. The older ones stay
// until the new holders lack nothing, which they know from stores of every one of them.
// Before LevelMoves they could only learn it from one store that has a shard of
// everything: a present memory that has had its slot in every kept version.
func (m *Machine) moveGroup(c *MoveGroup) Result {
	i, p := m.pg(c.PG)
	if p == nil {
		return refuse(errs.ErrNotFound, "placement group %d", c.PG)
	}
	current := p.Current()
	switch {
	case current.Version != c.At:
		return refuse(errs.ErrConflict, "placement group %d is at version %d, not %d", c.PG, current.Version, c.At)
	case len(c.Stores) != len(current.Stores):
		return refuse(errs.ErrInvalid, "placement group %d of %d stores given %d", c.PG, len(current.Stores), len(c.Stores))
	case len(p.Versions) >= VersionsMax:
		return refuse(errs.ErrNoSpace, "placement group %d has %d versions", c.PG, len(p.Versions))
	}
	seen := make(map[id.Store]bool)
	for slot, r := range c.Stores {
		if seen[r.Store] {
			return refuse(errs.ErrInvalid, "placement group %d would have store %s twice", c.PG, r)
		}
		seen[r.Store] = true
		if r != current.Stores[slot] && m.Leaves(r) {
			return refuse(errs.ErrConflict, "store %s takes no places", r)
		}
	}
	if slices.Equal(c.Stores, current.Stores) {
		return Result{}
	}
	next := cluster.PGVersion{Version: c.At + 1, K: current.K, M: current.M, Stores: slices.Clone(c.Stores)}
	if !c.Freely && len(m.anchors(p, next)) == 0 {
		return refuse(errs.ErrConflict, "placement group %d would keep no store that has a shard of everything", c.PG)
	}
	// Readers hold the slice of groups: change a copy.
	m.pgs = slices.Clone(m.pgs)
	m.pgs[i].Versions = append(slices.Clone(p.Versions), next)
	return Result{Added: 1}
}

// anchors are the present memories that have the same slot in every kept version and in next.
func (m *Machine) anchors(p *PG, next cluster.PGVersion) (out []cluster.StoreRef) {
	for slot, r := range next.Stores {
		same := m.Alive(r)
		for _, v := range p.Versions {
			same = same && v.K == next.K && v.M == next.M && v.Stores[slot] == r
		}
		if same {
			out = append(out, r)
		}
	}
	return out
}

// forgetVersions drops the versions before the current one: nothing is missing under it.
func (m *Machine) forgetVersions(c *ForgetVersions) Result {
	i, p := m.pg(c.PG)
	if p == nil {
		return refuse(errs.ErrNotFound, "placement group %d", c.PG)
	}
	current := p.Current()
	if current.Version != c.At {
		return refuse(errs.ErrConflict, "placement group %d is at version %d, not %d", c.PG, current.Version, c.At)
	}
	for _, v := range p.Versions {
		if v.K != current.K || v.M != current.M {
			return refuse(errs.ErrConflict, "placement group %d has a version of %d+%d, which %d+%d does not continue", c.PG, v.K, v.M, current.K, current.M)
		}
	}
	m.pgs = slices.Clone(m.pgs)
	m.pgs[i].Versions = []cluster.PGVersion{current}
	return Result{}
}

// Needed tells in how many groups a memory stands, in kept versions, and how many
// journal lists name it.
func (m *Machine) Needed(r cluster.StoreRef) (groups, lists int) {
	for i := range m.pgs {
		if slices.ContainsFunc(m.pgs[i].Versions, func(v cluster.PGVersion) bool { return slices.Contains(v.Stores, r) }) {
			groups++
		}
	}
	for _, v := range m.volumes {
		if !v.Deleted && slices.ContainsFunc(v.List, func(e cluster.Ensemble) bool {
			return slices.Contains(e.Stores, r) || slices.Contains(e.Holders, r)
		}) {
			lists++
		}
	}
	return groups, lists
}

// removeStore forgets a store that leaves for good and that nothing needs. Its memory
// is refused when it comes back: what it has may be deleted by now.
func (m *Machine) removeStore(c *RemoveStore) Result {
	s := m.stores[c.Store.Store]
	switch {
	case s == nil:
		return Result{}
	case s.Incarnation != c.Store.Incarnation || !s.Lost && !s.Leaving:
		return refuse(errs.ErrConflict, "store %s does not leave", c.Store)
	case len(m.lost) >= LostMax:
		return refuse(errs.ErrNoSpace, "too many lost stores are remembered")
	}
	if groups, lists := m.Needed(c.Store); groups > 0 || lists > 0 {
		return refuse(errs.ErrConflict, "store %s is in %d placement groups and %d journal lists", c.Store, groups, lists)
	}
	m.lost[c.Store] = struct{}{}
	delete(m.stores, c.Store.Store)
	m.purged(c.Store, func(*Volume) bool { return true })
	return Result{}
}

// PlanMove is the command that gives away the slots of a group that leave, as far as
// there are stores for them; or that spreads a group
// of which one host has too many shards. Nil: nothing to do, or nothing can be done.
func (m *Machine) PlanMove(n id.PG, healthy []cluster.StoreRef, seed uint64) *MoveGroup {
	_, p := m.pg(n)
	if p == nil || len(p.Versions) >= VersionsMax {
		return nil
	}
	current := p.Current()
	slots, leaving := m.slots(current)
	if leaving == 0 && (len(p.Versions) > 1 || !m.Scheme(current).Relaxed) {
		return nil
	}
	stores, freely := m.loaded(healthy), m.level >= LevelMoves
	if leaving > 0 {
		if !freely {
			m.keepAnchor(p, slots)
		}
		if next, moved := placement.Move(slots, current.M, stores, seed); moved > 0 {
			return &MoveGroup{PG: n, At: current.Version, Stores: next, Freely: freely}
		}
		return nil
	}
	next, ok := placement.Spread(slots, current.M, stores, seed)
	if !ok || !freely && len(m.anchors(p, cluster.PGVersion{K: current.K, M: current.M, Stores: next})) == 0 {
		return nil
	}
	return &MoveGroup{PG: n, At: current.Version, Stores: next, Freely: freely}
}

func (m *Machine) slots(v cluster.PGVersion) (slots []placement.Slot, leaving int) {
	for _, r := range v.Stores {
		// A store that is not known any more is on a host of its own.
		s := placement.Slot{Candidate: placement.Candidate{Ref: r}, Leaves: m.Leaves(r)}
		if have := m.stores[r.Store]; have != nil && have.Incarnation == r.Incarnation {
			s.Host, s.Zone = have.Host, m.zone(have.Host)
		} else {
			s.Host = id.Host(r.String())
		}
		if s.Leaves {
			leaving++
		}
		slots = append(slots, s)
	}
	return slots, leaving
}

// keepAnchor, before LevelMoves, lets one slot stay for now if else none would stay that has a shard of
// everything. It goes when the others have come.
func (m *Machine) keepAnchor(p *PG, slots []placement.Slot) {
	anchors := m.anchors(p, p.Current())
	for i := range slots {
		if !slots[i].Leaves && slices.Contains(anchors, slots[i].Ref) {
			return
		}
	}
	for i := range slots {
		if slices.Contains(anchors, slots[i].Ref) {
			slots[i].Leaves = false
			return
		}
	}
	for i := range slots { // nobody has everything: the group stays as it is
		slots[i].Leaves = false
	}
}

// loaded are the candidates with how many groups each is in.
func (m *Machine) loaded(healthy []cluster.StoreRef) []placement.Candidate {
	groups := make(map[cluster.StoreRef]uint64)
	for i := range m.pgs {
		for _, r := range m.pgs[i].Current().Stores {
			groups[r]++
		}
	}
	out := m.candidates(healthy)
	out = slices.DeleteFunc(out, func(c placement.Candidate) bool { return m.Leaves(c.Ref) })
	for i := range out {
		out[i].Load = groups[out[i].Ref]
	}
	return out
}

// MoveAway is what a version would become if one store left it; false if nobody can take its place.
func (m *Machine) MoveAway(v cluster.PGVersion, r cluster.StoreRef, healthy []cluster.StoreRef) (cluster.PGVersion, bool) {
	slots, _ := m.slots(v)
	for i := range slots {
		slots[i].Leaves = slots[i].Ref == r
	}
	next, moved := placement.Move(slots, v.M, m.loaded(healthy), 0)
	v.Stores = next
	return v, moved > 0
}
