package chunk

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"ashlar.dev/blockd/chunk/extent"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/vfs"
)

// extents are the files with shard data and the allocator over them.
type extents struct {
	fs    vfs.FS
	dir   string
	bytes int64 // of one file
	alloc *extent.Allocator

	// growing is held while a file is made or removed, across I/O: the number
	// must stay free. Nothing on the read path takes it.
	growing sync.Mutex
	files   atomic.Pointer[[]extentFile] // by number; replaced, never changed

	// short has the files that the open found shorter than they should be, with what they
	// had; zero: they were not there. Of the open alone.
	short map[uint32]int64
}

// extentFile is one open file; the zero value is none.
type extentFile struct {
	vfs.File
	sync *groupSync
}

func extentName(n uint32) string { return fmt.Sprintf("%06d.ext", n) }

func openExtents(fs vfs.FS, dir string, bytes int64) (*extents, error) {
	x := &extents{fs: fs, dir: filepath.Join(dir, "extents"), bytes: bytes,
		alloc: extent.NewAllocator(uint32(bytes / extent.Unit)), short: make(map[uint32]int64)}
	x.files.Store(new([]extentFile))
	names, err := fs.List(x.dir)
	if err != nil {
		return nil, fmt.Errorf("list extents: %w", err)
	}
	for _, name := range names {
		num, ok := strings.CutSuffix(name, ".ext")
		n, err := strconv.ParseUint(num, 10, 32)
		if !ok || err != nil || extentName(uint32(n)) != name {
			continue
		}
		if err := x.openFile(uint32(n)); err != nil {
			return nil, errors.Join(err, x.close())
		}
	}
	return x, nil
}

func (x *extents) openFile(n uint32) error {
	name := filepath.Join(x.dir, extentName(n))
	f, err := x.fs.OpenDirect(name, false)
	if err != nil {
		return fmt.Errorf("open extent: %w", err)
	}
	size, err := f.Size()
	if err == nil && size < x.bytes { // was being made when the power went; or else see restore
		x.short[n] = size
		err = f.Preallocate(0, x.bytes)
		if err == nil {
			err = f.SyncData()
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("open extent %s: %w", name, err), f.Close())
	}
	x.set(n, f)
	x.alloc.AddFile(n)
	return nil
}

// restore makes the files anew that a shard's row names and that are not there, and tells
// whether the shard's bytes are gone with them, or with the end of a file that was cut
// off. Their room is taken all the same: the shards are rebuilt from others. Of the open alone.
func (x *extents) restore(p extent.Place) (hurt bool, err error) {
	for _, r := range p {
		files := *x.files.Load()
		if int64(r.File) > int64(1)<<40/x.bytes || int64(r.Start)+int64(r.Units) > x.bytes/extent.Unit {
			return false, nil // no file could have it: Mark says so
		}
		if int(r.File) >= len(files) || files[r.File].File == nil {
			if err := x.makeFile(r.File); err != nil {
				return false, err
			}
			x.short[r.File] = 0
		}
		size, short := x.short[r.File]
		hurt = hurt || short && (int64(r.Start)+int64(r.Units))*extent.Unit > size
	}
	return hurt, nil
}

func (x *extents) set(n uint32, f vfs.File) {
	old := *x.files.Load()
	files := make([]extentFile, max(len(old), int(n)+1))
	copy(files, old)
	if files[n] = (extentFile{}); f != nil {
		files[n] = extentFile{f, newGroupSync()}
	}
	x.files.Store(&files)
}

func (x *extents) file(n uint32) vfs.File { return (*x.files.Load())[n].File }

// sync makes durable what was written to a file before the call.
func (x *extents) sync(n uint32) error {
	f := (*x.files.Load())[n]
	return f.sync.do(f.SyncData)
}

// allocate gives room for bytes. The room of files is bounded by filesMax.
func (x *extents) allocate(bytes int64, filesMax int64) (extent.Place, error) {
	units := uint32((bytes + extent.Unit - 1) / extent.Unit)
	if int64(units)*extent.Unit > x.bytes {
		return nil, fmt.Errorf("a shard of %d bytes in extents of %d: %w", bytes, x.bytes, errs.ErrInvalid)
	}
	if p, ok := x.alloc.Alloc(units); ok {
		return p, nil
	}
	x.growing.Lock()
	defer x.growing.Unlock()
	if p, ok := x.alloc.Alloc(units); ok {
		return p, nil
	}
	var grow error
	if _, n := x.alloc.Used(); int64(n) < filesMax {
		if grow = x.grow(); grow == nil {
			if p, ok := x.alloc.Alloc(units); ok {
				return p, nil
			}
		} else if !vfs.IsNoSpace(grow) {
			return nil, grow
		}
	}
	if p, ok := x.alloc.AllocPieces(units); ok {
		return p, nil
	}
	return nil, fmt.Errorf("no room for a shard of %d bytes: %w", bytes, errs.ErrNoSpace)
}

// grow makes one more file.
//
// Order: the file; its room, synced; the directory, synced. One that was cut off
// is finished by the next open.
func (x *extents) grow() error { return x.makeFile(x.alloc.NextFile()) }

func (x *extents) makeFile(n uint32) error {
	name := filepath.Join(x.dir, extentName(n))
	f, err := x.fs.OpenDirect(name, true)
	if err != nil {
		return fmt.Errorf("make extent: %w", err)
	}
	err = f.Preallocate(0, x.bytes)
	if err == nil {
		err = f.SyncData()
	}
	if err == nil {
		err = vfs.SyncDir(x.fs, x.dir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make extent %s: %w", name, err), f.Close(), x.fs.Remove(name))
	}
	x.set(n, f)
	x.alloc.AddFile(n)
	return nil
}

// shrink gives wholly free files back to the file system, all but one. Nobody
// may be reading from them.
func (x *extents) shrink(empty []uint32) error {
	x.growing.Lock()
	defer x.growing.Unlock()
	for _, n := range empty {
		used, files := x.alloc.Used()
		if int64(files)*x.bytes-used*extent.Unit < 2*x.bytes || !x.alloc.RemoveFile(n) {
			continue
		}
		f := x.file(n)
		x.set(n, nil)
		if err := errors.Join(f.Close(), x.fs.Remove(filepath.Join(x.dir, extentName(n)))); err != nil {
			return fmt.Errorf("remove extent %d: %w", n, err)
		}
	}
	return nil
}

func (x *extents) close() error {
	var all []error
	for _, f := range *x.files.Load() {
		if f.File != nil {
			all = append(all, f.Close())
		}
	}
	x.files.Store(new([]extentFile))
	return errors.Join(all...)
}
