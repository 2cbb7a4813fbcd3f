// Package vfs is the file system as a store sees it: pebble's vfs.FS, so that the
// index, the log and the extents share one, and beside it files for direct I/O.
// Bodies are the operating system's (OS) and any file system of pebble's (Wrap),
// the crashable one in memory among them. WithHooks puts a hook around either:
// delays, errors, damage and traces are hooks.
//
// All file systems here are safe for concurrent use.
package vfs

import (
	"errors"
	"fmt"
	"io"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
)

// Align is what offsets, lengths and memory addresses of direct I/O are multiples of.
const Align = 4096

// FS is a file system.
type FS interface {
	pvfs.FS
	// OpenDirect opens a file for reading and writing past the page cache, where
	// the file system can do that. With create it must not exist yet, else it must.
	// The directory is not synced.
	OpenDirect(name string, create bool) (File, error)
	// LockFile takes a lock of the kernel on a file that it makes if need be. It
	// lasts until Close or the end of the process, however that comes. A lock that
	// somebody has is an error at once.
	LockFile(name string) (io.Closer, error)
}

// File is a file for direct I/O. Offsets, lengths and, with the operating
// system's body, addresses in memory are multiples of Align. Reads and writes
// may run at the same time. No method may be called during or after Close.
type File interface {
	io.Closer
	// ReadAt fills p or gives an error; at the end of the file io.EOF or io.ErrUnexpectedEOF.
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt writes all of p or gives an error. It is durable after SyncData.
	WriteAt(p []byte, off int64) (int, error)
	// WritevAt writes the pieces one after another, beginning at off, as WriteAt would.
	WritevAt(pieces [][]byte, off int64) (int, error)
	// SyncData makes everything written durable (fdatasync). After an error
	// nothing is known about it, and a second call proves nothing.
	SyncData() error
	// Preallocate gives the file room for [off, off+n), whose bytes read as zeros
	// where nothing was written.
	Preallocate(off, n int64) error
	// Size is the bytes of the file.
	Size() (int64, error)
}

// SyncDir makes the names in a directory durable.
func SyncDir(fs pvfs.FS, name string) error {
	d, err := fs.OpenDir(name)
	if err != nil {
		return fmt.Errorf("open directory %s: %w", name, err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("sync directory %s: %w", name, err)
	}
	return nil
}

// Wrap makes an FS of one of pebble's. Direct files are plain files of it.
func Wrap(fs pvfs.FS) FS { return wrapped{fs} }

type wrapped struct{ pvfs.FS }

func (w wrapped) Unwrap() pvfs.FS { return w.FS }

func (w wrapped) LockFile(name string) (io.Closer, error) { return w.FS.Lock(name) }

func (w wrapped) OpenDirect(name string, create bool) (File, error) {
	_, err := w.FS.Stat(name)
	switch {
	case create && err == nil:
		return nil, fmt.Errorf("create %s: it is there already", name)
	case !create && err != nil:
		return nil, err
	}
	f, err := w.FS.OpenReadWrite(name, pvfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	return &wrappedFile{File: f, fs: w.FS, name: name}, nil
}

type wrappedFile struct {
	pvfs.File
	fs   pvfs.FS
	name string
}

func (f *wrappedFile) WriteAt(p []byte, off int64) (int, error) {
	if err := checkAligned(f.name, off, len(p)); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *wrappedFile) ReadAt(p []byte, off int64) (int, error) {
	if err := checkAligned(f.name, off, len(p)); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *wrappedFile) WritevAt(pieces [][]byte, off int64) (int, error) {
	done := 0
	for _, p := range pieces {
		n, err := f.WriteAt(p, off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Preallocate makes the file long enough: what is not written reads as zeros.
func (f *wrappedFile) Preallocate(off, n int64) error {
	size, err := f.Size()
	if err != nil || size >= off+n {
		return err
	}
	if size > 0 {
		_, err = f.File.WriteAt(make([]byte, off+n-size), size)
		return err
	}
	// Pebble's file in memory grows byte by byte when it is written at an offset,
	// and at once when it is written in sequence.
	g, err := f.fs.Create(f.name, pvfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = g.Write(make([]byte, off+n))
	if err = errors.Join(err, g.Close(), f.File.Close()); err != nil {
		return err
	}
	f.File, err = f.fs.OpenReadWrite(f.name, pvfs.WriteCategoryUnspecified)
	return err
}

func (f *wrappedFile) Size() (int64, error) {
	info, err := f.File.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// checkAligned keeps tests in memory honest: direct I/O would refuse the rest.
func checkAligned(name string, off int64, n int) error {
	if off%Align != 0 || n%Align != 0 {
		return fmt.Errorf("direct I/O of %d bytes at %d of %s: not aligned to %d", n, off, name, Align)
	}
	return nil
}

// Prewrite writes zeros to [off, off+n): later writes there change no metadata
// of the file, which halves what a sync costs. Not durable before SyncData.
func Prewrite(f File, off, n int64) error {
	zeros := zeroPage()
	for n > 0 {
		step := min(n, int64(len(zeros)))
		if _, err := f.WriteAt(zeros[:step], off); err != nil {
			return fmt.Errorf("write zeros: %w", err)
		}
		off, n = off+step, n-step
	}
	return nil
}
