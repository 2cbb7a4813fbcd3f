package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// ServerConfig says who serves what.
type ServerConfig struct {
	// TLS is needed unless Insecure; it must demand certificates of clients.
	TLS      *tls.Config
	Insecure bool
	Self     pki.Identity // as in the own certificate
	Services []Service
	// ConnsMax bounds the connections, those that still shake hands too; more are closed at once. 1024 if zero.
	ConnsMax int
	// Drain bounds how long Close waits for requests in flight. 2 s if zero.
	Drain  time.Duration
	Timing Timing
	Clock  clock.Clock
	Log    *slog.Logger
	Stats  *Stats // may be nil
}

func (c *ServerConfig) validate() error {
	if c.ConnsMax == 0 {
		c.ConnsMax = 1024
	}
	if c.Drain == 0 {
		c.Drain = 2 * time.Second
	}
	c.Timing.EnsureDefaults()
	if err := c.Timing.Validate(); err != nil {
		return err
	}
	switch {
	case c.TLS == nil != c.Insecure:
		return fmt.Errorf("want TLS or Insecure, one of both: %w", errs.ErrInvalid)
	case c.TLS != nil && c.TLS.ClientAuth != tls.RequireAndVerifyClientCert:
		return fmt.Errorf("TLS must demand certificates of clients: %w", errs.ErrInvalid)
	case c.Clock == nil || c.Log == nil || len(c.Services) == 0:
		return fmt.Errorf("clock, log or services are missing: %w", errs.ErrInvalid)
	}
	for i := range c.Services {
		s := &c.Services[i]
		if s.Limits == (Limits{}) {
			s.Limits = DefaultLimits(s.Class)
		}
		if err := s.Limits.Validate(); err != nil {
			return fmt.Errorf("service %s: %w", s.Class, err)
		}
		if s.VersionMin == 0 || s.VersionMax < s.VersionMin || s.Accept == nil {
			return fmt.Errorf("service %s: versions or accept are missing: %w", s.Class, errs.ErrInvalid)
		}
	}
	return nil
}

// Server accepts connections and serves each by the service of its class.
type Server struct {
	cfg   ServerConfig
	pacer *Pacer

	corks atomic.Int32
	live  atomic.Pointer[[]*serverConn] // those in mu.conns, for Uncork

	mu struct {
		sync.Mutex
		closed    bool
		listeners map[net.Listener]struct{}
		shaking   map[net.Conn]struct{}
		conns     map[*serverConn]struct{}
	}
	running  sync.WaitGroup // Serve calls and connections
	once     sync.Once
	closeErr error // of once
}

// NewServer checks cfg. Nothing is served before Serve.
func NewServer(cfg ServerConfig) (*Server, error) {
	cfg.Services = append([]Service(nil), cfg.Services...)
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure server: %w", err)
	}
	s := &Server{cfg: cfg, pacer: NewPacer(cfg.Clock, cfg.Timing)}
	s.mu.listeners = make(map[net.Listener]struct{})
	s.mu.shaking = make(map[net.Conn]struct{})
	s.mu.conns = make(map[*serverConn]struct{})
	s.live.Store(new([]*serverConn))
	return s, nil
}

// Cork holds replies back until the next Uncork, whoever calls it, so that they leave together:
// for who answers several requests at once, perhaps of different connections. Neither waits.
func (s *Server) Cork() { s.corks.Add(1) }

// Uncork ends a Cork and sends what was held back.
func (s *Server) Uncork() {
	s.corks.Add(-1)
	for _, c := range *s.live.Load() {
		if !c.held.Load() {
			c.flushIfAny()
		}
	}
}

// setLive is called under mu after every change of conns.
func (s *Server) setLive() {
	live := make([]*serverConn, 0, len(s.mu.conns))
	for c := range s.mu.conns {
		live = append(live, c)
	}
	s.live.Store(&live)
}

// Serve accepts from l until Close, which closes l; it then returns nil. It may be called for several listeners.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return errors.Join(fmt.Errorf("serve %s: %w", l.Addr(), errs.ErrClosed), l.Close())
	}
	s.mu.listeners[l] = struct{}{}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	for {
		raw, err := l.Accept()
		if err == nil {
			s.accepted(raw)
			continue
		}
		s.mu.Lock()
		closed := s.mu.closed
		s.mu.Unlock()
		if closed {
			return nil
		}
		if ne, ok := err.(net.Error); !ok || !ne.Timeout() && !isResource(err) {
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		s.cfg.Log.Warn("cannot accept", "address", l.Addr().String(), "error", err)
		_ = s.cfg.Clock.Sleep(context.Background(), s.cfg.Timing.Beat) // no context: Close ends it within a beat
	}
}

func (s *Server) accepted(raw net.Conn) {
	s.mu.Lock()
	if s.mu.closed || len(s.mu.shaking)+len(s.mu.conns) >= s.cfg.ConnsMax {
		s.mu.Unlock()
		_ = raw.Close() // refused; there is nobody to tell
		s.cfg.Stats.add(refused)
		return
	}
	s.mu.shaking[raw] = struct{}{}
	s.running.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.running.Done()
		s.serve(raw)
	}()
}

// serve is a connection's life.
func (s *Server) serve(raw net.Conn) {
	late := s.cfg.Clock.AfterFunc(s.cfg.Timing.Handshake, func() { _ = raw.Close() }) // ends whatever the handshake waits for
	c, err := s.handshake(raw)
	inTime := late.Stop()
	s.mu.Lock()
	delete(s.mu.shaking, raw)
	if err == nil && (!inTime || s.mu.closed) {
		err = errs.ErrClosed
	} else if err == nil {
		s.mu.conns[c] = struct{}{}
		s.setLive()
	}
	s.mu.Unlock()
	if err != nil {
		_ = raw.Close() // the handshake's error says more
		if c != nil {
			c.cancel()
			c.handler.Close()
		}
		s.cfg.Stats.add(refused)
		s.cfg.Log.Warn("connection refused", "address", raw.RemoteAddr().String(), "error", err)
		return
	}
	s.cfg.Stats.add(connects)
	s.pacer.add(c)
	err = c.run()
	s.pacer.remove(c)
	s.mu.Lock()
	delete(s.mu.conns, c)
	s.setLive()
	closed := s.mu.closed
	s.mu.Unlock()
	if !closed && !closedByPeer(err) {
		s.cfg.Stats.add(broken)
		s.cfg.Log.Warn("connection ended", "connection", c.place, "error", err)
	}
}

// Close stops accepting and reading, waits for the requests in flight, at most Drain,
// and ends all connections. Requests that services still have not ended after as long
// again are left behind, and are the error; their memory is freed when they end. It may be called again.
func (s *Server) Close() error {
	s.once.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *Server) close() error {
	s.mu.Lock()
	s.mu.closed = true
	var err error
	for l := range s.mu.listeners {
		err = errors.Join(err, l.Close())
	}
	for raw := range s.mu.shaking {
		_ = raw.Close() // its goroutine ends with the error
	}
	conns := make([]*serverConn, 0, len(s.mu.conns))
	for c := range s.mu.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.drain()
	}
	ended := make(chan struct{})
	go func() {
		s.running.Wait()
		s.pacer.Close()
		close(ended)
	}()
	late := s.cfg.Clock.NewTimer(s.cfg.Drain)
	defer late.Stop()
	select {
	case <-ended:
		return err
	case <-late.C():
	}
	for _, c := range conns {
		c.fail(fmt.Errorf("server of %s: %w", c.place, errs.ErrClosed))
	}
	late.Reset(s.cfg.Drain)
	select {
	case <-ended:
		return err
	case <-late.C():
	}
	return errors.Join(err, fmt.Errorf("requests of %d connections did not end in %s: %w", len(conns), 2*s.cfg.Drain, errs.ErrTimeout))
}

func (s *Server) handshake(raw net.Conn) (*serverConn, error) {
	place := raw.RemoteAddr().String()
	w := newWire(raw)
	var sec *tls.Conn
	var rw net.Conn = w
	var cert pki.Identity
	if s.cfg.TLS != nil {
		cfg := s.cfg.TLS.Clone()
		cfg.DynamicRecordSizingDisabled = true
		sec = tls.Server(w, cfg)
		rw = sec
		if err := sec.Handshake(); err != nil {
			return nil, fmt.Errorf("shake hands: %w", err)
		}
		var err error
		if cert, err = pki.PeerIdentity(sec.ConnectionState()); err != nil {
			return nil, err
		}
	}
	b, err := readHello(place, rw)
	if err != nil {
		return nil, err
	}
	hello, err := decodeClientHello(place, b)
	if err != nil {
		return nil, err
	}
	c, answer, err := s.admit(raw, &hello, cert)
	if err != nil {
		text := err.Error()
		answer = serverHello{code: errs.CodeOf(err), text: text[:min(len(text), ErrorTextMax)]}
		_ = writeHello(rw, answer.append(nil)) // the refusal is the error to report
		return nil, err
	}
	if err := writeHello(rw, answer.append(nil)); err != nil {
		c.cancel()
		c.handler.Close()
		return nil, fmt.Errorf("send hello: %w", err)
	}
	c.init(w, sec)
	return c, nil
}

// admit judges a client's hello; cert is zero without TLS.
func (s *Server) admit(raw net.Conn, h *clientHello, cert pki.Identity) (*serverConn, serverHello, error) {
	who := h.self
	if s.cfg.TLS != nil {
		if cert.Cluster != who.Cluster || cert.Role != who.Role || cert.Name != who.Name {
			return nil, serverHello{}, fmt.Errorf("client says it is %s, its certificate %s: %w", who, cert, errs.ErrDenied)
		}
		who = cert
	}
	if who.Cluster != s.cfg.Self.Cluster {
		return nil, serverHello{}, fmt.Errorf("client %s is of another cluster: %w", who, errs.ErrDenied)
	}
	if h.versionMin > versionMax || h.versionMax < versionMin {
		return nil, serverHello{}, fmt.Errorf("client speaks versions %d to %d, this side %d to %d: %w",
			h.versionMin, h.versionMax, versionMin, versionMax, errs.ErrInvalid)
	}
	if s.cfg.Timing.Dead < 2*h.beat || h.dead < 2*s.cfg.Timing.Beat {
		return nil, serverHello{}, fmt.Errorf("client beats every %s and waits %s, this side %s and %s: %w",
			h.beat, h.dead, s.cfg.Timing.Beat, s.cfg.Timing.Dead, errs.ErrInvalid)
	}
	var svc *Service
	for i := range s.cfg.Services {
		if s.cfg.Services[i].Class == h.class {
			svc = &s.cfg.Services[i]
		}
	}
	if svc == nil {
		return nil, serverHello{}, fmt.Errorf("%s is not served here: %w", h.class, errs.ErrNotFound)
	}
	version := min(h.serviceMax, svc.VersionMax)
	if version < max(h.serviceMin, svc.VersionMin) {
		return nil, serverHello{}, fmt.Errorf("client speaks versions %d to %d of %s, this side %d to %d: %w",
			h.serviceMin, h.serviceMax, h.class, svc.VersionMin, svc.VersionMax, errs.ErrInvalid)
	}
	c := &serverConn{svc: svc, budget: NewBudget(svc.Limits.BytesMax)}
	c.class, c.limits, c.timing, c.stats = svc.Class, svc.Limits, s.cfg.Timing, s.cfg.Stats
	c.place = who.Name + "/" + svc.Class.String()
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel, c.died, c.corks = cancel, cancel, &s.corks
	c.peer = Peer{Identity: who, Addr: raw.RemoteAddr(), Version: version, Context: ctx}
	handler, err := svc.Accept(c.peer)
	if err != nil {
		cancel()
		return nil, serverHello{}, err
	}
	c.handler = handler
	if d, ok := handler.(Drier); ok {
		c.dry = d.Dry
	}
	return c, serverHello{version: min(h.versionMax, versionMax), features: features & h.features, service: version,
		inFlight: uint32(svc.Limits.InFlight), payloadMax: uint32(svc.Limits.PayloadMax),
		beat: s.cfg.Timing.Beat, dead: s.cfg.Timing.Dead, self: s.cfg.Self}, nil
}
