// Package throttle keeps a disk within its limits (cluster.QoS), at the one place where all its
// I/O passes: in front of the volume at its owner, for clients of this host and of proxies alike.
//
// A Throttle belongs to one open volume, a Handle to one connection. A disk without limits
// pays one look at a flag per request. What counts: reads, writes, trims and write-zeroes are an I/O
// each, whatever their size; reads and writes count their bytes too. Flushes, block status and
// cache hints are free and pass what waits: a flush covers completed writes, and one that
// waits is not completed.
package throttle

import (
	"sync"
	"sync/atomic"

	"ashlar.dev/blockd/throttle/core"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/nbd"
)

// Throttle holds the requests of one open volume back. Safe for concurrent use.
type Throttle struct {
	clock clock.Clock
	burst nbd.Corker // around requests that go together

	limited atomic.Bool // a look at it is all that a disk without limits costs
	delayed atomic.Uint64

	mu      sync.Mutex
	core    core.Core[pending]
	qos     cluster.QoS
	timer   clock.Timer
	pumping bool
	lifted  bool
}

// pending is a request and where it goes.
type pending struct {
	r *nbd.Request
	h *Handle
}

// New makes a Throttle. Requests that waited and go together go between Cork and Uncork of burst, which
// is called from one goroutine at a time.
func New(c clock.Clock, q cluster.QoS, burst nbd.Corker) *Throttle {
	t := &Throttle{clock: c, burst: burst}
	t.Set(q)
	return t
}

// Set changes the limits, for the requests that wait too.
func (t *Throttle) Set(q cluster.QoS) { t.set(q, false) }

// Lift lets everything go, for good: the volume drains or has ended, and says itself what
// becomes of requests.
func (t *Throttle) Lift() { t.set(cluster.QoS{}, true) }

func (t *Throttle) set(q cluster.QoS, last bool) {
	t.mu.Lock()
	if t.lifted || q == t.qos && !last {
		t.mu.Unlock()
		return
	}
	t.qos, t.lifted = q, last
	t.limited.Store(q.Limited())
	t.core.Limit(t.clock.Now(), q)
	t.mu.Unlock()
	t.pump()
}

// Stats tells what the limits do.
type Stats struct {
	QoS     cluster.QoS
	Waiting int    // requests held back now
	Delayed uint64 // requests that were, ever
}

// Stats is a moment's.
func (t *Throttle) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Stats{QoS: t.qos, Waiting: t.core.Waiting(), Delayed: t.delayed.Load()}
}

// Handle is a connection's use of the disk within its limits.
type Handle struct {
	nbd.Handle
	corker nbd.Corker // Handle, if it is one
	t      *Throttle
	queue  core.Queue[pending] // under t.mu
}

// Handle puts the limits in front of h. Closing it closes h.
func (t *Throttle) Handle(h nbd.Handle) *Handle {
	c, _ := h.(nbd.Corker)
	return &Handle{Handle: h, corker: c, t: t}
}

// Submit is part of nbd.Device.
func (h *Handle) Submit(r *nbd.Request) {
	if h.t.limited.Load() && h.t.hold(h, r) {
		return
	}
	h.Handle.Submit(r)
}

// Cork is part of nbd.Corker.
func (h *Handle) Cork() {
	if h.corker != nil {
		h.corker.Cork()
	}
}

// Uncork is part of nbd.Corker.
func (h *Handle) Uncork() {
	if h.corker != nil {
		h.corker.Uncork()
	}
}

// costOf is what a request takes of the limits; false: it is free.
func costOf(r *nbd.Request) (core.Cost, bool) {
	switch r.Op {
	case nbd.OpRead, nbd.OpWrite:
		return core.Cost{IOs: 1, Bytes: r.Length}, true
	case nbd.OpTrim, nbd.OpWriteZeroes:
		return core.Cost{IOs: 1}, true
	}
	return core.Cost{}, false
}

// hold takes the request if it has to wait.
func (t *Throttle) hold(h *Handle, r *nbd.Request) bool {
	cost, counts := costOf(r)
	if !counts {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.core.Submit(t.clock.Now(), &h.queue, pending{r, h}, cost) {
		return false
	}
	t.delayed.Add(1)
	if t.core.Waiting() == 1 && !t.pumping { // else the timer runs: when the next may go does not depend on who waits
		t.arm()
	}
	return true
}

// arm sees to it that pump runs when the next request may go. Under mu.
func (t *Throttle) arm() {
	at, waits := t.core.Next()
	if !waits {
		return
	}
	d := max(at-t.clock.Now(), 0)
	if t.timer == nil {
		t.timer = t.clock.AfterFunc(d, t.pump)
		return
	}
	t.timer.Reset(d)
}

// pump lets go what may. One goroutine at a time does it; what comes meanwhile it takes along.
func (t *Throttle) pump() {
	t.mu.Lock()
	if t.pumping {
		t.mu.Unlock()
		return
	}
	t.pumping = true
	var out []pending
	for {
		out = t.core.Go(t.clock.Now(), out[:0])
		if len(out) == 0 {
			break
		}
		t.mu.Unlock()
		t.burst.Cork()
		for i, p := range out {
			out[i] = pending{}
			p.h.Handle.Submit(p.r)
		}
		t.burst.Uncork()
		t.mu.Lock()
	}
	t.pumping = false
	t.arm()
	t.mu.Unlock()
}
