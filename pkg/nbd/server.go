package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
)

// Config is what a Server needs.
type Config struct {
	Exports Exports
	// Access, if set, says whether a peer may list and open an export: nil or the reason why not.
	// It comes before Exports and is safe for concurrent use.
	Access func(peer Peer, export string) error
	Limits Limits
	// HangupOnShutdown drops requests that come during Shutdown without an answer, so that a client with
	// reconnect sends them again elsewhere. Without it they are answered with ESHUTDOWN.
	HangupOnShutdown bool
	Gather           *Gather      // lets others hold replies back; may be nil
	Log              *slog.Logger // nil: none
	Clock            clock.Clock  // nil: the system's. Deadlines of sockets run on the system's in any case
}

// Limits bound what clients can make a server hold. Zero fields take the defaults.
// At a limit of requests or bytes the server stops reading from the client until replies have gone out.
type Limits struct {
	ConnsMax          int           // connections; more are closed at once. Default 1024
	HandshakesMax     int           // connections of one listener not yet in transmission; more are closed at once. Default 256
	ConnRequestsMax   int           // requests in flight of one connection. Default 256
	ConnBytesMax      int64         // their payload, at least 32 MiB. Default 64 MiB
	ExportRequestsMax int           // requests in flight of all connections of one export, so that one stuck disk leaves room. Default 4096
	ExportBytesMax    int64         // their payload, at least 32 MiB. Default 256 MiB
	ServerRequestsMax int           // requests in flight of all. Default 16384
	ServerBytesMax    int64         // their payload, at least 32 MiB. Default 1 GiB
	HandshakeTimeout  time.Duration // from accept to transmission, TLS included, without Open. Default 10 s
	OpenTimeout       time.Duration // for Exports.Open. Default 60 s
	StallTimeout      time.Duration // in the middle of a message without progress. Default 60 s
}

// EnsureDefaults puts the defaults where l has zeros.
func (l *Limits) EnsureDefaults() {
	for _, d := range []struct {
		field *int
		value int
	}{{&l.ConnsMax, 1024}, {&l.HandshakesMax, 256}, {&l.ConnRequestsMax, 256}, {&l.ExportRequestsMax, 4096}, {&l.ServerRequestsMax, 16384}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	for _, d := range []struct {
		field *int64
		value int64
	}{{&l.ConnBytesMax, 64 << 20}, {&l.ExportBytesMax, 256 << 20}, {&l.ServerBytesMax, 1 << 30}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&l.HandshakeTimeout, 10 * time.Second}, {&l.OpenTimeout, time.Minute}, {&l.StallTimeout, time.Minute}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
}

// Validate refuses limits that could never let the longest request through.
func (l *Limits) Validate() error {
	if l.ConnsMax < 1 || l.HandshakesMax < 1 || l.ConnRequestsMax < 1 || l.ExportRequestsMax < 1 || l.ServerRequestsMax < 1 ||
		l.HandshakeTimeout < 0 || l.OpenTimeout < 0 || l.StallTimeout < 0 {
		return fmt.Errorf("nbd limits must be positive: %w", errs.ErrInvalid)
	}
	if min(l.ConnBytesMax, l.ExportBytesMax, l.ServerBytesMax) < buf.LenMax {
		return fmt.Errorf("nbd limits of bytes in flight must be at least %d: %w", buf.LenMax, errs.ErrInvalid)
	}
	return nil
}

// Endpoint says how clients of one listener are met.
type Endpoint struct {
	// TLS offers STARTTLS with this configuration, whose ClientAuth says whether clients show certificates. Nil: no TLS.
	TLS *tls.Config
	// TLSRequired refuses everything but STARTTLS in the clear.
	TLSRequired bool
}

// Server serves NBD on any number of listeners. All its methods are safe for concurrent use.
//
// Lock order: Server.mu, then nothing; outbox.mu, Gather's within it, and limiter.mu are innermost; the first and the last are never held together.
type Server struct {
	cfg     Config
	log     *slog.Logger
	clock   clock.Clock
	limit   limiter
	group   sync.WaitGroup // of connections
	ctx     context.Context
	cancel  context.CancelFunc
	opens   context.Context // of calls to Exports; ends with the first step of a shutdown
	noOpens context.CancelFunc
	retired connStats // of closed connections
	refused atomic.Uint64

	mu struct {
		sync.Mutex
		conns     map[uint64]*conn
		shares    map[string]*share // by export, of connections in transmission
		listeners map[net.Listener]struct{}
		lastConn  uint64
		closing   bool
	}
}

// NewServer makes a server that serves nothing yet.
func NewServer(cfg Config) (*Server, error) {
	cfg.Limits.EnsureDefaults()
	if err := cfg.Limits.Validate(); err != nil {
		return nil, err
	}
	if cfg.Exports == nil {
		return nil, fmt.Errorf("an nbd server without exports: %w", errs.ErrInvalid)
	}
	s := &Server{cfg: cfg, log: cfg.Log, clock: cfg.Clock}
	if s.clock == nil {
		s.clock = clock.System
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.limit.requestsMax, s.limit.bytesMax = cfg.Limits.ServerRequestsMax, cfg.Limits.ServerBytesMax
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.opens, s.noOpens = context.WithCancel(s.ctx)
	s.mu.conns = make(map[uint64]*conn)
	s.mu.listeners = make(map[net.Listener]struct{})
	s.mu.shares = make(map[string]*share)
	return s, nil
}

// acceptRetryMax bounds the pause after an accept that failed.
const acceptRetryMax = time.Second

// Serve accepts connections on l until Shutdown or Close, and then gives nil. It closes l.
func (s *Server) Serve(l net.Listener, ep Endpoint) error {
	defer l.Close()
	s.mu.Lock()
	if s.mu.closing {
		s.mu.Unlock()
		return nil
	}
	s.mu.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.mu.listeners, l)
		s.mu.Unlock()
	}()
	handshakes := new(atomic.Int64) // so that strangers on one listener cannot keep out those on another
	pause := 5 * time.Millisecond
	for {
		raw, err := l.Accept()
		if err == nil {
			pause = 5 * time.Millisecond
			s.start(raw, ep, handshakes)
			continue
		}
		if s.closing() {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept nbd connections: %w", err)
		}
		s.log.Warn("accept of an nbd connection failed", "error", err)
		if s.clock.Sleep(s.ctx, pause) != nil {
			return nil
		}
		pause = min(2*pause, acceptRetryMax)
	}
}

func (s *Server) closing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.closing
}

// start serves raw on a goroutine of its own, if there is room.
func (s *Server) start(raw net.Conn, ep Endpoint, handshakes *atomic.Int64) {
	if handshakes.Add(1) > int64(s.cfg.Limits.HandshakesMax) {
		handshakes.Add(-1)
		s.refuse(raw, "handshakes", s.cfg.Limits.HandshakesMax)
		return
	}
	c := s.admit(raw, ep)
	if c == nil {
		handshakes.Add(-1)
		return
	}
	c.handshakeOver = func() { handshakes.Add(-1) }
	go s.run(c)
}

// refuse closes a connection at a limit.
func (s *Server) refuse(raw net.Conn, what string, limit int) {
	s.refused.Add(1) // before the client can know of it
	_ = raw.Close()  // it was never served
	s.log.Warn("nbd connection refused at a limit", "of", what, "limit", limit)
}

// ServeConn serves one connection, which it closes, and returns when it is over.
func (s *Server) ServeConn(raw net.Conn, ep Endpoint) {
	if c := s.admit(raw, ep); c != nil {
		s.run(c)
	}
}

// admit makes the conn of raw, or closes raw and gives nil.
func (s *Server) admit(raw net.Conn, ep Endpoint) *conn {
	c := &conn{server: s, raw: raw, stream: raw, reads: &dryReader{conn: raw}, dead: make(chan struct{}), tlsRequired: ep.TLSRequired}
	if ep.TLS != nil {
		c.tlsConfig = ep.TLS.Clone()
		c.tlsConfig.DynamicRecordSizingDisabled = true // bulk, not web pages
	}
	s.mu.Lock()
	full := len(s.mu.conns) >= s.cfg.Limits.ConnsMax
	if full || s.mu.closing {
		s.mu.Unlock()
		if full {
			s.refuse(raw, "connections", s.cfg.Limits.ConnsMax)
		}
		_ = raw.Close() // twice does no harm
		return nil
	}
	s.mu.lastConn++
	c.id = s.mu.lastConn
	roomy(raw)
	c.peer = Peer{Conn: c.id, Addr: raw.RemoteAddr(), Process: processOf(raw), HungUp: hungUpOf(raw)}
	s.mu.conns[c.id] = c
	s.group.Add(1)
	s.mu.Unlock()
	return c
}

func (s *Server) run(c *conn) {
	defer s.group.Done()
	c.serve(s.ctx)
	s.mu.Lock()
	delete(s.mu.conns, c.id)
	s.retired.addFrom(&c.stats) // under mu, so that no count is missed or doubled in Status
	s.mu.Unlock()
}

// unixBufferLen is the send buffer asked for on unix sockets, in bytes. The system's default makes long replies go
// in many small turns; TCP sizes its own.
const unixBufferLen = 2 << 20

func roomy(raw net.Conn) {
	if u, ok := raw.(*net.UnixConn); ok {
		_ = u.SetWriteBuffer(unixBufferLen) // a wish; the system may grant less
	}
}

// processOf asks the kernel who connected to a unix socket.
func processOf(raw net.Conn) *Process {
	u, ok := raw.(*net.UnixConn)
	if !ok {
		return nil
	}
	sc, err := u.SyscallConn()
	if err != nil {
		return nil
	}
	var cred *unix.Ucred
	if err := sc.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || cred == nil {
		return nil
	}
	return &Process{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}
}

// hungUpOf asks the kernel without reading: what the peer sent before it closed its end is kept.
func hungUpOf(raw net.Conn) func() bool {
	c, ok := raw.(syscall.Conn)
	if !ok {
		return nil
	}
	sc, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return func() bool {
		gone := false
		err := sc.Control(func(fd uintptr) {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
			for {
				if _, err := unix.Poll(p, 0); err != unix.EINTR {
					break
				}
			}
			gone = p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
		})
		return gone || err != nil // closed on our side
	}
}

// share is what the connections of one export may have in flight together.
type share struct {
	limiter
	conns int // guarded by Server.mu
}

// joinShare gives the share of an export, for one connection more.
func (s *Server) joinShare(export string) *share {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.mu.shares[export]
	if sh == nil {
		sh = &share{limiter: limiter{requestsMax: s.cfg.Limits.ExportRequestsMax, bytesMax: s.cfg.Limits.ExportBytesMax}}
		s.mu.shares[export] = sh
	}
	sh.conns++
	return sh
}

// leaveShare undoes joinShare, when nothing of the connection is in flight.
func (s *Server) leaveShare(export string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.mu.shares[export]
	if sh.conns--; sh.conns == 0 {
		delete(s.mu.shares, export)
	}
}

// Shutdown ends the server in order: no more is accepted, requests in flight end and are answered, later
// ones get ESHUTDOWN (or nothing, with HangupOnShutdown), and each connection closes
// when nothing of it is in flight. When ctx ends first the rest is closed at once and its error returned;
// devices that still hold requests may then complete them late.
func (s *Server) Shutdown(ctx context.Context) error {
	s.noOpens()
	s.mu.Lock()
	s.mu.closing = true
	for l := range s.mu.listeners {
		_ = l.Close() // no more is accepted either way
	}
	conns := make([]*conn, 0, len(s.mu.conns))
	for _, c := range s.mu.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	var drains sync.WaitGroup
	for _, c := range conns { // all before the first closes, by which clients may know
		c.draining.Store(true)
	}
	for _, c := range conns {
		drains.Go(func() {
			if !s.cfg.HangupOnShutdown {
				select {
				case <-c.limit.idle():
				case <-c.dead:
				case <-ctx.Done():
				}
			}
			c.kick()
		})
	}
	drains.Wait()
	over := make(chan struct{})
	go func() { s.group.Wait(); close(over) }()
	select {
	case <-over:
		s.cancel()
		return nil
	case <-ctx.Done():
		s.cancel() // hangs up on all
		return ctx.Err()
	}
}

// Close ends the server at once: connections are closed, requests in flight go unanswered. It
// waits for devices to complete what they hold.
func (s *Server) Close() error {
	s.cancel()
	err := s.Shutdown(s.ctx)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	s.group.Wait()
	return err
}

// Hangup closes at once every connection that match names, so that its client reconnects, here or elsewhere. It gives
// their number. A volume that is fenced, moved or deleted is taken from its clients so.
func (s *Server) Hangup(match func(ConnStatus) bool) int {
	n := 0
	for _, c := range s.snapshot() {
		if match(c.status()) {
			c.hangup("asked to")
			n++
		}
	}
	return n
}

func (s *Server) snapshot() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := make([]*conn, 0, len(s.mu.conns))
	for _, c := range s.mu.conns {
		conns = append(conns, c)
	}
	return conns
}
