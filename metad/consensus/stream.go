package consensus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/pki"
)

const (
	handshakeTimeout = 3 * time.Second
	acceptPause      = 100 * time.Millisecond // after a failed accept: too many open files, most likely
	handshakesMax    = 32                     // connections in handshake at once; more are refused
)

// stream is raft's transport: TLS both ways, members only. Handshakes are done before
// raft sees a connection, so a silent stranger holds nothing of raft's.
type stream struct {
	net.Listener
	creds *pki.Credentials
	where func(id string) []Peer
	speak func() []string // what both ends must agree on, see lineage.go
	clock clock.Clock
	log   *slog.Logger
	group *lifecycle.Group
	ready chan net.Conn

	mu struct {
		sync.Mutex
		open map[*memberConn]struct{} // nil once closed
	}
}

// memberConn is a connection that ends with the stream: raft's transport leaves those
// it accepted, and those it keeps for later, open when it closes.
type memberConn struct {
	net.Conn
	s *stream
}

// Close is part of net.Conn.
func (c *memberConn) Close() error {
	c.s.mu.Lock()
	delete(c.s.mu.open, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}

// adopt takes conn into the stream's care.
func (s *stream) adopt(conn net.Conn) (net.Conn, error) {
	c := &memberConn{conn, s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.open == nil {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	s.mu.open[c] = struct{}{}
	return c, nil
}

func newStream(o Options, where func(id string) []Peer, speak func() []string) *stream {
	s := &stream{Listener: o.Listener, creds: o.Creds, where: where, speak: speak, clock: o.Clock, log: o.Log,
		group: lifecycle.NewGroup(context.Background()), ready: make(chan net.Conn)}
	s.mu.open = make(map[*memberConn]struct{})
	s.group.Go("raft listener", s.listen)
	return s
}

func (s *stream) listen(ctx context.Context) error {
	cfg := s.creds.Server(pki.Expect{Roles: []pki.Role{pki.RoleMetad}})
	present := cfg.GetConfigForClient
	cfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		now, err := present(h)
		if err == nil {
			now.NextProtos = s.speak()
		}
		return now, err
	}
	slots := make(chan struct{}, handshakesMax)
	for {
		conn, err := s.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			s.log.Warn("accept raft connection failed", "err", err)
			if s.clock.Sleep(ctx, acceptPause) != nil {
				return nil
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			conn.Close() // nothing was said on it yet
			continue
		}
		if !s.group.Go("raft handshake", func(ctx context.Context) error {
			defer func() { <-slots }()
			s.handshake(ctx, tls.Server(conn, cfg))
			return nil
		}) {
			conn.Close()
		}
	}
}

func (s *stream) handshake(ctx context.Context, conn *tls.Conn) {
	hsCtx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(hsCtx); err != nil {
		if ctx.Err() == nil {
			s.log.Info("raft connection refused", "peer", conn.RemoteAddr().String(), "err", err)
		}
		conn.Close()
		return
	}
	select {
	case s.ready <- conn:
	case <-ctx.Done():
		conn.Close()
	}
}

// Accept gives the next connection that is a member's.
func (s *stream) Accept() (net.Conn, error) {
	select {
	case c := <-s.ready:
		return s.adopt(c)
	case <-s.group.Context().Done():
		return nil, net.ErrClosed
	}
}

// Close ends the listener, the handshakes and all connections. It may be called again.
func (s *stream) Close() error {
	s.mu.Lock()
	open := s.mu.open
	s.mu.open = nil
	s.mu.Unlock()
	if open == nil {
		return nil
	}
	all := []error{s.Listener.Close()}
	for c := range open {
		c.Conn.Close() // what was said on it is raft's business
	}
	return errors.Join(append(all, s.group.Close())...)
}

// Dial connects to a member, whose name stands for its address, and makes sure that it is
// that member. Of the places where it may be the first that answers is taken.
func (s *stream) Dial(member raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.group.Context(), timeout)
	defer cancel()
	places := s.where(string(member))
	if len(places) == 0 {
		return nil, fmt.Errorf("dial member %s: its address is not known: %w", member, errs.ErrNotFound)
	}
	cfg := s.creds.Client(pki.Expect{Roles: []pki.Role{pki.RoleMetad}, Name: string(member)})
	cfg.NextProtos = s.speak()
	var failed error
	for i, p := range places {
		tryCtx, end := context.WithTimeout(ctx, timeout/time.Duration(len(places)-i+1))
		conn, err := (&tls.Dialer{Config: cfg}).DialContext(tryCtx, "tcp", p.Raft)
		end()
		if err == nil {
			return s.adopt(conn)
		}
		failed = errors.Join(failed, fmt.Errorf("dial member %s at %s: %w", member, p.Raft, err))
	}
	return nil, failed
}
