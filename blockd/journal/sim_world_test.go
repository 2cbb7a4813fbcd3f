package journal

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// world is everything around the cores, stepped by one seed: stores, metad,
// processes that own the volume or believe so, links between them, and a ledger
// of what was promised.
type world struct {
	t         *testing.T
	seed      uint64
	rng       *rand.Rand
	now       time.Duration
	queue     eventHeap
	seq       uint64
	leaseTerm time.Duration
	volume    id.Volume

	stores []*simStore
	metad  *simMetad
	procs  []*process
	ledger ledger

	faulty  bool // messages may be lost and late
	failed  bool
	trace   []string
	tracing bool
}

type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*h = old[:len(old)-1]
	return e
}

func newWorld(t *testing.T, seed uint64, stores int) *world {
	w := &world{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 7)), leaseTerm: 300 * time.Millisecond, volume: id.Volume{1}, now: time.Hour}
	w.metad = &simMetad{w: w, lost: make(map[Member]bool)}
	w.ledger = newLedger(w)
	for i := range stores {
		s := &simStore{w: w, id: id.Store{byte(i + 1)}, inc: w.newIncarnation(), disk: newSimDisk()}
		s.skew = time.Duration(w.rng.IntN(1000)) * time.Second
		s.start()
		w.stores = append(w.stores, s)
	}
	return w
}

func (w *world) newIncarnation() (i id.Incarnation) {
	binary.BigEndian.PutUint64(i[:], w.rng.Uint64())
	return i
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	if !w.failed {
		w.failed = true
		n := max(0, len(w.trace)-60)
		for _, s := range w.trace[n:] {
			w.t.Log(s)
		}
	}
	w.t.Errorf("seed %d at %v: %s", w.seed, w.now-time.Hour, fmt.Sprintf(format, args...))
}

func (w *world) log(format string, args ...any) {
	if w.tracing {
		w.trace = append(w.trace, fmt.Sprintf("%v ", w.now-time.Hour)+fmt.Sprintf(format, args...))
	}
}

func (w *world) after(d time.Duration, f func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now + d, w.seq, f})
}

func (w *world) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.rng.Int64N(int64(b-a)+1))
}

// run lets d pass.
func (w *world) run(d time.Duration) {
	end := w.now + d
	for !w.failed && len(w.queue) > 0 && w.queue[0].at <= end {
		e := heap.Pop(&w.queue).(event)
		w.now = max(w.now, e.at)
		e.do()
	}
	w.now = end
}

// until runs until cond holds; false after limit.
func (w *world) until(limit time.Duration, cond func() bool) bool {
	end := w.now + limit
	for !cond() {
		if w.failed || len(w.queue) == 0 || w.queue[0].at > end {
			return false
		}
		e := heap.Pop(&w.queue).(event)
		w.now = max(w.now, e.at)
		e.do()
	}
	return true
}

func (w *world) store(s id.Store) *simStore {
	for _, x := range w.stores {
		if x.id == s {
			return x
		}
	}
	return nil
}

func (w *world) sortedStreams(rows map[storeproto.Stream]core.Row) []storeproto.Stream {
	var out []storeproto.Stream
	for n := range rows {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b storeproto.Stream) int {
		if c := cmpEnsemble(a.Ensemble, b.Ensemble); c != 0 {
			return c
		}
		return int(a.Kind) - int(b.Kind)
	})
	return out
}

func cmpEnsemble(a, b id.Ensemble) int {
	switch {
	case a.Less(b):
		return -1
	case b.Less(a):
		return 1
	}
	return 0
}
