package archive

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/objectstore"
)

// Holds are what must not go: manifests that are restored from or uploaded against, uploads under way.
type Holds struct {
	Manifests map[string]bool
	Uploads   map[string]bool // as in keys
}

// Keeper does what operators ask of an archive.
type Keeper struct {
	Store  objectstore.Store
	Secret *archive.Secret
	// Holds asks metad, now.
	Holds func(ctx context.Context) (Holds, error)
	Wall  func() time.Time
	Clock clock.Clock // of this process
	Locks bool        // what is archived is locked: it is looked at, too, until when
}

// entriesMax bounds the entries of an answer.
const entriesMax = 10_000

// each calls fn for every key under a prefix, in order.
func each(ctx context.Context, s objectstore.Store, prefix string, fn func(objectstore.Info) error) error {
	after := ""
	for {
		all, err := s.List(ctx, prefix, after, 0)
		if err != nil {
			return err
		}
		for _, i := range all {
			if err := fn(i); err != nil {
				return err
			}
			after = i.Key
		}
		if len(all) < objectstore.ListMax {
			return nil
		}
	}
}

// entry describes a manifest; own are the bytes of objects that its own upload put, which no other has before it.
func entry(key string, m *archive.Manifest) *api.ArchiveEntry {
	e := &api.ArchiveEntry{DiskId: m.Volume.String(), Disk: m.VolumeName, SnapshotId: m.Snapshot.String(), Snapshot: m.Name,
		CreatedUnixMs: m.Created.UnixMilli(), SizeBytes: uint64(m.Blocks) * 4096, Manifest: key, ClusterId: fmt.Sprintf("%x", m.Cluster[:])}
	if !m.Base.IsZero() {
		e.Base = m.Base.String()
	}
	own := ""
	for _, o := range m.Objects {
		e.NeedsBytes += o.Size
		own = uploadOfKey(o.Key) // those of the own upload come last
	}
	for _, o := range m.Objects {
		if uploadOfKey(o.Key) == own {
			e.StoredBytes += o.Size
		}
	}
	return e
}

// uploadOfKey gives the upload of an object's key, data/UPLOAD/N, or of a record's.
func uploadOfKey(key string) string {
	_, rest, _ := strings.Cut(key, "/")
	upload, _, _ := strings.Cut(rest, "/")
	return upload
}

// List gives what is archived, of one disk or all. A manifest that cannot be read is listed with the reason.
func (k *Keeper) List(ctx context.Context, disk string) (out []*api.ArchiveEntry, more bool, err error) {
	prefix := archive.ManifestsPrefix
	if disk != "" {
		prefix += disk + "/"
	}
	errEnough := errors.New("enough")
	err = each(ctx, k.Store, prefix, func(i objectstore.Info) error {
		if len(out) == entriesMax {
			return errEnough
		}
		m, err := archive.ReadManifest(ctx, k.Store, i.Key, k.Secret)
		if errors.Is(err, errs.ErrCorrupt) || errors.Is(err, errs.ErrDenied) {
			out = append(out, &api.ArchiveEntry{Manifest: i.Key, Note: err.Error()})
			return nil
		}
		if err != nil && !errors.Is(err, errs.ErrNotFound) { // deleted meanwhile
			return err
		}
		if err != nil {
			return nil
		}
		e := entry(i.Key, m)
		if k.Locks {
			until, err := k.locked(ctx, i.Key)
			if err != nil && !errors.Is(err, errs.ErrNotFound) {
				return err
			}
			if !until.IsZero() {
				e.LockedUntilUnixMs = until.UnixMilli()
			}
		}
		out = append(out, e)
		return nil
	})
	if errors.Is(err, errEnough) {
		return out, true, nil
	}
	return out, false, err
}

// Usage is what the archive takes, by what is listed: each object once.
func (k *Keeper) Usage(ctx context.Context, p *api.ArchiveTaskReply) error {
	seen := make(map[string]bool)
	return each(ctx, k.Store, archive.ManifestsPrefix, func(i objectstore.Info) error {
		m, err := archive.ReadManifest(ctx, k.Store, i.Key, k.Secret)
		if err != nil {
			return fmt.Errorf("%s: %w", i.Key, err)
		}
		p.TotalObjects++ // manifests
		p.TotalBytes += uint64(m.Blocks) * 4096
		for _, o := range m.Objects {
			if !seen[o.Key] {
				seen[o.Key] = true
				p.DoneObjects++
				p.DoneBytes += o.Size
			}
		}
		return nil
	})
}

// Verify reads everything that an archived snapshot needs, and checks it. Into p goes what there is to say about its locks.
func (k *Keeper) Verify(ctx context.Context, v id.Volume, s id.Snapshot, p *api.ArchiveTaskReply, tell func(archive.Progress)) error {
	m, err := archive.ReadManifest(ctx, k.Store, archive.ManifestKey(v, s), k.Secret)
	if err == nil && k.Locks {
		err = k.verifyLocks(ctx, archive.ManifestKey(v, s), m, p)
	}
	if err != nil {
		return err
	}
	_, err = archive.NewReader(k.Store, m, k.Secret).Verify(ctx, k.Secret, tell)
	return err
}

// Delete takes a snapshot out of the archive: its manifest goes to the trash, and its objects go with a later
// gc, those that no other manifest names. Refused while somebody restores from it or uploads against it, and while it is
// locked. With dry it only says whether it would be refused.
func (k *Keeper) Delete(ctx context.Context, v id.Volume, s id.Snapshot, dry bool) error {
	key := archive.ManifestKey(v, s)
	h, err := k.Holds(ctx)
	if err != nil {
		return err
	}
	if h.Manifests[key] {
		return fmt.Errorf("archived snapshot %s is being restored from, or uploaded against: %w", s, errs.ErrConflict)
	}
	is, err := k.Store.Head(ctx, key)
	if err == nil {
		err = k.unlocked(key, is)
	}
	if err != nil || dry {
		return err
	}
	b := make([]byte, is.Size)
	if err := k.Store.ReadAt(ctx, key, b, 0); err != nil {
		return err
	}
	if err := k.Store.Put(ctx, archive.TrashKey(key), b); err != nil {
		return fmt.Errorf("copy manifest to trash: %w", err)
	}
	if err = k.Store.Delete(ctx, key); errors.Is(err, objectstore.ErrLocked) { // by the clock of the store, or since just now
		return errors.Join(err, k.Store.Delete(ctx, archive.TrashKey(key)))
	}
	return err
}
