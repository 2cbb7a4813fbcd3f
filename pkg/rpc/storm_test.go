package rpc

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/testkit/rpctest"
)

// checking is a service that judges payloads by the sum in the head, and answers some
// requests late, from other goroutines.
type checking struct {
	bad  atomic.Int64
	seen atomic.Int64
	late sync.WaitGroup
}

func (s *checking) Prepare(r *Request) error {
	if r.PayloadBytes > 0 {
		r.Into = append(r.Into, make([]byte, r.PayloadBytes))
	}
	return nil
}

func (s *checking) Serve(r *Request) {
	s.seen.Add(1)
	if codec.CRC(r.Into[0]) != binary.LittleEndian.Uint32(r.Head) {
		s.bad.Add(1)
	}
	r.OutHead = append(r.OutHead, r.Head...)
	r.OutPayload = append(r.OutPayload, r.Into[0])
	if r.Head[4]%4 != 0 {
		r.Reply(nil)
		return
	}
	s.late.Add(1)
	go func() {
		defer s.late.Done()
		r.Reply(nil)
	}()
}

func (s *checking) Done(*Request) {}
func (s *checking) Close()        {}

// Without this a call that ended early, by time or with its connection, could leave the
// transport reading from or writing to memory that is the caller's again.
func TestMemoryIsTheCallersAfterDone(t *testing.T) {
	seed := seedOf(t)
	svc := &checking{}
	p := connect(t, rpctest.Transports[0], setup{
		limits: Limits{InFlight: 16, BytesMax: 4 << 20, PayloadMax: 2 << 20, QueueMax: 1000, PendingBytes: 1 << 15},
		timing: Timing{Beat: 4 * time.Millisecond, Dead: 20 * time.Second, Handshake: 20 * time.Second, Backoff: time.Millisecond, BackoffMax: 2 * time.Millisecond},
		server: func(c *ServerConfig) {
			c.Services[0].Accept = func(Peer) (Handler, error) { return svc, nil }
		}})
	var callers sync.WaitGroup
	var good, broken, timed atomic.Int64
	for g := range 8 {
		callers.Add(1)
		go func() {
			defer callers.Done()
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			buf := make([]byte, 2<<20)
			for i := range 60 {
				n := 1 + rnd.IntN(1<<(4+rnd.IntN(17)))
				b := buf[:n]
				for j := range b {
					b[j] = byte(i + j)
				}
				w := newWaiter(1, "", b)
				w.Head = binary.LittleEndian.AppendUint32(nil, codec.CRC(b))
				w.Head = append(w.Head, byte(rnd.IntN(8)))
				if rnd.IntN(3) == 0 {
					w.Timeout = time.Duration(rnd.IntN(8)) * time.Millisecond
				}
				p.client.Start(&w.Call)
				err := w.wait()
				switch {
				case err == nil:
					good.Add(1)
					if len(w.got[1]) != n || codec.CRC(w.got[1]) != binary.LittleEndian.Uint32(w.Head) {
						t.Error("an answer differs")
					}
				case errors.Is(err, errs.ErrTimeout):
					timed.Add(1)
				case errors.Is(err, errs.ErrUnavailable):
					broken.Add(1)
					awaitAgain(p)
				default:
					t.Error(err)
				}
				clear(b) // whoever still reads it sends a wrong sum
				if w.got != nil {
					clear(w.got[1]) // and whoever still writes it is seen by the race detector
				}
				if g == 0 && i%15 == 14 {
					p.link.Cut()
				}
			}
		}()
	}
	callers.Wait()
	_ = p.client.Close()
	_ = p.server.Close()
	svc.late.Wait()
	t.Logf("%d good, %d broken, %d timed out, %d served", good.Load(), broken.Load(), timed.Load(), svc.seen.Load())
	if svc.bad.Load() != 0 {
		t.Errorf("%d requests arrived with other bytes than were sent", svc.bad.Load())
	}
	if good.Load() == 0 || broken.Load() == 0 {
		t.Error("nothing was tried")
	}
}

func seedOf(t *testing.T) uint64 {
	seed := uint64(7)
	if s, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("SEED=%d", seed)
	return seed
}

// awaitAgain waits for a connection without failing the test.
func awaitAgain(p *pair) {
	for !p.client.Up() {
		w := newWaiter(1, "", []byte{0})
		w.Head = append(binary.LittleEndian.AppendUint32(nil, codec.CRC([]byte{0})), 1)
		p.client.Start(&w.Call)
		_ = w.wait() // only to pass the time
	}
}
