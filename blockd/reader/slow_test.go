package reader_test

import (
	"bytes"
	"sync/atomic"
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/storeproto"
)

// slow makes metad find one store slow.
func (b *bench) slow(i int) {
	t := *b.topo
	t.Stores = append([]cluster.Store(nil), t.Stores...)
	t.Stores[i].Slow = true
	b.topo = t.Index()
}

// Without this every read of a block on a slow store would wait for it, or for the hedge; and
// without the few that still go there it could never show that it is quick again.
func TestReadsPassASlowStore(t *testing.T) {
	b := newBench(t)
	b.slow(0)
	var asked atomic.Int32
	b.stores[0].lie = func(*storeproto.ReadShard) { asked.Add(1) }
	const n = 320
	for range n {
		got, err := b.read(3, 1) // slots 0 to 15 lie in shard 0
		if err != nil || !bytes.Equal(got, b.data[3*block4k:4*block4k]) {
			t.Fatalf("read around a slow store: %v", err)
		}
	}
	if a := asked.Load(); a < 1 || a > n/16 {
		t.Errorf("the slow store was asked for %d of %d reads", a, n)
	}
}

// Slow is not gone: where the others cannot rebuild a block, the slow store has the last word.
func TestSlowStoreIsAskedWhenOthersCannot(t *testing.T) {
	b := newBench(t)
	b.slow(0)
	for _, s := range b.stores[1:3] {
		s.lie = func(r *storeproto.ReadShard) { r.Err = errs.ErrCorrupt }
	}
	for range 40 {
		got, err := b.read(3, 1)
		if err != nil || !bytes.Equal(got, b.data[3*block4k:4*block4k]) {
			t.Fatalf("read with two wrong shards and a slow store: %v", err)
		}
	}
}
