package clock

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

// Without this a lease could be counted on a clock that stands still or runs back.
func TestSystemNowRises(t *testing.T) {
	last := System.Now()
	if last <= 0 {
		t.Fatalf("time since boot is %s", last)
	}
	for range 1000 {
		now := System.Now()
		if now < last {
			t.Fatalf("time went back from %s to %s", last, now)
		}
		last = now
	}
}

// Without this the two bodies would differ and tests would prove nothing about real time.
func TestBothBodiesKeepTheContract(t *testing.T) {
	manual := NewManual()
	bodies := map[string]struct {
		clock Clock
		pass  func(time.Duration)
	}{
		"system": {System, func(time.Duration) {}},
		"manual": {manual, manual.Advance},
	}
	for name, b := range bodies {
		t.Run(name, func(t *testing.T) { conform(t, b.clock, b.pass) })
	}
}

func conform(t *testing.T, c Clock, pass func(time.Duration)) {
	const d = 2 * time.Millisecond
	start := c.Now()
	tm := c.NewTimer(d)
	pass(d)
	<-tm.C()
	if got := c.Now() - start; got < d {
		t.Errorf("timer of %s fired after %s", d, got)
	}
	if tm.Stop() {
		t.Error("Stop after the event was received must be false")
	}
	if tm.Reset(time.Hour); !tm.Stop() {
		t.Error("Stop before the event must be true")
	}

	called := make(chan struct{}, 2)
	c.AfterFunc(d, func() { called <- struct{}{} })
	stopped := c.AfterFunc(time.Hour, func() { called <- struct{}{} })
	if !stopped.Stop() {
		t.Error("Stop of a pending AfterFunc must be true")
	}
	pass(2 * time.Hour)
	<-called
	select {
	case <-called:
		t.Error("a stopped AfterFunc ran")
	default:
	}

	tick := c.NewTicker(d)
	for range 3 {
		pass(d)
		<-tick.C()
	}
	tick.Stop()

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.Sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("Sleep under an ended context: %v", err)
	}
	if err := c.Sleep(context.Background(), 0); err != nil {
		t.Errorf("Sleep(0): %v", err)
	}
	zero := c.NewTimer(0)
	<-zero.C()
}

// Without this two runs of one seed could see events in different orders.
func TestManualKeepsOrder(t *testing.T) {
	m := NewManual()
	var got []string
	note := func(s string) func() { return func() { got = append(got, s) } }
	m.AfterFunc(3*time.Second, note("c"))
	m.AfterFunc(time.Second, func() {
		note("a")()
		m.AfterFunc(time.Second, note("b")) // due inside the same Advance
	})
	m.AfterFunc(3*time.Second, note("d"))
	m.AfterFunc(time.Minute, note("late"))
	m.Advance(10 * time.Second)
	if want := []string{"a", "b", "c", "d"}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
	if due, ok := m.Next(); !ok || due != time.Hour+time.Minute || m.Pending() != 1 {
		t.Errorf("next %s %v, pending %d", due, ok, m.Pending())
	}
}

// Without this a jump of the time of day could expire a lease.
func TestWallJumpLeavesNowAlone(t *testing.T) {
	m := NewManual()
	before := m.Now()
	m.SetWall(m.Wall().Add(24 * time.Hour))
	if m.Now() != before {
		t.Error("Now moved with the wall clock")
	}
}

// Without this a test that advances too early would hang now and then.
func TestAwaitPending(t *testing.T) {
	m := NewManual()
	done := make(chan error)
	go func() { done <- m.Sleep(context.Background(), time.Minute) }()
	if err := m.AwaitPending(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	m.Advance(time.Minute)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.AwaitPending(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("AwaitPending under an ended context: %v", err)
	}
}
