// Package codec reads and writes the project's little-endian binary forms by hand:
// bounded, checked, without reflection. A Reader never panics on any input and
// remembers its first error, so a decoder is written straight through and asks Err once.
package codec

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"ashlar.dev/pkg/errs"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC is the CRC-32C of b.
func CRC(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// CRCMore continues a CRC-32C over b.
func CRCMore(crc uint32, b []byte) uint32 { return crc32.Update(crc, castagnoli, b) }

// Reader decodes from a slice that it never changes or keeps.
type Reader struct {
	place string
	buf   []byte
	off   int
	err   error
}

// NewReader decodes b; place names the source in errors.
func NewReader(place string, b []byte) Reader { return Reader{place: place, buf: b} }

// Err is the first error met, of class errs.ErrCorrupt; nil when all went well.
func (r *Reader) Err() error { return r.err }

// Rest is what was not read yet (a part of the input slice).
func (r *Reader) Rest() []byte { return r.buf[r.off:] }

// Offset is the bytes read so far.
func (r *Reader) Offset() int { return r.off }

// Fail records an error of the caller's own check, unless there is an earlier one.
func (r *Reader) Fail(what string, want, got uint64) {
	if r.err == nil {
		r.err = &errs.Corrupt{Place: r.place, Offset: int64(r.off), What: what, Want: want, Got: got}
	}
}

func (r *Reader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.buf)-r.off {
		r.Fail("bytes left", uint64(n), uint64(len(r.buf)-r.off))
		return nil
	}
	b := r.buf[r.off : r.off+n]
	r.off += n
	return b
}

// U8 reads one byte; the readers below are alike. All give zero after an error.
func (r *Reader) U8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

// U16 reads two bytes.
func (r *Reader) U16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// U32 reads four bytes.
func (r *Reader) U32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// U64 reads eight bytes.
func (r *Reader) U64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// Uvarint reads a varint of at most ten bytes.
func (r *Reader) Uvarint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.buf[r.off:])
	if n <= 0 {
		r.Fail("varint", 1, 0)
		return 0
	}
	r.off += n
	return v
}

// Count reads a varint that counts things of at least sizeMin bytes each that
// follow, and refuses one that the input cannot hold or that is above max, so
// that a caller may allocate by it.
func (r *Reader) Count(max, sizeMin int) int {
	v := r.Uvarint()
	if r.err != nil {
		return 0
	}
	if v > uint64(max) || (sizeMin > 0 && v > uint64((len(r.buf)-r.off)/sizeMin)) {
		r.Fail("count", uint64(max), v)
		return 0
	}
	return int(v)
}

// Bytes reads n bytes; the result is a part of the input.
func (r *Reader) Bytes(n int) []byte { return r.take(n) }

// Fill copies len(dst) bytes into dst.
func (r *Reader) Fill(dst []byte) { copy(dst, r.take(len(dst))) }

// String reads a varint length of at most max and as many bytes.
func (r *Reader) String(max int) string { return string(r.take(r.Count(max, 1))) }

// Zero reads n reserved bytes and fails unless all are zero.
func (r *Reader) Zero(n int) {
	for _, b := range r.take(n) {
		if b != 0 {
			r.Fail("reserved byte", 0, uint64(b))
			return
		}
	}
}

// Left is how many bytes are not read yet.
func (r *Reader) Left() int { return len(r.buf) - r.off }

// End fails when input is left.
func (r *Reader) End() {
	if r.err == nil && r.off != len(r.buf) {
		r.Fail("bytes after the end", 0, uint64(len(r.buf)-r.off))
	}
}

// AppendString writes what Reader.String reads.
func AppendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Decode runs f over b and gives f's first error, or one for input left over.
func Decode(place string, b []byte, f func(r *Reader)) error {
	r := NewReader(place, b)
	f(&r)
	r.End()
	if r.err != nil {
		return fmt.Errorf("decode: %w", r.err)
	}
	return nil
}
