package vfs

import (
	"fmt"
	"io"

	"ashlar.dev/pkg/vfs/uring"
)

// AsyncRead is a read of a direct file through a ring. The caller sets Buf, Off and Done
// and owns the struct again when Done is called, from the ring's goroutine or inline; Err
// is nil if Buf was filled.
type AsyncRead struct {
	Buf  []byte
	Off  int64
	Done func(*AsyncRead)
	Err  error

	read uring.Read
	file *osFile
}

// async is what a file's body does for ReadAsync.
type async interface {
	readAsync(*uring.Ring, *AsyncRead) bool
}

// ReadAsync starts r on f; false: this file cannot be read so, call ReadAt. Buf is
// aligned as for ReadAt.
func ReadAsync(ring *uring.Ring, f File, r *AsyncRead) bool {
	a, ok := f.(async)
	return ok && ring != nil && a.readAsync(ring, r)
}

func (f *osFile) readAsync(ring *uring.Ring, r *AsyncRead) bool {
	r.Err, r.file = nil, f
	if r.read.Done == nil {
		r.read.Done = r.finished
	}
	r.read.Fd, r.read.Off, r.read.Buf = f.fd, r.Off, r.Buf
	ring.Submit(&r.read)
	return true
}

// finished takes the kernel's answer.
func (r *AsyncRead) finished(q *uring.Read) {
	switch {
	case q.Err != nil:
		r.Err = r.file.fail("read", q.Err)
	case q.N < len(r.Buf):
		r.Err = fmt.Errorf("read %d of %d bytes: %w", q.N, len(r.Buf), io.ErrUnexpectedEOF)
	}
	r.Done(r)
}

// readAsync lets hooks see the read that only look before it; with hooks that change what
// was read the caller takes the other way.
func (f *hookDirect) readAsync(ring *uring.Ring, r *AsyncRead) bool {
	a, ok := f.File.(async)
	if !ok || !f.h.before {
		return false
	}
	if err := f.h.Before(f.op(OpRead, r.Off, len(r.Buf))); err != nil {
		r.Err = err
		r.Done(r)
		return true
	}
	return a.readAsync(ring, r)
}
