package volume_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
)

// seed is logged and can be given again as SEED.
func seed(t *testing.T) *rand.Rand {
	n := rand.Uint64()
	if s := os.Getenv("SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		n = v
	}
	t.Logf("SEED=%d", n)
	return rand.New(rand.NewPCG(n, 1))
}

// flat is the model: a disk as one slice.
type flat struct {
	t    *testing.T
	rng  *rand.Rand
	data []byte
}

// step does one random operation on the volume and on the model.
func (f *flat) step(v *volume.Volume) {
	f.t.Helper()
	size := uint64(len(f.data))
	off := f.rng.Uint64N(size)
	n := min(1+f.rng.Uint64N(200<<10), size-off)
	switch f.rng.IntN(3) {
	case 0:
		off = off &^ 4095
		n = min((n+4095)&^4095, size-off)
	case 1:
		n = min(n, 1+f.rng.Uint64N(9000))
	}
	switch f.rng.IntN(10) {
	case 0:
		r, err := do(v, nbd.OpWriteZeroes, off, n, nil)
		r.Recycle()
		if err != nil {
			f.t.Fatalf("zero: %v", err)
		}
		clear(f.data[off : off+n])
	case 1:
		r, err := do(v, nbd.OpTrim, off, n, nil)
		r.Recycle()
		if err != nil {
			f.t.Fatalf("trim: %v", err)
		}
		from, to := (off+4095)&^4095, (off+n)&^4095
		if from < to {
			clear(f.data[from:to])
		}
	case 2, 3, 4:
		f.check(v, off, n)
	default:
		b := f.bytes(n)
		if err := write(v, off, b); err != nil {
			f.t.Fatalf("write: %v", err)
		}
		copy(f.data[off:], b)
	}
}

// bytes gives n pseudorandom bytes.
func (f *flat) bytes(n uint64) []byte {
	b := make([]byte, (n+7)&^7)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], f.rng.Uint64())
	}
	return b[:n]
}

func (f *flat) check(v *volume.Volume, off, n uint64) {
	f.t.Helper()
	got, err := readBack(v, off, int(n))
	if err != nil {
		f.t.Fatalf("read %d at %d: %v", n, off, err)
	}
	if !bytes.Equal(got, f.data[off:off+n]) {
		for i := range got {
			if got[i] != f.data[off+uint64(i)] {
				f.t.Fatalf("read %d at %d: byte %d (block %d) is %#x, want %#x", n, off, i, (off+uint64(i))/4096, got[i], f.data[off+uint64(i)])
			}
		}
	}
}

func (f *flat) all(v *volume.Volume) {
	f.t.Helper()
	for off := 0; off < len(f.data); off += 1 << 20 {
		f.check(v, uint64(off), uint64(min(1<<20, len(f.data)-off)))
	}
}

// Without this the volume could differ from a disk: packing, commits, checkpoints, the map's
// cache, long writes, trims, and every way of opening again are all met here.
func TestVolumeIsLikeFlatBytes(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	v := id.Volume{1}
	const size = 12 << 20
	r.metad.Create(v, size)
	f := &flat{t: t, rng: seed(t), data: make([]byte, size)}
	e := r.engine("b1")
	vol := e.mustOpen(v)
	for round := range 6 {
		for range 80 {
			f.step(vol)
		}
		f.all(vol)
		switch f.rng.IntN(3) {
		case 0: // in peace
			ctx, cancel := timeout(10 * time.Second)
			if err := vol.Close(ctx); err != nil {
				t.Fatalf("close: %v", err)
			}
			cancel()
		case 1: // the process dies
			vol.Abandon()
			e.Kill()
			e = r.engine("b1")
		case 2: // another host takes over while this one still believes
			e = r.engine("b2")
		}
		vol = e.mustOpen(v)
		f.all(vol)
		t.Logf("round %d: %+v", round, vol.Stats())
	}
}
