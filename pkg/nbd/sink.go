package nbd

import (
	"crypto/tls"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sink writes a vec to a connection.
type sink interface {
	// push writes of v what the connection takes without waiting, and takes it away from v; with
	// wait it writes at least something. done tells that all of v is written.
	push(v *vec, wait bool) (done bool, err error)
}

// newSink gives the best sink for conn.
func newSink(conn net.Conn) sink {
	if sc, ok := conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			return newRawSink(raw)
		}
	}
	return &plainSink{conn}
}

// plainSink is for connections without a descriptor: it can only wait.
type plainSink struct{ conn net.Conn }

func (s *plainSink) push(v *vec, wait bool) (bool, error) {
	if !wait {
		return v.left == 0, nil
	}
	for v.left > 0 {
		n, err := s.conn.Write(v.unwritten()[0])
		v.advance(n)
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// rawSink writes all parts in one system call.
type rawSink struct {
	raw     syscall.RawConn
	try     func(fd uintptr) bool // once, whatever happens
	insist  func(fd uintptr) bool // until something was written
	iov     []unix.Iovec
	written int
	err     error
}

func newRawSink(raw syscall.RawConn) *rawSink {
	s := &rawSink{raw: raw}
	s.try = func(fd uintptr) bool { s.writev(fd); return true }
	s.insist = func(fd uintptr) bool { s.writev(fd); return s.written > 0 || s.err != nil }
	return s
}

// writev writes once; nothing written and no error means that the socket is full.
func (s *rawSink) writev(fd uintptr) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&s.iov[0])), uintptr(len(s.iov)))
		switch errno {
		case 0:
			s.written = int(n)
			return
		case unix.EINTR:
		case unix.EAGAIN:
			return
		default:
			s.err = errno
			return
		}
	}
}

func (s *rawSink) push(v *vec, wait bool) (bool, error) {
	if v.left == 0 {
		return true, nil
	}
	s.iov = s.iov[:0]
	for _, p := range v.unwritten() {
		iov := unix.Iovec{Base: unsafe.SliceData(p)}
		iov.SetLen(len(p))
		s.iov = append(s.iov, iov)
	}
	f := s.try
	if wait {
		f = s.insist
	}
	s.written, s.err = 0, nil
	err := s.raw.Write(f)
	clear(s.iov) // no reference to a payload outlives its write
	if err == nil {
		err = s.err
	}
	v.advance(s.written)
	return v.left == 0, err
}

// tlsSink encrypts piece by piece and writes the ciphertext through the sink below.
type tlsSink struct {
	conn  *tls.Conn
	wire  *tlsWire
	below sink
	plain []byte // gathers small parts into records
	vec   vec    // the ciphertext under way
	spare []byte // its memory
}

const (
	tlsGather = 16 << 10  // one full record
	tlsPiece  = 256 << 10 // plaintext encrypted before the next write
)

func newTLSSink(conn *tls.Conn, wire *tlsWire) *tlsSink {
	return &tlsSink{conn: conn, wire: wire, below: newSink(wire.Conn), plain: make([]byte, 0, tlsGather)}
}

func (s *tlsSink) push(v *vec, wait bool) (bool, error) {
	for {
		if s.vec.left == 0 {
			if err := s.encrypt(v); err != nil {
				return false, err
			}
			if s.vec.left == 0 {
				return true, nil
			}
		}
		done, err := s.below.push(&s.vec, wait)
		if err != nil || !done && !wait {
			return false, err
		}
		if wait {
			return done && v.left == 0, nil
		}
	}
}

// encrypt makes the next piece of v the ciphertext under way.
func (s *tlsSink) encrypt(v *vec) error {
	for piece := 0; v.left > 0 && piece < tlsPiece; {
		part := v.unwritten()[0]
		n := min(len(part), tlsGather-len(s.plain))
		s.plain = append(s.plain, part[:n]...)
		v.advance(n)
		piece += n
		if len(s.plain) == tlsGather || v.left == 0 {
			if _, err := s.conn.Write(s.plain); err != nil {
				return err
			}
			s.plain = s.plain[:0]
		}
	}
	if len(s.plain) > 0 {
		if _, err := s.conn.Write(s.plain); err != nil {
			return err
		}
		s.plain = s.plain[:0]
	}
	out := s.wire.swap(s.spare[:0])
	s.spare = out
	s.vec.parts, s.vec.gone, s.vec.left = append(s.vec.parts[:0], out), 0, len(out)
	return nil
}
