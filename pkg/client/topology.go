package client

import (
	"context"
	"sync"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
)

// topologies keeps the newest topology and tells those who asked.
//
// Lock order: deliver, then mu. Callbacks run under deliver alone, so each sees
// versions rise and none runs twice at once.
type topologies struct {
	deliver sync.Mutex
	mu      struct {
		sync.Mutex
		newest    *cluster.Topology
		listeners map[int]*listener
		next      int
		// The running stream: to whom, and how to end it.
		from string
		end  context.CancelFunc
	}
}

type listener struct {
	f    func(*cluster.Topology)
	seen uint64 // under deliver
}

func (t *topologies) present() *cluster.Topology {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.newest
}

// offer takes x if it is newer than what we have.
func (t *topologies) offer(x *cluster.Topology) {
	t.mu.Lock()
	older := t.mu.newest != nil && x.Version <= t.mu.newest.Version
	if !older {
		t.mu.newest = x
	}
	t.mu.Unlock()
	if !older {
		t.tell()
	}
}

func (t *topologies) tell() {
	t.deliver.Lock()
	defer t.deliver.Unlock()
	t.mu.Lock()
	newest := t.mu.newest
	all := make([]*listener, 0, len(t.mu.listeners))
	for i := range t.mu.next {
		if l := t.mu.listeners[i]; l != nil {
			all = append(all, l)
		}
	}
	t.mu.Unlock()
	for _, l := range all {
		if newest != nil && l.seen < newest.Version {
			l.seen = newest.Version
			l.f(newest)
		}
	}
}

func (t *topologies) listen(f func(*cluster.Topology)) (stop func()) {
	t.mu.Lock()
	if t.mu.listeners == nil {
		t.mu.listeners = make(map[int]*listener)
	}
	n := t.mu.next
	t.mu.next++
	t.mu.listeners[n] = &listener{f: f}
	t.mu.Unlock()
	t.tell()
	return func() {
		t.mu.Lock()
		delete(t.mu.listeners, n)
		t.mu.Unlock()
	}
}

// movedTo hears who answered a heartbeat as the leader. A stream from another member is
// a leftover, of one that was cut off without a word perhaps, and is ended.
func (t *topologies) movedTo(address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.end != nil && t.mu.from != address {
		t.mu.end()
	}
}

func (t *topologies) streaming(from string, end context.CancelFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.from, t.mu.end = from, end
}

// watch follows the leader's topology until ctx ends.
func (b *Blockd) watch(ctx context.Context) error {
	for ctx.Err() == nil {
		// The stream ends with the leader's rule or its life; either way find the next one.
		err := b.p.call(ctx, retryUnknown, func(ctx context.Context, t *target) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			b.top.streaming(t.address, cancel)
			stream, err := t.blockd.WatchTopology(ctx, &api.WatchTopologyRequest{})
			if err != nil {
				return err
			}
			for {
				x, err := stream.Recv()
				if err != nil {
					return err
				}
				top, err := x.Value()
				if err != nil {
					return err
				}
				b.top.offer(top)
			}
		})
		if ctx.Err() == nil {
			b.p.o.Log.Debug("topology stream ended", "err", err)
			if b.p.o.Clock.Sleep(ctx, backoffMin) != nil {
				break
			}
		}
	}
	return nil
}
