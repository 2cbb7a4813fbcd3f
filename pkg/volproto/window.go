package volproto

import "sync"

// The window of a volume at one proxy. A disk at its limits (cluster.QoS) holds its
// requests back at the owner; without a window they would fill the connection, and the
// owner's memory, which other disks share. What is beyond it waits at the proxy, in the
// order it came, where its own clients' limits bound it.
const (
	windowRequests = 512
	windowBytes    = 8 << 20 // a larger request goes alone
)

// window bounds what one volume has under way on a connection, over all its sessions.
// Safe for concurrent use.
type window struct {
	sessions int // of the peer's, under its mutex

	mu       sync.Mutex
	requests int
	bytes    uint64
	waiting  []*ioCall
	pumping  bool
}

// enter tells whether the call may start now; else it waits its turn.
func (w *window) enter(c *ioCall) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) > 0 || w.pumping || !w.fits(c) {
		w.waiting = append(w.waiting, c)
		return false
	}
	w.take(c)
	return true
}

func (w *window) fits(c *ioCall) bool {
	return w.requests == 0 || w.requests < windowRequests && w.bytes+c.bytes <= windowBytes
}

func (w *window) take(c *ioCall) {
	w.requests++
	w.bytes += c.bytes
}

// leave gives back what a finished call took, and starts those whose turn it is. A call
// that ends while it is being started comes back here: then the one that starts goes on.
func (w *window) leave(bytes uint64, start func(*ioCall)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests--
	w.bytes -= bytes
	if w.pumping {
		return
	}
	w.pumping = true
	for len(w.waiting) > 0 && w.fits(w.waiting[0]) {
		c := w.waiting[0]
		w.waiting[0] = nil
		if w.waiting = w.waiting[1:]; len(w.waiting) == 0 {
			w.waiting = nil
		}
		w.take(c)
		w.mu.Unlock()
		start(c)
		w.mu.Lock()
	}
	w.pumping = false
}
