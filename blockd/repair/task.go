package repair

import (
	"cmp"
	"slices"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Task is a slot of a group that a store was given and has to fill.
type Task struct {
	PG      id.PG
	Version uint32
	K, M    uint8
	Slot    uint8
	// Holders are, by slot, the stores that may have its shard, the surest first; of the
	// store's own slot, the older holders.
	Holders [][]cluster.StoreRef
	// Sources are all stores that may have something of the group and must be asked what
	// there is. Those that are lost or out are not among them.
	Sources []cluster.StoreRef
	// Witnesses are the sources by the kept version in which they stand, the oldest first.
	// Each has a shard of every segment that counts and was coded under that version; under
	// the oldest, also of those coded before it.
	Witnesses []Witnesses
	// Margin is how many more stores the group may lose.
	Margin int
}

// Witnesses can tell what was coded under one version of a group.
type Witnesses struct {
	Version uint32
	Stores  []cluster.StoreRef // others
	Self    bool               // the store itself stands in that version, too
}

// Tasks finds the slots that self was given, in order of the groups' margins. A group
// with one version only has nothing to fill in, nor has a version of another k+m.
func Tasks(t *cluster.Topology, self cluster.StoreRef) []Task {
	var out []Task
	for i := range t.PGs {
		p := &t.PGs[i]
		current := p.Current()
		slot := slices.Index(current.Stores, self)
		if len(p.Versions) < 2 || slot < 0 || always(p, slot) {
			continue
		}
		out = append(out, makeTask(t, p, uint8(slot)))
	}
	slices.SortStableFunc(out, func(a, b Task) int { return cmp.Compare(a.Margin, b.Margin) })
	return out
}

// overtaken tells whether among tasks is one of a group in greater danger than t: that one
// goes first, for t may be of a group that only gets its stores more evenly full.
func overtaken(tasks []Task, t Task) bool {
	return slices.ContainsFunc(tasks, func(x Task) bool { return x.Margin < t.Margin })
}

// always tells whether a slot has the same store in every kept version.
func always(p *cluster.PG, slot int) bool {
	current := p.Current()
	return !slices.ContainsFunc(p.Versions, func(v cluster.PGVersion) bool {
		return v.K != current.K || v.M != current.M || v.Stores[slot] != current.Stores[slot]
	})
}

func makeTask(t *cluster.Topology, p *cluster.PG, slot uint8) Task {
	v := p.Current()
	x := Task{PG: p.Number, Version: v.Version, K: v.K, M: v.M, Slot: slot, Margin: int(v.M)}
	self := v.Stores[slot]
	for _, old := range p.Versions {
		missing := 0
		for _, r := range old.Stores {
			if !t.Usable(r) {
				missing++
			}
		}
		x.Margin = min(x.Margin, int(old.M)-missing)
	}
	for _, r := range p.Members() {
		if r != self && mustAsk(t, r) {
			x.Sources = append(x.Sources, r)
		}
	}
	for i := range v.Stores {
		holders := slices.DeleteFunc(p.Holders(0, v.K, v.M, uint8(i)), func(r cluster.StoreRef) bool { return r == self })
		x.Holders = append(x.Holders, holders)
	}
	for _, old := range p.Versions {
		if old.Version == v.Version || old.K != v.K || old.M != v.M || !slices.ContainsFunc(old.Stores, func(r cluster.StoreRef) bool { return !lost(t, r) }) {
			continue // what comes now comes here as well; or is not continued; or nobody can ever tell
		}
		w := Witnesses{Version: old.Version, Self: slices.Contains(old.Stores, self)}
		for _, r := range old.Stores {
			if r != self && slices.Contains(x.Sources, r) {
				w.Stores = append(w.Stores, r)
			}
		}
		x.Witnesses = append(x.Witnesses, w)
	}
	return x
}

// witnesses are the others that can tell of a segment coded under a version.
func (x *Task) witnesses(version uint32) []cluster.StoreRef {
	for _, w := range x.Witnesses {
		if w.Version >= version {
			return w.Stores
		}
	}
	return nil
}

// untold is a version of which nobody can be asked what was coded under it.
func (x *Task) untold() (version uint32, ok bool) {
	i := slices.IndexFunc(x.Witnesses, func(w Witnesses) bool { return len(w.Stores) == 0 && !w.Self })
	if i < 0 {
		return 0, false
	}
	return x.Witnesses[i].Version, true
}

// lost tells whether a memory is known to be gone for good.
func lost(t *cluster.Topology, r cluster.StoreRef) bool {
	s, ok := t.Store(r.Store)
	return ok && s.Incarnation == r.Incarnation && s.State == cluster.StoreLost
}

// mustAsk: a store that is down may come back with what only it has; one that is out
// has been given up, as long as others know what there is.
func mustAsk(t *cluster.Topology, r cluster.StoreRef) bool {
	s, ok := t.Store(r.Store)
	return ok && s.Incarnation == r.Incarnation && s.State != cluster.StoreLost && s.State != cluster.StoreOut
}

// same tells whether t still says what the task says.
func (x *Task) same(t *cluster.Topology) bool {
	p, ok := t.PG(x.PG)
	return ok && p.Current().Version == x.Version && len(p.Versions) > 1
}
