package rpc

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/testkit/rpctest"
)

// benchService answers a write of 4 KiB with 16 bytes (op 1), and 16 bytes with 4 KiB (op 2).
type benchService struct{}

func (benchService) Prepare(r *Request) error {
	b := buf.Get(4096)
	r.State = b
	if r.Op == 1 {
		r.Into = append(r.Into, b.Bytes())
	} else {
		r.ReplyBytes = 4096
	}
	return nil
}

var sixteen [16]byte

func (benchService) Serve(r *Request) {
	if r.Op == 1 {
		r.OutHead = append(r.OutHead, sixteen[:]...)
	} else {
		r.OutPayload = append(r.OutPayload, r.State.(*buf.Buffer).Bytes())
	}
	r.Reply(nil)
}

func (benchService) Done(r *Request) { r.State.(*buf.Buffer).Release() }
func (benchService) Close()          {}

// benchCall calls again and again, from the reader.
type benchCall struct {
	Call
	client *Client
	left   *int
	dst    [1][]byte
	done   chan struct{}
}

func (b *benchCall) Answer(c *Call, _ []byte, payload int) error {
	if payload > 0 {
		c.Into = b.dst[:]
	}
	return nil
}

func (b *benchCall) Done(c *Call) {
	if c.Err != nil {
		panic(c.Err)
	}
	if *b.left--; *b.left < 0 { // only the reader is here
		b.done <- struct{}{}
		return
	}
	b.client.Start(c)
}

func cpuNow() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchPair(b testing.TB, tr rpctest.Transport, svc Service) *Client {
	w := rpctest.NewWorld(b)
	l := w.Listen(tr)
	scfg := ServerConfig{Insecure: !tr.TLS, Self: rpctest.Identity("b1"), Services: []Service{svc}, Clock: clock.System, Log: rpctest.Log()}
	ccfg := ClientConfig{Network: tr.Network, Address: l.Addr().String(), Class: svc.Class, VersionMin: 1, VersionMax: 1, Insecure: !tr.TLS,
		Self: rpctest.Identity("b2"), Peer: "b1", Clock: clock.System, Log: rpctest.Log()}
	if tr.TLS {
		scfg.TLS, ccfg.TLS = w.ServerTLS("b1"), w.ClientTLS("b2")
	}
	s, err := NewServer(scfg)
	if err != nil {
		b.Fatal(err)
	}
	go s.Serve(l)
	c, err := NewClient(ccfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close(); s.Close() })
	return c
}

func BenchmarkRPC(b *testing.B) {
	for _, tr := range rpctest.Transports {
		for op, name := range map[uint16]string{1: "write4k", 2: "read4k"} {
			for _, depth := range []int{1, 32} {
				b.Run(fmt.Sprintf("%s/%s/qd%d", tr.Name, name, depth), func(b *testing.B) {
					c := benchPair(b, tr, Service{Class: ClassLog, VersionMin: 1, VersionMax: 1,
						Accept: func(Peer) (Handler, error) { return benchService{}, nil }})
					run := func(n int) {
						left := n
						done := make(chan struct{}, depth)
						payload := [][]byte{make([]byte, 4096)}
						start := &benchStart{calls: depth, ended: make(chan struct{})}
						for range depth {
							bc := &benchCall{client: c, left: &left, done: done}
							bc.dst[0] = make([]byte, 4096)
							bc.Op, bc.Caller = op, bc
							bc.Head = make([]byte, 96)
							if op == 1 {
								bc.Payload = payload
							}
							start.all = append(start.all, bc)
						}
						start.go_(c)
						for range depth {
							<-done
						}
					}
					run(1000)
					b.ReportAllocs()
					before := cpuNow()
					b.ResetTimer()
					run(b.N)
					b.StopTimer()
					b.ReportMetric(float64((cpuNow()-before).Nanoseconds())/float64(b.N)/1000, "cpu-µs/op")
				})
			}
		}
	}
}

// benchStart starts all calls from the reader, so that the count needs no lock.
type benchStart struct {
	Call
	all   []*benchCall
	calls int
	ended chan struct{}
}

func (s *benchStart) Answer(c *Call, _ []byte, n int) error {
	if n > 0 {
		c.Into = [][]byte{make([]byte, n)}
	}
	return nil
}

func (s *benchStart) Done(c *Call) {
	if c.Err != nil {
		panic(c.Err)
	}
	for _, bc := range s.all {
		s.all[0].client.Start(&bc.Call)
	}
}

func (s *benchStart) go_(c *Client) {
	s.Op, s.Caller = 2, s
	c.Start(&s.Call)
}
