// Package lifecycle ends things in order. A Group owns goroutines and waits for
// them, a Stack closes what a daemon opened in reverse order, SignalContext turns
// SIGINT and SIGTERM into the end of a context, and the Notify functions speak to
// systemd. It starts nothing by itself and knows no daemon.
//
// All of the package is safe for concurrent use.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Group owns goroutines: none outlives Close. The first that returns an error
// cancels the others. The zero value is not usable; call NewGroup.
type Group struct {
	// The context is a field because it is the Group's own: it ends when the Group does.
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu struct {
		sync.Mutex
		running map[string]int
		err     error
		idle    chan struct{} // closed while nothing runs
		n       int
	}
}

// errGroupClosed is why the context of a closed Group ended.
var errGroupClosed = fmt.Errorf("group closed: %w", context.Canceled)

// NewGroup makes a Group whose context ends with ctx, with the first error, or at Close.
func NewGroup(ctx context.Context) *Group {
	g := &Group{}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	g.mu.running = make(map[string]int)
	g.mu.idle = make(chan struct{})
	close(g.mu.idle)
	return g
}

// Context ends when the Group is cancelled. Every f gets it too.
func (g *Group) Context() context.Context { return g.ctx }

// Go runs f on a goroutine of the Group. The name says in Running and in errors who it
// is. Once the Group is cancelled nothing is started and Go returns false; the caller
// then keeps what it meant to hand over. An error of f, unless it is the echo of the
// cancellation, is kept if it is the first and cancels the Group.
func (g *Group) Go(name string, f func(context.Context) error) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx.Err() != nil {
		return false
	}
	if g.mu.n == 0 {
		g.mu.idle = make(chan struct{})
	}
	g.mu.n++
	g.mu.running[name]++
	go g.run(name, f)
	return true
}

func (g *Group) run(name string, f func(context.Context) error) {
	err := f(g.ctx)
	echo := g.ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))

	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil && !echo {
		err = fmt.Errorf("%s: %w", name, err)
		if g.mu.err == nil {
			g.mu.err = err
		}
		g.cancel(err)
	}
	if g.mu.running[name]--; g.mu.running[name] == 0 {
		delete(g.mu.running, name)
	}
	if g.mu.n--; g.mu.n == 0 {
		close(g.mu.idle)
	}
}

// Cancel ends the Group's context and does not wait.
func (g *Group) Cancel() { g.cancel(errGroupClosed) }

// Wait returns when nothing of the Group runs, with the first error.
func (g *Group) Wait() error {
	for {
		g.mu.Lock()
		idle, n, err := g.mu.idle, g.mu.n, g.mu.err
		g.mu.Unlock()
		if n == 0 {
			return err
		}
		<-idle
	}
}

// Close cancels and waits. It may be called again and from several goroutines, but
// not from one of the Group's own. It returns the first error.
func (g *Group) Close() error {
	g.Cancel()
	return g.Wait()
}

// Running tells how many goroutines of each name have not ended; for status pages
// and for the message of a shutdown that takes too long.
func (g *Group) Running() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[string]int, len(g.mu.running))
	for name, n := range g.mu.running {
		out[name] = n
	}
	return out
}
