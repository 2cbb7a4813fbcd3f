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
//   - an object of an upload that is just about to be archived. It is one of those under way in the holds, which are
//     asked for before the manifests are read: so it is in one or the other.

// Gc reclaims what nothing needs any more and was unlinked, or begun and given up, longer ago than the grace. With dry it only says what it would do.
func (k *Keeper) Gc(ctx context.Context, grace time.Duration, dry bool, p *api.ArchiveTaskReply) error {
	before := k.Wall().Add(-grace)
	var trash, stray []objectstore.Info
	if err := each(ctx, k.Store, trashPrefix, func(i objectstore.Info) error {
		if i.Modified.Before(before) {
			trash = append(trash, i)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, prefix := range []string{"data/", "uploads/"} {
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
	return k.reclaim(ctx, trash, stray, h, needed, uploads, dry, p)
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
	if err = each(ctx, k.Store, archive.ManifestsPrefix, note); err != nil {
		return nil, nil, err
	}
	err = each(ctx, k.Store, trashPrefix, func(i objectstore.Info) error {
		if !i.Modified.Before(before) || h.Manifests[manifestOfTrash(i.Key)] {
			return note(i)
		}
		return nil
	})
	return objects, uploads, err
}

// reclaim deletes objects first, then records, then the trash that named them: who dies in between leaves what the next one finds.
func (k *Keeper) reclaim(ctx context.Context, trash, stray []objectstore.Info, h Holds, needed, uploads map[string]bool, dry bool, p *api.ArchiveTaskReply) error {
	drop := func(i objectstore.Info) error {
		p.DoneObjects++
		p.DoneBytes += uint64(i.Size)
		if dry {
			return nil
		}
		return k.Store.Delete(ctx, i.Key)
	}
	for _, i := range stray {
		up := uploadOfKey(i.Key)
		record := strings.HasPrefix(i.Key, "uploads/")
		if h.Uploads[up] || needed[i.Key] || record && !uploads[up] && k.dataOf(ctx, up) && !dry {
			continue
		}
		if err := drop(i); err != nil {
			return err
		}
	}
	for _, i := range trash {
		if h.Manifests[manifestOfTrash(i.Key)] {
			continue
		}
		if err := drop(i); err != nil {
			return err
		}
	}
	return nil
}

// dataOf tells whether an upload has objects still: its records go after them.
func (k *Keeper) dataOf(ctx context.Context, upload string) bool {
	all, err := k.Store.List(ctx, "data/"+upload+"/", "", 1)
	return err != nil || len(all) > 0
}
