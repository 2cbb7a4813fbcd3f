package state

import (
	"slices"
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

func (w *world) refs() (all []cluster.StoreRef) {
	for _, s := range w.Stores() {
		all = append(all, s.StoreRef)
	}
	return all
}

func (w *world) healthy() []cluster.StoreRef { return slices.DeleteFunc(w.refs(), w.Leaves) }

// grouped is a world of 4+2 over three hosts, and a fourth that came later.
func grouped(t *testing.T) *world {
	w := newWorld(t, 3, 2)
	w.ok(&EnsurePlacement{Healthy: w.refs(), Seed: 1})
	w.register(4, 1, 2)
	return w
}

func (w *world) move(n id.PG) *MoveGroup { return w.PlanMove(n, w.healthy(), 7) }

// Of a group that loses a store the slot, and no other, goes to a store that keeps the
// failure domain; the old version stays until the new one is whole.
func TestSlotOfALeavingStoreMoves(t *testing.T) {
	for name, leave := range map[string]func(*world){
		"lost":     func(w *world) { w.ok(&LoseStore{Store: storeRef(1, 1)}) },
		"out":      func(w *world) { w.ok(&MarkStore{Store: storeRef(1, 1), Out: true}) },
		"draining": func(w *world) { w.ok(&MarkStore{Store: storeRef(1, 1), Leaving: true}) },
		"formatted anew": func(w *world) {
			r := storeRef(1, 1)
			r.Incarnation[0]++
			w.ok(&RegisterHost{Holder: holder(1, 2), Stores: []RegisterStore{{StoreRef: r}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := grouped(t)
			if c := w.move(1); c != nil {
				t.Fatalf("%+v though nothing leaves", c)
			}
			leave(w)
			before := w.PGs()[0].Current()
			w.ok(w.move(1))
			p := w.PGs()[0]
			if len(p.Versions) != 2 || p.Current().Version != 2 {
				t.Fatalf("%+v", p)
			}
			for slot, r := range p.Current().Stores {
				if gone := before.Stores[slot] == storeRef(1, 1); gone != (r != before.Stores[slot]) {
					t.Fatalf("slot %d went from %s to %s", slot, before.Stores[slot], r)
				}
			}
			if w.Scheme(p.Current()).Relaxed {
				t.Fatal("the failure domain was given up though there is a store elsewhere")
			}
			w.refused(errs.ErrConflict, &MoveGroup{PG: 1, At: 1, Stores: before.Stores})
			w.ok(&ForgetVersions{PG: 1, At: 2})
			if p := w.PGs()[0]; len(p.Versions) != 1 || p.Current().Version != 2 {
				t.Fatalf("%+v", p)
			}
		})
	}
}

// Before LevelMoves: were all slots given away at once, nobody who has everything would
// be asked what there is. Stores of that time know no other way.
func TestOneStoreThatHasEverythingStays(t *testing.T) {
	w := newWorld(t, 2, 1)
	w.ok(&EnsurePlacement{Healthy: w.refs(), Seed: 1})
	w.register(3, 1, 1)
	w.register(4, 1, 1)
	fresh := []cluster.StoreRef{storeRef(3, 1), storeRef(4, 1)}
	w.refused(errs.ErrConflict, &MoveGroup{PG: 1, At: 1, Stores: fresh})
	for h := 1; h <= 2; h++ {
		w.ok(&MarkStore{Store: storeRef(h, 1), Out: true})
	}
	w.ok(w.move(1))
	half := w.PGs()[0].Current()
	if !slices.Contains(half.Stores, storeRef(1, 1)) && !slices.Contains(half.Stores, storeRef(2, 1)) {
		t.Fatalf("both went: %v", half.Stores)
	}
	if c := w.move(1); c != nil {
		t.Fatalf("%+v though the first is not whole", c)
	}
	w.ok(&ForgetVersions{PG: 1, At: 2})
	w.ok(w.move(1))
	if now := w.PGs()[0].Current(); slices.Contains(now.Stores, storeRef(1, 1)) || slices.Contains(now.Stores, storeRef(2, 1)) {
		t.Fatalf("one stays: %v", now.Stores)
	}
}

// From LevelMoves on no store has to stay: a group is given other stores though all of
// its own leave, one after the other or at once, and none has had its slot always.
func TestAllSlotsMayMove(t *testing.T) {
	w := newWorld(t, 2, 1)
	w.ok(&EnsurePlacement{Healthy: w.refs(), Seed: 1})
	w.register(3, 1, 1)
	w.register(4, 1, 1)
	if c := (&MoveGroup{PG: 1, At: 1, Freely: true}); Needs(c) != LevelMoves || w.Ready(c) == nil {
		t.Fatal("a move that members of the level before would refuse may be proposed")
	}
	w.ok(&SetLevel{Level: LevelMoves})
	for h := 1; h <= 2; h++ {
		w.ok(&MarkStore{Store: storeRef(h, 1), Out: true})
	}
	w.ok(w.move(1))
	p := w.PGs()[0]
	if now := p.Current().Stores; len(p.Versions) != 2 || !slices.Contains(now, storeRef(3, 1)) || !slices.Contains(now, storeRef(4, 1)) {
		t.Fatalf("%+v", p)
	}
	w.ok(&MarkStore{Store: storeRef(1, 1)})
	w.ok(&MarkStore{Store: storeRef(3, 1), Out: true})
	w.ok(w.move(1)) // nobody has had its slot in all versions now
	if p := w.PGs()[0]; len(p.Versions) != 3 || !slices.Contains(p.Current().Stores, storeRef(1, 1)) {
		t.Fatalf("%+v", p)
	}
}

// A group that had to be formed on one host spreads when there are others.
func TestRelaxedGroupSpreadsLater(t *testing.T) {
	w := newWorld(t, 1, 2)
	w.ok(&EnsurePlacement{Healthy: w.refs(), Seed: 1})
	if c := w.move(1); c != nil {
		t.Fatalf("%+v though there is no other host", c)
	}
	w.register(2, 1, 2)
	w.ok(w.move(1))
	if w.Scheme(w.PGs()[0].Current()).Relaxed {
		t.Fatal("still on one host")
	}
	if c := w.move(1); c != nil {
		t.Fatalf("%+v though it is spread", c)
	}
}

// A store that something still needs is not forgotten, and one that is does not come
// back with its old memory.
func TestStoreIsRemovedWhenNothingNeedsIt(t *testing.T) {
	w := grouped(t)
	r := storeRef(1, 1)
	w.refused(errs.ErrConflict, &RemoveStore{Store: storeRef(4, 1)}) // nobody wants it to leave
	w.ok(&MarkStore{Store: r, Leaving: true})
	for range 2 {
		w.refused(errs.ErrConflict, &RemoveStore{Store: r})
		for _, p := range w.PGs() {
			if c := w.move(p.Number); c != nil {
				w.ok(c)
			}
		}
	}
	for _, p := range w.PGs() {
		w.ok(&ForgetVersions{PG: p.Number, At: p.Current().Version})
	}
	if w.Forgotten(r) {
		t.Fatal("forgotten before it is removed: its host would close it")
	}
	w.ok(&RemoveStore{Store: r})
	if _, ok := w.Store(r.Store); ok || !w.Forgotten(r) || w.Forgotten(storeRef(9, 9)) {
		t.Fatal("still there, or one that was never heard of is said to be gone")
	}
	res := w.ok(&RegisterHost{Holder: holder(1, 2), Stores: []RegisterStore{{StoreRef: r}}})
	if res.Refused[r.Store] == "" {
		t.Fatal("the memory of a removed store was taken back")
	}
}

// Marks of a store outlive its registering again: a reboot does not stop a drain.
func TestMarksOutliveAReboot(t *testing.T) {
	w := grouped(t)
	w.ok(&MarkStore{Store: storeRef(1, 1), Leaving: true})
	w.ok(&RegisterHost{Holder: holder(1, 2), Stores: []RegisterStore{{StoreRef: storeRef(1, 1), Capacity: 5}}})
	if s, _ := w.Store(storeRef(1, 1).Store); !s.Leaving || s.Capacity != 5 {
		t.Fatalf("%+v", s)
	}
	fresh := storeRef(1, 1)
	fresh.Incarnation[0]++
	w.ok(&RegisterHost{Holder: holder(1, 3), Stores: []RegisterStore{{StoreRef: fresh}}})
	if s, _ := w.Store(fresh.Store); s.Leaving {
		t.Fatal("a fresh memory is to be emptied")
	}
}
