package rpc

import (
	"net"
	"sync"
	"syscall"
)

// wire is the socket under a connection. TLS, where there is any, stands on it: then
// records are gathered in memory and leave in one system call.
type wire struct {
	net.Conn
	raw syscall.RawConn // nil if the connection is no socket

	// Around every read, which may wait. TLS reads as much as its buffer holds, some
	// records at once; to gather more costs more in copies than it saves in calls.
	before, after func()

	// What TLS wrote and nobody sent yet.
	mu struct {
		sync.Mutex
		gather bool
		out    []byte
	}
	spare []byte

	// For try: one at a time.
	tryBuf []byte
	tryN   int
	tryErr error
	tryFn  func(fd uintptr) bool
}

func newWire(c net.Conn) *wire {
	w := &wire{Conn: c, before: func() {}, after: func() {}}
	if s, ok := c.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			w.raw = raw
		}
	}
	w.tryFn = w.tryOnce
	return w
}

// Read is the reader's and, under TLS, tls.Conn's.
func (w *wire) Read(p []byte) (int, error) {
	w.before()
	n, err := w.Conn.Read(p)
	w.after()
	return n, err
}

// Write is called by tls.Conn alone once gather is set; before that it is a plain write.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	if w.mu.gather {
		w.mu.out = append(w.mu.out, p...)
		w.mu.Unlock()
		return len(p), nil
	}
	w.mu.Unlock()
	return w.Conn.Write(p)
}

func (w *wire) gather() {
	w.mu.Lock()
	w.mu.gather = true
	w.mu.Unlock()
}

// take gives what was gathered; the slice is good until the next take but one.
func (w *wire) take() []byte {
	w.mu.Lock()
	out := w.mu.out
	w.mu.out = w.spare[:0]
	w.mu.Unlock()
	w.spare = out
	return out
}

// try writes what the socket takes at once, perhaps nothing.
func (w *wire) try(p []byte) (int, error) {
	if w.raw == nil {
		return 0, nil
	}
	w.tryBuf, w.tryN, w.tryErr = p, 0, nil
	err := w.raw.Write(w.tryFn)
	if err == nil {
		err = w.tryErr
	}
	return w.tryN, err
}

func (w *wire) tryOnce(fd uintptr) bool {
	for len(w.tryBuf) > 0 {
		n, err := syscall.Write(int(fd), w.tryBuf)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return true
		case err != nil:
			w.tryErr = err
			return true
		}
		w.tryBuf = w.tryBuf[n:]
		w.tryN += n
	}
	return true
}
