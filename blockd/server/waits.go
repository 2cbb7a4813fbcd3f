package server

import (
	"sync"
	"sync/atomic"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// storeWaits adds up how long this host waits for each store, here and elsewhere: metad holds
// the stores against one another. Safe for concurrent use.
type storeWaits struct {
	mu sync.RWMutex
	of map[id.Store]*storeWait
}

type storeWait struct {
	count atomic.Uint64
	total atomic.Int64
}

func newStoreWaits() *storeWaits { return &storeWaits{of: make(map[id.Store]*storeWait)} }

// took notes that a store took d for an answer.
func (w *storeWaits) took(s id.Store, d time.Duration) {
	w.mu.RLock()
	x := w.of[s]
	w.mu.RUnlock()
	if x == nil {
		x = w.add(s)
	}
	x.count.Add(1)
	x.total.Add(int64(d))
}

func (w *storeWaits) add(s id.Store) *storeWait {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.of[s]
	if x == nil {
		x = &storeWait{}
		w.of[s] = x
	}
	return x
}

// take gives what was noted since the last call. A store that nobody waited for is forgotten.
func (w *storeWaits) take() []cluster.StoreWait {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []cluster.StoreWait
	for s, x := range w.of {
		n, total := x.count.Swap(0), time.Duration(x.total.Swap(0))
		switch {
		case n == 0:
			delete(w.of, s)
		case len(out) < cluster.StoreWaitsMax:
			out = append(out, cluster.StoreWait{Store: s, Count: n, Total: total})
		}
	}
	return out
}
