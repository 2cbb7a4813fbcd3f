package reconcile

import (
	"slices"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Scrubs are the looks at all shards that operators asked this leader for. Nobody commits
// them: a leader that does not know of one is asked again by whoever waits for it, and what
// stores have begun goes on in any case.
type Scrubs struct {
	orders []*scrubOrder // the oldest first
}

type scrubOrder struct {
	id     [16]byte
	volume id.Volume
	stores []cluster.StoreRef
	done   map[cluster.StoreRef]cluster.ScrubProgress
}

// ScrubOrder asks a store for a scrub.
type ScrubOrder struct {
	Store  id.Store
	ID     [16]byte
	Volume id.Volume // zero: everything
}

// ScrubOfStore is how far one store is.
type ScrubOfStore struct {
	cluster.Store
	cluster.ScrubProgress
}

// Ask begins a scrub, unless it is known.
func (x *Scrubs) Ask(n [16]byte, v id.Volume, stores []cluster.StoreRef) {
	if x.find(n) != nil {
		return
	}
	if len(x.orders) >= cluster.ScrubsMax {
		x.orders = slices.Delete(x.orders, 0, 1)
	}
	x.orders = append(x.orders, &scrubOrder{n, v, stores, make(map[cluster.StoreRef]cluster.ScrubProgress)})
}

func (x *Scrubs) find(n [16]byte) *scrubOrder {
	for _, o := range x.orders {
		if o.id == n {
			return o
		}
	}
	return nil
}

// Beat takes what stores tell, and gives the orders that they do not tell of. One that
// was done once is done, though the store's daemon has started anew and forgotten it.
func (x *Scrubs) Beat(b Beat) (out []ScrubOrder) {
	for _, s := range b.Stores {
		for _, o := range x.orders {
			if !slices.Contains(o.stores, s.StoreRef) || o.done[s.StoreRef].State == cluster.ScrubDone {
				continue
			}
			i := slices.IndexFunc(s.Scrubs, func(p cluster.ScrubProgress) bool { return p.ID == o.id })
			switch {
			case i < 0:
				out = append(out, ScrubOrder{s.Store, o.id, o.volume})
			case s.Scrubs[i].State == cluster.ScrubDone:
				o.done[s.StoreRef] = s.Scrubs[i]
			}
		}
	}
	return out
}

// Progress tells how far a scrub is on each store, and whether it is done on all that
// answer. False: it is not known.
func (x *Scrubs) Progress(n [16]byte, t *cluster.Topology, l *Liveness) (out []ScrubOfStore, done, known bool) {
	o := x.find(n)
	if o == nil {
		return nil, false, false
	}
	done = true
	for _, r := range o.stores {
		s, ok := t.Store(r.Store)
		if !ok || s.Incarnation != r.Incarnation {
			continue // removed, or another memory by now
		}
		p, is := o.done[r]
		if !is {
			p = cluster.ScrubProgress{ID: n, State: cluster.ScrubWaiting}
			if b, heard := l.StoreBeat(r); heard {
				if i := slices.IndexFunc(b.Scrubs, func(p cluster.ScrubProgress) bool { return p.ID == n }); i >= 0 {
					p = b.Scrubs[i]
				}
			}
			if !s.State.Serves() {
				p.State = cluster.ScrubAway
			}
		}
		done = done && (p.State == cluster.ScrubDone || p.State == cluster.ScrubAway)
		out = append(out, ScrubOfStore{s, p})
	}
	return out, done, true
}
