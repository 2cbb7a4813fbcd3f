package nbd

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// fakeSink takes at most room bytes at a time without waiting.
type fakeSink struct {
	mu     sync.Mutex
	got    []byte
	pushes int
	room   int // 0: no limit
	fail   error
	gate   chan struct{} // if set, each push waits for a token
	waited int
}

func (s *fakeSink) push(v *vec, wait bool) (bool, error) {
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return false, s.fail
	}
	s.pushes++
	if wait {
		s.waited++
	}
	n := v.left
	if s.room > 0 {
		n = min(n, s.room)
	}
	for taken := 0; taken < n; {
		part := v.unwritten()[0]
		part = part[:min(len(part), n-taken)]
		s.got = append(s.got, part...)
		v.advance(len(part))
		taken += len(part)
	}
	return v.left == 0, nil
}

// boxed is an outbox over s whose frames carry their payload; it counts what was sent.
func boxed(t *testing.T, s *fakeSink) (*outbox, *atomic.Int64) {
	near, far := net.Pipe()
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	sent := new(atomic.Int64)
	o := &outbox{sink: s, conn: near}
	o.encode = func(f *frame, v *vec) bool {
		if !v.room(2, 1) {
			return false
		}
		copy(v.head(2), "h:")
		v.payload(f.r.Data)
		return true
	}
	o.sent = func(first *frame) {
		for f := first; f != nil; f = f.next {
			sent.Add(1)
		}
	}
	return o, sent
}

func frameOf(payload string) *frame {
	return &frame{r: &Request{Data: []byte(payload)}, size: len(payload) + 2}
}

// Without this every reply would cost a system call.
func TestRepliesThatMeetAreOneWrite(t *testing.T) {
	s := &fakeSink{gate: make(chan struct{}, 8)}
	o, sent := boxed(t, s)
	first := make(chan struct{})
	go func() { defer close(first); o.add(frameOf("a"), true) }()
	eventually(t, "somebody writes", func() bool { o.mu.Lock(); defer o.mu.Unlock(); return o.mu.busy })
	for _, p := range []string{"b", "c", "d"} {
		o.add(frameOf(p), false) // returns at once: the first writes for all
	}
	s.gate <- struct{}{}
	s.gate <- struct{}{}
	<-first
	if string(s.got) != "h:ah:bh:ch:d" || s.pushes != 2 || sent.Load() != 4 {
		t.Fatalf("%q in %d writes, %d sent", s.got, s.pushes, sent.Load())
	}
}

// Without this a batch would write once for each request, or forget what it held back.
func TestCorksHoldBackUntilTheLast(t *testing.T) {
	s := &fakeSink{}
	o, _ := boxed(t, s)
	var b Batch
	o.cork() // the reader's
	for _, p := range []string{"a", "b", "c"} {
		b.hold(o)
		o.add(frameOf(p), false)
	}
	o.uncork(true)
	if s.pushes != 0 || b.n != 1 {
		t.Fatalf("%d writes, %d corks", s.pushes, b.n)
	}
	b.Flush()
	if string(s.got) != "h:ah:bh:c" || s.pushes != 1 || b.n != 0 {
		t.Fatalf("%q in %d writes", s.got, s.pushes)
	}
	o.cork()
	big := frameOf(string(make([]byte, heldMax)))
	o.add(big, true)
	if s.pushes != 2 {
		t.Fatal("a cork held back too much")
	}
}

// Without this a device that completes would wait for a client that does not read.
func TestFullSocketDoesNotHoldUpTheCompleter(t *testing.T) {
	s := &fakeSink{room: 3}
	o, sent := boxed(t, s)
	var want []byte
	for i := range 2000 {
		p := bytes.Repeat([]byte{byte(i)}, 1+i%7)
		want = append(append(want, "h:"...), p...)
		o.add(frameOf(string(p)), false)
	}
	o.drains.Wait()
	if !bytes.Equal(s.got, want) || sent.Load() != 2000 || s.waited == 0 {
		t.Fatalf("%d bytes of %d, %d sent, %d waits", len(s.got), len(want), sent.Load(), s.waited)
	}
	o.add(frameOf(string(make([]byte, inlineMax+1))), false)
	o.drains.Wait()
	if sent.Load() != 2001 {
		t.Fatal("a long one was not sent")
	}
}

// Without this frames would be ended twice, or never, when a connection breaks.
func TestBrokenConnectionEndsEveryFrameOnce(t *testing.T) {
	for _, byClose := range []bool{false, true} {
		s := &fakeSink{room: 100}
		o, sent := boxed(t, s)
		var group sync.WaitGroup
		for w := range 8 {
			group.Go(func() {
				for i := range 200 {
					if w == 0 && i == 100 {
						s.mu.Lock()
						s.fail = errors.New("broken")
						s.mu.Unlock()
						if byClose {
							o.close()
						}
					}
					if i%16 == 0 {
						o.cork()
						o.add(frameOf("xyz"), false)
						o.uncork(false)
						continue
					}
					o.add(frameOf("xyz"), w == 0)
				}
			})
		}
		group.Wait()
		o.drains.Wait()
		o.close()
		o.drains.Wait()
		if sent.Load() != 1600 {
			t.Fatalf("%d of 1600 frames ended", sent.Load())
		}
	}
}

// Without this a write cut anywhere would repeat or skip bytes.
func TestVecAdvancesAnywhere(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		var v vec
		var want []byte
		v.reset()
		for range rng.IntN(20) {
			if rng.IntN(2) == 0 {
				b := v.head(1 + rng.IntN(40))
				for i := range b {
					b[i] = byte(rng.Uint32())
				}
				want = append(want, b...)
			} else {
				b := make([]byte, rng.IntN(100))
				for i := range b {
					b[i] = byte(rng.Uint32())
				}
				v.payload(b)
				want = append(want, b...)
			}
		}
		if v.left != len(want) {
			t.Fatalf("%d left of %d", v.left, len(want))
		}
		s := &fakeSink{room: 1 + rng.IntN(50)}
		for done := v.left == 0; !done; {
			done, _ = s.push(&v, false)
		}
		if !bytes.Equal(s.got, want) {
			t.Fatal("other bytes")
		}
	}
}
