package history

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
)

// flat is a disk as it is to be: its bytes, and which of its blocks were written since they were last zeroed or trimmed.
type flat struct {
	data    []byte
	written []bool
}

func newFlat(bytes int) *flat { return &flat{make([]byte, bytes), make([]bool, bytes/block.Size)} }

func (f *flat) clone() *flat { return &flat{bytes.Clone(f.data), slices.Clone(f.written)} }

func (f *flat) grow(n int) {
	f.data = append(f.data, make([]byte, n)...)
	f.written = append(f.written, make([]bool, n/block.Size)...)
}

// snap is a snapshot and what it is.
type snap struct {
	id     id.Snapshot
	of     *disk
	is     *flat
	parent *snap // that the disk went on from, though it may be deleted by now
	gone   bool
	clones int // that began with it and are there
	stored bool
}

// alive is the nearest that is not deleted, from s on upwards.
func (s *snap) alive() *snap {
	for s != nil && s.gone {
		s = s.parent
	}
	return s
}

// base is the nearest archived one before s, deleted or not.
func (s *snap) base() *snap {
	for p := s.parent; p != nil; p = p.parent {
		if p.stored {
			return p
		}
	}
	return nil
}

// disk is a volume with its model.
type disk struct {
	id     id.Volume
	is     *flat
	own    *owner
	snaps  []*snap // not deleted
	parent *snap   // that it goes on from
	from   *snap   // that it is a clone of; nil: none
}

// device is a disk, or a snapshot of one.
type device interface{ Submit(r *nbd.Request) }

// do runs one request to its end.
func do(t *testing.T, d device, op nbd.Op, off, n int, data []byte) *nbd.Request {
	t.Helper()
	ch := make(chan error, 1)
	r := nbd.NewRequest(op, 0, uint64(off), uint64(n), data, nbd.CompleterFunc(func(_ *nbd.Request, err error) { ch <- err }))
	d.Submit(r)
	if err := <-ch; err != nil {
		t.Fatalf("%s of %d at %d: %v", op, n, off, err)
	}
	return r
}

// change does one write, trim or zeroing on a disk and on its model.
func (d *disk) change(t *testing.T, rng *rand.Rand) {
	t.Helper()
	size := len(d.is.data)
	off := rng.IntN(size)
	n := min(1+rng.IntN(200<<10), size-off)
	if rng.IntN(3) == 0 {
		n = min(n, 1+rng.IntN(9000))
	}
	if rng.IntN(3) > 0 { // whole blocks
		off &^= block.Size - 1
		n = min((n+block.Size-1)&^(block.Size-1), size-off)
	}
	first, last := off/block.Size, (off+n-1)/block.Size+1
	if op := rng.IntN(8); op < 2 && off%block.Size == 0 && n%block.Size == 0 {
		do(t, d.own, []nbd.Op{nbd.OpTrim, nbd.OpWriteZeroes}[op], off, n, nil).Recycle()
		clear(d.is.data[off : off+n])
		clear(d.is.written[first:last])
		return
	}
	b := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
	}
	do(t, d.own, nbd.OpWrite, off, n, b[:n]).Recycle()
	copy(d.is.data[off:], b[:n])
	for i := first; i < last; i++ {
		d.is.written[i] = true
	}
}

// same compares a device with a model: bytes and holes.
func same(t *testing.T, what string, d device, f *flat) {
	t.Helper()
	got := make([]byte, 1<<20)
	for off := 0; off < len(f.data); off += len(got) {
		part := got[:min(len(got), len(f.data)-off)]
		r := do(t, d, nbd.OpRead, off, len(part), part)
		r.FillHoles()
		r.Recycle()
		for i := 0; i < len(part); i += block.Size {
			if !bytes.Equal(part[i:i+block.Size], f.data[off+i:][:block.Size]) {
				t.Fatalf("%s: block %d is not what it was (%x…, want %x…)", what, (off+i)/block.Size, part[i:i+8], f.data[off+i:][:8])
			}
		}
	}
	for off := 0; off < len(f.data); {
		r := do(t, d, nbd.OpBlockStatus, off, len(f.data)-off, nil)
		for _, e := range r.Extents() {
			for i := range int(e.Length) / block.Size {
				if l := off/block.Size + i; f.written[l] == (e.State&nbd.StateHole != 0) {
					t.Fatalf("%s: block %d is a hole: %v, was: %v", what, l, e.State&nbd.StateHole != 0, !f.written[l])
				}
			}
			off += int(e.Length)
		}
		r.Recycle()
	}
}
