package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"unsafe"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"ashlar.dev/pkg/buf"
)

// OS is the operating system's file system.
var OS FS = osFS{pvfs.Default}

type osFS struct{ pvfs.FS }

func (o osFS) Unwrap() pvfs.FS { return o.FS }

func (osFS) LockFile(name string) (io.Closer, error) {
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "lock", Path: name, Err: err}
	}
	return &fdCloser{fd: fd}, nil
}

type fdCloser struct {
	fd   int
	once sync.Once
	err  error
}

func (c *fdCloser) Close() error {
	c.once.Do(func() { c.err = unix.Close(c.fd) })
	return c.err
}

func (osFS) OpenDirect(name string, create bool) (File, error) {
	flags := unix.O_RDWR | unix.O_CLOEXEC
	if create {
		flags |= unix.O_CREAT | unix.O_EXCL
	}
	fd, err := unix.Open(name, flags|unix.O_DIRECT, 0o600)
	if errors.Is(err, unix.EINVAL) { // a file system without direct I/O
		fd, err = unix.Open(name, flags&^unix.O_EXCL, 0o600)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return &osFile{fd: fd, name: name}, nil
}

// osFile calls the kernel without the poller between: files never wait for readiness.
type osFile struct {
	fd   int
	name string
}

func (f *osFile) fail(op string, err error) error {
	return &os.PathError{Op: op, Path: f.name, Err: err}
}

func (f *osFile) Close() error { return unix.Close(f.fd) }

func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(f.fd, p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, f.fail("read", err)
		case n == 0 && done == 0:
			return 0, io.EOF
		case n == 0:
			return done, io.ErrUnexpectedEOF
		default:
			done += n
		}
	}
	return done, nil
}

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(f.fd, p[done:], off+int64(done))
		if err != nil && err != unix.EINTR {
			return done, f.fail("write", err)
		}
		done += max(n, 0)
	}
	return done, nil
}

// iovecsMax is what the kernel takes in one call.
const iovecsMax = 1024

var iovecs = sync.Pool{New: func() any { v := make([]unix.Iovec, 0, iovecsMax); return &v }}

func (f *osFile) WritevAt(pieces [][]byte, off int64) (int, error) {
	if len(pieces) == 1 {
		return f.WriteAt(pieces[0], off)
	}
	v := iovecs.Get().(*[]unix.Iovec)
	defer func() { clear((*v)[:cap(*v)]); iovecs.Put(v) }()
	done := 0
	for len(pieces) > 0 {
		vec, want := (*v)[:0], 0
		for len(pieces) > 0 && len(vec) < iovecsMax {
			p := pieces[0]
			pieces = pieces[1:]
			if len(p) == 0 {
				continue
			}
			vec = append(vec, unix.Iovec{Base: unsafe.SliceData(p), Len: uint64(len(p))})
			want += len(p)
		}
		n, err := f.writeVector(vec, want, off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// writeVector writes all of vec, want bytes; it changes vec.
func (f *osFile) writeVector(vec []unix.Iovec, want int, off int64) (int, error) {
	done := 0
	for done < want {
		n, _, e := unix.Syscall6(unix.SYS_PWRITEV, uintptr(f.fd), uintptr(unsafe.Pointer(unsafe.SliceData(vec))),
			uintptr(len(vec)), uintptr(off+int64(done)), 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return done, f.fail("write", e)
		}
		done += int(n)
		for left := uint64(n); left > 0; {
			if left >= vec[0].Len {
				left -= vec[0].Len
				vec = vec[1:]
				continue
			}
			vec[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(vec[0].Base), left))
			vec[0].Len -= left
			left = 0
		}
	}
	return done, nil
}

func (f *osFile) SyncData() error {
	for {
		err := unix.Fdatasync(f.fd)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return f.fail("fdatasync", err)
		}
		return nil
	}
}

func (f *osFile) Preallocate(off, n int64) error {
	for {
		err := unix.Fallocate(f.fd, 0, off, n)
		switch {
		case err == unix.EINTR:
		case errors.Is(err, unix.EOPNOTSUPP):
			size, err := f.Size()
			if err != nil || size >= off+n {
				return err
			}
			if err := unix.Ftruncate(f.fd, off+n); err != nil {
				return f.fail("truncate", err)
			}
			return nil
		case err != nil:
			return f.fail("fallocate", err)
		default:
			return nil
		}
	}
}

func (f *osFile) Size() (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return 0, f.fail("stat", err)
	}
	return st.Size, nil
}

var zeroPage = sync.OnceValue(func() []byte {
	b := buf.Get(1 << 20).Bytes() // kept for ever
	clear(b)
	return b
})

// Aligned tells whether b may be handed to a direct file as it is.
func Aligned(b []byte) bool {
	return len(b)%Align == 0 && uintptr(unsafe.Pointer(unsafe.SliceData(b)))%Align == 0
}

// IsNoSpace tells whether err is a full disk's.
func IsNoSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// ErrNoSpace is the kernel's own for a full disk, for hooks.
var ErrNoSpace error = fmt.Errorf("injected: %w", unix.ENOSPC)
