package log

import (
	"fmt"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// windowBytes is what a Reader reads at once.
const windowBytes = 256 << 10

// Reader reads batches back; one goroutine's. The files it reads from must be pinned.
type Reader struct {
	l      *Log
	window *buf.Buffer
	slot   uint32
	off    int64
	n      int64 // bytes valid
}

// NewReader makes one; Close it.
func (l *Log) NewReader() *Reader { return &Reader{l: l} }

// Close gives its memory back.
func (r *Reader) Close() {
	r.window.Release()
	r.window = nil
}

// bytes gives n bytes at off of a file, valid until the next call.
func (r *Reader) bytes(slot uint32, off int64, n int) ([]byte, error) {
	if r.window != nil && slot == r.slot && off >= r.off && off+int64(n) <= r.off+r.n {
		return r.window.Bytes()[off-r.off:][:n], nil
	}
	start := off &^ (Block - 1)
	size := min(max(roundUp(off+int64(n)-start), windowBytes), r.l.o.FileBytes-start)
	if off+int64(n) > start+size {
		return nil, &errs.Corrupt{Place: slotName(slot), Offset: off, What: "bytes in the file", Want: uint64(n), Got: uint64(start + size - off)}
	}
	if r.window == nil || int64(r.window.Len()) < size {
		r.window.Release()
		r.window = buf.Get(int(size))
	}
	r.l.mu.Lock()
	f := r.l.mu.files[slot]
	r.l.mu.Unlock()
	r.n = 0
	if _, err := f.f.ReadAt(r.window.Bytes()[:size], start); err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	r.slot, r.off, r.n = slot, start, size
	return r.window.Bytes()[off-start:][:n], nil
}

// Batch reads and checks the batch at b.Pos. Its memory is the caller's.
func (r *Reader) Batch(name storeproto.Stream, b core.Batch) (*storeproto.Batch, error) {
	a, err := r.Append(name, b)
	if err != nil {
		return nil, err
	}
	return a.Batch, nil
}

// Append reads the batch at b.Pos with the header it was appended with.
func (r *Reader) Append(name storeproto.Stream, b core.Batch) (*storeproto.Append, error) {
	place := slotName(b.Pos.File)
	raw, err := r.bytes(b.Pos.File, int64(b.Pos.Head), storeproto.HeaderSize)
	if err != nil {
		return nil, err
	}
	h, err := storeproto.DecodeHeader(place, raw)
	if err != nil {
		return nil, err
	}
	if h.Stream != name || h.First != b.First || h.Count != b.Count || h.BatchEpoch != b.Epoch || h.Sum != b.Sum {
		return nil, &errs.Corrupt{Place: place, Offset: int64(b.Pos.Head), What: "batch at its place", Want: uint64(b.First), Got: uint64(h.First)}
	}
	out := &storeproto.Batch{Epoch: h.BatchEpoch, First: h.First, Count: h.Count}
	raw, err = r.bytes(b.Pos.File, int64(b.Pos.Head)+storeproto.HeaderSize, h.MetaLen+4*h.Blocks)
	if err != nil {
		return nil, err
	}
	out.Meta = append([]byte(nil), raw[:h.MetaLen]...)
	out.Sums = storeproto.DecodeSums(make([]uint32, 0, h.Blocks), raw[h.MetaLen:])
	if h.Blocks > 0 {
		raw, err = r.bytes(b.Pos.File, int64(b.Pos.Payload), h.Blocks*Block)
		if err != nil {
			return nil, err
		}
		p := buf.Get(len(raw))
		copy(p.Bytes(), raw)
		out.Payload = [][]byte{p.Bytes()}
		out.Free = func(*storeproto.Batch) { p.Release() }
	}
	out.Seal()
	if out.Sum != h.Sum {
		out.Release()
		return nil, &errs.Corrupt{Place: place, Offset: int64(b.Pos.Head), What: "batch sum", Want: uint64(h.Sum), Got: uint64(out.Sum)}
	}
	if err := out.Verify(place); err != nil {
		out.Release()
		return nil, err
	}
	return &storeproto.Append{Stream: h.Stream, Epoch: h.Epoch, Base: h.Base, Copy: h.Copy, Released: h.Released, Batch: out}, nil
}
