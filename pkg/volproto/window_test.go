package volproto

import (
	"errors"
	"testing"

	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/testkit/rpctest"
)

func (h *holding) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.held)
}

// beginMany submits writes of some bytes, each of its own number.
func beginMany(d nbd.Device, n, bytes int) chan error {
	done := make(chan error, n)
	for i := range n {
		data := make([]byte, bytes)
		data[0] = byte(i)
		d.Submit(nbd.NewRequest(nbd.OpWrite, 0, 0, uint64(bytes), data, nbd.CompleterFunc(func(r *nbd.Request, err error) {
			done <- err
			r.Recycle()
		})))
	}
	return done
}

// Without this a disk at its limits, which holds its requests back at the owner, would
// take the connection and the owner's memory from all other disks behind the same proxy.
func TestHeldRequestsLeaveTheConnectionToOthers(t *testing.T) {
	for name, c := range map[string]struct{ n, bytes, atOnce int }{
		"many":  {2*windowRequests + 5, 4096, windowRequests},
		"large": {21, 1 << 20, windowBytes >> 20},
	} {
		t.Run(name, func(t *testing.T) {
			d := newHolding()
			s := serve(t, rpctest.Transports[0], newHost(d))
			p := s.peer("b2")
			r, other := attach(t, p, 1), attach(t, p, 1)
			done := beginMany(r, c.n-1, c.bytes)
			last := beginMany(other, 1, c.bytes) // another connection of the client: the same window
			for left := c.n; left > 0; {
				now := min(c.atOnce, left)
				d.await(now)
				if err := other.Refresh(t.Context()); err != nil { // what was sent before has arrived
					t.Fatal(err)
				}
				if n := d.count(); n > c.atOnce {
					t.Fatalf("%d requests at the owner at once, want %d", n, c.atOnce)
				}
				left -= d.count()
				d.release()
			}
			for range c.n - 1 {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			if err := <-last; err != nil {
				t.Fatal(err)
			}
			for _, r := range []*Remote{r, other} {
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
			if len(p.windows) > 0 {
				t.Errorf("%d windows of volumes that nobody has", len(p.windows))
			}
		})
	}
}

// What waits for the window when the connection breaks ends like what was sent, and is
// sent to nobody when the connection is back.
func TestWaitingRequestsEndWithTheConnection(t *testing.T) {
	d := newHolding()
	h := newHost(d)
	s := serve(t, rpctest.Transports[0], h)
	r := attach(t, s.peer("b2"), 1)
	done := beginMany(r, windowRequests+100, 4096)
	d.await(windowRequests)
	s.link.Cut()
	for range windowRequests + 100 {
		if err := <-done; !errors.Is(err, nbd.ErrHangup) {
			t.Fatal(err)
		}
	}
	if n := d.count(); n != windowRequests {
		t.Errorf("%d requests came", n)
	}
	d.release()
	h.awaitClosed(1)
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
