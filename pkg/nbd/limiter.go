package nbd

import "sync"

// limiter bounds requests and bytes in flight. Who finds it full waits its turn: first come, first
// served, so that a long request is not starved by short ones.
//
// Lock order: a limiter's mutex is the innermost; none is held with another.
type limiter struct {
	requestsMax int
	bytesMax    int64

	mu struct {
		sync.Mutex
		requests int
		bytes    int64
		waiting  []*waiter // FIFO
		waits    uint64    // how often somebody had to wait, ever
		idle     []chan struct{}
	}
}

type waiter struct {
	bytes int64
	ready chan struct{}
}

// try takes one request of n bytes if there is room and nobody waits.
func (l *limiter) try(n int64) bool {
	l.mu.Lock()
	ok := len(l.mu.waiting) == 0 && l.fits(n)
	if ok {
		l.mu.requests++
		l.mu.bytes += n
	}
	l.mu.Unlock()
	return ok
}

// fits tells whether n bytes more may fly; a request alone always may. The mutex is held.
func (l *limiter) fits(n int64) bool {
	return l.mu.requests < l.requestsMax && (l.mu.bytes+n <= l.bytesMax || l.mu.requests == 0)
}

// wait takes one request of n bytes, when its turn comes. False means that stop came first.
func (l *limiter) wait(n int64, stop <-chan struct{}) bool {
	l.mu.Lock()
	if len(l.mu.waiting) == 0 && l.fits(n) {
		l.mu.requests++
		l.mu.bytes += n
		l.mu.Unlock()
		return true
	}
	w := &waiter{n, make(chan struct{})}
	l.mu.waiting = append(l.mu.waiting, w)
	l.mu.waits++
	l.mu.Unlock()
	select {
	case <-w.ready:
		return true
	case <-stop:
	}
	return !l.leave(w)
}

// leave takes w out of the queue; false if its turn had come already.
func (l *limiter) leave(w *waiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, other := range l.mu.waiting {
		if other == w {
			l.mu.waiting = append(l.mu.waiting[:i], l.mu.waiting[i+1:]...)
			l.admit()
			return true
		}
	}
	return false
}

// release gives back n requests with their bytes.
func (l *limiter) release(n int, bytes int64) {
	l.mu.Lock()
	l.mu.requests -= n
	l.mu.bytes -= bytes
	l.admit()
	if l.mu.requests == 0 && len(l.mu.idle) > 0 {
		for _, c := range l.mu.idle {
			close(c)
		}
		l.mu.idle = nil
	}
	l.mu.Unlock()
}

// admit lets those go on whose turn it is. The mutex is held.
func (l *limiter) admit() {
	for len(l.mu.waiting) > 0 && l.fits(l.mu.waiting[0].bytes) {
		w := l.mu.waiting[0]
		l.mu.waiting = l.mu.waiting[1:]
		l.mu.requests++
		l.mu.bytes += w.bytes
		close(w.ready)
	}
}

// idle gives a channel that is closed when nothing is in flight.
func (l *limiter) idle() <-chan struct{} {
	c := make(chan struct{})
	l.mu.Lock()
	if l.mu.requests == 0 {
		close(c)
	} else {
		l.mu.idle = append(l.mu.idle, c)
	}
	l.mu.Unlock()
	return c
}

// usage is what is in flight now, and how often somebody had to wait.
func (l *limiter) usage() (requests int, bytes int64, waits uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.requests, l.mu.bytes, l.mu.waits
}
