package log

import (
	"fmt"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// What a Reader reads at once where heads are wanted, and payload.
const (
	headWindow    = 64 << 10
	payloadWindow = 256 << 10
)

// Reader reads batches back; one goroutine's. The files it reads from must be pinned.
//
// What was written together lies as all heads, then all payloads. So it has a window for each: with one, every
// batch of a large group would have both read anew.
type Reader struct {
	l              *Log
	heads, payload window
}

// window is a stretch of a file in memory.
type window struct {
	size int64 // of most
	buf  *buf.Buffer
	slot uint32
	off  int64
	n    int64 // bytes valid
}

// NewReader makes one; Close it.
func (l *Log) NewReader() *Reader {
	return &Reader{l: l, heads: window{size: headWindow}, payload: window{size: payloadWindow}}
}

// Close gives its memory back.
func (r *Reader) Close() {
	for _, w := range []*window{&r.heads, &r.payload} {
		w.buf.Release()
		w.buf = nil
	}
}

// find gives n bytes at off of a file, nil if the window does not have them.
func (w *window) find(slot uint32, off int64, n int) []byte {
	if w.buf == nil || slot != w.slot || off < w.off || off+int64(n) > w.off+w.n {
		return nil
	}
	return w.buf.Bytes()[off-w.off:][:n]
}

// bytes gives n bytes at off of a file, valid until the next call. What neither window has is read into w.
func (r *Reader) bytes(w *window, slot uint32, off int64, n int) ([]byte, error) {
	for _, x := range []*window{&r.heads, &r.payload} {
		if b := x.find(slot, off, n); b != nil {
			return b, nil
		}
	}
	start := off &^ (Block - 1)
	size := min(max(roundUp(off+int64(n)-start), w.size), r.l.o.FileBytes-start)
	if off+int64(n) > start+size {
		return nil, &errs.Corrupt{Place: slotName(slot), Offset: off, What: "bytes in the file", Want: uint64(n), Got: uint64(start + size - off)}
	}
	if w.buf == nil || int64(w.buf.Len()) < size {
		w.buf.Release()
		w.buf = buf.Get(int(size))
	}
	r.l.mu.Lock()
	f := r.l.mu.files[slot]
	r.l.mu.Unlock()
	w.n = 0
	if _, err := f.f.ReadAt(w.buf.Bytes()[:size], start); err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	w.slot, w.off, w.n = slot, start, size
	return w.buf.Bytes()[off-start:][:n], nil
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
	raw, err := r.bytes(&r.heads, b.Pos.File, int64(b.Pos.Head), storeproto.HeaderSize)
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
	raw, err = r.bytes(&r.heads, b.Pos.File, int64(b.Pos.Head)+storeproto.HeaderSize, h.MetaLen+4*h.Blocks)
	if err != nil {
		return nil, err
	}
	out.Meta = append([]byte(nil), raw[:h.MetaLen]...)
	out.Sums = storeproto.DecodeSums(make([]uint32, 0, h.Blocks), raw[h.MetaLen:])
	if h.Blocks > 0 {
		raw, err = r.bytes(&r.payload, b.Pos.File, int64(b.Pos.Payload), h.Blocks*Block)
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
