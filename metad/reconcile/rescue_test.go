package reconcile

import (
	"testing"

	"ashlar.dev/pkg/cluster"
)

// Without this a status would call a journal safe of which an opening still needs every store, and a rescue would be ordered that
// cannot succeed. The same numbers are blockd/journal's.
func TestRecoveryNeedsWhatOpeningsNeed(t *testing.T) {
	three, two := []cluster.StoreRef{ref(1, 1), ref(2, 1), ref(3, 1)}, []cluster.StoreRef{ref(1, 1), ref(2, 1)}
	for name, c := range map[string]struct {
		e          cluster.Ensemble
		asks, need int
	}{
		"open":                   {cluster.Ensemble{Stores: three}, 3, 2},
		"open, of two":           {cluster.Ensemble{Stores: two}, 2, 1},
		"closed":                 {cluster.Ensemble{Stores: three, Closed: true, Holders: two}, 2, 1},
		"found":                  {cluster.Ensemble{Stores: three, Found: true}, 3, 3},
		"found, and two told":    {cluster.Ensemble{Stores: two, Found: true}, 2, 2},
		"found, closed meantime": {cluster.Ensemble{Stores: three, Found: true, Closed: true, Holders: two}, 2, 1},
	} {
		if stores, need := recovery(c.e); len(stores) != c.asks || need != c.need {
			t.Errorf("%s: %d of %d stores are needed, want %d of %d", name, need, len(stores), c.need, c.asks)
		}
	}
}
