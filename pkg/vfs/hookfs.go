package vfs

import (
	"errors"
	"fmt"
	"io"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
)

type hookFS struct {
	FS
	h Hooks
}

func (f *hookFS) Unwrap() pvfs.FS { return f.FS }

func (f *hookFS) file(name string, file pvfs.File, err error) (pvfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &hookFile{File: file, h: &f.h, name: name}, nil
}

func (f *hookFS) before(kind OpKind, name string) error {
	return f.h.Before(Op{Kind: kind, Path: name, Offset: -1})
}

func (f *hookFS) Create(name string, c pvfs.DiskWriteCategory) (pvfs.File, error) {
	if err := f.before(OpCreate, name); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(name, c)
	return f.file(name, file, err)
}

func (f *hookFS) Open(name string, opts ...pvfs.OpenOption) (pvfs.File, error) {
	file, err := f.FS.Open(name, opts...)
	return f.file(name, file, err)
}

func (f *hookFS) OpenReadWrite(name string, c pvfs.DiskWriteCategory, opts ...pvfs.OpenOption) (pvfs.File, error) {
	if err := f.before(OpCreate, name); err != nil {
		return nil, err
	}
	file, err := f.FS.OpenReadWrite(name, c, opts...)
	return f.file(name, file, err)
}

func (f *hookFS) OpenDir(name string) (pvfs.File, error) {
	file, err := f.FS.OpenDir(name)
	return f.file(name, file, err)
}

func (f *hookFS) ReuseForWrite(from, to string, c pvfs.DiskWriteCategory) (pvfs.File, error) {
	if err := f.before(OpRename, to); err != nil {
		return nil, err
	}
	file, err := f.FS.ReuseForWrite(from, to, c)
	return f.file(to, file, err)
}

func (f *hookFS) Rename(from, to string) error {
	if err := f.before(OpRename, to); err != nil {
		return err
	}
	return f.FS.Rename(from, to)
}

func (f *hookFS) Link(from, to string) error {
	if err := f.before(OpCreate, to); err != nil {
		return err
	}
	return f.FS.Link(from, to)
}

func (f *hookFS) Remove(name string) error {
	if err := f.before(OpRemove, name); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

func (f *hookFS) OpenDirect(name string, create bool) (File, error) {
	if create {
		if err := f.before(OpCreate, name); err != nil {
			return nil, err
		}
	}
	file, err := f.FS.OpenDirect(name, create)
	if err != nil {
		return nil, err
	}
	return &hookDirect{File: file, h: &f.h, name: name}, nil
}

type hookFile struct {
	pvfs.File
	h    *Hooks
	name string
}

func (f *hookFile) op(kind OpKind, off int64, n int) Op {
	return Op{Kind: kind, Path: f.name, Offset: off, Len: n}
}

func (f *hookFile) Read(p []byte) (int, error) {
	op := f.op(OpRead, -1, len(p))
	if err := f.h.Before(op); err != nil {
		return 0, err
	}
	n, err := f.File.Read(p)
	if n > 0 {
		f.h.AfterRead(op, p[:n])
	}
	return n, err
}

func (f *hookFile) ReadAt(p []byte, off int64) (int, error) {
	op := f.op(OpRead, off, len(p))
	if err := f.h.Before(op); err != nil {
		return 0, err
	}
	n, err := f.File.ReadAt(p, off)
	if n > 0 {
		f.h.AfterRead(op, p[:n])
	}
	return n, err
}

func (f *hookFile) Write(p []byte) (int, error) {
	return write(f.h, f.op(OpWrite, -1, len(p)), p, f.File.Write)
}

func (f *hookFile) WriteAt(p []byte, off int64) (int, error) {
	return write(f.h, f.op(OpWrite, off, len(p)), p, func(p []byte) (int, error) { return f.File.WriteAt(p, off) })
}

func write(h *Hooks, op Op, p []byte, do func([]byte) (int, error)) (int, error) {
	err := h.Before(op)
	var short ShortWrite
	if errors.As(err, &short) && int(short) < len(p) {
		n, werr := do(p[:short])
		if werr != nil {
			return n, werr
		}
		return n, fmt.Errorf("%w: %w", err, io.ErrShortWrite)
	}
	if err != nil {
		return 0, err
	}
	return do(p)
}

func syncWith(h *Hooks, op Op, do func() error) error {
	if err := h.Before(op); err != nil {
		return err
	}
	return h.AfterSync(op, do())
}

func (f *hookFile) Sync() error {
	return syncWith(f.h, f.op(OpSync, -1, 0), f.File.Sync)
}

func (f *hookFile) SyncData() error {
	return syncWith(f.h, f.op(OpSync, -1, 0), f.File.SyncData)
}

// hookDirect is hookFile for direct files.
type hookDirect struct {
	File
	h    *Hooks
	name string
}

func (f *hookDirect) op(kind OpKind, off int64, n int) Op {
	return Op{Kind: kind, Path: f.name, Offset: off, Len: n, Direct: true}
}

func (f *hookDirect) ReadAt(p []byte, off int64) (int, error) {
	op := f.op(OpRead, off, len(p))
	if err := f.h.Before(op); err != nil {
		return 0, err
	}
	n, err := f.File.ReadAt(p, off)
	if n > 0 {
		f.h.AfterRead(op, p[:n])
	}
	return n, err
}

func (f *hookDirect) WriteAt(p []byte, off int64) (int, error) {
	return write(f.h, f.op(OpWrite, off, len(p)), p, func(p []byte) (int, error) { return f.File.WriteAt(p, off) })
}

func (f *hookDirect) WritevAt(pieces [][]byte, off int64) (int, error) {
	total := 0
	for _, p := range pieces {
		total += len(p)
	}
	err := f.h.Before(f.op(OpWrite, off, total))
	var short ShortWrite
	if errors.As(err, &short) && int(short) < total {
		done := 0
		for _, p := range pieces {
			p = p[:min(len(p), int(short)-done)]
			n, werr := f.File.WriteAt(p, off+int64(done))
			if done += n; werr != nil {
				return done, werr
			}
		}
		return done, fmt.Errorf("%w: %w", err, io.ErrShortWrite)
	}
	if err != nil {
		return 0, err
	}
	return f.File.WritevAt(pieces, off)
}

func (f *hookDirect) SyncData() error {
	return syncWith(f.h, f.op(OpSync, -1, 0), f.File.SyncData)
}

func (f *hookDirect) Preallocate(off, n int64) error {
	if err := f.h.Before(f.op(OpCreate, off, int(n))); err != nil {
		return err
	}
	return f.File.Preallocate(off, n)
}
