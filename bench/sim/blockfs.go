package sim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"

	"ashlar.dev/pkg/vfs"
)

// blockFS is the part of a store's disk on which its journal log lies: the real log
// (blockd/chunk/log) writes here. A page that was written is in the drive's cache and
// in danger; a sync makes everything written before it safe, when the time that it
// takes is over (done). A loss of power in between leaves any part of what the sync
// under way would have made safe, and nothing of what is issued after it.
type blockFS struct {
	pvfs.FS // what the log does not use is not there
	w       *World
	st      *store
	files   map[string]*blockFile
	flying  []flight // writes that are not safe, in order
	syncs   int      // asked for since done
	written int      // writes ever, numbers them
	marks   []int    // written, at the last syncs
	err     error    // of the next sync: the disk fails
}

type flight struct {
	f     *blockFile
	page  int64
	to    *page
	syncs int // how many syncs had been asked for before it
}

type page struct {
	data   []byte // nil: zeros
	number int
}

const pageSize = vfs.Align

type blockFile struct {
	fs   *blockFS
	name string
	size int64
	now  map[int64]*page // what a read gives
	safe map[int64]*page
}

func newBlockFS(w *World, st *store) *blockFS {
	return &blockFS{w: w, st: st, files: make(map[string]*blockFile)}
}

// OpenDirect is part of vfs.FS.
func (fs *blockFS) OpenDirect(name string, create bool) (vfs.File, error) {
	f := fs.files[name]
	switch {
	case create && f != nil:
		return nil, fmt.Errorf("create %s: it is there already", name)
	case !create && f == nil:
		return nil, fmt.Errorf("open %s: it is not there", name)
	case create:
		f = &blockFile{fs: fs, name: name, now: make(map[int64]*page), safe: make(map[int64]*page)}
		fs.files[name] = f
	}
	return f, nil
}

// LockFile is part of vfs.FS: the world has one life of a store at a time.
func (fs *blockFS) LockFile(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// MkdirAll is part of vfs.FS.
func (fs *blockFS) MkdirAll(string, os.FileMode) error { return nil }

// List is part of vfs.FS.
func (fs *blockFS) List(dir string) (names []string, err error) {
	for name := range fs.files {
		if filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Rename is part of vfs.FS. Names are safe at once: the log syncs its directory after each change.
func (fs *blockFS) Rename(from, to string) error {
	f := fs.files[from]
	if f == nil {
		return fmt.Errorf("rename %s: it is not there", from)
	}
	delete(fs.files, from)
	f.name = to
	fs.files[to] = f
	return nil
}

// OpenDir is part of vfs.FS.
func (fs *blockFS) OpenDir(string) (pvfs.File, error) { return dirFile{}, nil }

type dirFile struct{ pvfs.File }

func (dirFile) Sync() error  { return nil }
func (dirFile) Close() error { return nil }

func (f *blockFile) Close() error { return nil }

func (f *blockFile) Size() (int64, error) { return f.size, nil }

func (f *blockFile) Preallocate(off, n int64) error {
	f.size = max(f.size, off+n)
	return nil
}

func (f *blockFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.st.io("read")
	if off+int64(len(p)) > f.size {
		return 0, io.ErrUnexpectedEOF
	}
	for i := int64(0); i < int64(len(p)); i += pageSize {
		if x := f.now[(off+i)/pageSize]; x != nil && x.data != nil {
			copy(p[i:i+pageSize], x.data)
		} else {
			clear(p[i : i+pageSize])
		}
	}
	return len(p), nil
}

var zeroPage [pageSize]byte

func (f *blockFile) WriteAt(p []byte, off int64) (int, error) { return f.WritevAt([][]byte{p}, off) }

func (f *blockFile) WritevAt(pieces [][]byte, off int64) (n int, err error) {
	f.fs.st.io("write")
	for _, p := range pieces {
		if off%pageSize != 0 || len(p)%pageSize != 0 {
			return n, fmt.Errorf("direct write of %d bytes at %d of %s: not aligned", len(p), off, f.name)
		}
		for i := 0; i < len(p); i += pageSize {
			f.put((off+int64(i))/pageSize, p[i:i+pageSize])
		}
		off += int64(len(p))
		n += len(p)
	}
	f.size = max(f.size, off)
	return n, nil
}

func (f *blockFile) put(at int64, b []byte) {
	zero := bytes.Equal(b, zeroPage[:])
	if x := f.now[at]; zero && (x == nil || x.data == nil) && f.safe[at] == nil {
		return // as it was
	}
	fs := f.fs
	fs.written++
	x := &page{number: fs.written}
	if !zero {
		x.data = bytes.Clone(b)
	}
	f.now[at] = x
	fs.flying = append(fs.flying, flight{f, at, x, fs.syncs})
}

var errDisk = errors.New("injected: input/output error")

func (f *blockFile) SyncData() error {
	f.fs.st.io("sync")
	if err := f.fs.err; err != nil {
		return err
	}
	f.fs.syncs++
	f.fs.marks = append(f.fs.marks, f.fs.written)
	if n := len(f.fs.marks); n > lateSyncs {
		f.fs.marks = f.fs.marks[n-lateSyncs:]
	}
	return nil
}

// lateSyncs is how many of the last syncs an injected loss leaves alone.
const lateSyncs = 4

// done tells that the syncs under way are over: what was written before the last is safe.
func (fs *blockFS) done() {
	rest := fs.flying[:0]
	for _, x := range fs.flying {
		if x.syncs < fs.syncs {
			x.f.safe[x.page] = x.to
		} else {
			x.syncs = 0
			rest = append(rest, x)
		}
	}
	clear(fs.flying[len(rest):])
	fs.flying, fs.syncs = rest, 0
}

// cut is the end of a process, and of the power if it is: it tells whether a write was torn.
func (fs *blockFS) cut(power bool) (torn bool) {
	at := 0 // syncs that were over
	if fs.syncs > 0 {
		at = fs.w.rng.IntN(fs.syncs + 1)
	}
	kept, lost := 0, 0
	for _, x := range fs.flying {
		keep := x.syncs < at || x.syncs == at && (!power || fs.w.rng.IntN(2) == 0)
		if keep {
			x.f.safe[x.page] = x.to
		}
		if x.syncs == at && keep {
			kept++
		} else if x.syncs == at {
			lost++
		}
	}
	fs.flying, fs.syncs, fs.err = nil, 0, nil
	for _, f := range fs.files {
		f.now = make(map[int64]*page, len(f.safe))
		for i, x := range f.safe {
			f.now[i] = x
		}
	}
	return kept > 0 && lost > 0
}

// isSafe tells whether [off, off+n) of a file would be there after a loss of power now.
func (fs *blockFS) isSafe(name string, off, n int64) bool {
	f := fs.files[name]
	if f == nil {
		return false
	}
	for p := off / pageSize; p*pageSize < off+n; p++ {
		if f.now[p] != f.safe[p] {
			return false
		}
	}
	return true
}

// old gives the safe pages of the log's files, in order, but for those of the last log
// writes: there the log may end, and an end cannot be told from a loss.
func (fs *blockFS) old() (out []spot) {
	if len(fs.marks) < lateSyncs {
		return nil
	}
	for name, f := range fs.files {
		if !strings.HasSuffix(name, ".log") {
			continue
		}
		for i, x := range f.safe {
			if x.data != nil && x == f.now[i] && x.number <= fs.marks[0] {
				out = append(out, spot{f, i, x.number})
			}
		}
	}
	slices.SortFunc(out, func(a, b spot) int { return a.number - b.number })
	return out
}

// spot is a page of a file.
type spot struct {
	f      *blockFile
	page   int64
	number int
}

// set puts other bytes into a page, as a faulty disk does.
func (s spot) set(data []byte) {
	x := &page{data: data, number: s.number}
	s.f.now[s.page], s.f.safe[s.page] = x, x
}
