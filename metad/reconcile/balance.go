package reconcile

import (
	"slices"
	"time"

	"ashlar.dev/metad/placement"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// The law of balancing. Stores that came later are to have their share of what is there
// already. It costs clients time and wins no margin, so it comes after everything else.
//
//   - It begins when the fullest store is balanceFrom fuller than the emptiest, as shares of
//     their capacities, and goes on until no two are balanceTo apart, or no move helps.
//   - Only while nothing is missing: all stores there and none to leave, all groups whole but
//     those that balancing itself moves, at most balanceMoves of them.
//   - One slot at a time moves, as in a repair: the older version stays until the new holder
//     is whole, so a store that fails meanwhile is a loss like any other.
const (
	balanceFrom  = 0.10
	balanceTo    = 0.03
	balanceMoves = 2
	balanceEvery = time.Second
	// balanceFillMax is how full a store may become by it.
	balanceFillMax = 0.85
)

// Balancer decides which slots of groups move to emptier stores. The zero value is ready.
type Balancer struct {
	on   bool
	next time.Duration
}

// On tells whether it is at work.
func (x *Balancer) On() bool { return x.on }

// Plan gives the next move; nil: none now. It is to be asked when nothing else is to be done.
func (x *Balancer) Plan(now time.Duration, m *state.Machine, l *Liveness, t *cluster.Topology) *state.MoveGroup {
	if now < x.next {
		return nil
	}
	x.next = now + balanceEvery
	shifting, quiet := calm(m, l, t)
	switch {
	case m.BalancingPaused() || m.Level() < state.LevelTime || m.Rebuilding():
		x.on = false
		return nil
	case !quiet || len(shifting) >= balanceMoves:
		return nil // it goes on later
	}
	uses, groups := weigh(m, l, t)
	if from := balanceFrom; !x.on && apart(uses) <= from {
		return nil
	}
	c := m.PlanBalance(uses, groups, balanceTo)
	x.on = c != nil || x.on && len(shifting) > 0 // the next look may find more when these are whole
	return c
}

// calm tells whether nothing but balancing is under way, and which groups that moves.
func calm(m *state.Machine, l *Liveness, t *cluster.Topology) (shifting map[id.PG]bool, quiet bool) {
	shifting = Shifting(t)
	for i := range t.PGs {
		if p := &t.PGs[i]; len(p.Versions) > 1 && !shifting[p.Number] {
			return shifting, false
		}
	}
	for _, s := range m.Stores() {
		if _, told := l.StoreBeat(s.StoreRef); m.Leaves(s.StoreRef) || !told || !t.Usable(s.StoreRef) {
			return shifting, false
		}
	}
	return shifting, true
}

// Shifting are the groups that move though no store of theirs is missing or leaves: nothing is
// at risk, and nothing is won but room.
func Shifting(t *cluster.Topology) map[id.PG]bool {
	out := make(map[id.PG]bool)
	for i := range t.PGs {
		p := &t.PGs[i]
		current := p.Current()
		if len(p.Versions) > 1 && !slices.ContainsFunc(p.Versions, func(v cluster.PGVersion) bool {
			return v.Relaxed || v.K != current.K || v.M != current.M || slices.ContainsFunc(v.Stores, func(r cluster.StoreRef) bool {
				s, ok := t.Store(r.Store)
				return !ok || s.StoreRef != r || s.State != cluster.StoreUp
			})
		}) {
			out[p.Number] = true
		}
	}
	return out
}

// weigh tells what each store has of the groups in which it stands now, and what each slot has.
func weigh(m *state.Machine, l *Liveness, t *cluster.Topology) (uses []state.Use, groups []state.Weigh) {
	at := make(map[cluster.StoreRef]int)
	for _, s := range t.Stores {
		at[s.StoreRef] = len(uses)
		uses = append(uses, state.Use{StoreRef: s.StoreRef, Capacity: s.Capacity,
			Takes: s.State == cluster.StoreUp && !s.Full && !s.Slow && !cordoned(t, s.StoreRef) && float64(s.Used) < balanceFillMax*float64(s.Capacity)})
	}
	for _, p := range m.PGs() {
		w := state.Weigh{PG: p.Number}
		for slot, r := range p.Current().Stores {
			n := slotBytes(l, p, slot)
			w.Bytes = append(w.Bytes, n)
			i, ok := at[r]
			if !ok {
				w.Stays = true
				continue
			}
			uses[i].Bytes += n
		}
		groups = append(groups, w)
	}
	return uses, groups
}

// slotBytes are what the holder of a slot has of the group. Of one that was given it just now,
// what the one before has: it is to have as much.
func slotBytes(l *Liveness, p state.PG, slot int) (most uint64) {
	for _, v := range p.Versions {
		if slot < len(v.Stores) {
			most = max(most, l.groupBytes(v.Stores[slot], p.Number))
		}
	}
	return most
}

// groupBytes are what a store has of a group.
func (l *Liveness) groupBytes(r cluster.StoreRef, pg id.PG) uint64 {
	b, ok := l.StoreBeat(r)
	if !ok {
		return 0
	}
	n, ok := slices.BinarySearchFunc(b.Groups, pg, func(g cluster.GroupUse, pg id.PG) int { return int(g.PG) - int(pg) })
	if !ok {
		return 0
	}
	return b.Groups[n].Bytes
}

func filled(uses []state.Use) []placement.Filled {
	out := make([]placement.Filled, len(uses))
	for i, u := range uses {
		out[i] = placement.Filled{Bytes: u.Bytes, Capacity: u.Capacity, Takes: u.Takes}
	}
	return out
}

func apart(uses []state.Use) float64 { return placement.Apart(filled(uses)) }

// Balance is how far stores are from being equally full.
type Balance struct {
	Paused, On bool
	Moving     int     // groups
	Apart      float64 // fullest and emptiest, as shares of their capacities
	Left       uint64  // bytes that lie above the mean, about
	PerSecond  uint64
}

// Balance sums it up.
func (x *Balancer) Balance(m *state.Machine, l *Liveness, t *cluster.Topology) Balance {
	uses, _ := weigh(m, l, t)
	shifting := Shifting(t)
	b := Balance{Paused: m.BalancingPaused(), On: x.on || len(shifting) > 0, Moving: len(shifting), Apart: apart(uses)}
	var bytes, capacity uint64
	for _, u := range uses {
		bytes, capacity = bytes+u.Bytes, capacity+u.Capacity
	}
	for _, u := range uses {
		if fair := uint64(float64(bytes) / float64(max(capacity, 1)) * float64(u.Capacity)); u.Bytes > fair && b.On {
			b.Left += u.Bytes - fair
		}
	}
	var sum Repair
	for _, s := range t.Stores {
		if h, ok := l.StoreBeat(s.StoreRef); ok {
			sum.Add(h, shifting)
		}
	}
	b.Left, b.PerSecond = b.Left+sum.BytesLeft, sum.BytesPerSecond
	return b
}
