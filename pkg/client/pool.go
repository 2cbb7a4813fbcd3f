package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
)

// Options say where metad is and how to speak to it.
type Options struct {
	// Addresses are the API addresses (host:port) of the members; at least one that lives.
	Addresses []string
	// TLS is for dialling a member; nil means plain text, for tests on loopback only.
	TLS *tls.Config
	// LiveTLS, instead of TLS, is asked for each connection: certificates change while one runs.
	LiveTLS func() *tls.Config

	Clock clock.Clock  // nil: clock.System
	Log   *slog.Logger // nil: silent
}

const (
	messageBytesMax = 64 << 20 // a topology of thousands of groups is a few MiB
	attemptTimeout  = 3 * time.Second
	readyTimeout    = time.Second
	backoffMin      = 20 * time.Millisecond
	backoffMax      = 150 * time.Millisecond
)

type retry bool

const (
	retryAlways  retry = true  // sending it twice does no harm
	retryUnknown retry = false // only while it is certain that nothing was done
)

// target is a connection to one member.
type target struct {
	address string
	conn    *grpc.ClientConn
	cluster api.ClusterClient
	blockd  api.BlockdClient
	// archiver is what a snapshotd asks, archives what operators do.
	archiver api.ArchiverClient
	archives api.ArchivesClient
	images   api.ImagesClient
	hosts    api.HostsClient
	hooks    api.HooksClient
	freezes  api.FreezesClient
}

// pool has a connection to each member and a guess who leads.
type pool struct {
	o Options

	mu struct {
		sync.Mutex
		targets map[string]*target
		order   []string // as configured, then as heard of
		leader  string
		closed  bool
	}
}

func newPool(o Options) (*pool, error) {
	if len(o.Addresses) == 0 {
		return nil, fmt.Errorf("metad addresses are not set: %w", errs.ErrInvalid)
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &pool{o: o}
	p.mu.targets = make(map[string]*target)
	p.mu.order = append(p.mu.order, o.Addresses...)
	p.mu.leader = o.Addresses[0]
	return p, nil
}

func (p *pool) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.closed = true
	var all []error
	for _, t := range p.mu.targets {
		all = append(all, t.conn.Close())
	}
	p.mu.targets = nil
	return errors.Join(all...)
}

func (p *pool) dial(address string) (*target, error) {
	creds := insecure.NewCredentials()
	switch {
	case p.o.LiveTLS != nil:
		creds = live{p.o.LiveTLS}
	case p.o.TLS != nil:
		creds = credentials.NewTLS(p.o.TLS.Clone())
	}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(creds),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 2 * time.Second,
			Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: backoffMax}}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax), grpc.MaxCallSendMsgSize(messageBytesMax)))
	if err != nil {
		return nil, fmt.Errorf("dial metad %s: %w", address, err)
	}
	return &target{address: address, conn: conn, cluster: api.NewClusterClient(conn), blockd: api.NewBlockdClient(conn),
		archiver: api.NewArchiverClient(conn), archives: api.NewArchivesClient(conn), images: api.NewImagesClient(conn), hosts: api.NewHostsClient(conn),
		hooks: api.NewHooksClient(conn), freezes: api.NewFreezesClient(conn)}, nil
}

// leader is the connection to whom we believe to lead.
func (p *pool) leader() (*target, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.closed {
		return nil, fmt.Errorf("metad client: %w", errs.ErrClosed)
	}
	if t := p.mu.targets[p.mu.leader]; t != nil {
		return t, nil
	}
	t, err := p.dial(p.mu.leader)
	if err == nil {
		p.mu.targets[p.mu.leader] = t
	}
	return t, err
}

// turn makes us believe in another member: the one that from named, else the next.
func (p *pool) turn(from, to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.leader != from {
		return // somebody turned already
	}
	at := -1
	for i, a := range p.mu.order {
		if a == to {
			p.mu.leader = to
			return
		}
		if a == from {
			at = i
		}
	}
	if to != "" {
		p.mu.order = append(p.mu.order, to)
		p.mu.leader = to
		return
	}
	p.mu.leader = p.mu.order[(at+1)%len(p.mu.order)]
}

// call does f on the leader, wherever that is, until it succeeds, fails for good, or
// ctx ends. With retryUnknown an attempt whose outcome is not known is the last.
func (p *pool) call(ctx context.Context, again retry, f func(context.Context, *target) error) error {
	wait := backoffMin
	var last error
	for attempt := 0; ; attempt++ {
		t, err := p.leader()
		if err != nil {
			return err
		}
		redirect, sure := "", true
		if err = p.ready(ctx, t); err == nil {
			attemptCtx, cancel := p.attempt(ctx, again)
			err = f(attemptCtx, t)
			cancel()
			var detail *api.ErrorDetail
			detail, err = api.FromStatus(err)
			if err == nil {
				return nil
			}
			if !movesOn(err, detail) {
				return withRecord(err, detail)
			}
			redirect, sure = detail.GetLeaderApi(), detail.GetNotLeader()
		}
		last = fmt.Errorf("ask metad at %s: %w", t.address, err)
		if !errors.Is(ctx.Err(), context.Canceled) {
			// Also when the time is up: who did not answer now is not asked first next time.
			p.turn(t.address, redirect)
		}
		if ctx.Err() != nil {
			return ended(ctx, last)
		}
		if !sure && again == retryUnknown {
			return last
		}
		if redirect != "" && redirect != t.address && attempt < 4 {
			continue
		}
		if p.o.Clock.Sleep(ctx, wait) != nil {
			return ended(ctx, last)
		}
		wait = min(wait*2, backoffMax)
	}
}

// attempt bounds one try: a member that hangs must not eat the caller's whole time.
func (p *pool) attempt(ctx context.Context, again retry) (context.Context, context.CancelFunc) {
	if again == retryAlways {
		return context.WithTimeout(ctx, attemptTimeout)
	}
	return context.WithCancel(ctx)
}

// ready waits until the connection stands, so that what fails afterwards was sent.
func (p *pool) ready(ctx context.Context, t *target) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		s := t.conn.GetState()
		switch s {
		case connectivity.Ready:
			return nil
		case connectivity.Shutdown:
			return fmt.Errorf("connection: %w", errs.ErrClosed)
		case connectivity.Idle:
			t.conn.Connect()
		case connectivity.TransientFailure:
			return fmt.Errorf("connect: %w", errs.ErrUnavailable)
		}
		if !t.conn.WaitForStateChange(ctx, s) {
			return fmt.Errorf("connect: %w", errs.ErrUnavailable)
		}
	}
}

// movesOn tells whether another member or another moment may answer differently.
func movesOn(err error, d *api.ErrorDetail) bool {
	if d.GetNotLeader() {
		return true
	}
	switch errs.CodeOf(err) {
	case errs.Timeout:
		return true
	case errs.Unavailable, errs.Closed:
		// The leader's own "not now, there are too few stores" is an answer; silence is not.
		return d == nil || d.GetRetry()
	}
	return false
}

// ended says why we stopped asking: the caller's time was up, and what was in the way.
func ended(ctx context.Context, last error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("%w; before that: %w", context.Canceled, last)
	}
	if errs.CodeOf(last) != errs.Unknown {
		return last
	}
	return fmt.Errorf("%w: %w", last, errs.ErrTimeout)
}

// withRecord keeps the record that came with a refusal; see Current.
func withRecord(err error, d *api.ErrorDetail) error {
	if d.GetCurrent() == nil {
		return err
	}
	v, bad := d.Current.Value()
	if bad != nil {
		return err
	}
	return &refusal{err: err, current: v}
}

type refusal struct {
	err     error
	current *cluster.Volume
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// Current is the record in force that came with an ErrStaleEpoch or ErrConflict of
// metad, or nil.
func Current(err error) *cluster.Volume {
	var r *refusal
	if errors.As(err, &r) {
		return r.current
	}
	return nil
}

// WithCurrent makes an error of which Current is v, for other bodies of Metad.
func WithCurrent(err error, v *cluster.Volume) error { return &refusal{err: err, current: v} }
