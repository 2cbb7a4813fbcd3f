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
	bytesPerSecond int64

	mu   sync.Mutex
	next time.Duration // when the bytes given out so far are paid for
}

// NewPace makes a pace; nil if bytesPerSecond is zero: no limit.
func NewPace(bytesPerSecond int64) *Pace {
	if bytesPerSecond <= 0 {
		return nil
	}
	return &Pace{bytesPerSecond: bytesPerSecond}
}

// Wait waits until n more bytes may be moved, or ctx ends.
func (p *Pace) Wait(ctx context.Context, c clock.Clock, n int) error {
	if p == nil {
		return ctx.Err()
	}
	now := c.Now()
	p.mu.Lock()
	wait := p.next - now
	p.next = max(p.next, now) + time.Duration(float64(n)/float64(p.bytesPerSecond)*float64(time.Second))
	p.mu.Unlock()
	if wait <= 0 {
		return ctx.Err()
	}
	return c.Sleep(ctx, wait)
}
