package rpc

import (
	"io"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
)

const (
	readerBytes = 256 << 10
	// directMin is the missing payload, in bytes, above which it is read straight to its place.
	directMin = 32 << 10
)

// reader cuts a byte stream into frames.
type reader struct {
	place  string
	src    io.Reader
	buf    []byte
	rd, wr int
	long   []byte // a head too long for buf
}

func newReader(place string, src io.Reader, bytes int) *reader {
	return &reader{place: place, src: src, buf: make([]byte, bytes)}
}

// peek gives the next n bytes, at most len(buf), without taking them.
func (r *reader) peek(n int) ([]byte, error) {
	if r.wr-r.rd < n {
		if len(r.buf)-r.rd < n || r.rd == r.wr {
			copy(r.buf, r.buf[r.rd:r.wr])
			r.wr -= r.rd
			r.rd = 0
		}
		for r.wr-r.rd < n {
			m, err := r.src.Read(r.buf[r.wr:])
			r.wr += m
			if err != nil && r.wr-r.rd < n {
				if err == io.EOF && r.wr > r.rd {
					err = io.ErrUnexpectedEOF
				}
				return nil, err
			}
		}
	}
	return r.buf[r.rd : r.rd+n], nil
}

// header takes the next frame's header.
func (r *reader) header() (header, error) {
	b, err := r.peek(headerSize)
	if err != nil {
		return header{}, err
	}
	h, err := decodeHeader(r.place, b)
	if err == nil {
		r.rd += headerSize
	}
	return h, err
}

// head takes the head of h's frame and checks it. The bytes are good until the next call.
func (r *reader) head(h *header) ([]byte, error) {
	n := int(h.head)
	var b []byte
	if n <= len(r.buf)/2 {
		p, err := r.peek(n)
		if err != nil {
			return nil, eof(err)
		}
		b = p
		r.rd += n
	} else {
		if cap(r.long) < n {
			r.long = make([]byte, n)
		}
		b = r.long[:n]
		if err := r.read(b); err != nil {
			return nil, err
		}
	}
	if got := codec.CRC(b); got != h.headCRC {
		return nil, &errs.Corrupt{Place: r.place, Offset: -1, What: "head sum", Want: uint64(h.headCRC), Got: uint64(got)}
	}
	return b, nil
}

// read fills dst.
func (r *reader) read(dst []byte) error {
	n := copy(dst, r.buf[r.rd:r.wr])
	r.rd += n
	dst = dst[n:]
	if len(dst) >= directMin {
		_, err := io.ReadFull(r.src, dst)
		return eof(err)
	}
	if len(dst) > 0 {
		b, err := r.peek(len(dst))
		if err != nil {
			return eof(err)
		}
		copy(dst, b)
		r.rd += len(dst)
	}
	return nil
}

// skip drops n bytes.
func (r *reader) skip(n int) error {
	for n > 0 {
		m := min(n, len(r.buf))
		if have := r.wr - r.rd; have > 0 {
			m = min(m, have)
		}
		if _, err := r.peek(m); err != nil {
			return eof(err)
		}
		r.rd += m
		n -= m
	}
	return nil
}

func eof(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// into is a place for a payload, filled piece by piece.
type into struct {
	slices [][]byte
	i, off int
}

func (p *into) reset(slices [][]byte) { p.slices, p.i, p.off = slices, 0, 0 }

// fill reads the next n bytes of the payload. The caller has checked that they fit.
func (p *into) fill(r *reader, n int) error {
	for n > 0 {
		dst := p.slices[p.i][p.off:]
		if len(dst) == 0 {
			p.i++
			p.off = 0
			continue
		}
		dst = dst[:min(n, len(dst))]
		if err := r.read(dst); err != nil {
			return err
		}
		p.off += len(dst)
		n -= len(dst)
	}
	return nil
}

func bytesOf(slices [][]byte) int {
	n := 0
	for _, s := range slices {
		n += len(s)
	}
	return n
}
