package reader_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"ashlar.dev/blockd/packer"
	"ashlar.dev/blockd/reader"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// rewrite puts a second generation of the bench's segment, of the slots that keep says.
func (b *bench) rewrite(keep func(slot int) bool) {
	b.t.Helper()
	b.where.Generation = id.Generation{Epoch: 2, N: 7}
	b.where.Kept = 0
	j := &packer.Job{
		Volume: id.Volume{1}, Epoch: 2, Segment: b.at.Segment(), Generation: b.where.Generation, PGVersion: 1, K: 4, M: 2,
		Slots: make([]uint64, slots),
	}
	for i := range slots {
		if keep(i) {
			d := b.data[i*block4k:][:block4k]
			j.Slots[i] = uint64(segment.MakeData(100))
			j.Blocks = append(j.Blocks, packer.Block{Entry: j.Slots[i], Sum: codec.CRC(d), Data: d})
			b.where.Kept++
		}
	}
	p := packer.New(context.Background(), packer.Config{Stores: b, Topology: func() *cluster.Topology { return b.topo }})
	done := make(chan packer.Result, 1)
	j.Done = func(_ *packer.Job, r packer.Result) { done <- r }
	p.Submit(j)
	if r := <-done; r.Err != nil {
		b.t.Fatal(r.Err)
	}
	if err := p.Close(); err != nil {
		b.t.Fatal(err)
	}
}

// A generation that has dropped slots is read by the numbers that its slots always had,
// in one piece or many, whole or with two shards gone; what it has dropped is not found.
func TestKeptSlotsAreReadByTheirNumbers(t *testing.T) {
	b := newBench(t)
	rng := rand.New(rand.NewPCG(3, 3))
	var kept [slots]bool
	for i := range kept {
		kept[i] = rng.IntN(3) > 0 || i >= 40 && i < 90
	}
	b.rewrite(func(i int) bool { return kept[i] })
	look := func() {
		t.Helper()
		for first := range slots {
			n := 1
			for first+n < slots && kept[first] && kept[first+n] && n < 1+first%70 {
				n++
			}
			got, err := b.read(first, n)
			switch {
			case !kept[first] && !errors.Is(err, errs.ErrNotFound):
				t.Fatalf("slot %d was dropped: %v", first, err)
			case kept[first] && err != nil:
				t.Fatalf("slots %d+%d: %v", first, n, err)
			case kept[first] && !bytes.Equal(got, b.data[first*block4k:(first+n)*block4k]):
				t.Fatalf("slots %d+%d are others", first, n)
			}
		}
	}
	look()
	for _, dead := range []int{0, 5} {
		b.stores[dead].Crash(1)
		b.reader = reader.New(reader.Config{Stores: b, Topology: func() *cluster.Topology { return b.topo }, Clock: clock.NewManual()})
		look()
	}
}

// The first generation is there beside the second until it is deleted, and then gone: whoever
// asks for it is told to look where its blocks are now.
func TestOlderGenerationIsReadUntilItIsDeleted(t *testing.T) {
	b := newBench(t)
	old := b.where
	b.rewrite(func(i int) bool { return i%3 == 0 })
	b.where = old
	b.good()
	for _, s := range b.stores {
		err := s.DeleteShards(context.Background(), storeproto.DeleteShards{
			Volume: id.Volume{1}, Epoch: 2, Segments: []storeproto.SegmentGeneration{{Segment: b.at.Segment(), Generation: id.Generation{Epoch: 2, N: 6}}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.read(3, 1); !errors.Is(err, errs.ErrNotFound) {
		t.Fatalf("the deleted generation: %v", err)
	}
	b.where = reader.Where{Generation: id.Generation{Epoch: 2, N: 7}, PGVersion: 1, K: 4, M: 2, Slots: slots, Kept: slots / 3}
	if got, err := b.read(3, 1); err != nil || !bytes.Equal(got, b.data[3*block4k:4*block4k]) {
		t.Fatalf("the one that is kept: %v", err)
	}
}

// Headers that do not say what the table says are not believed: a wrong rank reads another block.
func TestHeadersMustAgreeWithTheTable(t *testing.T) {
	b := newBench(t)
	b.rewrite(func(i int) bool { return i%2 == 0 })
	b.where.Kept--
	if _, err := b.read(0, 1); !errors.Is(err, errs.ErrCorrupt) {
		t.Fatalf("one slot less than the headers say: %v", err)
	}
	for n := range 6 { // of a first generation any shard of parity tells, or all of data
		plain := reader.Where{Generation: id.Generation{Epoch: 1, N: 1}, PGVersion: 1, K: 4, M: 2, Slots: slots}
		if n > 3 {
			b.stores[n].Crash(1)
		}
		entries, err := b.reader.Entries(context.Background(), b.at.Segment(), plain)
		if err != nil || len(entries) != slots || segment.MakeKept(entries).Count() != slots {
			t.Fatalf("entries of the first generation: %d, %v", len(entries), err)
		}
	}
	b.stores[0].Crash(1)
	if _, err := b.reader.Entries(context.Background(), b.at.Segment(), reader.Where{Generation: id.Generation{Epoch: 1, N: 1}, PGVersion: 1, K: 4, M: 2, Slots: slots}); !errors.Is(err, errs.ErrUnavailable) {
		t.Fatalf("with one data shard and all parity away: %v", err)
	}
}
