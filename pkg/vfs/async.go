package vfs

import (
	"fmt"
	"io"

	"ashlar.dev/pkg/vfs/aio"
)

// AsyncRead is a read of a direct file through a queue. The caller sets Buf, Off and Done
// and owns the struct again when Done is called, from the queue's goroutine or inline; Err
// is nil if Buf was filled.
type AsyncRead struct {
	Buf  []byte
	Off  int64
	Done func(*AsyncRead)
	Err  error

	read aio.Read
	file *osFile
}

// async is what a file's body does for ReadAsync.
type async interface {
	readAsync(*aio.Queue, *AsyncRead) bool
}

// ReadAsync starts r on f; false: this file cannot be read so, call ReadAt. Buf is
// aligned as for ReadAt.
func ReadAsync(queue *aio.Queue, f File, r *AsyncRead) bool {
	a, ok := f.(async)
	return ok && queue != nil && a.readAsync(queue, r)
}

func (f *osFile) readAsync(queue *aio.Queue, r *AsyncRead) bool {
	r.Err, r.file = nil, f
	if r.read.Done == nil {
		r.read.Done = r.finished
	}
	r.read.Fd, r.read.Off, r.read.Buf = f.fd, r.Off, r.Buf
	queue.Submit(&r.read)
	return true
}

// finished takes the kernel's answer.
func (r *AsyncRead) finished(q *aio.Read) {
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
func (f *hookDirect) readAsync(queue *aio.Queue, r *AsyncRead) bool {
	a, ok := f.File.(async)
	if !ok || !f.h.before {
		return false
	}
	if err := f.h.Before(f.op(OpRead, r.Off, len(r.Buf))); err != nil {
		r.Err = err
		r.Done(r)
		return true
	}
	return a.readAsync(queue, r)
}
