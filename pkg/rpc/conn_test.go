package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/testkit/rpctest"
)

// Without this a vanished host would hang its callers until TCP gives up, after minutes.
func TestSilentPeerIsDead(t *testing.T) {
	quick := Timing{Beat: 30 * time.Millisecond, Dead: 300 * time.Millisecond, Handshake: 20 * time.Second, Backoff: time.Millisecond, BackoffMax: 5 * time.Millisecond}
	p := connect(t, rpctest.Transports[0], setup{timing: quick})
	for range 2 { // a connection that lives, then one that comes after a death
		awaitUp(t, p)
		w := newWaiter(opHold, "in flight")
		p.client.Start(&w.Call)
		p.svc.await(func() bool { return len(p.svc.held) == 1 })
		before := clock.System.Now()
		p.link.Stall()
		err := w.wait()
		if took := clock.System.Now() - before; !errors.Is(err, errs.ErrUnavailable) || took < quick.Dead/2 {
			t.Errorf("call to a silent peer: %v after %s", err, took)
		}
		p.svc.release(1)
		p.link.Cut()
		p.link.Resume()
	}
	awaitUp(t, p)
	p.svc.await(func() bool { return p.svc.closed >= 2 }) // the server noticed as well
}

// Without this an idle connection would be taken for a dead one.
func TestBeatsKeepAnIdleConnectionAlive(t *testing.T) {
	p := connect(t, rpctest.Transports[0], setup{timing: Timing{Beat: 10 * time.Millisecond, Dead: 15 * time.Second, Handshake: 20 * time.Second}})
	awaitUp(t, p)
	c := p.client.cur.Load()
	first := p.stats.Totals().Writes
	for p.stats.Totals().Writes < first+3 { // beats of ours
		_ = clock.System.Sleep(t.Context(), time.Millisecond)
	}
	c.heard.Store(false)
	for !c.heard.Load() { // a beat of the server's
		_ = clock.System.Sleep(t.Context(), time.Millisecond)
	}
	if p.client.cur.Load() != c {
		t.Error("the connection was replaced")
	}
}

// Without this a connection could be given up before the peer had a chance to say anything.
func TestSilenceCountsFromTheHello(t *testing.T) {
	c := &clientConn{}
	c.timing.EnsureDefaults()
	c.initSlots(1)
	c.init(newWire(fakeConn{in: bytes.NewReader(nil), out: io.Discard}), nil)
	c.inRead.Store(true)
	for _, s := range []struct {
		at   time.Duration
		dead bool
	}{{time.Hour, false}, {time.Hour + c.timing.Dead - 1, false}, {time.Hour + c.timing.Dead, true}} {
		if c.tick(s.at, false); (c.reason() != nil) != s.dead {
			t.Errorf("%s after the hello: %v", s.at-time.Hour, c.reason())
		}
	}
}

// Without this a process that was stopped for a while would take all its peers for dead.
func TestTimeUnseenIsNoSilence(t *testing.T) {
	c := &clientConn{}
	c.timing.EnsureDefaults()
	c.initSlots(1)
	c.init(newWire(fakeConn{in: bytes.NewReader(nil), out: io.Discard}), nil)
	c.inRead.Store(true)
	c.tick(time.Hour, false)
	if c.tick(2*time.Hour, true); c.reason() != nil {
		t.Error(c.reason())
	}
	c.inRead.Store(false) // waits for room, not for the peer
	if c.tick(3*time.Hour, false); c.reason() != nil {
		t.Error(c.reason())
	}
}

// Without this a restarted peer would be lost for good, or calls sent twice.
func TestClientComesBack(t *testing.T) {
	each(t, func(t *testing.T, tr rpctest.Transport) {
		if tr.Network != "tcp" {
			return // links are for TCP
		}
		var states []bool
		p := connect(t, tr, setup{
			timing: Timing{Dead: 20 * time.Second, Handshake: 20 * time.Second, Backoff: time.Millisecond, BackoffMax: 5 * time.Millisecond},
			client: func(c *ClientConfig) { c.OnState = func(up bool) { states = append(states, up) } }})
		served := 0
		for range 3 {
			awaitUp(t, p)
			var all []*waiter
			for range 5 {
				w := newWaiter(opHold, "in flight")
				all = append(all, w)
				p.client.Start(&w.Call)
			}
			served += 5
			p.svc.await(func() bool { return len(p.svc.held) == 5 })
			p.link.Refuse(true)
			p.link.Cut()
			for _, w := range all {
				if err := w.wait(); !errors.Is(err, errs.ErrUnavailable) {
					t.Errorf("call in flight: %v", err)
				}
			}
			for p.client.Up() {
				_ = clock.System.Sleep(t.Context(), time.Millisecond)
			}
			down := newWaiter(opEcho, "down")
			if p.client.Start(&down.Call); !errors.Is(down.wait(), errs.ErrUnavailable) || p.client.Down() == nil {
				t.Errorf("call while down: %v", down.Err)
			}
			p.link.Refuse(false)
			p.svc.release(5)
		}
		awaitUp(t, p)
		holds := 0
		for _, head := range p.svc.order {
			if head == "in flight" {
				holds++
			}
		}
		_ = p.client.Close()
		if holds != served || len(states) != 8 {
			t.Errorf("%d of %d requests were served; states %v", holds, served, states)
		}
	})
}

// Without this a process that speaks to the wrong host, cluster or version would do damage before anyone notices.
func TestHandshakeRefuses(t *testing.T) {
	w := rpctest.NewWorld(t)
	for _, c := range []struct {
		name   string
		client func(*ClientConfig)
		server func(*ServerConfig)
		want   error
	}{
		{"another host answers", func(c *ClientConfig) { c.Peer = "b9" }, nil, errs.ErrDenied},
		{"another cluster", func(c *ClientConfig) { c.Self.Cluster = "c-other" }, nil, errs.ErrDenied},
		{"name is not the certificate's", func(c *ClientConfig) { c.Self.Name = "b7" }, nil, errs.ErrDenied},
		{"server's name is not the certificate's", nil, func(s *ServerConfig) { s.Self.Name = "b7" }, errs.ErrDenied},
		{"class is not served", func(c *ClientConfig) { c.Class = ClassRead }, nil, errs.ErrNotFound},
		{"version too new", func(c *ClientConfig) { c.VersionMin, c.VersionMax = 2, 3 }, nil, errs.ErrInvalid},
		{"beats too seldom", func(c *ClientConfig) { c.Timing.Beat, c.Timing.Dead = 40*time.Second, 100*time.Second }, nil, errs.ErrInvalid},
		{"not let in", nil, func(s *ServerConfig) {
			s.Services[0].Accept = func(Peer) (Handler, error) { return nil, errs.ErrDenied }
		}, errs.ErrDenied},
		{"certificate of an operator", func(c *ClientConfig) {
			cr := w.Credentials(pki.RoleOperator, "me")
			c.TLS, c.Self = cr.Client(pki.Expect{Roles: []pki.Role{pki.RoleBlockd}}), cr.Self()
		}, func(s *ServerConfig) {
			s.TLS = w.Credentials(pki.RoleBlockd, "b1").Server(pki.Expect{Roles: []pki.Role{pki.RoleBlockd}})
		}, errs.ErrUnavailable},
		{"in plain", func(c *ClientConfig) { c.TLS, c.Insecure = nil, true }, nil, errs.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := connect(t, rpctest.Transports[0], setup{client: c.client, server: c.server})
			call := newWaiter(opEcho, "x")
			if p.client.Start(&call.Call); !errors.Is(call.wait(), c.want) || !errors.Is(call.Err, errs.ErrUnavailable) {
				t.Errorf("%v, want %v", call.Err, c.want)
			}
			if len(p.svc.order) != 0 {
				t.Error("a request was served")
			}
		})
	}
}

// Without this whoever reaches the port could take memory, goroutines or the server's nerve.
func TestStrangersAreDropped(t *testing.T) {
	p := connect(t, rpctest.Transports[1], setup{server: func(c *ServerConfig) { c.ConnsMax = 3 },
		timing: Timing{Dead: 20 * time.Second, Handshake: 50 * time.Millisecond}})
	awaitUp(t, p)
	for name, send := range map[string][]byte{
		"garbage":       bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 10),
		"endless hello": {0xff, 0xff, 0xff, 0xff},
		"nothing":       nil,
	} {
		c, err := net.Dial("tcp", p.link.Address())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(send); err != nil {
			t.Fatal(err)
		}
		if n, _ := io.Copy(io.Discard, c); n > 200 { // it ends, at the latest with the handshake's time
			t.Errorf("%s was answered with %d bytes", name, n)
		}
		_ = c.Close()
	}
	var open []net.Conn
	for range 5 { // more than ConnsMax
		c, err := net.Dial("tcp", p.link.Address())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	for _, c := range open {
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	}
	awaitUp(t, p)
	if got := p.stats.Totals(); got.Broken != 0 {
		t.Errorf("the good client was harmed: %+v", got)
	}
}

// Without this a fetch for recovery would wait behind megabytes of shards.
func TestShortOvertakesLongInBulkOnly(t *testing.T) {
	for class, want := range map[Class][]string{ClassBulk: {"long", "short", "rest", "rest"}, ClassLog: {"long", "rest", "rest", "short"}} {
		var sink bytes.Buffer
		c := &clientConn{pacer: &Pacer{}, payloadMax: PayloadMax}
		c.class, c.limits = class, Limits{InFlight: 4, QueueMax: 10, PendingBytes: 1}
		c.initSlots(4)
		c.init(newWire(fakeConn{in: nil, out: &sink}), nil)
		c.mu.flushing = true // nothing leaves until both are there
		long, short := newWaiter(1, "long", make([]byte, 2*FragmentMax+1)), newWaiter(1, "short", make([]byte, 10))
		c.start(&long.Call)
		c.mu.Lock()
		c.pump() // the first frame of the long one
		c.mu.Unlock()
		c.start(&short.Call)
		c.flush(true)
		var got []string
		r := newReader("test", &sink, readerBytes)
		for {
			h, err := r.header()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			head, err := r.head(&h)
			if err != nil {
				t.Fatal(err)
			}
			name := string(head)
			if name == "" {
				name = "rest"
			}
			got = append(got, name)
			if err := r.skip(int(h.payload)); err != nil {
				t.Fatal(err)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%s: frames %v", class, got)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s: frames %v, want %v", class, got, want)
				break
			}
		}
	}
}

// fakeConn reads what it was given and keeps what is written.
type fakeConn struct {
	net.Conn
	in  io.Reader
	out io.Writer
}

func (f fakeConn) Read(p []byte) (int, error)      { return f.in.Read(p) }
func (f fakeConn) Write(p []byte) (int, error)     { return f.out.Write(p) }
func (f fakeConn) Close() error                    { return nil }
func (f fakeConn) SetReadDeadline(time.Time) error { return nil }

// Without this corked calls would wait for the next beat, or for ever.
func TestUncorkSends(t *testing.T) {
	p := connect(t, rpctest.Transports[0], setup{})
	awaitUp(t, p)
	before := p.stats.Totals().Writes
	p.client.Cork()
	p.client.Cork()
	var all []*waiter
	for range 20 {
		w := newWaiter(opEcho, "x")
		all = append(all, w)
		p.client.Start(&w.Call)
	}
	p.client.Uncork()
	p.client.Uncork()
	for _, w := range all {
		if err := w.wait(); err != nil {
			t.Error(err)
		}
	}
	if n := p.stats.Totals().Writes - before; n > 3 {
		t.Errorf("20 corked calls took %d writes", n)
	}
}

// Without this answers that a store gives at once would cost a system call each.
func TestServerUncorkSendsReplies(t *testing.T) {
	stats := new(Stats)
	p := connect(t, rpctest.Transports[0], setup{server: func(c *ServerConfig) { c.Stats = stats }})
	var all []*waiter
	for range 20 {
		w := newWaiter(opHold, "x")
		all = append(all, w)
		p.client.Start(&w.Call)
	}
	p.svc.await(func() bool { return len(p.svc.held) == 20 })
	before := stats.Totals().Writes
	p.server.Cork()
	p.svc.release(20)
	p.server.Uncork()
	for _, w := range all {
		if err := w.wait(); err != nil {
			t.Error(err)
		}
	}
	if n := stats.Totals().Writes - before; n > 3 {
		t.Errorf("20 corked replies took %d writes", n)
	}
}

// FuzzServer feeds a server's connection with frames of any kind: it must end the
// connection or serve, never panic, hang or keep a request.
func FuzzServer(f *testing.F) {
	for _, g := range goldenHeaders {
		f.Add(append(g.h.append(nil), make([]byte, 200)...), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend {
			mendFrames(b)
		}
		svc := newService()
		ctx, cancel := context.WithCancel(t.Context())
		c := &serverConn{svc: &Service{Class: ClassBulk, Limits: Limits{InFlight: 2, BytesMax: 1 << 20, PayloadMax: 1 << 20, QueueMax: 1, PendingBytes: 1 << 16}},
			handler: svc, budget: NewBudget(1 << 20), cancel: cancel}
		c.died = cancel
		c.class, c.limits, c.peer = ClassBulk, c.svc.Limits, Peer{Context: ctx}
		c.init(newWire(fakeConn{in: &releasing{bytes.NewReader(b), svc}, out: io.Discard}), nil)
		if err := c.run(); err == nil {
			t.Error("the end of the input is no error")
		}
		if c.inFlight != 0 || c.budget.Used() != 0 || svc.closed != 1 {
			t.Errorf("%d requests and %d bytes are left", c.inFlight, c.budget.Used())
		}
	})
}

// releasing answers held requests whenever input runs dry.
type releasing struct {
	r   io.Reader
	svc *service
}

func (r *releasing) Read(p []byte) (int, error) {
	n, err := r.r.Read(p[:min(len(p), 512)])
	r.svc.mu.Lock()
	held := len(r.svc.held)
	r.svc.mu.Unlock()
	r.svc.release(held)
	return n, err
}

// FuzzClient feeds a client's connection with replies of any kind.
func FuzzClient(f *testing.F) {
	for _, g := range goldenHeaders {
		f.Add(append(g.h.append(nil), make([]byte, 200)...), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend {
			mendFrames(b)
		}
		c := &clientConn{pacer: &Pacer{}, payloadMax: PayloadMax}
		c.class, c.limits = ClassLog, Limits{InFlight: 4, QueueMax: 10, PendingBytes: 1 << 16}
		c.initSlots(4)
		c.init(newWire(fakeConn{in: bytes.NewReader(b), out: io.Discard}), nil)
		var all []*waiter
		for range 6 {
			w := newWaiter(opEcho, "x", make([]byte, 10))
			all = append(all, w)
			c.start(&w.Call)
		}
		c.run()
		for _, w := range all {
			if err := w.wait(); err == nil && bytesOf(w.Into) != len(w.got[1]) {
				t.Error("an answer without its payload")
			}
		}
		if len(c.slots.free) > 4 {
			t.Errorf("%d of 4 slots are free", len(c.slots.free))
		}
	})
}

// mendFrames makes the sums of headers right where frames may begin, so that inputs get further.
func mendFrames(b []byte) {
	for at := 0; at+headerSize <= len(b); {
		h := header{head: uint32(b[at]), payload: uint32(b[at+4]), total: uint32(b[at+4]) | uint32(b[at+8])<<8, op: uint16(b[at+12] % 5), kind: kind(b[at+14]),
			flags: b[at+15], id: uint64(b[at+16])<<16 | uint64(b[at+17]%4)}
		if rest := b[at+headerSize:]; len(rest) >= int(h.head) {
			h.headCRC = codec.CRC(rest[:h.head])
		}
		copy(b[at:], h.append(nil))
		at += headerSize + int(h.head) + int(h.payload)
	}
}
