package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/testkit/rpctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The operations of the test's service.
const (
	opEcho = 1 // head and payload come back
	opHold = 2 // answered when the test says so
	opFail = 3 // refused in Prepare
	opHole = 4 // Prepare makes no room for the payload
)

// service is a handler that tells the test what it sees.
type service struct {
	mu      sync.Mutex
	changed *sync.Cond
	order   []string // first bytes of the heads, in the order served
	held    []*Request
	most    int // the most requests held at once
	done    int
	closed  int
}

func newService() *service {
	s := &service{}
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *service) Prepare(r *Request) error {
	switch r.Op {
	case opFail:
		return fmt.Errorf("refuse: %w", errs.ErrNoSpace)
	case opHole:
		return nil
	}
	if r.PayloadBytes > 0 { // two slices, to see scattering
		n := r.PayloadBytes / 3
		b := make([]byte, r.PayloadBytes)
		r.Into = append(r.Into, b[:n], b[n:])
	}
	return nil
}

func (s *service) Serve(r *Request) {
	s.mu.Lock()
	s.order = append(s.order, string(r.Head[:min(len(r.Head), 16)]))
	if r.Op == opHold {
		s.held = append(s.held, r)
		s.most = max(s.most, len(s.held))
		s.changed.Broadcast()
		s.mu.Unlock()
		return
	}
	s.changed.Broadcast()
	s.mu.Unlock()
	answer(r)
}

func answer(r *Request) {
	r.OutHead = append(r.OutHead, r.Head...)
	r.OutPayload = append(r.OutPayload, r.Into...)
	r.Reply(nil)
}

func (s *service) Done(*Request) { s.mu.Lock(); s.done++; s.changed.Broadcast(); s.mu.Unlock() }
func (s *service) Close()        { s.mu.Lock(); s.closed++; s.changed.Broadcast(); s.mu.Unlock() }

// await waits until cond holds, which is asked under mu.
func (s *service) await(cond func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !cond() {
		s.changed.Wait()
	}
}

// release answers n held requests, the oldest first.
func (s *service) release(n int) {
	s.mu.Lock()
	rs := s.held[:n:n]
	s.held = s.held[n:]
	s.mu.Unlock()
	for _, r := range rs {
		answer(r)
	}
}

// setup is what a test varies.
type setup struct {
	class  Class
	limits Limits
	timing Timing
	client func(*ClientConfig)
	server func(*ServerConfig)
	budget *Budget
}

type pair struct {
	client *Client
	server *Server
	svc    *service
	link   *rpctest.Link // nil on unix sockets
	stats  *Stats        // the client's
}

// connect makes a server and a client that is connected, or has been refused.
func connect(t testing.TB, tr rpctest.Transport, s setup) *pair {
	t.Helper()
	w := rpctest.NewWorld(t)
	l := w.Listen(tr)
	if s.timing == (Timing{}) { // a busy machine is no dead peer
		s.timing = Timing{Dead: 20 * time.Second, Handshake: 20 * time.Second}
	}
	p := &pair{svc: newService(), stats: new(Stats)}
	if s.class == 0 {
		s.class = ClassLog
	}
	scfg := ServerConfig{Insecure: !tr.TLS, Self: rpctest.Identity("b1"), Clock: clock.System, Log: rpctest.Log(), Timing: s.timing,
		Services: []Service{{Class: s.class, VersionMin: 1, VersionMax: 1, Limits: s.limits, Process: s.budget,
			Accept: func(Peer) (Handler, error) { return p.svc, nil }}}}
	address := l.Addr().String()
	if tr.Network == "tcp" {
		p.link = rpctest.NewLink(t, l.Addr())
		address = p.link.Address()
	}
	ccfg := ClientConfig{Network: tr.Network, Address: address, Class: s.class, VersionMin: 1, VersionMax: 1, Insecure: !tr.TLS,
		Self: rpctest.Identity("b2"), Peer: "b1", Clock: clock.System, Log: rpctest.Log(), Timing: s.timing, Stats: p.stats}
	if tr.TLS {
		scfg.TLS, ccfg.TLS = w.ServerTLS("b1"), w.ClientTLS("b2")
	}
	if s.server != nil {
		s.server(&scfg)
	}
	if s.client != nil {
		s.client(&ccfg)
	}
	var err error
	if p.server, err = NewServer(scfg); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p.server.Serve(l) }()
	if p.client, err = NewClient(ccfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.client.Close()
		_ = p.server.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return p
}

func each(t *testing.T, f func(t *testing.T, tr rpctest.Transport)) {
	for _, tr := range rpctest.Transports {
		t.Run(tr.Name, func(t *testing.T) { f(t, tr) })
	}
}

// waiter is a call whose end a test awaits.
type waiter struct {
	Call
	got  [][]byte // head and payload
	done chan struct{}
	then func()
}

func newWaiter(op uint16, head string, payload ...[]byte) *waiter {
	w := &waiter{done: make(chan struct{})}
	w.Op, w.Head, w.Payload, w.Caller, w.Timeout = op, []byte(head), payload, w, 20*time.Second
	return w
}

func (w *waiter) Answer(c *Call, head []byte, payload int) error {
	b := make([]byte, payload)
	w.got = [][]byte{bytes.Clone(head), b}
	c.Into = append(c.Into, b[:payload/2], nil, b[payload/2:])
	return nil
}

func (w *waiter) Done(*Call) {
	if w.then != nil {
		w.then()
	}
	close(w.done)
}

func (w *waiter) wait() error { <-w.done; return w.Err }

// random repeats a page of noise, turned a little each time.
func random(n int, seed uint64) []byte {
	var page [4093]byte
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(page[:]) // it never fails
	b := make([]byte, n)
	for at := 0; at < n; {
		at += copy(b[at:], page[:])
	}
	return b
}

// Without this bytes could be lost or mixed up where messages are cut, scattered or gathered.
func TestEchoOfEverySize(t *testing.T) {
	each(t, func(t *testing.T, tr rpctest.Transport) {
		p := connect(t, tr, setup{})
		sizes := []int{0, 1, 7, 4096, directMin - 1, directMin, FragmentMax - 1, FragmentMax, FragmentMax + 1, 3*FragmentMax + 17, 2 << 20}
		var all []*waiter
		for i, n := range sizes {
			b := random(n, uint64(i))
			w := newWaiter(opEcho, fmt.Sprint("size ", n), b[:n/5], b[n/5:n/4], nil, b[n/4:])
			w.got = nil
			all = append(all, w)
			p.client.Start(&w.Call)
		}
		for i, w := range all {
			if err := w.wait(); err != nil || string(w.got[0]) != fmt.Sprint("size ", sizes[i]) || !bytes.Equal(w.got[1], random(sizes[i], uint64(i))) {
				t.Errorf("%d bytes: %v", sizes[i], err)
			}
		}
		long := newWaiter(opEcho, string(random(HeadMax, 3)))
		if p.client.Start(&long.Call); long.wait() != nil || !bytes.Equal(long.got[0], long.Head) {
			t.Errorf("longest head: %v", long.Err)
		}
	})
}

// Without this appends of a stream could overtake each other, and every second one be refused as a gap.
func TestLogKeepsTheOrderOfCalls(t *testing.T) {
	p := connect(t, rpctest.Transports[0], setup{limits: Limits{InFlight: 8, BytesMax: 1 << 20, PayloadMax: 2 << 20, QueueMax: 1000, PendingBytes: 1 << 16}})
	var all []*waiter
	for i := range 200 {
		n := 100
		if i%9 == 0 {
			n = FragmentMax*2 + i
		}
		w := newWaiter(opEcho, fmt.Sprintf("%04d", i), random(n, uint64(i)))
		all = append(all, w)
		p.client.Start(&w.Call)
	}
	for i, w := range all {
		if err := w.wait(); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	for i, head := range p.svc.order {
		if head != fmt.Sprintf("%04d", i) {
			t.Fatalf("request %d is %s", i, head)
		}
	}
}

// Without this errors would lose their class on the way, or a refused payload shift what follows it.
func TestErrorsKeepTheirClass(t *testing.T) {
	p := connect(t, rpctest.Transports[0], setup{limits: Limits{InFlight: 8, BytesMax: 8 << 20, PayloadMax: 1 << 20, QueueMax: 1000, PendingBytes: 1 << 16}})
	for _, c := range []struct {
		name    string
		op      uint16
		payload int
		want    error
	}{
		{"refused", opFail, 0, errs.ErrNoSpace}, {"refused with payload", opFail, 5000, errs.ErrNoSpace},
		{"refused with long payload", opFail, 3 * FragmentMax, errs.ErrNoSpace},
		{"no room", opHole, 10, errs.ErrInvalid}, {"no room for a long one", opHole, 2*FragmentMax + 1, errs.ErrInvalid},
		{"above the server's limit", opEcho, 1<<20 + 1, errs.ErrInvalid}, {"good after bad", opEcho, 3 * FragmentMax, nil},
	} {
		w := newWaiter(c.op, c.name, random(c.payload, 1))
		p.client.Start(&w.Call)
		if err := w.wait(); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if !p.client.Up() {
		t.Error("an error broke the connection")
	}
}

// Without this one client could make a server carry out, or remember, any number of requests.
func TestServerLimitsWhatIsInFlight(t *testing.T) {
	budget := NewBudget(100_000)
	p := connect(t, rpctest.Transports[0], setup{budget: budget,
		limits: Limits{InFlight: 4, BytesMax: 50_000, PayloadMax: 200_000, QueueMax: 1000, PendingBytes: 1 << 16}})
	var all []*waiter
	start := func(n, size int) {
		for range n {
			w := newWaiter(opHold, "h", random(size, 1))
			all = append(all, w)
			p.client.Start(&w.Call)
		}
	}
	start(10, 10) // bound by number
	for left := 10; left > 0; left-- {
		p.svc.await(func() bool { return len(p.svc.held) >= min(4, left) })
		p.svc.release(1)
	}
	start(6, 20_000) // bound by bytes: two at a time
	for range 6 {
		p.svc.await(func() bool { return len(p.svc.held) > 0 })
		if used := budget.Used(); used > 50_000 {
			t.Errorf("%d bytes in use", used)
		}
		p.svc.release(1)
	}
	start(2, 150_000) // larger than all there is: alone
	for range 2 {
		p.svc.await(func() bool { return len(p.svc.held) > 0 })
		p.svc.release(1)
	}
	for _, w := range all {
		if err := w.wait(); err != nil {
			t.Error(err)
		}
	}
	p.svc.await(func() bool { return p.svc.done == len(all) })
	if p.svc.most > 4 || budget.Used() != 0 {
		t.Errorf("%d requests at once, %d bytes left in use", p.svc.most, budget.Used())
	}
}

// Without this a peer that does not read would stop the engine that calls it, and with it the healthy stores.
func TestFullSocketBlocksNoCaller(t *testing.T) {
	each(t, func(t *testing.T, tr rpctest.Transport) {
		p := connect(t, tr, setup{limits: Limits{InFlight: 4, BytesMax: 1 << 20, PayloadMax: 2 << 20, QueueMax: 1000, PendingBytes: 1 << 16}})
		var all []*waiter
		for range 24 { // 24 MiB: far more than any socket buffers
			w := newWaiter(opHold, "x", make([]byte, 1<<20))
			all = append(all, w)
			p.client.Start(&w.Call) // would hang here
		}
		for range all {
			p.svc.await(func() bool { return len(p.svc.held) > 0 })
			p.svc.release(1)
		}
		for _, w := range all {
			if err := w.wait(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Without this a caller's queue could grow without end behind a dead store.
func TestQueueIsBounded(t *testing.T) {
	p := connect(t, rpctest.Transports[0], setup{limits: Limits{InFlight: 1, BytesMax: 1 << 20, PayloadMax: 1 << 20, QueueMax: 3, PendingBytes: 1 << 16},
		client: func(c *ClientConfig) {
			c.Limits = Limits{InFlight: 1, BytesMax: 1, PayloadMax: 1, QueueMax: 3, PendingBytes: 1 << 16}
		}})
	var all []*waiter
	start := func() *waiter {
		w := newWaiter(opHold, "x")
		p.client.Start(&w.Call)
		return w
	}
	all = append(all, start())
	p.svc.await(func() bool { return len(p.svc.held) == 1 })
	for range 3 {
		all = append(all, start())
	}
	if err := start().wait(); !errors.Is(err, errs.ErrUnavailable) {
		t.Errorf("fourth in the queue: %v", err)
	}
	for range 4 {
		p.svc.await(func() bool { return len(p.svc.held) > 0 })
		p.svc.release(1)
	}
	for _, w := range all {
		if err := w.wait(); err != nil {
			t.Error(err)
		}
	}
}

// Without this a request to a hung store would never end, and its late answer be taken for another's.
func TestDeadlineEndsACallAndItsLateAnswerIsDropped(t *testing.T) {
	fast := Timing{Beat: 20 * time.Millisecond, Dead: 10 * time.Second}
	p := connect(t, rpctest.Transports[0], setup{timing: fast})
	w := newWaiter(opHold, "slow", random(5000, 1))
	w.Timeout = 30 * time.Millisecond
	p.client.Start(&w.Call)
	if err := w.wait(); !errors.Is(err, errs.ErrTimeout) {
		t.Fatalf("hung request: %v", err)
	}
	p.svc.await(func() bool { return len(p.svc.held) == 1 })
	p.svc.release(1)
	next := newWaiter(opEcho, "next", random(6000, 2))
	p.client.Start(&next.Call)
	if err := next.wait(); err != nil || !bytes.Equal(next.got[1], random(6000, 2)) {
		t.Errorf("request after a late answer: %v", err)
	}
	if got := p.stats.Totals(); got.Timeouts != 1 || got.Broken != 0 {
		t.Errorf("totals %+v", got)
	}
}

// Without this a cancelled long message would leave its rest in the stream, or its memory in use.
func TestLongCallIsBrokenOff(t *testing.T) {
	p := connect(t, rpctest.Transports[0], setup{limits: Limits{InFlight: 8, BytesMax: 1 << 20, PayloadMax: 32 << 20, QueueMax: 1000, PendingBytes: 1 << 16}})
	hold := newWaiter(opHold, "hold", make([]byte, 1<<20)) // takes all bytes, so the server stops reading
	p.client.Start(&hold.Call)
	p.svc.await(func() bool { return len(p.svc.held) == 1 })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	payload := make([]byte, 32<<20)
	go func() { ended <- p.client.Do(ctx, opEcho, []byte("long"), [][]byte{payload}, nil) }()
	behind := newWaiter(opEcho, "behind", random(100, 1))
	cc := p.client.cur.Load()
	for started := false; !started; { // some of it is on its way
		cc.mu.Lock()
		started = cc.mu.small.first != nil && cc.mu.small.first.started
		cc.mu.Unlock()
	}
	p.client.Start(&behind.Call)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled call: %v", err)
	}
	clear(payload) // ours again
	p.svc.release(1)
	for _, w := range []*waiter{hold, behind} {
		if err := w.wait(); err != nil {
			t.Error(err)
		}
	}
	p.svc.await(func() bool { return p.svc.done == 3 })
	for _, head := range p.svc.order {
		if head == "long" {
			t.Error("a message without its end was served")
		}
	}
}

// Without this every reply of a burst would cost a system call.
func TestBurstsLeaveInOneWrite(t *testing.T) {
	p := connect(t, rpctest.Transports[0], setup{})
	var all []*waiter
	first := newWaiter(opEcho, "first")
	first.then = func() { // on the reader: what it starts is gathered
		for range 50 {
			w := newWaiter(opEcho, "burst", random(100, 1))
			all = append(all, w)
			p.client.Start(&w.Call)
		}
	}
	p.client.Start(&first.Call)
	if err := first.wait(); err != nil {
		t.Fatal(err)
	}
	for _, w := range all {
		if err := w.wait(); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.stats.Totals().Writes; n > 5 {
		t.Errorf("51 calls took %d writes", n)
	}
}

// Without this the stop of a server would lose answers of requests that it carried out.
func TestServerDrainsAtClose(t *testing.T) {
	each(t, func(t *testing.T, tr rpctest.Transport) {
		p := connect(t, tr, setup{})
		w := newWaiter(opHold, "last", random(4096, 1))
		p.client.Start(&w.Call)
		p.svc.await(func() bool { return len(p.svc.held) == 1 })
		closed := make(chan error, 1)
		go func() { closed <- p.server.Close() }()
		p.svc.release(1)
		if err := w.wait(); err != nil {
			t.Errorf("request in flight at the stop: %v", err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		p.svc.await(func() bool { return p.svc.closed == 1 })
	})
}

// Without this a hung handler would keep a daemon from stopping.
func TestServerCloseDoesNotWaitForEver(t *testing.T) {
	p := connect(t, rpctest.Transports[0], setup{server: func(c *ServerConfig) { c.Drain = 10 * time.Millisecond }})
	w := newWaiter(opHold, "hung")
	p.client.Start(&w.Call)
	p.svc.await(func() bool { return len(p.svc.held) == 1 })
	closed := make(chan error, 1)
	go func() { closed <- p.server.Close() }()
	if err := w.wait(); !errors.Is(err, errs.ErrUnavailable) {
		t.Errorf("hung request: %v", err)
	}
	if err := <-closed; !errors.Is(err, errs.ErrTimeout) {
		t.Errorf("close with a request that does not end: %v", err)
	}
	p.svc.release(1) // its answer has nowhere to go
	p.svc.await(func() bool { return p.svc.closed == 1 })
}

// Without this calls would hang when their client is closed.
func TestClientCloseEndsCalls(t *testing.T) {
	p := connect(t, rpctest.Transports[0], setup{})
	var all []*waiter
	for range 3 {
		w := newWaiter(opHold, "x")
		all = append(all, w)
		p.client.Start(&w.Call)
	}
	p.svc.await(func() bool { return len(p.svc.held) == 3 })
	if err := p.client.Close(); err != nil {
		t.Error(err)
	}
	p.svc.release(3)
	late := newWaiter(opEcho, "late")
	p.client.Start(&late.Call)
	for _, w := range append(all, late) {
		if err := w.wait(); !errors.Is(err, errs.ErrClosed) {
			t.Errorf("call at close: %v", err)
		}
	}
}

// awaitUp polls with calls, which is what users see.
func awaitUp(t *testing.T, p *pair) {
	t.Helper()
	deadline := clock.System.Now() + 20*time.Second
	for clock.System.Now() < deadline {
		w := newWaiter(opEcho, "up?")
		if p.client.Start(&w.Call); w.wait() == nil {
			return
		}
		_ = clock.System.Sleep(context.Background(), time.Millisecond)
	}
	t.Fatal("not connected again")
}

var _ net.Conn = (*wire)(nil)
