package volproto

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/nbd/devices"
	"ashlar.dev/pkg/nbd/nbdtest"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/rpc"
	"ashlar.dev/pkg/testkit/rpctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	testVolume = id.Volume{1}
	patient    = rpc.Timing{Dead: 20 * time.Second, Handshake: 20 * time.Second}
)

// host is an owner of one volume.
type host struct {
	mu      sync.Mutex
	gate    Gate
	device  nbd.Device
	away    *NotOwner // set when the volume is owned elsewhere
	opened  int
	closed  int
	changed *sync.Cond
	stall   chan struct{} // if set, Attach waits for it or ctx
}

func newHost(d nbd.Device) *host {
	h := &host{device: d}
	h.changed = sync.NewCond(&h.mu)
	return h
}

func (h *host) AttachSnapshot(_ context.Context, v id.Volume, s id.Snapshot, _ id.Host) (nbd.Handle, error) {
	if s != (id.Snapshot{1}) {
		return nil, fmt.Errorf("snapshot %s of %s: %w", s, v, errs.ErrNotFound)
	}
	h.mu.Lock()
	h.opened++
	h.mu.Unlock()
	return counted{h.device, h}, nil
}

func (h *host) Attach(ctx context.Context, v id.Volume, s Session, by id.Host) (nbd.Handle, error) {
	h.mu.Lock()
	away, stall := h.away, h.stall
	h.mu.Unlock()
	if stall != nil {
		select {
		case <-stall:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if away != nil {
		return nil, fmt.Errorf("attach: %w", away)
	}
	if v != testVolume {
		return nil, fmt.Errorf("volume %s: %w", v, errs.ErrNotFound)
	}
	h.mu.Lock()
	h.opened++
	h.mu.Unlock()
	return h.gate.Attach(ctx, s, counted{h.device, h})
}

type counted struct {
	nbd.Device
	h *host
}

func (c counted) Close() error {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	c.h.closed++
	c.h.changed.Broadcast()
	return nil
}

// awaitClosed waits until n handles were closed.
func (h *host) awaitClosed(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.closed < n {
		h.changed.Wait()
	}
}

type site struct {
	t      testing.TB
	w      *rpctest.World
	tr     rpctest.Transport
	link   *rpctest.Link
	addr   string
	server *rpc.Server
}

func serve(t testing.TB, tr rpctest.Transport, o Owner) *site {
	t.Helper()
	w := rpctest.NewWorld(t)
	svc, err := NewService(ServiceConfig{Owner: o, Clock: clock.System})
	if err != nil {
		t.Fatal(err)
	}
	cfg := rpc.ServerConfig{Insecure: !tr.TLS, Self: rpctest.Identity("b1"), Services: []rpc.Service{svc}, Clock: clock.System, Log: rpctest.Log(), Timing: patient}
	if tr.TLS {
		cfg.TLS = w.ServerTLS("b1")
	}
	s := &site{t: t, w: w, tr: tr}
	if s.server, err = rpc.NewServer(cfg); err != nil {
		t.Fatal(err)
	}
	l := w.Listen(tr)
	s.addr = l.Addr().String()
	if tr.Network == "tcp" {
		s.link = rpctest.NewLink(t, l.Addr())
		s.addr = s.link.Address()
	}
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(l) }()
	t.Cleanup(func() {
		_ = s.server.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *site) peer(name string) *Peer {
	s.t.Helper()
	cfg := PeerConfig{Host: "b1", Network: s.tr.Network, Address: s.addr, Insecure: !s.tr.TLS, Self: rpctest.Identity(name),
		Clock: clock.System, Log: rpctest.Log(), Timing: patient}
	if s.tr.TLS {
		cfg.TLS = s.w.ClientTLS(name)
	}
	p, err := NewPeer(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = p.Close() })
	return p
}

func attach(t testing.TB, p *Peer, number uint64) *Remote {
	t.Helper()
	r, err := p.Attach(t.Context(), testVolume, Session{id.Raw{9}, number})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Without this a guest behind a proxy would see another disk than one beside the owner.
func TestProxiedDiskConforms(t *testing.T) {
	for _, tr := range []rpctest.Transport{rpctest.Transports[0], rpctest.Transports[2]} {
		t.Run(tr.Name, func(t *testing.T) {
			nbdtest.Conformance(t, nbdtest.Suite{Steps: 120, Open: func(t *testing.T, size uint64) nbd.Device {
				r := attach(t, serve(t, tr, newHost(devices.NewMemory(size, int64(size)))).peer("b2"), 1)
				t.Cleanup(func() {
					if err := r.Close(); err != nil {
						t.Error(err)
					}
				})
				return r
			}})
		})
	}
}

// holding is a device that completes requests when the test says so.
type holding struct {
	nbd.Device
	mu   sync.Mutex
	held []*nbd.Request
	some *sync.Cond
}

func newHolding() *holding {
	h := &holding{Device: devices.NewMemory(4<<20, 4<<20)}
	h.some = sync.NewCond(&h.mu)
	return h
}

func (h *holding) Submit(r *nbd.Request) {
	h.mu.Lock()
	h.held = append(h.held, r)
	h.some.Broadcast()
	h.mu.Unlock()
}

func (h *holding) await(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.held) < n {
		h.some.Wait()
	}
}

func (h *holding) release() {
	h.mu.Lock()
	all := h.held
	h.held = nil
	h.mu.Unlock()
	for _, r := range all {
		h.Device.Submit(r)
	}
}

// begin submits a write and gives the channel of its end.
func begin(d nbd.Device, fill byte) chan error {
	done := make(chan error, 1)
	r := nbd.NewRequest(nbd.OpWrite, 0, 0, 4096, bytes.Repeat([]byte{fill}, 4096), nbd.CompleterFunc(func(r *nbd.Request, err error) {
		done <- err
		r.Recycle()
	}))
	d.Submit(r)
	return done
}

// Without this a delayed write of a connection that the client gave up could overwrite what
// it wrote over the next one.
func TestNewerSessionIsLetInWhenTheOlderIsDrained(t *testing.T) {
	d := newHolding()
	h := newHost(d)
	s := serve(t, rpctest.Transports[0], h)
	older := attach(t, s.peer("b2"), 1)
	slow := begin(older, 1)
	d.await(1)

	next := s.peer("b3") // the client comes back through another proxy
	attached := make(chan *Remote, 1)
	go func() { attached <- attach(t, next, 2) }()
	for seen := uint64(0); seen != 2; runtime.Gosched() {
		h.gate.mu.Lock()
		seen = h.gate.all[id.Raw{9}].number
		h.gate.mu.Unlock()
	}
	refused := <-begin(older, 2) // now the older session begins nothing any more
	if !errors.Is(refused, ErrStaleSession) || !errors.Is(refused, nbd.ErrHangup) {
		t.Errorf("write of the older session: %v", refused)
	}
	select {
	case <-attached:
		t.Fatal("let in while an older write is in flight")
	default:
	}
	d.release()
	if err := <-slow; err != nil {
		t.Errorf("write that was in flight: %v", err)
	}
	newer := <-attached
	c := begin(newer, 7)
	d.await(1)
	d.release()
	if err := <-c; err != nil {
		t.Error(err)
	}
	if b, err := nbdtest.Do(d.Device, nbd.OpRead, 0, 0, 4096, nil); err != nil || b[0] != 7 {
		t.Errorf("block holds %d, %v", b[0], err)
	}
	if _, err := s.peer("b2").Attach(t.Context(), testVolume, Session{id.Raw{9}, 1}); !errors.Is(err, ErrStaleSession) {
		t.Errorf("attach of a lower number: %v", err)
	}
	for _, r := range []*Remote{older, newer} {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	h.awaitClosed(2)
}

// Without this a broken connection could end in a request sent twice, or in one that hangs.
func TestBrokenConnectionHangsUp(t *testing.T) {
	d := newHolding()
	h := newHost(d)
	s := serve(t, rpctest.Transports[0], h)
	p := s.peer("b2")
	r := attach(t, p, 1)
	c := begin(r, 1)
	d.await(1)
	s.link.Cut()
	if err := <-c; !errors.Is(err, nbd.ErrHangup) || !errors.Is(err, errs.ErrUnavailable) {
		t.Errorf("request in flight: %v", err)
	}
	if err := <-begin(r, 2); !errors.Is(err, nbd.ErrHangup) {
		t.Errorf("request after: %v", err)
	}
	d.release()
	h.awaitClosed(1) // the owner lets go with the connection
	for {            // the same handle stays dead when the connection is back
		again, err := p.Attach(t.Context(), testVolume, Session{id.Raw{9}, 2})
		if errors.Is(err, errs.ErrUnavailable) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := <-begin(r, 3); !errors.Is(err, nbd.ErrHangup) {
			t.Errorf("request on a dead handle: %v", err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
		break
	}
	h.awaitClosed(2)
}

// Without this a proxy would not know whom to ask, and a client see an error instead of another host.
func TestNotOwnerTellsTheOwner(t *testing.T) {
	h := newHost(devices.NewMemory(4<<20, 4<<20))
	p := serve(t, rpctest.Transports[0], h).peer("b2")
	r := attach(t, p, 1)
	h.mu.Lock()
	h.away = &NotOwner{Volume: testVolume, Owner: "b3", Epoch: 17}
	h.mu.Unlock()
	_, err := p.Attach(t.Context(), testVolume, Session{id.Raw{9}, 2})
	var hint *NotOwner
	if !errors.As(err, &hint) || *hint != (NotOwner{testVolume, "b3", 17}) || !errors.Is(err, ErrNotOwner) || !errors.Is(err, errs.ErrUnavailable) {
		t.Errorf("attach: %v", err)
	}
	h.mu.Lock()
	h.away = nil
	h.mu.Unlock()
	if _, err := p.Attach(t.Context(), id.Volume{2}, Session{id.Raw{9}, 2}); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("unknown volume: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// Without this errors of the owner's device would reach the guest as other ones.
func TestDeviceErrorsCross(t *testing.T) {
	d := &failing{Device: devices.NewMemory(1<<20, 1<<20)}
	r := attach(t, serve(t, rpctest.Transports[0], newHost(d)).peer("b2"), 1)
	for _, c := range []struct{ err, want error }{
		{errs.ErrNoSpace, errs.ErrNoSpace}, {errs.ErrInvalid, errs.ErrInvalid}, {errs.ErrCorrupt, errs.ErrCorrupt},
		{nbd.EOVERFLOW, nbd.EOVERFLOW}, {nbd.ErrNotSupported, nbd.ENOTSUP}, {errors.New("odd"), nil},
		{&NotOwner{Owner: "b9"}, ErrNotOwner}, // the last: the handle is dead after it
	} {
		d.err = c.err
		_, err := nbdtest.Do(r, nbd.OpTrim, 0, 0, 4096, nil)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%v arrives as %v", c.err, err)
		}
	}
	if err := r.Lost(); !errors.Is(err, ErrNotOwner) || !errors.Is(err, nbd.ErrHangup) {
		t.Errorf("handle after its volume moved: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

type failing struct {
	nbd.Device
	err error
}

func (f *failing) Submit(r *nbd.Request) { r.Complete(f.err) }

// Without this a peer with a bug could make the owner's engine see what it trusts never to see.
func TestOwnerChecksWhatTheProxySends(t *testing.T) {
	h := newHost(devices.ReadOnly{Device: devices.NewMemory(1<<20, 1<<20)})
	p := serve(t, rpctest.Transports[0], h).peer("b2")
	r := attach(t, p, 1)
	for name, q := range map[string]struct {
		op             nbd.Op
		offset, length uint64
		want           error
	}{
		"beyond the end":   {nbd.OpRead, 1<<20 - 4096, 8192, nil},
		"overflow":         {nbd.OpTrim, 1 << 63, 1 << 63, nil},
		"nothing":          {nbd.OpRead, 0, 0, nil},
		"flush of a range": {nbd.OpFlush, 0, 4096, errs.ErrInvalid},
		"unknown":          {99, 0, 4096, errs.ErrInvalid},
		"write":            {nbd.OpWrite, 0, 4096, errs.ErrDenied},
	} {
		if _, err := nbdtest.Do(r, q.op, 0, q.offset, q.length, make([]byte, q.length&0xffff)); err == nil || q.want != nil && !errors.Is(err, q.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r.Lost() != nil {
		t.Errorf("a refused request killed the handle: %v", r.Lost())
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// Without this connections of one multi-conn client would close the disk under each other.
func TestConnectionsOfASessionShareIt(t *testing.T) {
	h := newHost(devices.NewMemory(1<<20, 1<<20))
	p := serve(t, rpctest.Transports[0], h).peer("b2")
	a, b := attach(t, p, 1), attach(t, p, 1)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := <-begin(b, 5); err != nil {
		t.Errorf("write on the connection that stays: %v", err)
	}
	if err := b.Refresh(t.Context()); err != nil || b.Size() != 1<<20 {
		t.Errorf("size %d, %v", b.Size(), err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	h.awaitClosed(2)
	if err := <-begin(b, 5); err == nil {
		t.Error("a write after the close succeeds")
	}
}

// Without this an attach that nobody waits for would hold the volume open for ever.
func TestAbandonedAttachIsUndone(t *testing.T) {
	h := newHost(devices.NewMemory(1<<20, 1<<20))
	p := serve(t, rpctest.Transports[0], h).peer("b2")
	warm := attach(t, p, 1)
	h.stall = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := p.Attach(ctx, testVolume, Session{id.Raw{8}, 1})
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled attach: %v", err)
	}
	if err := warm.Refresh(t.Context()); err != nil { // behind the detach on the same connection
		t.Error(err)
	}
	close(h.stall)
	if err := warm.Close(); err != nil {
		t.Error(err)
	}
	h.mu.Lock()
	opened := h.opened
	h.mu.Unlock()
	h.awaitClosed(max(opened, 1))
}

// Without this anyone with a certificate of the cluster could do I/O past the exports.
func TestOnlyBlockdsAreServed(t *testing.T) {
	s := serve(t, rpctest.Transports[0], newHost(devices.NewMemory(1<<20, 1<<20)))
	creds := s.w.Credentials(pki.RoleOperator, "me")
	p, err := NewPeer(PeerConfig{Host: "b1", Network: "tcp", Address: s.addr, Self: creds.Self(), Clock: clock.System, Log: rpctest.Log(),
		TLS: creds.Client(pki.Expect{Roles: []pki.Role{pki.RoleBlockd}}), Timing: patient})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Attach(t.Context(), testVolume, Session{id.Raw{9}, 1}); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("operator: %v", err)
	}
}

// Without this a snapshot could only be read at the host that owns its disk, or one reader
// of it would shut out another.
func TestSnapshotsAreProxied(t *testing.T) {
	h := newHost(devices.NewMemory(1<<20, 1<<20))
	p := serve(t, rpctest.Transports[0], h).peer("b2")
	for i := range byte(2) {
		r, err := p.AttachSnapshot(t.Context(), testVolume, id.Snapshot{1}, Session{id.Raw{i + 1}, 1})
		if err != nil || r.Size() != 1<<20 {
			t.Fatal(err)
		}
		defer func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}()
	}
	if _, err := p.AttachSnapshot(t.Context(), testVolume, id.Snapshot{2}, Session{id.Raw{7}, 1}); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
}

// contexts tells of every context by its first byte.
type contexts struct{ nbd.Device }

func (c contexts) Submit(r *nbd.Request) {
	if r.Op != nbd.OpBlockStatus {
		c.Device.Submit(r)
		return
	}
	r.AddExtent(4096, nbd.State(r.Context[0]))
	r.AddExtent(8192, nbd.StateData)
	r.Complete(nil)
}

// Without this a client of a proxy that asks what changed would be told what is written.
func TestContextsAreProxied(t *testing.T) {
	p := serve(t, rpctest.Transports[0], newHost(contexts{devices.NewMemory(1<<20, 1<<20)})).peer("b2")
	r, err := p.Attach(t.Context(), testVolume, Session{id.Raw{1}, 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, context := range []nbd.ContextKey{{}, {2}, {1, 15: 9}} {
		done := make(chan error, 1)
		q := nbd.NewRequest(nbd.OpBlockStatus, 0, 0, 12288, nil, nbd.CompleterFunc(func(_ *nbd.Request, err error) { done <- err }))
		q.Context = context
		r.Submit(q)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		got, n := q.Extents(), 2
		if context[0] == 0 {
			n = 1 // both are data
		}
		if len(got) != n || got[0].State != nbd.State(context[0]) {
			t.Errorf("context %x: %v", context, got)
		}
		q.Recycle()
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
