package placement

import (
	"cmp"
	"slices"

	"ashlar.dev/pkg/cluster"
)

// Group is a placement group's membership, in shard order.
type Group struct {
	Scheme
	Stores []cluster.StoreRef
}

// Limits of how many groups are wanted at once over one set of healthy stores.
const (
	wantMin = 2
	wantMax = 64
)

// want is how many groups spread the load over n stores: as many as stores, so that
// each store has each role about equally often.
func want(n int) int { return min(max(n, wantMin), wantMax) }

// Form returns the groups to add so that the healthy stores have enough groups of the
// best scheme they allow, and each of them is in one. Existing are the groups there
// are; those that lie wholly within the healthy stores and are of that scheme count.
// Nothing to add: empty. Fewer than two healthy stores: false.
func Form(healthy []Candidate, existing []Group, seed uint64) ([]Group, bool) {
	cs := sorted(healthy)
	best, ok := Best(cs)
	if !ok {
		return nil, false
	}
	f := newFormer(cs, best, seed)
	have := 0
	for _, g := range existing {
		if f.count(g) {
			have++
		}
	}
	var add []Group
	for ; have < want(len(cs)) || slices.Contains(f.load, 0); have++ {
		add = append(add, f.next(len(add)))
	}
	return add, true
}

type former struct {
	scheme Scheme
	seed   uint64
	stores []Candidate
	at     map[cluster.StoreRef]int
	load   []int // groups each store is in
	data   []int // groups in which it has a data shard
	cap    int   // shards per domain; 0: no limit, but spread
	domain domain
}

func newFormer(cs []Candidate, best Scheme, seed uint64) *former {
	f := &former{scheme: best, seed: seed, stores: cs, at: make(map[cluster.StoreRef]int, len(cs))}
	for i := range f.stores {
		f.at[f.stores[i].Ref] = i
	}
	f.load, f.data = make([]int, len(cs)), make([]int, len(cs))
	f.cap, f.domain = int(best.M), byHost
	switch {
	case best.Relaxed:
		f.cap = 0
	case fits(cs, best.Profile, byZone):
		f.domain = byZone
	}
	return f
}

// count takes an existing group into the loads if it serves as one of those wanted.
func (f *former) count(g Group) bool {
	if g.Scheme != f.scheme {
		return false
	}
	for _, r := range g.Stores {
		if _, ok := f.at[r]; !ok {
			return false
		}
	}
	f.add(g)
	return true
}

func (f *former) add(g Group) {
	for i, r := range g.Stores {
		f.load[f.at[r]]++
		if i < int(g.K) {
			f.data[f.at[r]]++
		}
	}
}

// next makes one group of the least loaded stores. With a limit per domain the choice
// cannot run into a dead end: any store of a domain with room will do, and fits has
// counted the room.
func (f *former) next(n int) Group {
	picked := make([]int, 0, f.scheme.Width())
	used := make(map[string]int)
	for len(picked) < f.scheme.Width() {
		best := -1
		for i, c := range f.stores {
			if slices.Contains(picked, i) || f.cap > 0 && used[f.domain(c)] >= f.cap {
				continue
			}
			if best < 0 || f.before(n, used, i, best) {
				best = i
			}
		}
		picked = append(picked, best)
		used[f.domain(f.stores[best])]++
	}
	slices.SortFunc(picked, func(a, b int) int {
		return compareFirst(cmp.Compare(f.data[a], f.data[b]), cmp.Compare(f.tie(n, a), f.tie(n, b)))
	})
	g := Group{Scheme: f.scheme, Stores: make([]cluster.StoreRef, len(picked))}
	for i, p := range picked {
		g.Stores[i] = f.stores[p].Ref
	}
	f.add(g)
	return g
}

func (f *former) tie(n, i int) uint64 { return tie(f.seed, n, f.stores[i].Ref) }

// before: without a limit per domain a group still spreads as evenly as it can.
func (f *former) before(n int, used map[string]int, a, b int) bool {
	spread := 0
	if f.cap == 0 {
		spread = cmp.Compare(used[f.domain(f.stores[a])], used[f.domain(f.stores[b])])
	}
	return compareFirst(
		// A store in no group yet comes before the spread, or it might never get into one.
		cmp.Compare(min(f.load[a], 1), min(f.load[b], 1)),
		spread, cmp.Compare(f.load[a], f.load[b]), cmp.Compare(f.tie(n, a), f.tie(n, b))) < 0
}

// Better is one group of the best scheme that the healthy stores allow, of the least loaded of
// them, if that scheme respects the failure domain, and is better than was without bearing fewer losses.
func Better(healthy []Candidate, existing []Group, was Scheme, seed uint64) (Group, bool) {
	cs := sorted(healthy)
	best, ok := Best(cs)
	if !ok || best.Relaxed || best.Rank() >= was.Rank() || best.M < was.M {
		return Group{}, false
	}
	f := newFormer(cs, best, seed)
	for _, g := range existing {
		f.count(g)
	}
	return f.next(0), true
}
