package chunk

import (
	"encoding/binary"
	"fmt"
	"path/filepath"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"

	"ashlar.dev/blockd/chunk/extent"
	"ashlar.dev/blockd/chunk/log"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/vfs"
)

// Identity is what a store is formatted with, kept in its STORE file.
type Identity struct {
	ID           id.Store
	Incarnation  id.Incarnation
	LogFileBytes int64 // size of one file of the journal log
	LogFilesMax  int
	ExtentBytes  int64 // size of one extent file
}

// Sizes used where FormatOptions leave zero.
const (
	logFileBytesDefault = 64 << 20
	logFilesMaxDefault  = 16
	extentBytesDefault  = 256 << 20
	extentFilesWanted   = 4096
)

const (
	storeFileBytes   = 4096
	storeFileVersion = 1
)

var storeMagic = [8]byte{'A', 'S', 'H', 'S', 'T', 'O', 'R', 'E'}

func (s *Identity) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, storeFileBytes)
	copy(b, storeMagic[:])
	le.PutUint32(b[8:], storeFileVersion)
	copy(b[16:], s.ID[:])
	copy(b[32:], s.Incarnation[:])
	le.PutUint64(b[48:], uint64(s.LogFileBytes))
	le.PutUint32(b[56:], uint32(s.LogFilesMax))
	le.PutUint64(b[64:], uint64(s.ExtentBytes))
	le.PutUint32(b[storeFileBytes-4:], codec.CRC(b[:storeFileBytes-4]))
	return b
}

func decodeIdentity(place string, b []byte) (Identity, error) {
	var s Identity
	if len(b) != storeFileBytes {
		return s, &errs.Corrupt{Place: place, Offset: -1, What: "file bytes", Want: storeFileBytes, Got: uint64(len(b))}
	}
	if sum, want := codec.CRC(b[:storeFileBytes-4]), binary.LittleEndian.Uint32(b[storeFileBytes-4:]); sum != want {
		return s, &errs.Corrupt{Place: place, Offset: storeFileBytes - 4, What: "file sum", Want: uint64(want), Got: uint64(sum)}
	}
	r := codec.NewReader(place, b[:storeFileBytes-4])
	var magic [8]byte
	if r.Fill(magic[:]); magic != storeMagic {
		r.Fail("magic", binary.LittleEndian.Uint64(storeMagic[:]), binary.LittleEndian.Uint64(magic[:]))
	}
	if v := r.U32(); v != storeFileVersion {
		r.Fail("version", storeFileVersion, uint64(v))
	}
	r.Zero(4)
	r.Fill(s.ID[:])
	r.Fill(s.Incarnation[:])
	s.LogFileBytes, s.LogFilesMax = int64(r.U64()), int(r.U32())
	r.Zero(4)
	s.ExtentBytes = int64(r.U64())
	r.Zero(len(r.Rest()))
	if err := r.Err(); err != nil {
		return s, err
	}
	if err := s.validate(); err != nil {
		return s, &errs.Corrupt{Place: place, Offset: 48, What: "sizes", Want: logFileBytesDefault, Got: uint64(s.LogFileBytes)}
	}
	return s, nil
}

func (s *Identity) validate() error {
	switch {
	case s.ID.IsZero() || s.Incarnation.IsZero():
		return fmt.Errorf("a store needs an id and an incarnation: %w", errs.ErrInvalid)
	case s.LogFileBytes < 16*log.Block || s.LogFileBytes > 1<<30 || s.LogFileBytes%log.Block != 0:
		return fmt.Errorf("log files of %d bytes: %w", s.LogFileBytes, errs.ErrInvalid)
	case s.LogFilesMax < log.FilesMin || s.LogFilesMax > 1<<12:
		return fmt.Errorf("log of %d files: %w", s.LogFilesMax, errs.ErrInvalid)
	case s.ExtentBytes < 64*extent.Unit || s.ExtentBytes > 1<<40 || s.ExtentBytes%(64*extent.Unit) != 0:
		return fmt.Errorf("extent files of %d bytes: %w", s.ExtentBytes, errs.ErrInvalid)
	}
	return nil
}

// FormatOptions make a new store.
type FormatOptions struct {
	ID          id.Store
	Incarnation id.Incarnation // random, never used before
	FS          vfs.FS         // vfs.OS if nil
	// CapacityBytes is the size the store is meant to have; it sizes the extent
	// files. Zero: that of the file system.
	CapacityBytes int64
	// LogFileBytes and LogFilesMax size the journal log, all of which is taken
	// from the disk at once: 64 MiB and 16 if zero.
	LogFileBytes int64
	LogFilesMax  int
	ExtentBytes  int64 // by capacity if zero
}

func (o *FormatOptions) identity(dir string) Identity {
	s := Identity{ID: o.ID, Incarnation: o.Incarnation, LogFileBytes: o.LogFileBytes, LogFilesMax: o.LogFilesMax, ExtentBytes: o.ExtentBytes}
	if s.LogFileBytes == 0 {
		s.LogFileBytes = logFileBytesDefault
	}
	if s.LogFilesMax == 0 {
		s.LogFilesMax = logFilesMaxDefault
	}
	if s.ExtentBytes == 0 {
		capacity := o.CapacityBytes
		if u, err := o.FS.GetDiskUsage(dir); err == nil && capacity == 0 {
			capacity = int64(u.TotalBytes)
		}
		for s.ExtentBytes = extentBytesDefault; s.ExtentBytes*extentFilesWanted < capacity; s.ExtentBytes *= 2 {
		}
	}
	return s
}

// Format makes an empty store in dir, which must not have one; the directory is
// made if need be. A format that was cut off left no STORE file, and is begun
// anew by the next. Durable when it returns.
//
// Order: log files, index and directories, synced; then STORE under a temporary
// name, synced; renamed; the directory and the one above it synced.
func Format(dir string, o FormatOptions) (Identity, error) {
	if o.FS == nil {
		o.FS = vfs.OS
	}
	if err := o.FS.MkdirAll(dir, 0o700); err != nil {
		return Identity{}, fmt.Errorf("make store directory: %w", err)
	}
	s := o.identity(dir)
	if err := s.validate(); err != nil {
		return s, fmt.Errorf("format store: %w", err)
	}
	lock, err := o.FS.LockFile(filepath.Join(dir, "LOCK"))
	if err != nil {
		return s, fmt.Errorf("lock store %s: %w", dir, err)
	}
	defer lock.Close()
	if _, err := o.FS.Stat(storePath(dir)); err == nil {
		return s, fmt.Errorf("format store in %s, which has one: %w", dir, errs.ErrExists)
	}
	if err := formatParts(dir, o.FS, &s); err != nil {
		return s, fmt.Errorf("format store in %s: %w", dir, err)
	}
	err = writeFile(o.FS, storePath(dir), s.encode())
	if err == nil {
		err = vfs.SyncDir(o.FS, filepath.Dir(dir))
	}
	if err != nil {
		return s, fmt.Errorf("format store in %s: %w", dir, err)
	}
	return s, nil
}

func formatParts(dir string, fs vfs.FS, s *Identity) error {
	for _, part := range []string{"log", "index", "extents"} {
		if err := fs.RemoveAll(filepath.Join(dir, part)); err != nil {
			return err
		}
	}
	if err := log.Format(logOptions(dir, fs, s)); err != nil {
		return err
	}
	if err := fs.MkdirAll(filepath.Join(dir, "extents"), 0o700); err != nil {
		return err
	}
	if err := formatIndex(dir, fs); err != nil {
		return err
	}
	return vfs.SyncDir(fs, dir)
}

func logOptions(dir string, fs vfs.FS, s *Identity) log.Options {
	return log.Options{FS: fs, Dir: filepath.Join(dir, "log"), Incarnation: s.Incarnation,
		FileBytes: s.LogFileBytes, FilesMax: s.LogFilesMax}
}

func storePath(dir string) string { return filepath.Join(dir, "STORE") }

// writeFile makes a file with contents b appear whole, durably, or not at all.
func writeFile(fs vfs.FS, name string, b []byte) error {
	tmp := name + ".tmp"
	f, err := fs.Create(tmp, pvfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fs.Rename(tmp, name)
	}
	if err == nil {
		err = vfs.SyncDir(fs, filepath.Dir(name))
	}
	return err
}

// ReadIdentity tells which store is in dir, without opening it. ErrNotFound: none.
func ReadIdentity(fs vfs.FS, dir string) (Identity, error) {
	if fs == nil {
		fs = vfs.OS
	}
	f, err := fs.Open(storePath(dir))
	if vfs.IsNotExist(err) {
		return Identity{}, fmt.Errorf("no store in %s: %w", dir, errs.ErrNotFound)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("open store file: %w", err)
	}
	defer f.Close()
	b := make([]byte, storeFileBytes)
	if n, err := f.ReadAt(b, 0); err != nil {
		return Identity{}, fmt.Errorf("read %s (%d bytes): %w", storePath(dir), n, err)
	}
	return decodeIdentity(storePath(dir), b)
}
