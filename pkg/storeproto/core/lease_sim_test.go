package core_test

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// leaseWorld is one store and some hosts that take volumes over from each other,
// with messages that take their time, processes that die and a store that does.
type leaseWorld struct {
	t    *testing.T
	seed uint64
	rnd  *rand.Rand
	now  time.Duration

	c       *core.Core
	life    uint32
	fences  map[id.Volume]core.FenceRow // durable
	mail    []message
	hosts   []*host
	epoch   map[id.Volume]id.Epoch // issued
	owners  map[id.Volume][]id.Host
	fenced  map[id.Volume]id.Epoch // answered
	fencer  map[id.Volume]id.Host  // who asked
	answers int
	served  int
}

type message struct {
	at   time.Duration
	life uint32 // of the store, whose death breaks connections
	f    func()
}

// host is a process that serves volumes, and what it believes.
type host struct {
	id      id.Holder
	leases  int           // requests sent by this life; older answers are ignored
	waiting bool          // a request is on its way
	until   time.Duration // the grant it counts
	acked   uint64
	serves  map[id.Volume]id.Epoch
	opening map[id.Volume]bool
	// named is remembered for volumes that are still being opened, too: the
	// answer to the open may come after the naming of the next fence.
	named map[id.Volume]id.Epoch
}

const simTerm = 100 * time.Millisecond

func newLeaseWorld(t *testing.T, seed uint64) *leaseWorld {
	w := &leaseWorld{t: t, seed: seed, rnd: rand.New(rand.NewPCG(seed, 3)), fences: map[id.Volume]core.FenceRow{},
		epoch: map[id.Volume]id.Epoch{}, owners: map[id.Volume][]id.Host{}, fenced: map[id.Volume]id.Epoch{}, fencer: map[id.Volume]id.Host{}}
	for i := range 3 {
		w.hosts = append(w.hosts, &host{id: id.Holder{Host: id.Host(rune('a' + i)), Number: 1}, serves: map[id.Volume]id.Epoch{}, opening: map[id.Volume]bool{}, named: map[id.Volume]id.Epoch{}})
	}
	w.startStore()
	return w
}

func (w *leaseWorld) startStore() {
	w.life++
	w.c = core.New(core.Config{Life: w.life, Started: w.now, LeaseTerm: simTerm})
	for _, f := range w.fences {
		w.c.RestoreFence(f)
	}
	w.c.Restored()
}

// send delivers f some time later, unless the store has died by then.
func (w *leaseWorld) send(f func()) {
	d := time.Duration(w.rnd.IntN(5)) * time.Millisecond
	if w.rnd.IntN(20) == 0 {
		d = time.Duration(w.rnd.IntN(300)) * time.Millisecond
	}
	w.mail = append(w.mail, message{w.now + d, w.life, f})
}

func (w *leaseWorld) lease(h *host) {
	if h.waiting {
		return
	}
	h.waiting = true
	h.leases++
	life, number, sent := h.id.Number, h.leases, w.now
	mine := func() bool { return h.id.Number == life && h.leases == number }
	l := &storeproto.Lease{Holder: h.id, Acked: h.acked, Wait: time.Duration(w.rnd.IntN(40)) * time.Millisecond}
	l.Done = func(l *storeproto.Lease) {
		w.send(func() {
			if !mine() {
				return
			}
			h.waiting = false
			if l.Err != nil {
				return
			}
			// First what is fenced, then the grant.
			for _, n := range l.Named {
				h.named[n.Volume] = max(h.named[n.Volume], n.Epoch)
				if h.serves[n.Volume] < n.Epoch {
					delete(h.serves, n.Volume)
				}
			}
			h.acked = l.Naming
			if l.Term > 0 {
				h.until = max(h.until, sent+l.Term)
			}
		})
	}
	w.send(func() { w.c.Lease(w.now, l) })
}

func (w *leaseWorld) open(h *host, v id.Volume) {
	if h.opening[v] {
		return
	}
	h.opening[v] = true
	delete(h.serves, v) // before it asks: its own fence is not named to it
	w.epoch[v]++
	e, life := w.epoch[v], h.id.Number
	f := &core.Fencing{Req: storeproto.Fence{Volume: v, Epoch: e, By: h.id, Prior: append([]id.Host(nil), w.owners[v]...)}}
	w.owners[v] = append(w.owners[v], h.id.Host)
	f.Done = func(f *core.Fencing) {
		if f.Err == nil {
			w.answers++
			w.fenced[v], w.fencer[v] = e, h.id.Host
			w.check()
		}
		w.send(func() {
			if h.id.Number == life {
				delete(h.opening, v)
				if f.Err == nil && h.serves[v] < e && h.named[v] <= e {
					h.serves[v] = e
				}
			}
		})
	}
	w.send(func() { w.c.Fence(w.now, f) })
}

func (w *leaseWorld) release(h *host, v id.Volume) {
	e, ok := h.serves[v]
	if !ok {
		return
	}
	delete(h.serves, v)
	by := h.id
	w.send(func() {
		w.c.Release(storeproto.Release{Volume: v, Epoch: e, By: by}, &core.Control{Done: func(*core.Control) {}})
	})
}

// die ends a host's process; the next has a higher number and remembers nothing.
func (h *host) die() {
	*h = host{id: id.Holder{Host: h.id.Host, Number: h.id.Number + 1}, serves: map[id.Volume]id.Epoch{}, opening: map[id.Volume]bool{}, named: map[id.Volume]id.Epoch{}}
}

// check is the invariant: once a fence is answered, nobody who counts a grant
// serves the volume under a lower epoch.
func (w *leaseWorld) check() {
	for _, h := range w.hosts {
		if w.now >= h.until {
			continue
		}
		for v, e := range h.serves {
			w.served++
			if e < w.fenced[v] && h.id.Host != w.fencer[v] {
				w.t.Fatalf("SEED=%d: at %s %s serves %x at %s by a grant until %s, the fence at %s is answered", w.seed, w.now, h.id, v[0], e, h.until, w.fenced[v])
			}
		}
	}
}

func (w *leaseWorld) step() {
	w.now += time.Millisecond
	for i := 0; i < len(w.mail); i++ {
		m := w.mail[i]
		if m.at > w.now {
			continue
		}
		w.mail = append(w.mail[:i], w.mail[i+1:]...)
		i--
		if m.life == w.life {
			m.f()
			w.settle()
		}
	}
	w.c.Tick(w.now)
	w.settle()
	h := w.hosts[w.rnd.IntN(len(w.hosts))]
	v := id.Volume{byte(1 + w.rnd.IntN(2))}
	switch x := w.rnd.IntN(1000); {
	case x < 300:
		w.lease(h)
	case x < 320:
		w.open(h, v)
	case x < 330:
		w.release(h, v)
	case x < 334:
		h.die()
	case x < 336:
		w.c.Kill(errs.ErrUnavailable)
		w.startStore()
		for _, h := range w.hosts {
			h.waiting, h.opening = false, map[id.Volume]bool{} // their calls fail
			h.leases++
		}
	}
	w.check()
}

// settle makes what is queued durable, mostly, and delivers answers.
func (w *leaseWorld) settle() {
	if w.rnd.IntN(4) != 0 {
		if g := w.c.Take(10, 1<<20); g != nil {
			for op := g.First(); op != nil; op = op.Next() {
				if op.Kind == core.OpFence {
					w.fences[op.Fence.Req.Volume] = op.Fence.Row()
				}
			}
			w.c.Durable(g)
		}
	}
	for _, r := range w.c.Replies(nil) {
		r.Deliver()
	}
}

// Without this an old owner could serve stale reads by a grant that a new owner's
// fence did not wait for, in some order of delays, deaths and restarts.
func TestNobodyServesBelowAnAnsweredFence(t *testing.T) {
	seeds := 60
	first := uint64(1)
	if s := os.Getenv("SEED"); s != "" {
		x, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, seeds = x, 1
	}
	answers, served := 0, 0
	for seed := first; seed < first+uint64(seeds); seed++ {
		w := newLeaseWorld(t, seed)
		for range 4000 {
			w.step()
		}
		answers += w.answers
		served += w.served
	}
	if answers < 10*seeds || served < 100*seeds {
		t.Errorf("the world is too quiet: %d fences answered, %d moments of service", answers, served)
	}
	t.Logf("%d fences answered, %d moments of service", answers, served)
}
