package rpc

import (
	"testing"

	"ashlar.dev/pkg/testkit/rpctest"
)

// What connections keep is counted, stays below what status shows as their limit while longer
// messages pass than that, and is given back when they end.
func TestConnectionsKeepNoMoreThanTheirLimit(t *testing.T) {
	each(t, func(t *testing.T, tr rpctest.Transport) {
		p := connect(t, tr, setup{class: ClassBulk})
		var all []*waiter
		long := random(1<<20, 1)
		for range 3 {
			w := newWaiter(opEcho, "x", long)
			all = append(all, w)
			p.client.Start(&w.Call)
		}
		for _, w := range all {
			if err := w.wait(); err != nil {
				t.Fatal(err)
			}
			if bytes, conns := p.stats.Buffers(); conns != 1 || bytes == 0 || bytes > ConnBytesMax {
				t.Fatalf("%d connections keep %d bytes, at most %d", conns, bytes, ConnBytesMax)
			}
		}
		if err := p.client.Close(); err != nil {
			t.Fatal(err)
		}
		if bytes, conns := p.stats.Buffers(); bytes != 0 || conns != 0 {
			t.Fatalf("%d bytes of %d connections are left after all have ended", bytes, conns)
		}
	})
}
