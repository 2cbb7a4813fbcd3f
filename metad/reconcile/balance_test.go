package reconcile

import (
	"math/rand/v2"
	"slices"
	"testing"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// growing is a cluster whose groups hold bytes, to which hosts are added.
type growing struct {
	*scene
	mender   Mender
	balancer Balancer
	bytes    map[id.PG]uint64 // of each slot
	has      map[cluster.StoreRef]map[id.PG]bool
	moves    int
	moved    uint64
	seen     map[cluster.StoreRef]map[id.PG]int // how often a store was given a slot by balancing
}

// capacity of the stores of a host: they differ if mixed.
func capacity(h int, mixed bool) uint64 {
	if mixed && h%3 == 0 {
		return 2 << 30
	}
	return 1 << 30
}

func newGrowing(t *testing.T, hosts int, mixed bool) *growing {
	g := &growing{scene: newScene(t), mender: Mender{OutAfter: outAfter}, bytes: map[id.PG]uint64{},
		has: map[cluster.StoreRef]map[id.PG]bool{}, seen: map[cluster.StoreRef]map[id.PG]int{}}
	g.apply(&state.SetLevel{Level: state.LevelTime})
	g.grow(hosts, mixed)
	return g
}

func (g *growing) grow(hosts int, mixed bool) {
	for h := len(g.m.Hosts()) + 1; h <= hosts; h++ {
		c := &state.RegisterHost{Holder: holder(h), DataAddress: "a:1", Exports: true}
		for i := 1; i <= 2; i++ {
			c.Stores = append(c.Stores, state.RegisterStore{StoreRef: ref(h, i), Capacity: capacity(h, mixed)})
		}
		g.apply(c)
	}
	g.tell()
	g.place()
	g.tell()
}

// tell lets every store speak, and fill what it was given as it does.
func (g *growing) tell() {
	for _, h := range g.m.Hosts() {
		b := Beat{Holder: id.Holder{Host: h.Host, Number: 1}}
		for _, x := range g.m.Stores() {
			if x.Host != h.Host {
				continue
			}
			s := StoreBeat{StoreRef: x.StoreRef, Capacity: x.Capacity}
			for _, p := range g.m.PGs() {
				if slices.ContainsFunc(p.Versions, func(v cluster.PGVersion) bool { return slices.Contains(v.Stores, x.StoreRef) }) {
					s.Groups = append(s.Groups, cluster.GroupUse{PG: p.Number, Bytes: g.held(x.StoreRef, p)})
					s.Used += g.held(x.StoreRef, p)
					s.Repairs = append(s.Repairs, RepairBeat{PG: p.Number, Version: p.Current().Version, Whole: g.has[x.StoreRef][p.Number]})
				}
			}
			b.Stores = append(b.Stores, s)
		}
		g.l.Beat(g.now, b)
	}
}

func (g *growing) held(r cluster.StoreRef, p state.PG) uint64 {
	if len(p.Versions) == 1 || g.has[r][p.Number] || slices.Contains(p.Versions[0].Stores, r) {
		if g.has[r] == nil {
			g.has[r] = map[id.PG]bool{}
		}
		g.has[r][p.Number] = true
		return g.bytes[p.Number]
	}
	g.has[r] = map[id.PG]bool{p.Number: true} // half of it is there
	return g.bytes[p.Number] / 2
}

// write spreads bytes over the groups that take them, unevenly.
func (g *growing) write(r *rand.Rand, n uint64) {
	for left := int64(n); left > 0; {
		t := g.top()
		for _, p := range t.PGs {
			if p.Preferred {
				x := uint64(r.IntN(8<<20)) + 1
				g.bytes[p.Number] += x / uint64(p.Current().K)
				left -= int64(x)
			}
		}
	}
}

// step plans once, and carries it out.
func (g *growing) step() (quiet bool) {
	g.t.Helper()
	g.now += balanceEvery
	g.tell()
	if plan := g.mender.Plan(g.now, g.m, g.l, g.top(), 1); len(plan) > 0 {
		for _, c := range plan {
			g.apply(c)
		}
		return false
	}
	c := g.balancer.Plan(g.now, g.m, g.l, g.top())
	if c == nil {
		return len(Shifting(g.top())) == 0
	}
	p := g.m.PGs()[slices.IndexFunc(g.m.PGs(), func(p state.PG) bool { return p.Number == c.PG })]
	for slot, r := range c.Stores {
		if r != p.Current().Stores[slot] {
			g.moved += g.bytes[c.PG]
			if g.seen[r] == nil {
				g.seen[r] = map[id.PG]int{}
			}
			g.seen[r][c.PG]++
		}
	}
	g.moves++
	g.apply(c)
	if n := len(Shifting(g.top())); n > balanceMoves {
		g.t.Fatalf("%d groups move at once", n)
	}
	if v := g.m.PGs()[slices.IndexFunc(g.m.PGs(), func(p state.PG) bool { return p.Number == c.PG })]; g.m.Scheme(v.Current()).Relaxed {
		g.t.Fatalf("group %d gave up its failure domain", c.PG)
	}
	return false
}

// settle steps until nothing moves any more.
func (g *growing) settle() {
	g.t.Helper()
	for range 2000 {
		if g.step() && !g.balancer.On() {
			return
		}
	}
	g.t.Fatal("it never ends")
}

func (g *growing) apart() float64 {
	uses, _ := weigh(g.m, g.l, g.top())
	return apart(uses)
}

// What a new store takes over must end, with all stores about equally full: what moves to and
// fro costs clients time for ever. Whatever the sizes, and whatever is written meanwhile.
func TestClusterThatGrowsIsBalanced(t *testing.T) {
	for seed := range uint64(6) {
		mixed := seed%2 == 1
		r := rand.New(rand.NewPCG(seed, 7))
		g := newGrowing(t, 3, mixed)
		g.write(r, 2<<30)
		g.settle()
		for _, hosts := range []int{6, 12} {
			g.grow(hosts, mixed)
			before, moved := g.apart(), g.moved
			g.seen = map[cluster.StoreRef]map[id.PG]int{}
			if before <= balanceFrom {
				t.Fatalf("seed %d: %d hosts are balanced before anything moved", seed, hosts)
			}
			g.settle()
			// A store has six slots or so: about one of them is as near as it gets.
			if after := g.apart(); after > before/2 || after > 0.2 {
				t.Errorf("seed %d: %d hosts were %.2f apart and are %.2f", seed, hosts, before, after)
			}
			for s, pgs := range g.seen {
				for pg, n := range pgs {
					if n > 1 {
						t.Errorf("seed %d: store %s was given a slot of group %d %d times", seed, s, pg, n)
					}
				}
			}
			var all uint64
			for _, p := range g.m.PGs() {
				all += g.bytes[p.Number] * uint64(len(p.Current().Stores))
			}
			if m := g.moved - moved; m > all*6/10 {
				t.Errorf("seed %d: %d MiB of %d moved", seed, m>>20, all>>20)
			}
			g.write(r, 1<<30)
			g.settle()
		}
		if h := g.health(); h.Level != OK {
			t.Errorf("seed %d: %v", seed, h.Reasons)
		}
		if moves := g.moves; true {
			for range 50 {
				g.step()
			}
			if g.moves != moves {
				t.Errorf("seed %d: it moves on at rest", seed)
			}
		}
	}
}

// grown is a cluster in which balancing has something to do.
func grown(t *testing.T) *growing {
	g := newGrowing(t, 3, false)
	g.write(rand.New(rand.NewPCG(1, 7)), 2<<30)
	g.grow(5, false)
	return g
}

// plans tells whether balancing has begun after some looks.
func (g *growing) plans() bool {
	for range 5 {
		g.now += balanceEvery
		g.tell()
		if g.balancer.Plan(g.now, g.m, g.l, g.top()) != nil {
			return true
		}
	}
	return false
}

// An operator knows better when clients are to be left alone.
func TestBalancingIsPaused(t *testing.T) {
	g := grown(t)
	g.apply(&state.SetBalancing{Paused: true})
	if g.plans() {
		t.Error("it goes on though it is paused")
	}
	g.apply(&state.SetBalancing{})
	if !g.plans() {
		t.Error("it does not begin")
	}
}

// While a store is away, or is to be emptied, what is left of the disks' time is for that.
func TestBalancingWaitsUntilNothingIsMissing(t *testing.T) {
	for name, harm := range map[string]func(g *growing){
		"lost":     func(g *growing) { g.apply(&state.LoseStore{Store: ref(1, 1)}) },
		"draining": func(g *growing) { g.apply(&state.MarkStore{Store: ref(1, 1), Leaving: true}) },
		"out":      func(g *growing) { g.apply(&state.MarkStore{Store: ref(1, 1), Out: true}) },
		"repaired": func(g *growing) {
			g.apply(&state.MarkStore{Store: ref(1, 1), Leaving: true})
			g.apply(g.m.PlanMove(1, Takers(g.top(), nil), 1))
		},
		"down": func(g *growing) {
			g.l.Report(g.now, "h2", ref(1, 1), "no answer")
			g.l.Report(g.now, "h3", ref(1, 1), "no answer")
			g.now -= 5 * balanceEvery // reports expire
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := grown(t)
			harm(g)
			if name == "down" {
				g.now += balanceEvery
				if up, _ := g.l.StoreUp(g.now, ref(1, 1), "h1"); up {
					t.Fatal("it is up")
				}
				if g.balancer.Plan(g.now, g.m, g.l, g.top()) != nil {
					t.Error("it begins")
				}
				return
			}
			if g.plans() {
				t.Error("it begins")
			}
		})
	}
}

// No slot goes where nothing new is to be placed.
func TestBalancingRespectsCordonsAndFullStores(t *testing.T) {
	g := grown(t)
	g.apply(&state.CordonHost{Host: holder(4).Host, On: true})
	for range 300 {
		g.step()
	}
	for _, p := range g.m.PGs() {
		for slot, r := range p.Current().Stores {
			if r.Store[0] == 4 && p.Versions[0].Stores[slot] != r {
				t.Fatalf("group %d was given store %s of a cordoned host", p.Number, r)
			}
		}
	}
	if g.moves == 0 || len(g.seen) != 2 {
		t.Errorf("%d moves to %d stores; host 5 has two that take", g.moves, len(g.seen))
	}
}

// A store without any group would be given new ones, and those would be balanced away again.
func TestLastSlotOfAStoreStays(t *testing.T) {
	g := grown(t)
	g.settle()
	if g.m.PlacementNeeded(Healthy(g.top(), nil)) {
		t.Error("a store was left without groups")
	}
}
