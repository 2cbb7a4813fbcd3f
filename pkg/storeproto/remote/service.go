package remote

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/rpc"
	"ashlar.dev/pkg/storeproto"
)

// ServiceConfig says what is served.
type ServiceConfig struct {
	// Lookup finds a store of this host. It is called for every request and must be quick. A
	// store that has a method Incarnation serves requests that name this incarnation alone.
	Lookup func(id.Store) (storeproto.Store, bool)
	// Corker, if set, is corked while reads that came together are given to their stores.
	Corker storeproto.Corker
	Clock  clock.Clock
	// LogBytesMax, BulkBytesMax and ReadBytesMax bound the memory of requests and replies
	// under way, of all connections of a class together. At the limit no further request is
	// read. Zero: 128 MiB, 256 MiB, 128 MiB.
	LogBytesMax, BulkBytesMax, ReadBytesMax int
	// Limits of each connection; a class that is missing gets the defaults.
	Limits map[rpc.Class]rpc.Limits

	versionMax uint16 // of tests that need an older server; 0: Version
}

// Service serves the stores of this host to its peers.
type Service struct {
	cfg     ServiceConfig
	budgets map[rpc.Class]*rpc.Budget
}

// NewService checks cfg.
func NewService(cfg ServiceConfig) (*Service, error) {
	if cfg.Lookup == nil || cfg.Clock == nil {
		return nil, fmt.Errorf("configure store service: lookup or clock is missing: %w", errs.ErrInvalid)
	}
	s := &Service{cfg: cfg, budgets: make(map[rpc.Class]*rpc.Budget)}
	for class, n := range map[rpc.Class][2]int{
		rpc.ClassLog: {cfg.LogBytesMax, 128 << 20}, rpc.ClassBulk: {cfg.BulkBytesMax, 256 << 20}, rpc.ClassRead: {cfg.ReadBytesMax, 128 << 20},
	} {
		if n[0] == 0 {
			n[0] = n[1]
		}
		s.budgets[class] = rpc.NewBudget(n[0])
	}
	return s, nil
}

// Services are to be added to an rpc.ServerConfig.
func (s *Service) Services() []rpc.Service {
	var out []rpc.Service
	newest := s.cfg.versionMax
	if newest == 0 {
		newest = Version
	}
	for _, class := range []rpc.Class{rpc.ClassLog, rpc.ClassBulk, rpc.ClassRead} {
		out = append(out, rpc.Service{Class: class, VersionMin: VersionMin, VersionMax: newest,
			Limits: s.cfg.Limits[class], Process: s.budgets[class],
			Accept: func(p rpc.Peer) (rpc.Handler, error) { return s.accept(class, p) }})
	}
	return out
}

// BytesUsed is the memory of requests and replies of a class under way; for status.
func (s *Service) BytesUsed(class rpc.Class) int { return s.budgets[class].Used() }

// accept lets in other blockds alone.
func (s *Service) accept(class rpc.Class, p rpc.Peer) (rpc.Handler, error) {
	if p.Identity.Role != pki.RoleBlockd {
		return nil, fmt.Errorf("stores are served to role %s, not to %s: %w", pki.RoleBlockd, p.Identity, errs.ErrDenied)
	}
	return &handler{service: s, class: class, peer: p, host: id.Host(p.Identity.Name)}, nil
}

// find gives a store in the very incarnation that the peer means.
func (s *Service) find(n id.Store, inc id.Incarnation) (storeproto.Store, error) {
	body, ok := s.cfg.Lookup(n)
	if !ok {
		return nil, fmt.Errorf("store %s is not here: %w", n, errs.ErrUnavailable)
	}
	if x, ok := body.(interface{ Incarnation() id.Incarnation }); ok && x.Incarnation() != inc {
		return nil, fmt.Errorf("store %s was formatted anew: %w", n, errs.ErrNotFound)
	}
	return body, nil
}

// handler serves one connection.
type handler struct {
	service *Service
	class   rpc.Class
	peer    rpc.Peer
	host    id.Host
	calls   sync.WaitGroup // requests with goroutines
	corked  bool           // the service's Corker, by this connection's reader
}

// serving is the state of one request.
type serving interface {
	// serve begins; it ends with a Reply of its request.
	serve()
	// done gives the state back.
	done()
}

// Prepare is part of rpc.Handler.
func (h *handler) Prepare(r *rpc.Request) error {
	if classOf(r.Op) != h.class {
		return fmt.Errorf("operation %d on a %s connection: %w", r.Op, h.class, errs.ErrInvalid)
	}
	if len(r.Head) < refBytes {
		return corrupt(string(h.host), "bytes of a request", refBytes, len(r.Head))
	}
	target, err := h.service.find(id.Store(r.Head[:16]), id.Incarnation(r.Head[16:refBytes]))
	if err != nil {
		return err
	}
	switch r.Op {
	case opAppend:
		err = prepareAppend(r, target)
	case opReadShard:
		err = prepareRead(r, target)
	case opPutShard:
		err = preparePut(r, target)
	case opConfirm:
		err = prepareConfirm(r, target)
	case opLease:
		err = h.prepareLease(r, target)
	default:
		err = h.prepareCall(r, target)
	}
	return err
}

// Serve is part of rpc.Handler.
func (h *handler) Serve(r *rpc.Request) {
	if c := h.service.cfg.Corker; c != nil && !h.corked && h.class == rpc.ClassRead {
		h.corked = true
		c.Cork()
	}
	r.State.(serving).serve()
}

// Dry is part of rpc.Drier.
func (h *handler) Dry() {
	if h.corked {
		h.corked = false
		h.service.cfg.Corker.Uncork()
	}
}

// Done is part of rpc.Handler.
func (h *handler) Done(r *rpc.Request) {
	if s, ok := r.State.(serving); ok {
		s.done()
	}
}

// Close is part of rpc.Handler.
func (h *handler) Close() { h.calls.Wait() }

// owns refuses a holder other than the peer itself.
func (h *handler) owns(by id.Holder) error {
	if by.Host != h.host {
		return fmt.Errorf("holder %s named by host %s: %w", by, h.host, errs.ErrDenied)
	}
	return nil
}

// call is a request that waits: it has a goroutine, of which there are at most as many
// as the connection lets requests be in flight.
type call struct {
	h   *handler
	r   *rpc.Request
	run func(ctx context.Context) error
	end func()
}

func (c *call) serve() {
	c.h.calls.Add(1)
	go func() {
		defer c.h.calls.Done()
		ctx, cancel := context.WithCancelCause(c.r.Peer.Context)
		defer cancel(nil)
		if c.r.Timeout > 0 {
			late := fmt.Errorf("the client waits no longer: %w", errs.ErrTimeout)
			defer c.h.service.cfg.Clock.AfterFunc(c.r.Timeout, func() { cancel(late) }).Stop()
		}
		err := c.run(ctx)
		if cause := context.Cause(ctx); err != nil && cause != nil && errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%v: %w", err, cause)
		}
		c.r.Reply(err)
	}()
}

func (c *call) done() {
	if c.end != nil {
		c.end()
	}
}
