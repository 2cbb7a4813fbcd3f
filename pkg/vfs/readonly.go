package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// ErrReadOnly: something wanted to change what may only be read.
var ErrReadOnly = errors.New("file system is opened for reading only")

// ReadOnly gives a file system of which nothing can be changed: whatever would fails with
// ErrReadOnly. Locks of pebble's kind are granted without a file; LockFile locks one that is
// there, as the kernel does, and makes none.
func ReadOnly(fs FS) FS { return readOnly{fs} }

type readOnly struct{ FS }

func refuse(op, name string) error { return &os.PathError{Op: op, Path: name, Err: ErrReadOnly} }

func (r readOnly) Unwrap() pvfs.FS { return r.FS }

func (r readOnly) Create(name string, _ pvfs.DiskWriteCategory) (pvfs.File, error) {
	return nil, refuse("create", name)
}

func (r readOnly) Link(_, name string) error { return refuse("link", name) }

func (r readOnly) OpenReadWrite(name string, _ pvfs.DiskWriteCategory, _ ...pvfs.OpenOption) (pvfs.File, error) {
	return nil, refuse("open for writing", name)
}

func (r readOnly) Remove(name string) error { return refuse("remove", name) }

func (r readOnly) RemoveAll(name string) error { return refuse("remove", name) }

func (r readOnly) Rename(name, _ string) error { return refuse("rename", name) }

func (r readOnly) ReuseForWrite(name, _ string, _ pvfs.DiskWriteCategory) (pvfs.File, error) {
	return nil, refuse("use again", name)
}

func (r readOnly) MkdirAll(name string, _ os.FileMode) error { return refuse("make", name) }

func (r readOnly) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func (r readOnly) LockFile(name string) (io.Closer, error) {
	if _, err := r.Stat(name); err != nil {
		return nil, err
	}
	if r.FS != OS {
		return r.FS.LockFile(name)
	}
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(&os.PathError{Op: "lock", Path: name, Err: err}, unix.Close(fd))
	}
	return &fdCloser{fd: fd}, nil
}

func (r readOnly) OpenDirect(name string, create bool) (File, error) {
	if create {
		return nil, refuse("create", name)
	}
	f, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	return &readOnlyFile{f, name}, nil
}

// readOnlyFile reads through the page cache.
type readOnlyFile struct {
	f    pvfs.File
	name string
}

func (f *readOnlyFile) Close() error { return f.f.Close() }

func (f *readOnlyFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	if n > 0 && n < len(p) && errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (f *readOnlyFile) WriteAt([]byte, int64) (int, error)    { return 0, refuse("write", f.name) }
func (f *readOnlyFile) WritevAt([][]byte, int64) (int, error) { return 0, refuse("write", f.name) }
func (f *readOnlyFile) SyncData() error                       { return refuse("sync", f.name) }
func (f *readOnlyFile) Preallocate(int64, int64) error        { return refuse("preallocate", f.name) }

func (f *readOnlyFile) Size() (int64, error) {
	i, err := f.f.Stat()
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", f.name, err)
	}
	return i.Size(), nil
}
