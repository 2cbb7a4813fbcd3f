package repair

import (
	"context"
	"sync"
	"time"

	"ashlar.dev/pkg/clock"
)

// Pace bounds the bytes per second that are rebuilt on a host, so that clients are not
// crowded out. A nil Pace bounds nothing. Safe for concurrent use.
type Pace struct {
	mu    sync.Mutex
	rate  float64       // bytes per second
	next  time.Duration // when the bytes given out so far are paid for
	moved int64         // bytes given out, ever
}

// NewPace makes a pace; nil if bytesPerSecond is zero: no limit.
func NewPace(bytesPerSecond int64) *Pace {
	if bytesPerSecond <= 0 {
		return nil
	}
	return &Pace{rate: float64(bytesPerSecond)}
}

// Set changes the rate, for those who wait from now on.
func (p *Pace) Set(bytesPerSecond float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = bytesPerSecond
}

// Rate is the bytes per second that are allowed now.
func (p *Pace) Rate() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rate
}

// Moved is how many bytes were given out so far.
func (p *Pace) Moved() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.moved
}

// Wait waits until n more bytes may be moved, or ctx ends.
func (p *Pace) Wait(ctx context.Context, c clock.Clock, n int) error {
	if p == nil {
		return ctx.Err()
	}
	now := c.Now()
	p.mu.Lock()
	wait := p.next - now
	p.next = max(p.next, now) + time.Duration(float64(n)/p.rate*float64(time.Second))
	p.moved += int64(n)
	p.mu.Unlock()
	if wait <= 0 {
		return ctx.Err()
	}
	return c.Sleep(ctx, wait)
}
