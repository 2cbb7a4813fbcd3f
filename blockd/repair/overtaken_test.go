package repair

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"ashlar.dev/pkg/cluster"
)

// A group that is moved for the room's sake may have hours to go when a store is lost
// elsewhere: what lost margin does not wait for it.
func TestMoreEndangeredGroupIsNotKeptWaiting(t *testing.T) {
	b := newBench(t, fourTwo)
	for seq := range 20 {
		b.write(seq+1, 16)
	}
	b.give(map[int]int{0: 6}) // all its stores live
	calm := b.top
	b.change(func(t *cluster.Topology) {
		other := t.PGs[0]
		other.Number++
		v := calm.PGs[0].Current()
		old := v
		old.Version, old.Stores = 1, slices.Clone(v.Stores)
		old.Stores[0] = t.Stores[8].StoreRef
		v.Version = 2
		other.Versions = []cluster.PGVersion{old, v}
		t.PGs = append(t.PGs, other)
		t.Stores[8].State = cluster.StoreLost
	})
	var now atomic.Pointer[cluster.Topology]
	now.Store(calm)
	var once sync.Once
	cfg := b.workers[6].cfg
	cfg.Jobs = 1
	cfg.Topology = now.Load
	cfg.Local = beforePut{b.stores[6], func() { once.Do(func() { now.Store(b.top) }) }}
	w := New(cfg)
	w.Round(context.Background())
	if p := w.Progress(); len(p) != 1 || p[0].Whole || p[0].Done == 0 || p[0].Left < 15 {
		t.Fatalf("the round went on: %+v", p)
	}
	if tasks := Tasks(b.top, cfg.Self); len(tasks) != 2 || tasks[0].PG != group+1 {
		t.Fatalf("%+v", tasks)
	}
}
