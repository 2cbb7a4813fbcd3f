//go:build !race

package nbd

import (
	"runtime"
	"testing"

	"ashlar.dev/pkg/buf"
)

// Without this garbage would creep into the path of every request. (The race detector empties
// pools at random, so it is left out.)
func TestRequestsDoNotAllocate(t *testing.T) {
	for _, o := range []ClientOptions{{}, {NoExtended: true}, {NoStructured: true}} {
		_, p := serve(t, Config{Exports: single{quiet{}}}, Endpoint{})
		c, err := open(t, p.conn, o)
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 4096)
		round := func() {
			if _, err := c.WriteAt(data, 4096); err != nil {
				t.Fatal(err)
			}
			if _, err := c.ReadAt(data, 8192); err != nil {
				t.Fatal(err)
			}
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		for range 200 {
			round()
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const rounds = 500
		for range rounds {
			round()
		}
		runtime.ReadMemStats(&after)
		if each := float64(after.Mallocs-before.Mallocs) / (3 * rounds); each > 0.1 {
			t.Errorf("%s: %.2f allocations for each request, client and server together", c.Headers(), each)
		}
		c.Hangup()
		<-p.over
	}
	if u := buf.Outstanding(); u.Buffers != 0 {
		t.Errorf("buffers left over: %+v", u)
	}
}

// quiet is a disk that does nothing, without allocating.
type quiet struct{}

func (quiet) Submit(r *Request) { r.Complete(nil) }
func (quiet) Size() uint64      { return 1 << 20 }
func (quiet) Info() Info        { return Info{} }
