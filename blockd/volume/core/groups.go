package core

import (
	"slices"
	"time"

	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// suspectFor is how long a store that failed a put is left out of new segments
// before it is tried again, unless metad speaks of it earlier.
const suspectFor = 5 * time.Second

// retryAfter is how long the core waits before it asks again for what failed;
// metad is asked ever less often, up to askAfterMax.
const (
	retryAfter  = 200 * time.Millisecond
	askAfterMax = 5 * time.Second
)

// backoff doubles a pause.
func backoff(pause time.Duration) time.Duration {
	return min(max(2*pause, retryAfter), askAfterMax)
}

// groupView is what the core knows of placement groups: those metad prefers for new
// segments, and those that would do where there is no other.
type groupView struct {
	groups   []group // preferred and healthy
	others   []group // every store lives, but one is full, or metad has better ones
	nextOne  int
	versions map[id.PG]uint32           // the newest of every group
	mixed    map[id.PG]bool             // those of which a kept version has another code than the newest
	urgent   bool                       // and such a version misses a store
	suspects map[id.Store]time.Duration // until when
	down     map[id.Store]bool
	short    bool            // others only: stores are full
	roomy    bool            // and not all of these
	lively   map[id.PG]group // every store lives
	fill     int             // percent, of the fullest store that lives
	asked    bool
	askAt    time.Duration // metad is not asked before
	pause    time.Duration
	stuck    bool // metad was asked and had none: others will do
	version  uint64

	last     *cluster.Topology // the newest
	refused  map[id.Store]refusal
	relentAt time.Duration // when the next refusal is over; 0: never
}

// group is the current version of one placement group.
type group struct {
	pg      id.PG
	version uint32
	k, m    uint8
	stores  []id.Store
}

// Topology hands the core a newer topology.
func (c *Core) Topology(now time.Duration, t *cluster.Topology, fx *Effects) {
	g := &c.groups
	if t.Version < g.version {
		return
	}
	g.take(now, t)
	c.recode.looked, c.recode.next = false, 0
	if g.full() {
		c.refuseRoom(fx)
	}
	c.startPacks(now, fx)
	c.absorb(now, fx)
}

func (g *groupView) take(now time.Duration, t *cluster.Topology) {
	if t == nil {
		return
	}
	g.version, g.last, g.fill, g.relentAt, g.roomy = t.Version, t, 0, 0, false
	clear(g.lively)
	for i := range t.Stores {
		s := &t.Stores[i]
		g.hear(s)
		up := s.State.Serves()
		if up && g.down[s.Store] {
			delete(g.suspects, s.Store) // it is back
		}
		g.down[s.Store] = !up
		if up && s.Capacity > 0 {
			g.fill = max(g.fill, int(min(s.Used, s.Capacity)*100/s.Capacity))
		}
		if up && s.Full {
			g.fill = 100
		}
	}
	g.groups, g.others, g.short = g.groups[:0], g.others[:0], false
	clear(g.versions)
	g.mixed, g.urgent = nil, false
	for i := range t.PGs {
		p := &t.PGs[i]
		v := p.Current()
		g.versions[p.Number] = v.Version
		if slices.ContainsFunc(p.Versions, func(o cluster.PGVersion) bool { return o.K != v.K || o.M != v.M }) {
			if g.mixed == nil {
				g.mixed = make(map[id.PG]bool)
			}
			g.mixed[p.Number] = true
			g.urgent = g.urgent || slices.ContainsFunc(p.Members(), func(r cluster.StoreRef) bool { return !t.Usable(r) })
		}
		stores := make([]id.Store, len(v.Stores))
		usable, full := true, false
		for j, ref := range v.Stores {
			stores[j] = ref.Store
			s, _ := t.Store(ref.Store)
			usable = usable && t.Usable(ref)
			full = full || s.Full
		}
		x := group{pg: p.Number, version: v.Version, k: v.K, m: v.M, stores: stores}
		if usable {
			g.lively[p.Number] = x
		}
		refusing := g.refusing(now, v.Stores)
		switch {
		case p.Preferred && p.Healthy && !refusing:
			g.groups = append(g.groups, x)
		case usable:
			g.others = append(g.others, x)
			g.short = g.short || full || refusing
			g.roomy = g.roomy || p.Healthy && !refusing
		}
	}
}

// entry is the table entry of a segment in the group, with nothing alive yet.
func (g *group) entry(n id.Generation, slots int) blockmap.Entry {
	return blockmap.Entry{Generation: n, PGVersion: g.version, Slots: uint16(slots), PG: g.pg, K: g.k, M: g.m}
}

// rewritable tells whether every store of the group's present version lives and did not fail lately.
func (g *groupView) rewritable(now time.Duration, pg id.PG) bool {
	x, ok := g.lively[pg]
	return ok && !g.suspected(now, x)
}

// forCleaning gives a group for a segment that the cleaner makes. On a full cluster it
// is one that is only full: cleaning draws on the reserve, for it gives back more.
func (g *groupView) forCleaning(now time.Duration) (group, bool) {
	if x, ok := g.pick(now, g.groups, false); ok {
		return x, true
	}
	if g.full() {
		return g.pick(now, g.others, false)
	}
	return group{}, false
}

// full tells that new bytes have no place: no group is healthy, and there are some
// that only lack room. What is buffered already is packed into these, see room.go.
func (g *groupView) full() bool { return len(g.groups) == 0 && g.short && !g.roomy }

// refuseRoom ends the writes that wait for memory: there is no space for them either.
func (c *Core) refuseRoom(fx *Effects) {
	for _, op := range c.room {
		c.finish(op, errFull, fx)
	}
	c.room = nil
}

// changed tells whether the group got a newer version since j was issued: then
// the shards may lie where nobody will look for them.
func (g *groupView) changed(j *PackJob) bool {
	v, ok := g.versions[j.Segment.PG()]
	return ok && v != j.Entry.PGVersion
}

// choose gives a group for a new segment, in turn; false if there is none now, and metad is asked.
func (c *Core) choose(now time.Duration, fx *Effects) (group, bool) {
	g := &c.groups
	if x, ok := g.pick(now, g.groups, false); ok {
		return x, true
	}
	if !g.asked && now >= g.askAt {
		g.asked = true
		fx.AskPlace = true
		fx.Placement = fx.Placement[:0]
		for s, until := range g.suspects {
			if until > now {
				fx.Placement = append(fx.Placement, s)
			}
		}
		slices.SortFunc(fx.Placement, func(a, b id.Store) int { return slices.Compare(a[:], b[:]) })
	}
	if g.stuck { // what may do is better than nothing
		for _, anyhow := range []bool{false, true} {
			for _, from := range [][]group{g.groups, g.others} {
				if x, ok := g.pick(now, from, anyhow); ok {
					return x, true
				}
			}
		}
	}
	return group{}, false
}

// pick gives the next group of from without a suspect; anyhow: whatever is suspected.
func (g *groupView) pick(now time.Duration, from []group, anyhow bool) (group, bool) {
	for range from {
		x := from[g.nextOne%len(from)]
		g.nextOne++
		if anyhow || !g.suspected(now, x) {
			return x, true
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
// Where that did not help, other groups will do until it does.
func (c *Core) PlacementDone(now time.Duration, err error, fx *Effects) {
	g := &c.groups
	g.asked = false
	if _, ok := g.pick(now, g.groups, false); ok {
		g.pause, g.stuck = 0, false
	} else {
		g.stuck = true
		g.pause = backoff(g.pause)
		g.askAt = now + g.pause
	}
	c.startPacks(now, fx)
	c.absorb(now, fx)
}

// idRanges are segment sequences that metad has given to this epoch.
type idRanges struct {
	ranges []idRange
	asked  bool
	askAt  time.Duration
	pause  time.Duration
	last   int         // ids in the range that metad gave last
	issued id.Sequence // the highest that was taken
}

type idRange struct{ next, end id.Sequence }

// rangeLow is how few ids may be left before more are asked for; with half of the last
// range left they are asked for too, for what is in hand must last while metad is away.
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
			r.issued = max(r.issued, x.next)
			x.next++
			return x.next - 1, true
		}
		r.ranges = r.ranges[1:]
	}
	return 0, false
}

// wantRange asks metad for ids when fewer than low are left.
func (c *Core) wantRange(now time.Duration, low int, fx *Effects) {
	r := &c.ids
	if !r.asked && now >= r.askAt && r.left() < max(low, r.last/2) {
		r.asked = true
		fx.Range = true
	}
}

// RangeDone: metad gave count sequences from first on, or failed.
func (c *Core) RangeDone(now time.Duration, first id.Sequence, count uint64, err error, fx *Effects) {
	r := &c.ids
	r.asked = false
	if err != nil {
		r.pause = backoff(r.pause)
		r.askAt = now + r.pause
		return
	}
	r.pause, r.last = 0, int(count)
	r.ranges = append(r.ranges, idRange{first, first + id.Sequence(count)})
	c.startPacks(now, fx)
	c.absorb(now, fx)
}
