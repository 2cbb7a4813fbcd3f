// Package clock is the only door to time. Everything that measures, waits or
// schedules takes a Clock; real processes pass System, tests and simulation
// pass a Manual and move it by hand.
//
// Two kinds of time are kept apart. Now is the time since boot
// (CLOCK_BOOTTIME: it goes on while the machine is suspended and nobody can set
// it), and it alone may decide leases and deadlines. Wall is the time of day,
// for people and certificates; it may jump.
//
// All of the package is safe for concurrent use.
package clock

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// Clock tells time and wakes callers.
type Clock interface {
	// Now is the time since boot. It never goes back, and counts time suspended.
	// Values of different machines, or of different boots, do not compare.
	Now() time.Duration
	// Wall is the time of day.
	Wall() time.Time
	// NewTimer sends once on C after at least d.
	NewTimer(d time.Duration) Timer
	// NewTicker sends on C every d and drops ticks for slow receivers. d must be above zero.
	NewTicker(d time.Duration) Ticker
	// AfterFunc calls f once after at least d: System on a goroutine of its own, Manual
	// inside Advance. Stop of the returned timer prevents it; its C is nil.
	AfterFunc(d time.Duration, f func()) Timer
	// Sleep waits for d or for the end of ctx, whose error it then returns.
	Sleep(ctx context.Context, d time.Duration) error
}

// Timer is one event to come.
type Timer interface {
	// C is where the event is sent; nil for AfterFunc.
	C() <-chan time.Time
	// Stop tells whether it prevented the event. After Stop nothing stale is received from C.
	Stop() bool
	// Reset lets the event happen d from now instead and tells whether it was still to come.
	Reset(d time.Duration) bool
}

// Ticker is an event that repeats until Stop.
type Ticker interface {
	C() <-chan time.Time
	Stop()
	Reset(d time.Duration)
}

// System is the machine's own clock.
var System Clock = system{}

type system struct{}

func (system) Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// Linux has had it since 2.6.39; leases without it would be a lie.
		panic("clock: CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(ts.Nano())
}

func (system) Wall() time.Time { return time.Now() }

func (system) NewTimer(d time.Duration) Timer { return sysTimer{time.NewTimer(d)} }

func (system) NewTicker(d time.Duration) Ticker { return sysTicker{time.NewTicker(d)} }

func (system) AfterFunc(d time.Duration, f func()) Timer { return sysTimer{time.AfterFunc(d, f)} }

func (system) Sleep(ctx context.Context, d time.Duration) error { return sleep(ctx, system{}, d) }

func sleep(ctx context.Context, c Clock, d time.Duration) error {
	if err := ctx.Err(); err != nil || d <= 0 {
		return err
	}
	t := c.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type sysTimer struct{ t *time.Timer }

func (s sysTimer) C() <-chan time.Time        { return s.t.C }
func (s sysTimer) Stop() bool                 { return s.t.Stop() }
func (s sysTimer) Reset(d time.Duration) bool { return s.t.Reset(d) }

type sysTicker struct{ t *time.Ticker }

func (s sysTicker) C() <-chan time.Time   { return s.t.C }
func (s sysTicker) Stop()                 { s.t.Stop() }
func (s sysTicker) Reset(d time.Duration) { s.t.Reset(d) }
