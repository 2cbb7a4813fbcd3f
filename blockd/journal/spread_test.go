package journal

import (
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// hosts is a topology of stores that are up, each named with its host.
func hosts(version uint64, of map[byte]id.Host) *cluster.Topology {
	t := &cluster.Topology{Version: version}
	for n, h := range of {
		t.Stores = append(t.Stores, cluster.Store{StoreRef: storeN(n), Host: h, State: cluster.StoreUp})
	}
	return t.Index()
}

var (
	together = hosts(1, map[byte]id.Host{1: "a", 2: "a", 5: "a"})
	apart    = hosts(2, map[byte]id.Host{1: "a", 2: "a", 5: "a", 3: "b", 4: "c"})
)

// watch lets time pass until a better ensemble is asked for, and gives the ask.
func (d *desk) watch(s *Spread, t *cluster.Topology) (add Ask, ok bool) {
	for range 2 * shunFor {
		d.now += simLimits.ReplaceAfter
		s.Look(d.now, t, d.core)
		d.core.Tick(d.now, d.fx)
		for n := len(d.fx.Asks); n > 0; n-- {
			a := d.fx.Asks[0]
			d.fx.Asks = d.fx.Asks[1:]
			if a.Kind == AskAdd {
				return a, true
			}
			d.answer(a, nil)
		}
	}
	return Ask{}, false
}

// give answers an ask with an ensemble of these stores.
func (d *desk) give(a Ask, stores ...byte) {
	d.fx.Asks = []Ask{a}
	d.succeedBy(stores...)
}

// An ensemble that was formed while the other hosts were away, and is answered when they
// are back already, stays on one host for ever if nobody looks at the new one: that host's
// loss then loses the disk.
func TestEnsembleThatComesAfterTheHostsIsLookedAt(t *testing.T) {
	d := newDesk(t, 1, 3, 4)
	var s Spread
	s.Look(d.now, apart, d.core)
	d.noAsk()
	d.core.StoreDown(d.now, storeN(3).Store, d.fx)
	d.succeedBy(1, 2, 5) // by what metad knew when it was asked
	if a, ok := d.watch(&s, apart); !ok || !a.Better {
		t.Fatal("nobody asks for a better one")
	}
}

// A disk that is opened on one host while the topology changes is looked at when it is open,
// and where metad refused or was away, later again; one that is spread is left alone.
func TestSpreadIsLookedAtAgain(t *testing.T) {
	d := newDesk(t, 1, 2, 5)
	var s Spread
	if _, ok := d.watch(&s, together); ok {
		t.Fatal("asked though there is one host only")
	}
	a, ok := d.watch(&s, apart)
	if !ok {
		t.Fatal("not asked when there are others")
	}
	d.answer(a, errs.ErrUnavailable)
	if _, ok = d.watch(&s, apart); ok {
		t.Fatal("asked again at once")
	}
	d.now += spreadAgain
	if a, ok = d.watch(&s, apart); !ok {
		t.Fatal("never asked again")
	}
	d.give(a, 1, 3, 4)
	d.now += spreadAgain
	if _, ok = d.watch(&s, apart); ok {
		t.Fatal("asked though the newest is on three hosts")
	}
}
