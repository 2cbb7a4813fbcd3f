package sim

import (
	"fmt"
	"testing"

	"ashlar.dev/blockd/volume/metadtest"
	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// members are the hosts and stores of a metad without a world, all of which were heard of.
type members struct {
	m      *metad
	stores map[id.Host][]cluster.StoreRef
	number map[id.Host]uint64
	full   map[cluster.StoreRef]bool
}

func (x *members) live(t *testing.T, h id.Holder) {
	t.Helper()
	if _, err := x.m.register(h, x.stores[h.Host]); err != nil {
		t.Fatal(err)
	}
	x.number[h.Host] = h.Number
	x.beat(t)
}

func (x *members) beat(t *testing.T) {
	t.Helper()
	for h, refs := range x.stores {
		b := reconcile.Beat{Holder: id.Holder{Host: h, Number: x.number[h]}}
		for _, r := range refs {
			b.Stores = append(b.Stores, reconcile.StoreBeat{StoreRef: r, Capacity: shardBytes, Full: x.full[r]})
		}
		if _, err := x.m.beat(b); err != nil && x.number[h] > 0 {
			t.Fatal(err)
		}
	}
	x.m.refresh()
}

// Without this the simulator's metad, which is the real state behind a door of its own, could answer
// engines in a way that the real door does not.
func TestMetadKeepsTheRules(t *testing.T) {
	metadtest.Run(t, func(t *testing.T) metadtest.Body {
		w := New(Config{Seed: 1})
		x := &members{m: w.metad, stores: make(map[id.Host][]cluster.StoreRef), number: make(map[id.Host]uint64), full: make(map[cluster.StoreRef]bool)}
		for i, h := range metadtest.Hosts {
			for n := byte(1); n <= 2; n++ {
				x.stores[h] = append(x.stores[h], cluster.StoreRef{Store: id.Store{15: byte(2*i) + n}, Incarnation: id.Incarnation{1, byte(2*i) + n}})
			}
			x.live(t, id.Holder{Host: h, Number: 1})
		}
		w.metad.must(&state.EnsurePlacement{Healthy: reconcile.Healthy(w.metad.refresh(), nil)})
		w.metad.refresh()
		t.Cleanup(func() {
			if w.err != nil {
				t.Error(w.err)
			}
		})
		made := byte(0)
		return metadtest.Body{
			Metad: w.metad,
			Create: func(t *testing.T) id.Volume {
				made++
				name := fmt.Sprintf("d%d", made)
				return w.metad.must(&state.CreateVolume{ID: id.Volume{1, 15: made}, Name: name, Size: 1 << 30, RequestID: name}).Volume.ID
			},
			Live: x.live,
			Acquire: func(t *testing.T, v id.Volume, by id.Holder) *cluster.Volume {
				r, err := w.metad.acquire(v, by)
				if err != nil {
					t.Fatal(err)
				}
				return r
			},
			Lose: func(_ *testing.T, s cluster.StoreRef) {
				w.metad.must(&state.LoseStore{Store: s})
				w.metad.refresh()
			},
			Full: func(t *testing.T, s cluster.StoreRef, full bool) {
				x.full[s] = full
				x.beat(t)
			},
		}
	})
}
