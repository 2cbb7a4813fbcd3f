package rpc

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"ashlar.dev/pkg/clock"
)

// ticking is a connection as the pacer sees it.
type ticking interface {
	tick(now time.Duration, gap bool)
}

// Pacer tells many connections the time with one goroutine: beats, silence and
// deadlines are looked at every step, and nothing on the hot path reads a clock.
// All clients of a process may share one.
type Pacer struct {
	clock clock.Clock
	step  time.Duration
	now   atomic.Int64 // at the last step

	mu struct {
		sync.Mutex
		all map[ticking]struct{}
	}
	stop context.CancelFunc
	done chan struct{}
}

// NewPacer starts the goroutine; t says how fine the steps must be.
func NewPacer(c clock.Clock, t Timing) *Pacer {
	t.EnsureDefaults()
	p := &Pacer{clock: c, step: min(t.Beat/2, 100*time.Millisecond), done: make(chan struct{})}
	p.mu.all = make(map[ticking]struct{})
	p.now.Store(int64(c.Now()))
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go p.run(ctx)
	return p
}

func (p *Pacer) run(ctx context.Context) {
	defer close(p.done)
	ticker := p.clock.NewTicker(p.step)
	defer ticker.Stop()
	last := p.clock.Now()
	var all []ticking
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
		now := p.clock.Now()
		p.now.Store(int64(now))
		gap := now-last > 3*p.step
		last = now
		p.mu.Lock()
		all = all[:0]
		for c := range p.mu.all {
			all = append(all, c)
		}
		p.mu.Unlock()
		for _, c := range all {
			c.tick(now, gap)
		}
		clear(all)
	}
}

func (p *Pacer) add(c ticking) {
	p.mu.Lock()
	p.mu.all[c] = struct{}{}
	p.mu.Unlock()
}

func (p *Pacer) remove(c ticking) {
	p.mu.Lock()
	delete(p.mu.all, c)
	p.mu.Unlock()
}

// deadline is the time after d, never early; it may be late by two steps.
func (p *Pacer) deadline(d time.Duration) time.Duration {
	return time.Duration(p.now.Load()) + d + p.step
}

// Close ends the goroutine. The clients that use p are closed before.
func (p *Pacer) Close() {
	p.stop()
	<-p.done
}
