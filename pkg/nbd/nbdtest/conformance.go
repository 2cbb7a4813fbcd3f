package nbdtest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"ashlar.dev/pkg/nbd"
)

// Suite says what Conformance tests.
type Suite struct {
	// Open gives a disk of size bytes, a multiple of 4 MiB, that reads as zeros. It is closed by t.Cleanup.
	Open func(t *testing.T, size uint64) nbd.Device
	// Steps is how many random operations the model test does; zero stands for 400.
	Steps int
	// MayTear allows writes in flight that overlap to mix within one block of 4 KiB.
	MayTear bool
}

const (
	suiteSize = 4 << 20
	blockLen  = 4096
)

// Conformance runs the suite: what every nbd.Device owes to the server above it.
func Conformance(t *testing.T, s Suite) {
	if s.Steps == 0 {
		s.Steps = 400
	}
	for _, c := range []struct {
		name string
		test func(*testing.T, Suite)
	}{
		{"FreshDiskReadsZeros", testFresh},
		{"WriteReadsBackAndHarmsNoNeighbour", testWrite},
		{"ZeroesAndTrim", testZeroes},
		{"BlockStatusTellsTheTruth", testStatus},
		{"PayloadIsNotKeptBehindTheBack", testPayload},
		{"ManyInFlight", testInFlight},
		{"OverlapsDoNotTear", testOverlap},
		{"EqualsFlatBytes", testModel},
		{"FlushAndHintsComplete", testFlush},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, s) })
	}
}

// must does an operation that may not fail.
func must(t *testing.T, d nbd.Device, op nbd.Op, flags nbd.Flags, offset, length uint64, data []byte) []byte {
	t.Helper()
	out, err := Do(d, op, flags, offset, length, data)
	if err != nil {
		t.Fatalf("%v of %d bytes at %d: %v", op, length, offset, err)
	}
	return out
}

// same compares what a disk gave with what it should have.
func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Fatalf("%s: %d bytes, differing from byte %d: got %#x, want %#x", what, len(got), i, got[min(i, len(got)-1)], want[i])
		}
	}
	t.Fatalf("%s: %d bytes, want %d", what, len(got), len(want))
}

func pattern(seed byte, n int) []byte {
	b := make([]byte, n)
	const tile = 251 // no divisor of a block, so that blocks differ
	for i := range min(n, tile) {
		b[i] = seed + byte(i)*7
	}
	for done := tile; done < n; done *= 2 {
		copy(b[done:], b[:done])
	}
	return b
}

// Without this a new disk would show somebody else's bytes.
func testFresh(t *testing.T, s Suite) {
	d := s.Open(t, suiteSize)
	if d.Size() != suiteSize {
		t.Fatalf("size %d", d.Size())
	}
	same(t, "fresh disk", must(t, d, nbd.OpRead, 0, 0, suiteSize, nil), make([]byte, suiteSize))
	same(t, "its last byte", must(t, d, nbd.OpRead, 0, suiteSize-1, 1, nil), make([]byte, 1))
}

// Without this writes that do not keep to blocks would damage what lies beside them.
func testWrite(t *testing.T, s Suite) {
	d := s.Open(t, suiteSize)
	model := make([]byte, suiteSize)
	for i, c := range []struct{ offset, length int }{
		{0, 4096}, {4096, 8192}, {1, 1}, {4095, 2}, {511, 513}, {100, 4096}, {3, 20000}, {65536 - 7, 65536 + 14},
		{1 << 20, 1 << 20}, {suiteSize - 1, 1}, {suiteSize - 5000, 5000}, {12288, 100}, {12388, 100}, {0, 4096},
	} {
		data := pattern(byte(i+1), c.length)
		flags := nbd.Flags(0)
		if i%3 == 0 {
			flags = nbd.FlagFUA
		}
		must(t, d, nbd.OpWrite, flags, uint64(c.offset), uint64(c.length), data)
		copy(model[c.offset:], data)
		from, to := max(0, c.offset-9000), min(suiteSize, c.offset+c.length+9000)
		same(t, fmt.Sprintf("after write %d", i), must(t, d, nbd.OpRead, 0, uint64(from), uint64(to-from), nil), model[from:to])
	}
	same(t, "whole disk", must(t, d, nbd.OpRead, 0, 0, suiteSize, nil), model)
}

// Without this zeroing would leave old bytes or reach too far, and a discard would damage its neighbours.
func testZeroes(t *testing.T, s Suite) {
	d := s.Open(t, suiteSize)
	model := pattern(9, suiteSize)
	must(t, d, nbd.OpWrite, 0, 0, suiteSize, model)
	for i, c := range []struct {
		offset, length int
		flags          nbd.Flags
	}{
		{0, 4096, 0}, {8192, 1 << 20, nbd.FlagNoHole}, {5000, 3, 0}, {2<<20 + 1, 300000, nbd.FlagFUA},
		{3 << 20, 65536, nbd.FlagFastZero}, {suiteSize - 4097, 4097, 0},
	} {
		_, err := Do(d, nbd.OpWriteZeroes, c.flags, uint64(c.offset), uint64(c.length), nil)
		if errors.Is(err, nbd.ErrNotSupported) && c.flags&nbd.FlagFastZero != 0 {
			continue // allowed to say so, but then nothing may have changed
		}
		if err != nil {
			t.Fatalf("zeroes %d: %v", i, err)
		}
		clear(model[c.offset : c.offset+c.length])
	}
	same(t, "after zeroes", must(t, d, nbd.OpRead, 0, 0, suiteSize, nil), model)
	const from, to = 1<<20 + 17, 2<<20 - 3
	must(t, d, nbd.OpTrim, nbd.FlagFUA, from, to-from, nil)
	after := must(t, d, nbd.OpRead, 0, 0, suiteSize, nil)
	copy(model[from:to], after[from:to]) // what is trimmed may read as anything
	same(t, "outside the trim", after, model)
	data := pattern(77, 4096)
	must(t, d, nbd.OpWrite, 0, 1<<20+4096, 4096, data)
	same(t, "written after trim", must(t, d, nbd.OpRead, 0, 1<<20+4096, 4096, nil), data)
}

// Without this a copy that skips holes would lose data.
func testStatus(t *testing.T, s Suite) {
	d := s.Open(t, suiteSize)
	model := make([]byte, suiteSize)
	for _, at := range []int{0, 128 << 10, 1 << 20, suiteSize - 4096} {
		data := pattern(byte(at>>12)|1, 4096)
		must(t, d, nbd.OpWrite, 0, uint64(at), 4096, data)
		copy(model[at:], data)
	}
	for _, from := range []uint64{0, 1, 4096, 100000, 1<<20 + 512, suiteSize - 1} {
		for at := from; at < suiteSize; {
			extents, err := Status(d, 0, at, suiteSize-at)
			if err != nil {
				t.Fatalf("status at %d: %v", at, err)
			}
			if len(extents) == 0 {
				break // says: all data
			}
			for _, e := range extents {
				end := min(at+e.Length, suiteSize)
				if e.Length == 0 {
					t.Fatalf("empty extent at %d", at)
				}
				if e.State&nbd.StateZero != 0 && !bytes.Equal(model[at:end], make([]byte, end-at)) {
					t.Fatalf("[%d,%d) is said to be zero and is not", at, end)
				}
				at = end
			}
		}
	}
	extents, err := Status(d, nbd.FlagReqOne, 0, suiteSize)
	if err != nil || len(extents) > 1 {
		t.Fatalf("status of one extent: %v, %v", extents, err)
	}
}

// Without this a device that keeps the slice of a payload would serve the bytes of a later request.
func testPayload(t *testing.T, s Suite) {
	d := s.Open(t, suiteSize)
	for round := range 4 {
		for i := range 64 {
			must2(t, d, uint64(i)*blockLen, byte(round*64+i))
		}
	}
	for i := range 64 {
		want := bytes.Repeat([]byte{byte(3*64 + i)}, blockLen)
		same(t, fmt.Sprintf("block %d", i), must(t, d, nbd.OpRead, 0, uint64(i)*blockLen, blockLen, nil), want)
	}
}

// must2 writes one block from a pooled buffer, which is scribbled over as soon as the device said it is done.
func must2(t *testing.T, d nbd.Device, offset uint64, value byte) {
	t.Helper()
	done := make(chan error, 1)
	r := nbd.NewRequest(nbd.OpWrite, 0, offset, blockLen, nil, nbd.CompleterFunc(func(_ *nbd.Request, err error) { done <- err }))
	fill(r.Data, value)
	d.Submit(r)
	if err := <-done; err != nil {
		t.Fatalf("write at %d: %v", offset, err)
	}
	r.Recycle()
	scratch := nbd.NewRequest(nbd.OpRead, 0, 0, blockLen, nil, nil) // often the very buffer
	fill(scratch.Data, 0xEE)
	scratch.Recycle()
}

// Without this completions would be lost, doubled or swapped when many are under way.
func testInFlight(t *testing.T, s Suite) {
	d := s.Open(t, suiteSize)
	const blocks = suiteSize / blockLen
	var group sync.WaitGroup
	for i := range blocks {
		group.Add(1)
		data := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, blockLen/2)
		d.Submit(nbd.NewRequest(nbd.OpWrite, 0, uint64(i)*blockLen, blockLen, data, nbd.CompleterFunc(func(r *nbd.Request, err error) {
			defer group.Done()
			if err != nil {
				t.Errorf("write: %v", err)
			}
			r.Recycle()
		})))
	}
	group.Wait()
	for i := range blocks {
		group.Add(1)
		want := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, blockLen/2)
		d.Submit(nbd.NewRequest(nbd.OpRead, 0, uint64(i)*blockLen, blockLen, nil, nbd.CompleterFunc(func(r *nbd.Request, err error) {
			defer group.Done()
			r.FillHoles()
			if err != nil || !bytes.Equal(r.Data, want) {
				t.Errorf("block %d holds another block's bytes (%v)", i, err)
			}
			r.Recycle()
		})))
	}
	group.Wait()
}

// Without this a block could hold half of one write and half of another.
func testOverlap(t *testing.T, s Suite) {
	if s.MayTear {
		t.Skip("this device promises nothing about writes that overlap in flight")
	}
	d := s.Open(t, suiteSize)
	var group sync.WaitGroup
	for round := range 32 {
		for w := range 4 {
			group.Add(1)
			data := bytes.Repeat([]byte{byte(round*4 + w)}, 2*blockLen)
			d.Submit(nbd.NewRequest(nbd.OpWrite, 0, uint64(w%2)*blockLen, 2*blockLen, data, nbd.CompleterFunc(func(r *nbd.Request, err error) {
				if err != nil {
					t.Errorf("write: %v", err)
				}
				r.Recycle()
				group.Done()
			})))
		}
		group.Wait()
		got := must(t, d, nbd.OpRead, 0, 0, 3*blockLen, nil)
		for b := range 3 {
			block := got[b*blockLen : (b+1)*blockLen]
			if !bytes.Equal(block, bytes.Repeat(block[:1], blockLen)) || int(block[0]) < round*4 {
				t.Fatalf("round %d: block %d is torn or old", round, b)
			}
		}
	}
}

// Without this some sequence of operations would leave other bytes than the same on an array.
func testModel(t *testing.T, s Suite) {
	rng := rand.New(rand.NewPCG(Seed(t), 1))
	d := s.Open(t, suiteSize)
	model := make([]byte, suiteSize)
	for step := range s.Steps {
		offset, length := span(rng)
		at, n := uint64(offset), uint64(length)
		switch k := rng.IntN(10); {
		case k < 4:
			data := pattern(byte(rng.Uint32()), length)
			must(t, d, nbd.OpWrite, nbd.Flags(rng.IntN(2)), at, n, data)
			copy(model[offset:], data)
		case k < 6:
			flags := []nbd.Flags{0, nbd.FlagNoHole, nbd.FlagFUA}[rng.IntN(3)]
			must(t, d, nbd.OpWriteZeroes, flags, at, n, nil)
			clear(model[offset : offset+length])
		case k == 6:
			must(t, d, nbd.OpTrim, 0, at, n, nil)
			copy(model[offset:offset+length], must(t, d, nbd.OpRead, 0, at, n, nil))
		case k == 7:
			must(t, d, nbd.OpFlush, 0, 0, 0, nil)
		default:
			same(t, fmt.Sprintf("step %d: read of %d at %d", step, length, offset), must(t, d, nbd.OpRead, 0, at, n, nil), model[offset:offset+length])
		}
	}
	same(t, "at the end", must(t, d, nbd.OpRead, 0, 0, suiteSize, nil), model)
}

// span picks a range: mostly small, often on block bounds, crowded so that ranges overlap.
func span(rng *rand.Rand) (offset, length int) {
	length = 1 + rng.IntN(3*blockLen)
	if rng.IntN(8) == 0 {
		length = 1 + rng.IntN(300<<10)
	}
	limit := suiteSize
	if rng.IntN(2) == 0 {
		limit = 512 << 10
	}
	offset = rng.IntN(limit - length)
	if rng.IntN(2) == 0 {
		offset &^= blockLen - 1
		length = (length + blockLen - 1) &^ (blockLen - 1)
	}
	return offset, min(length, suiteSize-offset)
}

// Without this a client that flushes or hints would hang.
func testFlush(t *testing.T, s Suite) {
	d := s.Open(t, suiteSize)
	must(t, d, nbd.OpFlush, 0, 0, 0, nil)
	must(t, d, nbd.OpWrite, 0, 0, 3, []byte("abc"))
	must(t, d, nbd.OpFlush, 0, 0, 0, nil)
	must(t, d, nbd.OpCache, 0, 0, suiteSize, nil)
	same(t, "after flush", must(t, d, nbd.OpRead, 0, 0, 3, nil), []byte("abc"))
}
