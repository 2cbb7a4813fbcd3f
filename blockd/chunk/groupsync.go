package chunk

import "sync"

// groupSync shares syncs of one file among those who wrote to it: who asks while one is
// under way waits for the next, together with all who ask meanwhile. A sync covers what
// was written before it began and nothing else. After a failed one nothing is known
// of the file, and everybody gets the error.
type groupSync struct {
	mu struct {
		sync.Mutex
		begun, ended uint64 // how many have
		running      bool
		err          error
	}
	wake *sync.Cond
}

func newGroupSync() *groupSync {
	g := &groupSync{}
	g.wake = sync.NewCond(&g.mu)
	return g
}

// do returns when a call of f that began after do has ended. f is never called twice at once.
func (g *groupSync) do(f func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for want := g.mu.begun + 1; g.mu.ended < want && g.mu.err == nil; {
		if g.mu.running {
			g.wake.Wait()
			continue
		}
		g.mu.running = true
		g.mu.begun++
		g.mu.Unlock()
		err := f()
		g.mu.Lock()
		g.mu.running, g.mu.ended = false, g.mu.begun
		if err != nil {
			g.mu.err = err
		}
		g.wake.Broadcast()
	}
	return g.mu.err
}
