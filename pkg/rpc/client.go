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

// ClientConfig says what to connect to, and as whom.
type ClientConfig struct {
	Network, Address string // "tcp" or "unix"
	Class            Class
	// VersionMin and VersionMax are the versions of the class's protocol that the caller speaks.
	VersionMin, VersionMax uint16
	// TLS is needed unless Insecure; the certificates then tell who both sides are.
	TLS *tls.Config
	// LiveTLS, instead of TLS, is asked for each connection.
	LiveTLS  func() *tls.Config
	Insecure bool
	Self     pki.Identity // as in the own certificate
	Peer     string       // the name that the server must have; empty takes any
	Limits   Limits       // QueueMax and PendingBytes count here; zero: the class's defaults
	Timing   Timing
	Clock    clock.Clock
	Log      *slog.Logger
	Stats    *Stats // may be nil
	Pacer    *Pacer // shared with others; nil makes one. Its steps must suit Timing
	// Corker, if set, is corked while the answers that arrived together are told.
	Corker Corker
	// OnState, if set, hears when the connection is made and when it is lost, in that order.
	OnState func(up bool)
}

// validate fills defaults.
func (c *ClientConfig) validate() error {
	if c.Limits == (Limits{}) {
		c.Limits = DefaultLimits(c.Class)
	}
	c.Timing.EnsureDefaults()
	if err := errors.Join(c.Limits.Validate(), c.Timing.Validate()); err != nil {
		return err
	}
	switch {
	case (c.TLS == nil && c.LiveTLS == nil) != c.Insecure:
		return fmt.Errorf("want TLS or Insecure, one of both: %w", errs.ErrInvalid)
	case c.VersionMin == 0 || c.VersionMax < c.VersionMin:
		return fmt.Errorf("protocol versions %d to %d: %w", c.VersionMin, c.VersionMax, errs.ErrInvalid)
	case c.Clock == nil || c.Log == nil:
		return fmt.Errorf("clock and log are missing: %w", errs.ErrInvalid)
	}
	return nil
}

// Client owns one connection: it dials in the background, and again when the connection
// is lost. Safe for concurrent use.
type Client struct {
	cfg   ClientConfig
	pacer *Pacer
	own   bool // the pacer is this client's alone
	place string
	cur   atomic.Pointer[clientConn]
	corks atomic.Int32

	// Lock order: mu, then conn.mu.
	mu struct {
		sync.Mutex
		down    error   // why there is no connection; nil before the first dial has ended
		waiting []*Call // made before the first dial ended
	}
	stop context.CancelFunc
	done chan struct{}
}

// NewClient starts to connect. It does not wait for it.
func NewClient(cfg ClientConfig) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure %s client: %w", cfg.Class, err)
	}
	name := cfg.Peer
	if name == "" {
		name = cfg.Address
	}
	c := &Client{cfg: cfg, pacer: cfg.Pacer, place: name + "/" + cfg.Class.String(), done: make(chan struct{})}
	if c.pacer == nil {
		c.pacer, c.own = NewPacer(cfg.Clock, cfg.Timing), true
	}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	go c.run(ctx)
	return c, nil
}

// Start makes a call. It does not block; the end is told to the Caller, perhaps before
// Start returns. Calls of one goroutine are sent in order (but see Class.Overtakes).
// Without a connection a call ends at once with ErrUnavailable, except before the
// outcome of the first dial is known.
func (c *Client) Start(call *Call) {
	if cc := c.cur.Load(); cc != nil {
		cc.start(call)
		return
	}
	c.mu.Lock()
	if cc := c.cur.Load(); cc != nil {
		c.mu.Unlock()
		cc.start(call)
		return
	}
	err := c.mu.down
	if err == nil {
		if len(c.mu.waiting) < c.cfg.Limits.QueueMax {
			c.mu.waiting = append(c.mu.waiting, call)
			c.mu.Unlock()
			return
		}
		err = fmt.Errorf("queue to %s is full: %w", c.place, errs.ErrUnavailable)
	}
	c.mu.Unlock()
	call.end(err)
}

// Version is that of the class's protocol on the present connection; 0: there is none.
func (c *Client) Version() uint16 {
	if cc := c.cur.Load(); cc != nil {
		return cc.version
	}
	return 0
}

// Cork holds calls back until the next Uncork, whoever calls it, so that they leave together;
// what has gathered beyond a limit leaves at once. Neither waits.
func (c *Client) Cork() { c.corks.Add(1) }

// Uncork ends a Cork and sends what was held back.
func (c *Client) Uncork() {
	c.corks.Add(-1)
	if cc := c.cur.Load(); cc != nil && !cc.held.Load() {
		cc.flushIfAny()
	}
}

// cancel ends call soon, if it has not ended.
func (c *Client) cancel(call *Call, err error) {
	c.mu.Lock()
	for i, w := range c.mu.waiting {
		if w == call {
			c.mu.waiting = append(c.mu.waiting[:i], c.mu.waiting[i+1:]...)
			c.mu.Unlock()
			call.end(err)
			return
		}
	}
	c.mu.Unlock()
	if call.conn != nil { // set before the call left waiting, or by the Start before us
		call.conn.cancel(call, err)
	}
}

// Up tells whether there is a connection now.
func (c *Client) Up() bool { return c.cur.Load() != nil }

// Down says why there is no connection; nil when there is one or the first dial is under way.
func (c *Client) Down() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.down
}

// Close ends all calls with ErrClosed and waits for the client's goroutines. It may be called again.
func (c *Client) Close() error {
	c.stop()
	<-c.done
	if c.own {
		c.pacer.Close()
	}
	return nil
}

func (c *Client) run(ctx context.Context) {
	defer close(c.done)
	backoff := c.cfg.Timing.Backoff
	for quiet := false; ctx.Err() == nil; {
		cc, err := c.connect(ctx)
		if err != nil {
			c.setDown(fmt.Errorf("connect to %s at %s: %w: %w", c.place, c.cfg.Address, err, errs.ErrUnavailable))
			if !quiet && ctx.Err() == nil {
				c.cfg.Log.Warn("cannot connect", "connection", c.place, "address", c.cfg.Address, "error", err)
				quiet = true // until it succeeds
			}
			_ = c.cfg.Clock.Sleep(ctx, backoff) // it ends early only with ctx, which the loop asks
			backoff = min(2*backoff, c.cfg.Timing.BackoffMax)
			continue
		}
		quiet = false
		begin := c.cfg.Clock.Now()
		c.live(ctx, cc)
		if c.cfg.Clock.Now()-begin >= c.cfg.Timing.BackoffMax {
			backoff = c.cfg.Timing.Backoff
			continue
		}
		_ = c.cfg.Clock.Sleep(ctx, backoff) // a server that lets us in and throws us out is not asked in a tight loop
		backoff = min(2*backoff, c.cfg.Timing.BackoffMax)
	}
	c.setDown(fmt.Errorf("client of %s: %w", c.place, errs.ErrClosed))
}

// live is one connection's life.
func (c *Client) live(ctx context.Context, cc *clientConn) {
	closed := fmt.Errorf("client of %s: %w", c.place, errs.ErrClosed)
	defer context.AfterFunc(ctx, func() { cc.fail(closed) })()
	c.pacer.add(cc)
	c.cfg.Stats.add(connects)
	c.cfg.Log.Info("connected", "connection", c.place, "address", c.cfg.Address)
	c.setUp(cc)
	c.state(true)
	cc.run()
	c.pacer.remove(cc)
	reason := cc.reason()
	c.setDown(reason)
	c.state(false)
	if ctx.Err() == nil {
		c.cfg.Stats.add(broken)
		c.cfg.Log.Warn("connection lost", "connection", c.place, "error", reason)
	}
}

func (c *Client) state(up bool) {
	if c.cfg.OnState != nil {
		c.cfg.OnState(up)
	}
}

// setUp sends what waited, in order, before anything newer.
func (c *Client) setUp(cc *clientConn) {
	c.mu.Lock()
	waiting := c.mu.waiting
	c.mu.waiting = nil
	var refused []*Call
	for _, call := range waiting {
		err := call.prepare(cc)
		if err == nil {
			_, err = cc.push(&call.out, cc.limits.QueueMax)
		}
		if err != nil {
			call.Err = err
			refused = append(refused, call)
		}
	}
	c.mu.down = nil
	c.cur.Store(cc)
	c.mu.Unlock()
	cc.flushIfAny() // an Uncork may have found no connection
	for _, call := range refused {
		call.end(call.Err)
	}
}

func (c *Client) setDown(err error) {
	c.mu.Lock()
	c.cur.Store(nil)
	c.mu.down = err
	waiting := c.mu.waiting
	c.mu.waiting = nil
	c.mu.Unlock()
	for _, call := range waiting {
		call.end(err)
	}
}

// Do makes a call and waits for its end or that of ctx; what the peer did is unknown then.
// answer may be nil if a good reply says nothing more; else it is as Caller.Answer.
func (c *Client) Do(ctx context.Context, op uint16, head []byte, payload [][]byte,
	answer func(call *Call, head []byte, payload int) error) error {
	d := &doCall{answer: answer, done: make(chan struct{})}
	d.Op, d.Head, d.Payload, d.Caller = op, head, payload, d
	if deadline, ok := ctx.Deadline(); ok {
		d.Timeout = max(deadline.Sub(c.cfg.Clock.Wall()), time.Millisecond)
	}
	if err := ctx.Err(); err != nil {
		return ended(err)
	}
	c.Start(&d.Call)
	select {
	case <-d.done:
	case <-ctx.Done():
		c.cancel(&d.Call, ended(ctx.Err()))
		<-d.done
	}
	return d.Err
}

func ended(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", errs.ErrTimeout, err)
	}
	return err
}

type doCall struct {
	Call
	answer func(call *Call, head []byte, payload int) error
	done   chan struct{}
}

// Answer is part of Caller.
func (d *doCall) Answer(call *Call, head []byte, payload int) error {
	switch {
	case d.answer != nil:
		return d.answer(call, head, payload)
	case len(head) != 0 || payload != 0:
		return &errs.Corrupt{Place: call.conn.place, Offset: -1, What: "bytes of an empty reply", Want: 0, Got: uint64(len(head) + payload)}
	}
	return nil
}

// Done is part of Caller.
func (d *doCall) Done(*Call) { close(d.done) }

// connect dials and shakes hands within Timing.Handshake.
func (c *Client) connect(ctx context.Context) (*clientConn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	late := c.cfg.Clock.AfterFunc(c.cfg.Timing.Handshake, cancel)
	defer late.Stop()
	raw, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, c.cfg.Network, c.cfg.Address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() }) // ends whatever the handshake waits for
	cc, err := c.handshake(ctx, raw)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = raw.Close() // the handshake's error says more
		return nil, err
	}
	return cc, nil
}

// tls is the configuration for a new connection; nil: none.
func (c *Client) tls() *tls.Config {
	if c.cfg.LiveTLS != nil {
		return c.cfg.LiveTLS()
	}
	return c.cfg.TLS
}

func (c *Client) handshake(ctx context.Context, raw net.Conn) (*clientConn, error) {
	w := newWire(raw)
	var sec *tls.Conn
	var rw net.Conn = w
	peer := pki.Identity{}
	if base := c.tls(); base != nil {
		cfg := base.Clone()
		cfg.DynamicRecordSizingDisabled = true
		if cfg.ServerName == "" && c.cfg.Network != "unix" {
			cfg.ServerName, _, _ = net.SplitHostPort(c.cfg.Address) // without a port the dial would have failed
		}
		sec = tls.Client(w, cfg)
		rw = sec
		if err := sec.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("shake hands: %w", err)
		}
		var err error
		if peer, err = pki.PeerIdentity(sec.ConnectionState()); err != nil {
			return nil, err
		}
	}
	t := c.cfg.Timing
	hello := clientHello{versionMin: versionMin, versionMax: versionMax, features: features, class: c.cfg.Class,
		serviceMin: c.cfg.VersionMin, serviceMax: c.cfg.VersionMax, beat: t.Beat, dead: t.Dead, self: c.cfg.Self}
	if err := writeHello(rw, hello.append(nil)); err != nil {
		return nil, fmt.Errorf("send hello: %w", err)
	}
	b, err := readHello(c.place, rw)
	if err != nil {
		return nil, err
	}
	answer, err := decodeServerHello(c.place, b)
	if err != nil {
		return nil, err
	}
	if err := c.accept(&answer, peer); err != nil {
		return nil, err
	}
	cc := &clientConn{pacer: c.pacer, payloadMax: int(answer.payloadMax), version: answer.service}
	cc.class, cc.place, cc.limits, cc.timing, cc.stats = c.cfg.Class, c.place, c.cfg.Limits, t, c.cfg.Stats
	cc.corks = &c.corks
	if cc.corker = c.cfg.Corker; cc.corker != nil {
		cc.dry = cc.uncork
	}
	cc.initSlots(int(answer.inFlight))
	cc.init(w, sec)
	return cc, nil
}

// accept judges the server's hello; cert is zero without TLS.
func (c *Client) accept(h *serverHello, cert pki.Identity) error {
	if h.code != errs.OK {
		return fmt.Errorf("refused: %w", errs.FromCode(h.code, h.text))
	}
	who := h.self
	if !c.cfg.Insecure && (cert.Cluster != who.Cluster || cert.Role != who.Role || cert.Name != who.Name) {
		return fmt.Errorf("server says it is %s, its certificate %s: %w", who, cert, errs.ErrDenied)
	}
	switch {
	case who.Cluster != c.cfg.Self.Cluster:
		return fmt.Errorf("server %s is of another cluster: %w", who, errs.ErrDenied)
	case c.cfg.Peer != "" && who.Name != c.cfg.Peer:
		return fmt.Errorf("server is %s, not %s: %w", who, c.cfg.Peer, errs.ErrDenied)
	case h.service < c.cfg.VersionMin || h.service > c.cfg.VersionMax:
		return fmt.Errorf("server chose version %d of %s: %w", h.service, c.cfg.Class, errs.ErrInvalid)
	case c.cfg.Timing.Dead < 2*h.beat:
		return fmt.Errorf("server beats every %s, too seldom for %s: %w", h.beat, c.cfg.Timing.Dead, errs.ErrInvalid)
	}
	return nil
}
