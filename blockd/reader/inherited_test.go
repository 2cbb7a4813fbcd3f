package reader_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"ashlar.dev/blockd/reader"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// deleteUpto deletes generations of the bench's segment on some stores.
func (b *bench) deleteUpto(upto id.Generation, stores ...int) {
	b.t.Helper()
	for _, i := range stores {
		if err := b.stores[i].DeleteShards(context.Background(), storeproto.DeleteShards{
			Volume: id.Volume{1}, Epoch: 2, Segments: []storeproto.SegmentGeneration{{Segment: b.at.Segment(), Generation: upto}},
		}); err != nil {
			b.t.Fatal(err)
		}
	}
}

// A clone does not know how its ancestors' segments are kept, and their owner rewrites them:
// the reader finds out by the headers, and again when what it found is gone.
func TestInheritedSegmentIsFoundByItsHeaders(t *testing.T) {
	b := newBench(t)
	b.where = reader.Where{}
	look := func(what string, step int) {
		t.Helper()
		for first := 0; first < slots; first += step {
			if got, err := b.read(first, 1); err != nil || !bytes.Equal(got, b.data[first*block4k:(first+1)*block4k]) {
				t.Fatalf("%s: slot %d: %v", what, first, err)
			}
		}
	}
	look("first generation", 1)
	b.rewrite(func(i int) bool { return i%3 == 0 })
	b.where = reader.Where{}
	look("both generations", 3)
	b.deleteUpto(id.Generation{Epoch: 2, N: 6}, 0, 1, 2, 3, 4, 5)
	look("second generation", 3)
	if _, err := b.read(1, 1); !errors.Is(err, errs.ErrNotFound) {
		t.Fatalf("a slot that was dropped: %v", err)
	}
	b.stores[0].Crash(1)
	b.stores[5].Crash(1)
	b.reader = b.newReader()
	look("two stores away", 3)
	b.stores[1].Crash(1)
	b.reader = b.newReader()
	if _, err := b.read(3, 1); !errors.Is(err, errs.ErrUnavailable) {
		t.Fatalf("three stores away: %v", err)
	}
	for _, i := range []int{0, 1, 5} {
		b.stores[i].Restart()
	}
	look("all are back", 3)
	b.deleteUpto(id.Generation{Epoch: 2, N: 99}, 0, 1, 2, 3, 4, 5)
	if _, err := b.read(3, 1); !errors.Is(err, errs.ErrNotFound) {
		t.Fatalf("a segment that is gone: %v", err)
	}
}

// newReader is one that remembers nothing.
func (b *bench) newReader() *reader.Reader {
	return reader.New(reader.Config{Stores: b, Topology: func() *cluster.Topology { return b.topo }, Clock: b.clock})
}
