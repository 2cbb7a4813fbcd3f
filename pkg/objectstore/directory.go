package objectstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/vfs"
)

// Directory keeps each object as a file under its key. A file is written beside, synced, and then
// given its name: by a link where it must be new, so that the file system decides who is first.
type Directory struct {
	fs   vfs.FS
	root string
}

// tempDir has what is being written, temp* what a crash left of it.
const tempDir = ".tmp"

// NewDirectory keeps objects under root, which is made (only for its owner) if need be.
func NewDirectory(fs vfs.FS, root string) (*Directory, error) {
	d := &Directory{fs, root}
	if err := fs.MkdirAll(fs.PathJoin(root, tempDir), 0o700); err != nil {
		return nil, fmt.Errorf("make archive folder: %w", classOf(err))
	}
	for _, dir := range []string{fs.PathDir(root), root} {
		if err := vfs.SyncDir(fs, dir); err != nil {
			return nil, classOf(err)
		}
	}
	return d, nil
}

// String is part of Store.
func (d *Directory) String() string { return "file://" + d.root }

func (d *Directory) file(key string) string { return d.fs.PathJoin(d.root, key) }

// classOf gives an error of the file system its class.
func classOf(err error) error {
	class := errs.ErrUnavailable
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrNotExist):
		class = errs.ErrNotFound
	case errors.Is(err, os.ErrExist):
		class = errs.ErrExists
	case errors.Is(err, os.ErrPermission):
		class = errs.ErrDenied
	case isNoSpace(err):
		class = errs.ErrNoSpace
	}
	return fmt.Errorf("%w: %w", class, err)
}

// Put is part of Store.
func (d *Directory) Put(ctx context.Context, key string, body []byte) error {
	return d.put(ctx, key, body, d.fs.Rename)
}

// PutNew is part of Store.
func (d *Directory) PutNew(ctx context.Context, key string, body []byte) error {
	return d.put(ctx, key, body, func(temp, name string) error {
		if err := d.fs.Link(temp, name); err != nil {
			return err
		}
		return d.fs.Remove(temp)
	})
}

// put writes and syncs the body beside, has name give it its name, and makes that durable.
func (d *Directory) put(ctx context.Context, key string, body []byte, name func(temp, name string) error) error {
	if err := errors.Join(checkPut(key, body), ctx.Err()); err != nil {
		return err
	}
	var r [16]byte
	rand.Read(r[:]) // never fails
	temp := d.fs.PathJoin(d.root, tempDir, hex.EncodeToString(r[:]))
	err := d.write(temp, body)
	for try := 0; err == nil; try++ {
		if err = d.makeParents(key); err != nil {
			break
		}
		if err = name(temp, d.file(key)); err == nil {
			break
		}
		if errors.Is(err, os.ErrNotExist) && try < 8 {
			err = nil // a Delete has taken the folder, empty, away
		}
	}
	if err != nil {
		_ = d.fs.Remove(temp) // there is an error already; Sweep takes what is left
		return fmt.Errorf("put %s: %w", d.file(key), classOf(err))
	}
	if err := vfs.SyncDir(d.fs, d.fs.PathDir(d.file(key))); err != nil {
		return fmt.Errorf("put %s: %w", key, classOf(err))
	}
	return nil
}

// writePiece is what is written at once: it is in the processor's cache still when the kernel copies it.
const writePiece = 256 << 10

var scratches = sync.Pool{New: func() any { return new([writePiece]byte) }}

func (d *Directory) write(name string, body []byte) error {
	f, err := d.fs.Create(name, pvfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	scratch := scratches.Get().(*[writePiece]byte) // pebble's file systems may change what they are given
	defer scratches.Put(scratch)
	for err == nil && len(body) > 0 {
		n := copy(scratch[:], body)
		_, err = f.Write(scratch[:n])
		body = body[n:]
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// makeParents makes the folders above an object, each durable in the one above.
func (d *Directory) makeParents(key string) error {
	dir := d.root
	parts := strings.Split(key, "/")
	for _, part := range parts[:len(parts)-1] {
		next := d.fs.PathJoin(dir, part)
		if _, err := d.fs.Stat(next); err != nil {
			if err := d.fs.MkdirAll(next, 0o700); err != nil {
				return err
			}
			if err := vfs.SyncDir(d.fs, dir); err != nil {
				return err
			}
		}
		dir = next
	}
	return nil
}

// ReadAt is part of Store.
func (d *Directory) ReadAt(ctx context.Context, key string, dst []byte, offset int64) error {
	if err := errors.Join(CheckKey(key), ctx.Err()); err != nil {
		return err
	}
	f, err := d.fs.Open(d.file(key))
	if err != nil {
		return fmt.Errorf("read object: %w", classOf(err))
	}
	n, err := f.ReadAt(dst, offset)
	if n == len(dst) {
		err = nil
	} else if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = shorter(d.file(key), offset+int64(len(dst)), offset+int64(n))
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil || errors.Is(err, errs.ErrCorrupt) {
		return err
	}
	return fmt.Errorf("read object %s: %w", key, classOf(err))
}

// Head is part of Store.
func (d *Directory) Head(ctx context.Context, key string) (Info, error) {
	if err := errors.Join(CheckKey(key), ctx.Err()); err != nil {
		return Info{}, err
	}
	s, err := d.fs.Stat(d.file(key))
	if err == nil && s.IsDir() {
		err = os.ErrNotExist
	}
	if err != nil {
		return Info{}, fmt.Errorf("look for object %s: %w", key, classOf(err))
	}
	return Info{Key: key, Size: s.Size(), Modified: s.ModTime().UTC()}, nil
}

// List is part of Store.
func (d *Directory) List(ctx context.Context, prefix, after string, limit int) ([]Info, error) {
	limit, err := checkList(prefix, after, limit)
	if err != nil {
		return nil, err
	}
	out, err := d.list(ctx, "", prefix, after, limit, nil)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", d.file(prefix), err)
	}
	return out, nil
}

// list appends what lies in a folder, whose name ends with a slash, or is empty.
func (d *Directory) list(ctx context.Context, dir, prefix, after string, limit int, out []Info) ([]Info, error) {
	names, err := d.fs.List(d.fs.PathJoin(d.root, dir))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return out, nil // deleted meanwhile
		}
		return nil, classOf(err)
	}
	// Keys are ordered as if every folder's name had its slash.
	type entry struct {
		key  string
		info os.FileInfo
	}
	var all []entry
	for _, name := range names {
		key := dir + name
		if name == "" || name[0] == '.' || !strings.HasPrefix(key, prefix) && !strings.HasPrefix(prefix, key) {
			continue
		}
		info, err := d.fs.Stat(d.file(key))
		if err != nil {
			continue // deleted meanwhile
		}
		if info.IsDir() {
			key += "/"
		}
		all = append(all, entry{key, info})
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	for _, e := range all {
		switch {
		case len(out) >= limit:
			return out, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case !e.info.IsDir():
			if e.key > after && strings.HasPrefix(e.key, prefix) {
				out = append(out, Info{Key: e.key, Size: e.info.Size(), Modified: e.info.ModTime().UTC()})
			}
		case e.key > after || strings.HasPrefix(after, e.key):
			if out, err = d.list(ctx, e.key, prefix, after, limit, out); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// Delete is part of Store. Folders that become empty go, too.
func (d *Directory) Delete(ctx context.Context, key string) error {
	if err := errors.Join(CheckKey(key), ctx.Err()); err != nil {
		return err
	}
	err := d.fs.Remove(d.file(key))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for dir := path.Dir(key); err == nil; dir = path.Dir(dir) {
		if err = vfs.SyncDir(d.fs, d.fs.PathJoin(d.root, dir)); errors.Is(err, os.ErrNotExist) {
			err = nil // somebody else's Delete was here
		}
		if dir == "." || d.fs.Remove(d.fs.PathJoin(d.root, dir)) != nil {
			break // it is not empty
		}
	}
	if err != nil {
		return fmt.Errorf("delete object %s: %w", key, classOf(err))
	}
	return nil
}

// Sweep deletes what crashes left of objects that were being written before a moment.
func (d *Directory) Sweep(before time.Time) error {
	dir := d.fs.PathJoin(d.root, tempDir)
	names, err := d.fs.List(dir)
	for _, name := range names {
		file := d.fs.PathJoin(dir, name)
		if s, e := d.fs.Stat(file); e == nil && s.ModTime().Before(before) {
			err = errors.Join(err, d.fs.Remove(file))
		}
	}
	if err != nil {
		return fmt.Errorf("sweep %s: %w", dir, classOf(err))
	}
	return nil
}
