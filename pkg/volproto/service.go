package volproto

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/rpc"
)

// ServiceConfig says what is served.
type ServiceConfig struct {
	Owner Owner
	Clock clock.Clock
	// BytesMax bounds the memory of requests and replies under way, of all connections
	// together; at the limit no further request is read. Zero: 128 MiB.
	BytesMax int
	// Limits of each connection; zero: the class's defaults.
	Limits rpc.Limits
}

// attachedMax bounds the handles open on one connection.
const attachedMax = 4096

// NewService serves the volumes of this host to peers that proxy, to be added to an rpc.ServerConfig.
func NewService(cfg ServiceConfig) (rpc.Service, error) {
	if cfg.Owner == nil || cfg.Clock == nil {
		return rpc.Service{}, fmt.Errorf("configure volume service: owner or clock is missing: %w", errs.ErrInvalid)
	}
	if cfg.BytesMax == 0 {
		cfg.BytesMax = 128 << 20
	}
	return rpc.Service{Class: rpc.ClassVolume, VersionMin: Version, VersionMax: Version, Limits: cfg.Limits,
		Process: rpc.NewBudget(cfg.BytesMax),
		Accept: func(p rpc.Peer) (rpc.Handler, error) {
			if p.Identity.Role != pki.RoleBlockd {
				return nil, fmt.Errorf("volumes are served to role %s, not to %s: %w", pki.RoleBlockd, p.Identity, errs.ErrDenied)
			}
			h := &handler{cfg: cfg, peer: p}
			h.mu.all = make(map[target]*attached)
			h.mu.opening = make(map[use]bool)
			return h, nil
		}}, nil
}

// handler serves one connection.
type handler struct {
	cfg   ServiceConfig
	peer  rpc.Peer
	calls sync.WaitGroup
	// corked are the devices that were told of more to come. The reader's own.
	corked []nbd.Corker
	mu     struct {
		sync.RWMutex
		all     map[target]*attached
		opening map[use]bool // attaches not answered yet; true: nobody waits any more
	}
}

// attached is a volume opened for a session over this connection. The session's
// connections at the proxy share it.
type attached struct {
	handle nbd.Handle
	corker nbd.Corker // handle, if it is one
	info   nbd.Info
	uses   map[use]struct{} // attaches that were not undone; under the handler's mu
	io     sync.WaitGroup
}

// serving is the state of one request.
type serving interface {
	serve()
	done()
}

func (h *handler) place() string { return h.peer.Identity.Name }

// Prepare is part of rpc.Handler.
func (h *handler) Prepare(r *rpc.Request) error {
	dec := codec.NewReader(h.peer.Identity.Name, r.Head)
	t := readTarget(&dec)
	if r.Op == opIO || r.Op == opContext {
		return h.prepareIO(r, t, &dec)
	}
	var u use
	if r.Op != opSize {
		u = readUse(&dec)
	}
	var snapshot id.Snapshot
	if r.Op == opAttachSnapshot {
		dec.Fill(snapshot[:])
	}
	if dec.End(); dec.Err() != nil {
		return dec.Err()
	}
	c := &call{h: h, r: r}
	switch r.Op {
	case opAttach, opAttachSnapshot:
		if r.Op == opAttachSnapshot && snapshot.IsZero() {
			return fmt.Errorf("attach a snapshot without id: %w", errs.ErrInvalid)
		}
		if !h.open(u) {
			return fmt.Errorf("attach under a number in use: %w", errs.ErrInvalid)
		}
		c.run = func(ctx context.Context) error { return h.attach(ctx, r, t, u, snapshot) }
	case opDetach:
		h.Dry() // no cork is taken out of a closed device
		c.run = func(context.Context) error { return h.detach(t, u) }
	case opSize:
		c.run = func(context.Context) error {
			a := h.find(t)
			if a == nil {
				return errNotAttached
			}
			defer a.io.Done()
			r.OutHead = le.AppendUint64(appendStatus(r.OutHead, nil), a.handle.Size())
			return nil
		}
	default:
		return fmt.Errorf("operation %d: %w", r.Op, errs.ErrInvalid)
	}
	r.State = c
	return nil
}

// Serve is part of rpc.Handler.
func (h *handler) Serve(r *rpc.Request) { r.State.(serving).serve() }

// cork tells a's device, once in a burst, that more may come.
func (h *handler) cork(a *attached) {
	if a.corker != nil && !slices.Contains(h.corked, a.corker) {
		a.corker.Cork()
		h.corked = append(h.corked, a.corker)
	}
}

// Dry is part of rpc.Drier.
func (h *handler) Dry() {
	for i, c := range h.corked {
		c.Uncork()
		h.corked[i] = nil
	}
	h.corked = h.corked[:0]
}

// Done is part of rpc.Handler.
func (h *handler) Done(r *rpc.Request) {
	if s, ok := r.State.(serving); ok {
		s.done()
	}
}

// Close is part of rpc.Handler. All requests are done.
func (h *handler) Close() {
	h.calls.Wait()
	h.mu.Lock()
	all := h.mu.all
	h.mu.all = nil
	h.mu.Unlock()
	for _, a := range all {
		_ = a.handle.Close() // nobody is left to tell; the owner logs what it must
	}
}

// errNotAttached: the connection does not know the session, as after a reconnect.
var errNotAttached = fmt.Errorf("%w: the session is not attached on this connection", nbd.ErrHangup)

// find gives what t names with one use of io, or nil.
func (h *handler) find(t target) *attached {
	h.mu.RLock()
	defer h.mu.RUnlock()
	a := h.mu.all[t]
	if a != nil {
		a.io.Add(1)
	}
	return a
}

func (h *handler) open(u use) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, taken := h.mu.opening[u]; taken {
		return false
	}
	h.mu.opening[u] = false
	return true
}

// attach opens a volume or, if snapshot is not zero, one of its snapshots.
func (h *handler) attach(ctx context.Context, r *rpc.Request, t target, u use, snapshot id.Snapshot) error {
	by := id.Host(h.peer.Identity.Name)
	var handle nbd.Handle
	var err error
	if snapshot.IsZero() {
		handle, err = h.cfg.Owner.Attach(ctx, t.volume, t.session, by)
	} else {
		handle, err = h.cfg.Owner.AttachSnapshot(ctx, t.volume, snapshot, by)
	}
	h.mu.Lock()
	abandoned := h.mu.opening[u]
	delete(h.mu.opening, u)
	a := h.mu.all[t]
	switch {
	case err != nil:
	case abandoned:
		err = errAbandoned
	case a != nil: // one handle serves all connections of the session; the new one is closed below
		a.uses[u] = struct{}{}
	case len(h.mu.all) >= attachedMax:
		err = fmt.Errorf("%d sessions are attached on this connection: %w", attachedMax, errs.ErrUnavailable)
	default:
		a = &attached{handle: handle, info: handle.Info(), uses: map[use]struct{}{u: {}}}
		a.corker, _ = handle.(nbd.Corker)
		h.mu.all[t] = a
	}
	h.mu.Unlock()
	if handle != nil && (err != nil || a.handle != handle) {
		err = errors.Join(err, handle.Close())
	}
	if err == nil {
		r.OutHead = appendInfo(appendStatus(r.OutHead, nil), a.handle.Size(), a.info)
	}
	return err
}

var errAbandoned = fmt.Errorf("the attach was undone: %w", errs.ErrClosed)

// detach undoes the attach u, in whatever state it is. The last one of a session closes its handle.
func (h *handler) detach(t target, u use) error {
	h.mu.Lock()
	if _, ok := h.mu.opening[u]; ok {
		h.mu.opening[u] = true
	}
	a := h.mu.all[t]
	last := false
	if a != nil {
		if _, ok := a.uses[u]; ok {
			delete(a.uses, u)
			last = len(a.uses) == 0
		}
	}
	if last {
		delete(h.mu.all, t)
	}
	h.mu.Unlock()
	if !last {
		return nil
	}
	a.io.Wait()
	return a.handle.Close()
}

// call is a request that waits: it has a goroutine, of which there are at most as many
// as the connection lets requests be in flight.
type call struct {
	h   *handler
	r   *rpc.Request
	run func(ctx context.Context) error
}

func (c *call) serve() {
	c.h.calls.Add(1)
	go func() {
		defer c.h.calls.Done()
		ctx, cancel := context.WithCancel(c.r.Peer.Context)
		defer cancel()
		if c.r.Timeout > 0 {
			defer c.h.cfg.Clock.AfterFunc(c.r.Timeout, cancel).Stop()
		}
		err := c.run(ctx)
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", errs.ErrTimeout, err)
		}
		if err != nil || len(c.r.OutHead) == 0 {
			c.r.OutHead = appendStatus(c.r.OutHead[:0], err)
		}
		c.r.Reply(nil)
	}()
}

func (c *call) done() {}
