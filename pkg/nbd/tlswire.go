package nbd

import (
	"net"
	"sync"
)

// tlsWire lies between a tls.Conn and its socket. Reads take as much as there is, so that
// many small records cost one system call. During the handshake writes go straight through;
// after stage they are kept until the outbox takes them, so that encrypting never
// waits for the socket and many records cost one system call.
type tlsWire struct {
	net.Conn
	in input

	mu struct {
		sync.Mutex
		staged bool
		out    []byte
	}
}

const tlsReadLen = 64 << 10

// newTLSWire makes a wire over conn whose raw reads go through reads.
func newTLSWire(conn net.Conn, reads *dryReader) *tlsWire {
	w := &tlsWire{Conn: conn}
	w.in = input{src: reads, buf: make([]byte, tlsReadLen)}
	return w
}

func (w *tlsWire) Read(p []byte) (int, error) {
	if w.in.buffered() == 0 {
		if err := w.in.fill(1); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.in.buf[w.in.r:w.in.w])
	w.in.r += n
	return n, nil
}

func (w *tlsWire) Write(p []byte) (int, error) {
	w.mu.Lock()
	if w.mu.staged {
		w.mu.out = append(w.mu.out, p...)
		w.mu.Unlock()
		return len(p), nil
	}
	w.mu.Unlock()
	return w.Conn.Write(p)
}

// stage keeps all writes from now on.
func (w *tlsWire) stage() {
	w.mu.Lock()
	w.mu.staged = true
	w.mu.Unlock()
}

// swap gives what was kept and keeps in empty from now on.
func (w *tlsWire) swap(empty []byte) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.mu.out
	w.mu.out = empty
	return out
}

// dryReader reads from conn, and calls dry before a read that may wait.
type dryReader struct {
	conn net.Conn
	dry  func() // nil until the transmission begins
	wet  func() // after the read
}

func (d *dryReader) Read(p []byte) (int, error) {
	if d.dry == nil {
		return d.conn.Read(p)
	}
	d.dry()
	n, err := d.conn.Read(p)
	d.wet()
	return n, err
}
