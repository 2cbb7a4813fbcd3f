package memstore

import (
	"context"
	"errors"
	"testing"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

func batch(epoch id.Epoch, first id.LSN, count uint32, payload ...byte) *storeproto.Batch {
	b := &storeproto.Batch{Epoch: epoch, First: first, Count: count, Meta: []byte{byte(first)}}
	for _, p := range payload {
		block := make([]byte, storeproto.BlockSize)
		block[0] = p
		b.Payload = append(b.Payload, block)
		b.Sums = append(b.Sums, codec.CRC(block))
	}
	b.Seal()
	return b
}

func appendTo(s *Store, stream storeproto.Stream, b *storeproto.Batch, base bool) chan *storeproto.Append {
	done := make(chan *storeproto.Append, 1)
	s.Append(&storeproto.Append{Stream: stream, Epoch: stream.Ensemble.Epoch, Batch: b, Base: base,
		Done: func(a *storeproto.Append) { done <- a }})
	return done
}

var testStream = storeproto.Stream{Volume: id.Volume{1}, Ensemble: id.Ensemble{Epoch: 3, N: 1}}

// Without this an engine's tests would find records after a crash that a disk would have lost, or the reverse.
func TestCrashLosesWhatWasNotDurable(t *testing.T) {
	m := clock.NewManual()
	s := New(Options{Clock: m, Delay: time.Millisecond})
	d1 := appendTo(s, testStream, batch(3, 1, 2, 7), true)
	m.Advance(time.Millisecond)
	if a := <-d1; a.Err != nil || a.Tail != 2 {
		t.Fatalf("append: %v tail %d", a.Err, a.Tail)
	}
	d2 := appendTo(s, testStream, batch(3, 3, 1), false)
	s.Crash(0)
	if a := <-d2; !errors.Is(a.Err, errs.ErrUnavailable) {
		t.Fatalf("append under way at the crash: %v", a.Err)
	}
	s.Restart()
	m.Advance(time.Minute)
	s.SetDelay(0)
	r, err := s.Fence(context.Background(), storeproto.Fence{Volume: testStream.Volume, Epoch: 4, By: id.Holder{Host: "b", Number: 1}, Prior: []id.Host{"a"}})
	if err != nil || len(r.Streams) != 1 || r.Streams[0].Tail < 2 || r.Lossy {
		t.Fatalf("fence after restart: %+v %v", r, err)
	}
	f, err := s.Fetch(context.Background(), storeproto.Fetch{Stream: testStream, From: 1, BytesMax: 1 << 20})
	if err != nil || f.Batches[0].Payload[0][0] != 7 || f.Batches[0].Verify("test") != nil {
		t.Fatalf("fetch: %+v %v", f, err)
	}
	if a := <-appendTo(s, testStream, batch(3, 4, 1), false); !errors.Is(a.Err, errs.ErrStaleEpoch) {
		t.Errorf("append below the fence: %v", a.Err)
	}
}

// Without this a paused store could answer, and the zombie tests of an engine would test nothing.
func TestPauseHoldsEverything(t *testing.T) {
	s := New(Options{Clock: clock.NewManual()})
	s.Pause()
	d := appendTo(s, testStream, batch(3, 1, 1), true)
	select {
	case <-d:
		t.Fatal("a paused store answered")
	default:
	}
	s.Resume()
	if a := <-d; a.Err != nil {
		t.Fatal(a.Err)
	}
}

// Without this a lost answer could not be told from a refused request.
func TestFaultCanLoseTheAnswerOnly(t *testing.T) {
	s := New(Options{Clock: clock.NewManual()})
	s.SetFault(func(c Call) Fault { return Fault{Err: errs.ErrTimeout, Lost: true} })
	if a := <-appendTo(s, testStream, batch(3, 1, 1), true); !errors.Is(a.Err, errs.ErrTimeout) {
		t.Fatal(a.Err)
	}
	s.SetFault(nil)
	if a := <-appendTo(s, testStream, batch(3, 2, 1), false); a.Err != nil || a.Tail != 2 {
		t.Fatalf("the append was not carried out: %v", a.Err)
	}
}

// Without this a test that moves the clock as soon as it sees an answer would hang now and then.
func TestClockMovedByTheReceiverOfAnAnswer(t *testing.T) {
	m := clock.NewManual()
	s := New(Options{Clock: m, LeaseTerm: 4 * time.Second})
	m.Advance(4 * time.Second)
	holder := id.Holder{Host: "a", Number: 1}
	var answered int
	s.Lease(&storeproto.Lease{Holder: holder, Wait: time.Hour, Done: func(*storeproto.Lease) {
		answered++
		m.Advance(time.Second)
	}})
	// The second lets the first be answered, and its own time is over inside that answer.
	s.Lease(&storeproto.Lease{Holder: holder, Wait: time.Second, Done: func(*storeproto.Lease) { answered++ }})
	if answered != 2 {
		t.Errorf("%d leases answered, want 2", answered)
	}
}
