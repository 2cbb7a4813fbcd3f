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
	// Anchors are the sources that have had their slot in every kept version: they have a
	// shard of every segment that counts.
	Anchors []cluster.StoreRef
	// Margin is how many more stores the group may lose.
	Margin int
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
		if always(p, i) && slices.Contains(x.Sources, v.Stores[i]) {
			x.Anchors = append(x.Anchors, v.Stores[i])
		}
	}
	return x
}

// mustAsk: a store that is down may come back with what only it has; one that is out
// has been given up, as long as an anchor knows what there is.
func mustAsk(t *cluster.Topology, r cluster.StoreRef) bool {
	s, ok := t.Store(r.Store)
	return ok && s.Incarnation == r.Incarnation && s.State != cluster.StoreLost && s.State != cluster.StoreOut
}

// same tells whether t still says what the task says.
func (x *Task) same(t *cluster.Topology) bool {
	p, ok := t.PG(x.PG)
	return ok && p.Current().Version == x.Version && len(p.Versions) > 1
}
