package core

import (
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// suspectFor is how long a store that failed a put is left out of new segments
// before it is tried again, unless metad speaks of it earlier.
const suspectFor = 5 * time.Second

// groupView is what the core knows of placement groups: those metad prefers for new
// segments, less the ones with a store that has just failed.
type groupView struct {
	groups   []group
	next     int
	suspects map[id.Store]time.Duration // until when
	asked    bool
	version  uint64
}

// group is the current version of one placement group.
type group struct {
	pg      id.PG
	version uint32
	k, m    uint8
	stores  []id.Store
}

// Topology hands the core a newer topology. The journal hears of stores that went down or came up.
func (c *Core) Topology(now time.Duration, t *cluster.Topology, fx *Effects) {
	g := &c.groups
	if t.Version < g.version {
		return
	}
	g.version = t.Version
	g.groups = g.groups[:0]
	for i := range t.PGs {
		p := &t.PGs[i]
		if !p.Preferred || !p.Healthy {
			continue
		}
		v := p.Current()
		stores := make([]id.Store, len(v.Stores))
		for j, s := range v.Stores {
			stores[j] = s.Store
		}
		g.groups = append(g.groups, group{pg: p.Number, version: v.Version, k: v.K, m: v.M, stores: stores})
	}
	g.asked = false
	c.startPacks(now, fx)
}

// choose gives a group for a new segment, in turn; false if there is none now, and metad is asked.
func (c *Core) choose(now time.Duration, fx *Effects) (group, bool) {
	g := &c.groups
	for range g.groups {
		cand := g.groups[g.next%len(g.groups)]
		g.next++
		if !g.suspected(now, cand) {
			return cand, true
		}
	}
	if !g.asked {
		g.asked = true
		fx.AskPlace = true
		fx.Placement = fx.Placement[:0]
		for s, until := range g.suspects {
			if until > now {
				fx.Placement = append(fx.Placement, s)
			}
		}
	}
	return group{}, false
}

// suspected tells whether a store of the group failed lately.
func (g *groupView) suspected(now time.Duration, c group) bool {
	for _, s := range c.stores {
		if until, ok := g.suspects[s]; ok {
			if until > now {
				return true
			}
			delete(g.suspects, s)
		}
	}
	return false
}

func (g *groupView) suspect(now time.Duration, stores []id.Store) {
	for _, s := range stores {
		g.suspects[s] = now + suspectFor
	}
}

// PlacementDone: metad has answered (its topology came by Topology) or failed.
func (c *Core) PlacementDone(now time.Duration, err error, fx *Effects) {
	c.groups.asked = false
	if err != nil {
		c.retryAt = now + retryAfter
		return
	}
	c.startPacks(now, fx)
}

// retryAfter is how long the core waits before it asks again for what failed.
const retryAfter = 200 * time.Millisecond

// idRanges are segment sequences that metad has given to this epoch.
type idRanges struct {
	ranges []idRange
	asked  bool
}

type idRange struct{ next, end id.Sequence }

// rangeLow is how few ids may be left before more are asked for.
const rangeLow = 64

// left is the ids in hand.
func (r *idRanges) left() int {
	n := 0
	for _, x := range r.ranges {
		n += int(x.end - x.next)
	}
	return n
}

// take gives the next sequence.
func (r *idRanges) take() (id.Sequence, bool) {
	for len(r.ranges) > 0 {
		if x := &r.ranges[0]; x.next < x.end {
			x.next++
			return x.next - 1, true
		}
		r.ranges = r.ranges[1:]
	}
	return 0, false
}

// wantRange asks metad for ids when few are left.
func (c *Core) wantRange(fx *Effects) {
	if !c.ids.asked && c.ids.left() < rangeLow {
		c.ids.asked = true
		fx.Range = true
	}
}

// RangeDone: metad gave count sequences from first on, or failed.
func (c *Core) RangeDone(now time.Duration, first id.Sequence, count uint64, err error, fx *Effects) {
	c.ids.asked = false
	if err != nil {
		c.retryAt = now + retryAfter
		return
	}
	c.ids.ranges = append(c.ids.ranges, idRange{first, first + id.Sequence(count)})
	c.startPacks(now, fx)
}
