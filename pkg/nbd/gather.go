package nbd

import (
	"sync"
	"sync/atomic"
)

// Gather is a cork over all connections of the servers that have it in their Config: for who
// completes requests one by one without knowing of each other, as when the answers of
// another machine arrive together. A reply that meets a Cork waits for the next Uncork,
// whoever calls it, and leaves with the others of its connection. Neither method waits.
// The zero value is ready. Safe for concurrent use.
//
// Lock order: outbox.mu, then mu.
type Gather struct {
	corks atomic.Int32 // changed under mu
	mu    struct {
		sync.Mutex
		held  []*outbox // each corked once for this
		spare []*outbox // memory for held
	}
}

// Cork holds replies back.
func (g *Gather) Cork() {
	g.mu.Lock()
	g.corks.Add(1)
	g.mu.Unlock()
}

// Uncork ends a Cork and sends what was held back.
func (g *Gather) Uncork() {
	g.mu.Lock()
	g.corks.Add(-1)
	held := g.mu.held
	g.mu.held, g.mu.spare = g.mu.spare[:0], nil
	g.mu.Unlock()
	for i, o := range held {
		held[i] = nil
		o.uncork(false)
	}
	g.mu.Lock()
	g.mu.spare = held[:0]
	g.mu.Unlock()
}

// hold tells whether o, whose mutex is held, waits for an Uncork from now on.
func (g *Gather) hold(o *outbox) bool {
	if g == nil || g.corks.Load() == 0 {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.corks.Load() == 0 {
		return false
	}
	g.mu.held = append(g.mu.held, o)
	return true
}
