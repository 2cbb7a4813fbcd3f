package archive

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
)

// What can go, and how data would be lost by it:
//
//   - an object of a manifest in the trash that another manifest still names. So all manifests of the disk are read after
//     the trash was, and one that cannot be read stops it.
//   - an object that a restore or an upload relies on which read the manifest before it was unlinked. Both are committed as
//     holds before they rely on anything; holds are asked for after the unlinking and a grace.
//   - an object that is copied here, from another archive, or that such a copy found here and relies on: see marks.go.
//   - an object of an upload that is just about to be archived. It is one of those under way in the holds, which are
//     asked for before the manifests are read: so it is in one or the other.

// Gc reclaims what nothing needs any more and was unlinked, or begun and given up, longer ago than the grace. With dry it only says what it would do.
func (k *Keeper) Gc(ctx context.Context, grace time.Duration, dry bool, p *api.ArchiveTaskReply) error {
	before := k.Wall().Add(-grace)
	m := newGcMark(k.Store, k.Clock)
	if !dry {
		if err := m.renew(ctx); err != nil {
			return err
		}
		defer func() { _ = k.Store.Delete(context.WithoutCancel(ctx), m.key) }() // one that stays counts for minutes only
	}
	var trash, stray []objectstore.Info
	if err := each(ctx, k.Store, archive.TrashPrefix, func(i objectstore.Info) error {
		if i.Modified.Before(before) {
			trash = append(trash, i)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, prefix := range []string{"data/", "uploads/", copyingPrefix, gcPrefix} {
		if err := each(ctx, k.Store, prefix, func(i objectstore.Info) error {
			if i.Modified.Before(before) {
				stray = append(stray, i)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	h, err := k.Holds(ctx)
	if err != nil {
		return err
	}
	needed, uploads, err := k.needed(ctx, h, before)
	if err != nil {
		return err
	}
	return (&reclaiming{Keeper: k, mark: m, holds: h, needed: needed, uploads: uploads, dry: dry, done: p}).all(ctx, trash, stray)
}

// needed are the objects that manifests name: those that are there, and those in the trash that are held or were unlinked after before.
// Uploads are those of which some object is needed.
func (k *Keeper) needed(ctx context.Context, h Holds, before time.Time) (objects, uploads map[string]bool, err error) {
	objects, uploads = make(map[string]bool), make(map[string]bool)
	note := func(i objectstore.Info) error {
		m, err := archive.ReadManifest(ctx, k.Store, i.Key, k.Secret)
		switch {
		case errors.Is(err, errs.ErrNotFound):
			return nil // deleted meanwhile; it is in the trash, too young
		case err != nil:
			return fmt.Errorf("%s cannot be read, so nothing is reclaimed: %w", i.Key, err)
		}
		for _, o := range m.Objects {
			objects[o.Key], uploads[uploadOfKey(o.Key)] = true, true
		}
		return nil
	}
	// What is copied is asked before what is there: a copy that ends is in one or the other.
	if err = each(ctx, k.Store, copyingPrefix, func(i objectstore.Info) error {
		if k.Wall().Sub(i.Modified) < copyingLife {
			return note(i)
		}
		return nil
	}); err != nil {
		return nil, nil, err
	}
	if err = each(ctx, k.Store, archive.ManifestsPrefix, note); err != nil {
		return nil, nil, err
	}
	err = each(ctx, k.Store, archive.TrashPrefix, func(i objectstore.Info) error {
		if !i.Modified.Before(before) || h.Manifests[manifestOfTrash(i.Key)] {
			return note(i)
		}
		return nil
	})
	return objects, uploads, err
}

// reclaiming is what a gc found.
type reclaiming struct {
	*Keeper
	mark            *mark
	holds           Holds
	needed, uploads map[string]bool
	dry             bool
	done            *api.ArchiveTaskReply
}

// drop deletes one, as long as whoever copies waits for this gc. One that is locked stays for a later gc.
func (x *reclaiming) drop(ctx context.Context, i objectstore.Info) error {
	if x.Locks {
		until, err := x.locked(ctx, i.Key)
		if err != nil && !errors.Is(err, errs.ErrNotFound) {
			return err
		}
		if !until.IsZero() {
			keepsLocked(x.done, i, until)
			return nil
		}
	}
	if !x.dry {
		if err := errors.Join(x.mark.renew(ctx), x.mark.young(gcStop)); err != nil {
			return err
		}
		err := x.Store.Delete(ctx, i.Key)
		if errors.Is(err, objectstore.ErrLocked) { // by somebody else, or by the clock of the store
			keepsLocked(x.done, i, x.Wall())
			return nil
		}
		if err != nil {
			return err
		}
	}
	x.done.DoneObjects++
	x.done.DoneBytes += uint64(i.Size)
	return nil
}

// all deletes objects first, then records and marks of the dead, then the trash that named them: who dies in between leaves what the next one finds.
func (x *reclaiming) all(ctx context.Context, trash, stray []objectstore.Info) error {
	for _, i := range stray {
		if x.keeps(ctx, i) {
			continue
		}
		if err := x.drop(ctx, i); err != nil {
			return err
		}
	}
	for _, i := range trash {
		if x.holds.Manifests[manifestOfTrash(i.Key)] {
			continue
		}
		if err := x.drop(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// keeps tells whether what has lain there for the grace stays.
func (x *reclaiming) keeps(ctx context.Context, i objectstore.Info) bool {
	kind, _, _ := strings.Cut(i.Key, "/")
	switch kind + "/" {
	case copyingPrefix:
		return x.Wall().Sub(i.Modified) < copyingLife
	case gcPrefix:
		return i.Key == x.mark.key || x.Wall().Sub(i.Modified) < copyingLife
	}
	up := uploadOfKey(i.Key)
	return x.holds.Uploads[up] || x.needed[i.Key] || kind == "uploads" && !x.uploads[up] && x.dataOf(ctx, up) && !x.dry
}

// dataOf tells whether an upload has objects still: its records go after them.
func (k *Keeper) dataOf(ctx context.Context, upload string) bool {
	all, err := k.Store.List(ctx, "data/"+upload+"/", "", 1)
	return err != nil || len(all) > 0
}
