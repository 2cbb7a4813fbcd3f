package repair

import (
	"math/rand/v2"
	"slices"
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto/memstore"
	"ashlar.dev/pkg/stripe"
)

var twoOne = stripe.Profile{K: 2, M: 1}

// away has a store that does not answer; out of it metad says that it will not.
func (b *bench) away(store int, s cluster.StoreState) {
	b.stores[store].SetFault(func(memstore.Call) memstore.Fault { return memstore.Fault{Err: errs.ErrUnavailable} })
	b.mark(store, s)
}

func (b *bench) back(store int) {
	b.stores[store].SetFault(nil)
	b.mark(store, cluster.StoreUp)
}

// If all stores of a version are away nobody knows what was coded under it, even if
// all other stores are asked.
func TestGroupIsNotWholeWithoutAWitnessOfEveryVersion(t *testing.T) {
	b := newBench(t, twoOne)
	b.write(1, 10)
	b.give(map[int]int{0: 3, 1: 4, 2: 5})
	seg := b.write(2, 10)
	b.give(map[int]int{0: 0, 1: 1, 2: 2})
	for i := 3; i < 6; i++ {
		b.away(i, cluster.StoreOut)
	}
	b.rounds()
	if b.whole() {
		t.Fatal("whole though nobody of the second version was asked")
	}
	b.back(4)
	b.back(3)
	b.rounds()
	if !b.whole() {
		t.Fatalf("%+v", b.workers[0].Progress())
	}
	b.allRight(seg)
}

// No store needs to have had its slot in every version: what each of them tells is enough.
func TestWitnessesOfEachVersionAreEnough(t *testing.T) {
	b := newBench(t, twoOne)
	segs := []id.Segment{b.write(1, 30)}
	b.give(map[int]int{0: 3})
	segs = append(segs, b.write(2, 20))
	b.give(map[int]int{2: 0})
	segs = append(segs, b.write(3, 40))
	b.lose(1) // the one that was always there
	b.give(map[int]int{1: 4})
	b.rounds()
	if !b.whole() {
		t.Fatalf("%+v %+v %+v", b.workers[3].Progress(), b.workers[0].Progress(), b.workers[4].Progress())
	}
	b.allRight(segs...)
}

// A store that had another slot before knows by itself what was coded then.
func TestStoreIsItsOwnWitness(t *testing.T) {
	b := newBench(t, stripe.Profile{K: 1, M: 2})
	seg := b.write(1, 10)
	b.away(1, cluster.StoreOut)
	b.away(2, cluster.StoreOut)
	b.give(map[int]int{0: 3, 1: 4, 2: 0})
	b.rounds()
	if !b.whole() {
		t.Fatalf("%+v", b.workers[0].Progress())
	}
	b.allRight(seg)
}

// Of a version all of whose stores are lost for good nobody can ever tell; what comes
// after it must not wait.
func TestLostVersionIsNotWaitedFor(t *testing.T) {
	b := newBench(t, twoOne)
	b.write(1, 10)
	b.give(map[int]int{0: 3, 1: 4, 2: 5})
	seg := b.write(2, 10)
	for i := range 3 {
		b.lose(i)
	}
	b.rounds()
	if !b.whole() {
		t.Fatalf("%+v", b.workers[3].Progress())
	}
	b.allRight(seg)
}

// A put under a newer version that was cut off is no hindrance either, though stores of
// older versions lack it, too.
func TestWitnessesAreThoseOfItsOwnVersion(t *testing.T) {
	b := newBench(t, twoOne)
	b.give(map[int]int{0: 3, 1: 4, 2: 5})
	counts := b.write(1, 10)
	b.write(2, 10, 0, 1) // on store 5 alone
	b.give(map[int]int{0: 6})
	b.rounds()
	if !b.whole() {
		t.Fatalf("%+v", b.workers[6].Progress())
	}
	b.allRight(counts)

	b = newBench(t, twoOne)
	b.give(map[int]int{0: 3, 1: 4, 2: 5})
	lost := b.write(1, 10) // counts, though the stores of the first version never had it
	b.give(map[int]int{0: 6, 1: 0})
	b.lose(3)
	b.lose(4)
	b.rounds()
	if b.whole() {
		t.Fatalf("whole without %s", lost)
	}
}

// Slots go from hand to hand while stores come, go and are lost, owners put under
// versions old and new, and puts are cut off. Whenever the group is called whole, every
// segment that counts has all its shards where they belong, if k of them are anywhere.
func TestWholeMeansEverythingIsThere(t *testing.T) {
	wholes := 0
	for seed := range uint64(300) {
		b := newBench(t, twoOne)
		r := rand.New(rand.NewPCG(seed, 1))
		counted := make(map[id.Segment]bool)
		for step := range 40 {
			b.anything(r, step, counted)
			for i, w := range b.workers {
				if b.top.Stores[i].State.Serves() && r.IntN(3) > 0 {
					w.Round(t.Context())
				}
			}
			b.clock.Advance(10e9)
			if len(b.top.PGs[0].Versions) < 2 || !b.whole() {
				continue
			}
			wholes++
			for seg := range counted {
				if have := b.anywhere(seg); have < int(twoOne.K) {
					delete(counted, seg) // beyond what is promised
				} else if err := b.everywhere(seg); err != nil {
					t.Fatalf("seed %d step %d: whole, and %v; %d shards are somewhere; %+v", seed, step, err, have, b.top.PGs[0].Versions)
				}
			}
			b.forget()
		}
	}
	if wholes < 300 {
		t.Errorf("only %d times whole", wholes)
	}
}

// anything does one thing that happens to a group.
func (b *bench) anything(r *rand.Rand, step int, counted map[id.Segment]bool) {
	i := r.IntN(len(b.stores))
	state := b.top.Stores[i].State
	switch r.IntN(8) {
	case 0, 1:
		versions := b.top.PGs[0].Versions
		v := versions[max(0, len(versions)-1-r.IntN(2))]
		var skip []int
		if r.IntN(4) == 0 {
			skip = append(skip, r.IntN(3))
		}
		seg, err := b.writeUnder(v, step+1, 1+r.IntN(20), skip...)
		counted[seg] = err == nil && skip == nil
		if !counted[seg] {
			delete(counted, seg)
		}
	case 2, 3:
		if state.Serves() {
			b.away(i, []cluster.StoreState{cluster.StoreDown, cluster.StoreOut}[r.IntN(2)])
		}
	case 4:
		if state == cluster.StoreDown || state == cluster.StoreOut {
			b.back(i)
		}
	case 5:
		if r.IntN(3) == 0 && state != cluster.StoreLost {
			b.lose(i)
		}
	default:
		b.giveAway(r)
	}
}

// giveAway gives the slots of stores that are not there, or any, to others.
func (b *bench) giveAway(r *rand.Rand) {
	current := b.top.PGs[0].Current()
	to := make(map[int]int)
	for slot, ref := range current.Stores {
		state := b.top.Stores[b.index(ref)].State
		if state.Serves() && r.IntN(4) > 0 || state == cluster.StoreDown {
			continue
		}
		for _, i := range r.Perm(len(b.stores)) {
			taken := slices.Contains(current.Stores, b.top.Stores[i].StoreRef)
			for _, x := range to {
				taken = taken || x == i
			}
			if !taken && b.top.Stores[i].State.Serves() {
				to[slot] = i
				break
			}
		}
	}
	if len(to) > 0 {
		b.give(to)
	}
}

// anywhere counts the shards of a segment that a store has which may be asked one day.
func (b *bench) anywhere(seg id.Segment) int {
	found := make(map[uint8]bool)
	for i, s := range b.stores {
		if b.top.Stores[i].State == cluster.StoreLost {
			continue
		}
		fault := b.top.Stores[i].State != cluster.StoreUp
		s.SetFault(nil)
		heads, err := s.ShardHeads(b.t.Context(), seg)
		if err != nil {
			b.t.Fatal(err)
		}
		if fault {
			s.SetFault(func(memstore.Call) memstore.Fault { return memstore.Fault{Err: errs.ErrUnavailable} })
		}
		for _, h := range heads {
			found[h.Index] = true
		}
	}
	return len(found)
}

// everywhere wants each shard at the store that has its slot now, as far as that store can be asked.
func (b *bench) everywhere(seg id.Segment) error {
	for slot, ref := range b.top.PGs[0].Current().Stores {
		if s := b.top.Stores[b.index(ref)].State; !s.Serves() {
			continue
		}
		if err := b.has(seg, slot); err != nil {
			return err
		}
	}
	return nil
}
