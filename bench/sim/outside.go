package sim

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"ashlar.dev/pkg/clock"
)

// outside is the door to what runs on goroutines of its own: the packer's workers,
// rebuilding reads, repairs. They call stores and hand back results at times that the
// Go scheduler chooses; here all that is gathered until everybody waits, then put in
// an order of its own, so that the seed alone decides what happens next.
type outside struct {
	mu    sync.Mutex
	inbox []call
}

// call is something that came from outside.
type call struct {
	key string // what it is; equal keys are interchangeable
	seq uint64
	do  func()
}

// outsideClock is the world's clock for what runs outside. While it is being moved, a
// ticker's receiver may look at it already: it sees where it goes, not how far it has come.
type outsideClock struct {
	*clock.Manual
	w *World
}

// Now is part of clock.Clock.
func (c outsideClock) Now() time.Duration { return c.w.at }

// enter brings a call in, from any goroutine.
func (w *World) enter(key string, seq uint64, do func()) {
	w.out.mu.Lock()
	w.out.inbox = append(w.out.inbox, call{key, seq, do})
	w.out.mu.Unlock()
}

// touch does what may wake or start somebody outside, and waits until they wait again.
func (w *World) touch(f func()) {
	f()
	w.quiesce()
}

func (w *World) quiesce() {
	if w.cfg.Quiesce != nil {
		w.cfg.Quiesce()
	}
}

// settle takes in all that came from outside, in order, until nothing more comes.
func (w *World) settle() {
	for {
		w.quiesce()
		w.out.mu.Lock()
		calls := w.out.inbox
		w.out.inbox = nil
		w.out.mu.Unlock()
		if len(calls) == 0 {
			return
		}
		if len(calls) > 1 {
			slices.SortStableFunc(calls, func(a, b call) int { return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.seq, b.seq)) })
		}
		for _, c := range calls {
			c.do()
		}
	}
}

// consult has the world answer a question from outside, on a host if one is given: a paused one answers when it goes on.
func (w *World) consult(h *host, key string, f func()) {
	done := make(chan struct{})
	answer := func() {
		f()
		w.touch(func() { close(done) })
	}
	w.enter(key, 0, func() {
		if h == nil {
			answer()
		} else {
			h.later(answer)
		}
	})
	select {
	case <-done:
	case <-w.ctx.Done(): // the world ends
	}
}

// wait lets time pass for somebody outside, as long as ctx lasts.
func (w *World) wait(ctx context.Context, key string, d time.Duration) error {
	done := make(chan struct{})
	w.enter(key, 0, func() { w.later(d, key, " goes on", nil, func() { w.touch(func() { close(done) }) }) })
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
