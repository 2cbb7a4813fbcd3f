package nbd

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// holder keeps every request until told.
type holder struct {
	fake
	mu   sync.Mutex
	held []*Request
	more chan struct{} // gets a token for each request
}

func newHolder(size int) *holder {
	h := &holder{more: make(chan struct{}, 1<<16)}
	h.data = make([]byte, size)
	h.hold = func(r *Request) bool {
		h.mu.Lock()
		h.held = append(h.held, r)
		h.mu.Unlock()
		h.more <- struct{}{}
		return true
	}
	return h
}

// wait waits until n more requests came.
func (h *holder) wait(t *testing.T, n int) {
	t.Helper()
	for range n {
		select {
		case <-h.more:
		case <-time.After(patience):
			t.Fatal("the device got too few requests")
		}
	}
}

// take gives what is held, oldest first, at most n.
func (h *holder) take(n int) []*Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	n = min(n, len(h.held))
	out := h.held[:n:n]
	h.held = h.held[n:]
	return out
}

// eventually waits for a condition that no channel tells.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(time.Millisecond) // polls; no condition variable reaches into the kernel's buffers
	}
}

// Without this one client could fill the server's memory with requests.
func TestRequestsInFlightAreBounded(t *testing.T) {
	d := newHolder(1 << 20)
	s, p := serve(t, Config{Exports: &fakes{devices: map[string]*fake{"disk": &d.fake}}, Limits: Limits{ConnRequestsMax: 4}}, Endpoint{})
	p.transmission(headersSimple, false, "disk")
	for i := range 10 {
		p.request(headersSimple, requestHeader{op: OpTrim, length: 512, cookie: uint64(i)}, nil)
	}
	d.wait(t, 4)
	eventually(t, "the reader waits", func() bool { return s.Conns()[0].Waits == 1 })
	if st := s.Conns()[0]; st.RequestsInFlight != 4 || len(d.more) != 0 {
		t.Fatalf("%+v; the device has %d more", st, len(d.more))
	}
	for done := 0; done < 10; {
		for _, r := range d.take(2) {
			r.Complete(nil)
			p.wantReply(headersSimple, requestHeader{op: OpTrim, cookie: uint64(done)}, 0)
			if done++; done <= 6 {
				d.wait(t, 1)
			}
		}
	}
	eventually(t, "nothing in flight", func() bool { return s.Status().RequestsInFlight == 0 })
	if st := s.Status(); st.Counts.Requests["trim"] != 10 || st.BytesInFlight != 0 {
		t.Fatalf("%+v", st)
	}
}

// Without this a few long requests would fill the server's memory, of one client or of all.
func TestBytesInFlightAreBounded(t *testing.T) {
	const limit = buf.LenMax
	for name, limits := range map[string]Limits{"connection": {ConnBytesMax: limit}, "export": {ExportBytesMax: limit}, "server": {ServerBytesMax: limit}} {
		t.Run(name, func(t *testing.T) {
			d := newHolder(limit)
			s, p := serve(t, Config{Exports: &fakes{devices: map[string]*fake{"disk": &d.fake}}, Limits: limits}, Endpoint{})
			p.transmission(headersSimple, false, "disk")
			const n = 8 << 20
			for i := range 6 {
				p.request(headersSimple, requestHeader{op: OpRead, length: n, cookie: uint64(i)}, nil)
			}
			d.wait(t, 4)
			eventually(t, "the reader waits", func() bool { return s.waits() == 1 })
			if st := s.Status(); st.BytesInFlight > limit || len(d.more) != 0 {
				t.Fatalf("%d bytes in flight", st.BytesInFlight)
			}
			for i := range 6 {
				if i >= 4 {
					d.wait(t, 1)
				}
				r := d.take(1)[0]
				d.do(r)
				r.Complete(nil)
				p.wantReply(headersSimple, requestHeader{op: OpRead, length: n, cookie: uint64(i)}, 0)
			}
		})
	}
}

// waits is how often anybody had to wait at any limit.
func (s *Server) waits() uint64 {
	n := s.Status().Waits
	for _, c := range s.Conns() {
		n += c.Waits
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range s.mu.shares {
		_, _, waits := sh.usage()
		n += waits
	}
	return n
}

// Without this a disk that is stuck, with many connections, would stop every other disk of the server.
func TestStuckExportLeavesRoomForOthers(t *testing.T) {
	stuck, fine := newHolder(4096), &fake{data: make([]byte, 4096)}
	exports := &fakes{devices: map[string]*fake{"stuck": &stuck.fake, "fine": fine}}
	s, p := serve(t, Config{Exports: exports, Limits: Limits{ExportRequestsMax: 3, ServerRequestsMax: 4}}, Endpoint{})
	p.transmission(headersSimple, false, "stuck")
	q := meet(t, s, Endpoint{}).transmission(headersSimple, false, "stuck")
	for range 4 {
		p.request(headersSimple, requestHeader{op: OpTrim, length: 512}, nil)
		q.request(headersSimple, requestHeader{op: OpTrim, length: 512}, nil)
	}
	stuck.wait(t, 3)
	eventually(t, "both wait", func() bool { return s.waits() == 2 })
	r := meet(t, s, Endpoint{}).transmission(headersSimple, false, "fine")
	r.request(headersSimple, requestHeader{op: OpTrim, length: 512, cookie: 7}, nil)
	r.wantReply(headersSimple, requestHeader{op: OpTrim, cookie: 7}, 0)
	_, _ = p.conn.Close(), q.conn.Close()
	eventually(t, "they are gone", func() bool {
		for _, held := range stuck.take(8) {
			held.Complete(nil)
		}
		return s.Status().Conns == 1
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.shares) != 1 {
		t.Fatalf("%d shares", len(s.mu.shares))
	}
}

// Without this error replies, which cost the client nothing, would pile up without bound.
func TestRefusedRequestsCountAsWell(t *testing.T) {
	d := &fake{data: make([]byte, 4096)}
	s, p := serve(t, Config{Exports: one(d), Limits: Limits{ConnRequestsMax: 8}}, Endpoint{})
	p.transmission(headersStructured, false, "disk")
	junk := make([]byte, requestLen)
	putRequest(junk, headersStructured, requestHeader{op: 99})
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		many := bytes.Repeat(junk, 1000)
		for range 2000 { // far more than the sockets hold
			if _, err := p.conn.Write(many); err != nil {
				return
			}
		}
	}()
	eventually(t, "the reader waits", func() bool { return s.Conns()[0].Waits > 0 })
	if st := s.Conns()[0]; st.RequestsInFlight > 8 {
		t.Fatalf("%+v", st)
	}
	_ = p.conn.Close()
	<-stop
	<-p.over
}

// Without this connections would be accepted until the process has no descriptors.
func TestConnectionsAreBounded(t *testing.T) {
	s, p := serve(t, Config{Exports: one(&fake{}), Limits: Limits{ConnsMax: 1}}, Endpoint{})
	p.greet(3)
	meet(t, s, Endpoint{}).wantClosed()
	if st := s.Status(); st.Conns != 1 || st.ConnsRefused != 1 {
		t.Fatalf("%+v", st)
	}
	_ = p.conn.Close()
	<-p.over
	meet(t, s, Endpoint{}).greet(3)
}

// Without this strangers who never finish a handshake would keep others out.
func TestHandshakesAreBoundedByListener(t *testing.T) {
	s, err := NewServer(Config{Exports: one(&fake{}), Limits: Limits{HandshakesMax: 1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	var dials []func() *peer
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		over := make(chan error, 1)
		go func() { over <- s.Serve(l, Endpoint{}) }()
		t.Cleanup(func() {
			_ = s.Close()
			if err := <-over; err != nil {
				t.Error(err)
			}
		})
		dials = append(dials, func() *peer {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			_ = conn.SetDeadline(time.Now().Add(patience))
			return &peer{t: t, conn: conn}
		})
	}
	first := dials[0]().greet(3)
	dials[0]().wantClosed()
	dials[1]().greet(3) // another door
	first.wantOption(optGo, goData("disk"), repInfo, repAck)
	first.request(headersSimple, requestHeader{op: OpFlush, cookie: 1}, nil)
	first.wantReply(headersSimple, requestHeader{op: OpFlush, cookie: 1}, 0)
	dials[0]().greet(3) // the first is through
}

// Without this a client that stops in a message, or does not read, would hold its buffers for ever.
func TestStalledClientsAreDropped(t *testing.T) {
	limits := Limits{StallTimeout: 50 * time.Millisecond}
	for name, stall := range map[string]func(p *peer){
		"in a payload": func(p *peer) {
			p.request(headersSimple, requestHeader{op: OpWrite, length: 100000}, make([]byte, 5))
		},
		"in a refused payload": func(p *peer) {
			p.request(headersSimple, requestHeader{op: OpWrite, offset: 1 << 40, length: 100000}, make([]byte, 5))
		},
		"not reading": func(p *peer) {
			for range 16 {
				p.request(headersSimple, requestHeader{op: OpRead, length: 1 << 20}, nil)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := &fake{data: make([]byte, 1<<20)}
			s, p := serve(t, Config{Exports: one(d), Limits: limits}, Endpoint{})
			p.transmission(headersSimple, false, "disk")
			p.request(headersSimple, requestHeader{op: OpFlush, cookie: 1}, nil)
			p.wantReply(headersSimple, requestHeader{op: OpFlush, cookie: 1}, 0)
			stall(p)
			select {
			case <-p.over:
			case <-time.After(patience):
				t.Fatal("still there")
			}
			if st := s.Status(); st.BytesInFlight != 0 || st.RequestsInFlight != 0 || d.closed != 1 {
				t.Fatalf("%+v, closed %d times", st, d.closed)
			}
		})
	}
}

// Without this an idle guest would be disconnected.
func TestIdleClientsStay(t *testing.T) {
	t.Parallel()
	d := &fake{data: make([]byte, 4096)}
	_, p := serve(t, Config{Exports: one(d), Limits: Limits{StallTimeout: 10 * time.Millisecond, HandshakeTimeout: 700 * time.Millisecond}}, Endpoint{})
	p.transmission(headersSimple, false, "disk")
	select {
	case <-p.over:
		t.Fatal("dropped")
	case <-time.After(800 * time.Millisecond): // longer than every deadline
	}
	p.request(headersSimple, requestHeader{op: OpFlush, cookie: 1}, nil)
	p.wantReply(headersSimple, requestHeader{op: OpFlush, cookie: 1}, 0)
}

// Without this a restart would lose requests in flight, or report errors for requests it never took.
func TestShutdownInOrder(t *testing.T) {
	for _, hangup := range []bool{false, true} {
		d := newHolder(4096)
		s, p := serve(t, Config{Exports: &fakes{devices: map[string]*fake{"disk": &d.fake}}, HangupOnShutdown: hangup}, Endpoint{})
		p.transmission(headersSimple, false, "disk")
		idle := meet(t, s, Endpoint{}).transmission(headersSimple, false, "disk")
		greeted := meet(t, s, Endpoint{}).greet(3)
		h := requestHeader{op: OpWrite, length: 3, cookie: 1}
		p.request(headersSimple, h, []byte("abc"))
		d.wait(t, 1)
		over := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			over <- s.Shutdown(ctx)
		}()
		idle.wantClosed()
		greeted.wantClosed()
		late := requestHeader{op: OpWrite, length: 3, cookie: 2}
		p.request(headersSimple, late, []byte("def"))
		if !hangup {
			p.wantReply(headersSimple, late, ESHUTDOWN)
		}
		d.take(1)[0].Complete(nil)
		p.wantReply(headersSimple, h, 0)
		p.wantClosed()
		if err := <-over; err != nil {
			t.Fatal(err)
		}
		if d.closed != 2 || len(d.more) > 0 {
			t.Fatalf("closed %d times; %d requests more", d.closed, len(d.more))
		}
		meet(t, s, Endpoint{}).wantClosed()
	}
}

// Without this a device that is stuck would hold up the end of the process for ever.
func TestShutdownGivesUpAtItsDeadline(t *testing.T) {
	d := newHolder(4096)
	s, p := serve(t, Config{Exports: &fakes{devices: map[string]*fake{"disk": &d.fake}}}, Endpoint{})
	p.transmission(headersSimple, false, "disk")
	p.request(headersSimple, requestHeader{op: OpTrim, length: 512}, nil)
	d.wait(t, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("shutdown: %v", err)
	}
	p.wantClosed()
	d.take(1)[0].Complete(nil) // late, to nobody
	<-p.over
}

// Without this a volume that moves away would keep clients that can do nothing any more.
func TestHangupTakesChosenConnections(t *testing.T) {
	a, b := &fake{data: make([]byte, 4096)}, &fake{data: make([]byte, 4096)}
	s, p := serve(t, Config{Exports: &fakes{devices: map[string]*fake{"a": a, "b": b}}}, Endpoint{})
	p.transmission(headersSimple, false, "a")
	q := meet(t, s, Endpoint{}).transmission(headersSimple, false, "b")
	if n := s.Hangup(func(c ConnStatus) bool { return c.Export == "a" }); n != 1 {
		t.Fatalf("%d connections", n)
	}
	p.wantClosed()
	<-p.over
	q.request(headersSimple, requestHeader{op: OpFlush, cookie: 1}, nil)
	q.wantReply(headersSimple, requestHeader{op: OpFlush, cookie: 1}, 0)
	if st := s.Conns(); len(st) != 1 || st[0].Export != "b" || !st[0].Transmitting {
		t.Fatalf("%+v", st)
	}
}

// Without this operators would not see what is refused, waits or is held.
func TestMetricsTellTheStatus(t *testing.T) {
	s, p := serve(t, Config{Exports: one(&fake{data: make([]byte, 4096)})}, Endpoint{})
	p.transmission(headersSimple, false, "disk")
	p.request(headersSimple, requestHeader{op: OpTrim, offset: 1 << 30, length: 1}, nil)
	p.wantReply(headersSimple, requestHeader{op: OpTrim}, EINVAL)
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(s); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			got[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	if got["nbd_requests_total"] != 1 || got["nbd_errors_total"] != 1 || got["nbd_connections"] != 1 || len(got) != 8 {
		t.Fatalf("%v", got)
	}
}

// Without this a server could start with limits at which the longest request waits for ever.
func TestLimitsAreChecked(t *testing.T) {
	for _, l := range []Limits{{ConnsMax: -1}, {ConnBytesMax: 1 << 20}, {ServerBytesMax: 1}, {ExportBytesMax: 1}, {ConnRequestsMax: -5}, {StallTimeout: -1}} {
		if _, err := NewServer(Config{Exports: one(&fake{}), Limits: l}); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%+v: %v", l, err)
		}
	}
	if _, err := NewServer(Config{}); !errors.Is(err, errs.ErrInvalid) {
		t.Error("a server without exports")
	}
}

// Without this waiters would overtake each other until the long ones starve, or be forgotten.
func TestLimiterIsFair(t *testing.T) {
	l := &limiter{requestsMax: 10, bytesMax: 100}
	never := make(chan struct{})
	if !l.try(90) || l.try(20) || !l.try(5) {
		t.Fatal("try")
	}
	order := make(chan int, 3)
	var group sync.WaitGroup
	for i, n := range []int64{100, 1, 1} {
		group.Go(func() { l.wait(n, never); order <- i })
		eventually(t, "it waits", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.mu.waiting) == i+1 })
	}
	if l.try(1) {
		t.Fatal("overtook those who wait")
	}
	l.release(1, 90)
	if len(order) != 0 {
		t.Fatal("let in too early")
	}
	l.release(1, 5)
	if first := <-order; first != 0 {
		t.Fatalf("%d came first", first)
	}
	l.release(1, 100)
	group.Wait()
	stopped := make(chan struct{})
	close(stopped)
	l.release(2, 2)
	if !l.wait(1000, never) { // alone, however long
		t.Fatal("one alone must pass")
	}
	if l.wait(1, stopped) {
		t.Fatal("passed after stop")
	}
	select {
	case <-l.idle():
		t.Fatal("idle with one in flight")
	default:
	}
	idle := l.idle()
	l.release(1, 1000)
	<-idle
	if n, bytes, _ := l.usage(); n != 0 || bytes != 0 {
		t.Fatalf("%d requests, %d bytes left", n, bytes)
	}
}

// shuffler completes requests late, in any order, from other goroutines, some in batches.
type shuffler struct {
	*fake
	rng  *rand.Rand
	mu   sync.Mutex
	held []*Request
}

func (d *shuffler) Submit(r *Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.do(r)
	d.held = append(d.held, r)
	if d.rng.IntN(4) == 0 && len(d.held) < 16 {
		return
	}
	d.rng.Shuffle(len(d.held), func(i, j int) { d.held[i], d.held[j] = d.held[j], d.held[i] })
	held, batched := d.held, d.rng.IntN(2) == 0
	d.held = nil
	go func() {
		var b Batch
		for _, r := range held {
			if batched {
				b.Complete(r, nil)
			} else {
				r.Complete(nil)
			}
		}
		b.Flush()
	}()
}

// release completes what is left.
func (d *shuffler) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.held {
		r.Complete(nil)
	}
	d.held = nil
}

// Without this replies that come in any order, from any goroutine, would be mixed up on some kind of connection.
func TestOutOfOrderEqualsFlatBytes(t *testing.T) {
	a := newAuthority(t)
	for _, kind := range []string{"pipe", "socket", "tls"} {
		for _, o := range []ClientOptions{{}, {NoExtended: true}, {NoStructured: true}} {
			t.Run(kind, func(t *testing.T) {
				d := &shuffler{fake: &fake{data: make([]byte, 1<<20)}, rng: rand.New(rand.NewPCG(1, 2))}
				s, err := NewServer(Config{Exports: single{d}, Limits: Limits{ConnRequestsMax: 40}})
				if err != nil {
					t.Fatal(err)
				}
				near, far := net.Pipe()
				ep := Endpoint{}
				if kind != "pipe" {
					near, far = socketPair(t)
				}
				if kind == "tls" {
					o.TLS, ep.TLS = a.client("x"), a.server()
				}
				over := make(chan struct{})
				go func() { defer close(over); s.ServeConn(far, ep) }()
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				c, err := NewClient(ctx, near, kind == "tls", "", o)
				if err != nil {
					t.Fatal(err)
				}
				storm(t, c, d)
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
				<-over
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// single exports one device by any name.
type single struct{ d Device }

func (e single) Open(context.Context, string, Peer) (Handle, error) { return Shared(e.d), nil }
func (e single) List(context.Context, Peer) ([]ExportName, error)   { return nil, nil }

// storm has many workers use c at once, each on its own part of the disk.
func storm(t *testing.T, c *Client, d *shuffler) {
	t.Helper()
	const workers, part = 16, 64 << 10
	stop := make(chan struct{})
	var nudge, group sync.WaitGroup
	nudge.Go(func() { // nothing stays held when all wait
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				d.release()
			}
		}
	})
	for w := range workers {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 7))
			model := make([]byte, part)
			for range 25 {
				from := rng.IntN(part - 1)
				n := 1 + rng.IntN(part-from)
				at := int64(w*part + from)
				if rng.IntN(2) == 0 {
					fill := model[from : from+n]
					for i := range fill {
						fill[i] = byte(rng.Uint32())
					}
					if _, err := c.WriteAt(fill, at); err != nil {
						t.Error(err)
						return
					}
					continue
				}
				got := make([]byte, n)
				if _, err := c.ReadAt(got, at); err != nil || !bytes.Equal(got, model[from:from+n]) {
					t.Errorf("worker %d: wrong bytes at %d (%v)", w, at, err)
					return
				}
			}
		})
	}
	group.Wait()
	close(stop)
	nudge.Wait()
}
