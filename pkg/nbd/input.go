package nbd

import (
	"io"
)

// input reads a stream through one buffer. It belongs to one goroutine.
// Slices that it gives are valid until the next call.
type input struct {
	src  io.Reader
	buf  []byte
	r, w int // unread are buf[r:w]
}

// directMin is the payload, in bytes, from which it is read past the buffer.
const directMin = 64 << 10

// emptyReadsMax bounds reads that bring neither bytes nor an error.
const emptyReadsMax = 100

// buffered is the count of bytes that need no read.
func (in *input) buffered() int { return in.w - in.r }

// grow makes the buffer n bytes long, keeping what is unread.
func (in *input) grow(n int) {
	if n <= len(in.buf) {
		return
	}
	b := make([]byte, n)
	in.w = copy(b, in.buf[in.r:in.w])
	in.r, in.buf = 0, b
}

// peek gives the next n bytes, n ≤ len(buf), without taking them.
func (in *input) peek(n int) ([]byte, error) {
	for in.w-in.r < n {
		if err := in.fill(n); err != nil {
			return nil, err
		}
	}
	return in.buf[in.r : in.r+n], nil
}

// take gives the next n bytes, n ≤ len(buf).
func (in *input) take(n int) ([]byte, error) {
	b, err := in.peek(n)
	if err == nil {
		in.r += n
	}
	return b, err
}

// fill reads more, with room for n unread bytes. At the end of the stream it tells io.EOF
// if nothing is unread, else io.ErrUnexpectedEOF.
func (in *input) fill(n int) error {
	if in.r == in.w {
		in.r, in.w = 0, 0
	} else if len(in.buf)-in.r < n || in.w == len(in.buf) {
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	for range emptyReadsMax {
		got, err := in.src.Read(in.buf[in.w:])
		in.w += got
		if got > 0 {
			return nil
		}
		if err == io.EOF && in.w > in.r {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// full reads len(p) bytes into p: what is buffered is copied, a long rest read in place.
func (in *input) full(p []byte) error {
	for {
		n := copy(p, in.buf[in.r:in.w])
		in.r += n
		p = p[n:]
		if len(p) == 0 {
			return nil
		}
		if len(p) >= directMin {
			got, err := in.src.Read(p)
			p = p[got:]
			if len(p) > 0 && err != nil {
				return unexpected(err)
			}
			continue
		}
		if err := in.fill(min(len(p), len(in.buf))); err != nil {
			return unexpected(err)
		}
	}
}

// skip drops n bytes.
func (in *input) skip(n uint64) error {
	for {
		have := min(n, uint64(in.w-in.r))
		in.r += int(have)
		n -= have
		if n == 0 {
			return nil
		}
		if err := in.fill(1); err != nil {
			return unexpected(err)
		}
	}
}

// unexpected makes the end of a stream in the middle of something what it is.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
