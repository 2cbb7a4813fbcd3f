package rpc

import (
	"fmt"
	"sync"

	"ashlar.dev/pkg/errs"
)

// Budget is an amount of bytes that requests share. Who wants more than is left waits,
// first come first served; a request larger than the whole gets it when nothing else is out.
type Budget struct {
	max int64
	mu  struct {
		sync.Mutex
		used    int64
		waiting []*budgetWait
	}
}

type budgetWait struct {
	n     int64
	ready chan struct{}
}

// NewBudget makes a budget of max bytes, at least one.
func NewBudget(max int) *Budget { return &Budget{max: int64(max)} }

// Limit is what may be out.
func (b *Budget) Limit() int { return int(b.max) }

// Used is what is out now.
func (b *Budget) Used() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int(b.mu.used)
}

// fits is asked under mu.
func (b *Budget) fits(n int64) bool { return b.mu.used+n <= b.max || b.mu.used == 0 }

// tryTake takes n bytes if nobody has to wait.
func (b *Budget) tryTake(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.mu.waiting) > 0 || !b.fits(int64(n)) {
		return false
	}
	b.mu.used += int64(n)
	return true
}

// force takes n bytes even if they are not there.
func (b *Budget) force(n int) {
	b.mu.Lock()
	b.mu.used += int64(n)
	b.mu.Unlock()
}

// take waits for n bytes; false when stop was closed first.
func (b *Budget) take(n int, stop <-chan struct{}) error {
	if b.tryTake(n) {
		return nil
	}
	w := &budgetWait{n: int64(n), ready: make(chan struct{})}
	b.mu.Lock()
	b.mu.waiting = append(b.mu.waiting, w)
	b.grant()
	b.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-stop:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, x := range b.mu.waiting {
		if x == w {
			b.mu.waiting = append(b.mu.waiting[:i], b.mu.waiting[i+1:]...)
			b.grant() // those behind may fit
			return errStopped
		}
	}
	b.mu.used -= w.n // granted meanwhile
	b.grant()
	return errStopped
}

var errStopped = fmt.Errorf("connection ended while waiting: %w", errs.ErrUnavailable)

func (b *Budget) give(n int) {
	b.mu.Lock()
	b.mu.used -= int64(n)
	if b.mu.used < 0 {
		panic("rpc: more given back to a budget than taken")
	}
	if len(b.mu.waiting) > 0 {
		b.grant()
	}
	b.mu.Unlock()
}

// grant lets in from the front what fits. Under mu.
func (b *Budget) grant() {
	for len(b.mu.waiting) > 0 && b.fits(b.mu.waiting[0].n) {
		w := b.mu.waiting[0]
		b.mu.used += w.n
		close(w.ready)
		b.mu.waiting = b.mu.waiting[1:]
	}
}
