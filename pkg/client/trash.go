package client

import (
	"context"
	"fmt"
	"strings"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

// Trash tells what is in the trash, what was deleted last first, and for how many seconds things are kept; 0: it is off.
func (c *Cluster) Trash(ctx context.Context) (all []*api.TrashEntry, keepSeconds uint64, err error) {
	r, err := ask(ctx, c, &api.ListTrashRequest{}, func(x api.ClusterClient, ctx context.Context, r *api.ListTrashRequest) (*api.ListTrashReply, error) {
		return x.ListTrash(ctx, r)
	})
	return r.GetEntries(), r.GetKeepSeconds(), err
}

// InTrash finds among all what DISK, DISK@SNAPSHOT or an id means. ErrConflict: several had that name; the error has their ids.
func InTrash(all []*api.TrashEntry, nameOrID string) (*api.TrashEntry, error) {
	var found []*api.TrashEntry
	var ids []string
	disk, snapshot, of := strings.Cut(nameOrID, "@")
	for _, e := range all {
		switch {
		case e.Id == nameOrID:
			return e, nil
		case !of && e.Kind == "disk" && e.Name == disk, of && e.Kind == "snapshot" && (e.Disk == disk || e.DiskId == disk) && (e.Name == snapshot || e.Id == snapshot):
			found, ids = append(found, e), append(ids, e.Id)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%.140q is not in the trash: %w", nameOrID, errs.ErrNotFound)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%d in the trash are called %.140s, say which by its id: %s: %w", len(found), nameOrID, strings.Join(ids, ", "), errs.ErrConflict)
}

// RestoreTrash brings the disk or snapshot of an id back, under another name if name is not empty. ErrExists: its name, or
// that one, is another's by now.
func (c *Cluster) RestoreTrash(ctx context.Context, id, name string) (*api.TrashEntry, error) {
	return ask(ctx, c, &api.RestoreTrashRequest{Id: id, Name: name}, func(x api.ClusterClient, ctx context.Context, r *api.RestoreTrashRequest) (*api.TrashEntry, error) {
		return x.RestoreTrash(ctx, r)
	})
}

// EmptyTrash deletes the disk or snapshot of an id for good. After a lost answer, that it is not in the trash counts as success.
func (c *Cluster) EmptyTrash(ctx context.Context, id string) error {
	asked := 0
	return c.p.call(ctx, retryAlways, func(ctx context.Context, conn *target) error {
		asked++
		_, err := conn.cluster.EmptyTrash(ctx, &api.EmptyTrashRequest{Id: id})
		if _, class := api.FromStatus(err); asked > 1 && errs.CodeOf(class) == errs.NotFound {
			return nil
		}
		return err
	})
}
