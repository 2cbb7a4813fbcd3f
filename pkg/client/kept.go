package client

import (
	"context"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// FindKept is part of Metad.
func (b *Blockd) FindKept(ctx context.Context, nameOrID string) (*cluster.Volume, error) {
	return b.record(ctx, retryAlways, func(ctx context.Context, c api.BlockdClient) (*api.VolumeRecord, error) {
		return c.GetVolume(ctx, &api.GetVolumeRequest{NameOrId: nameOrID, Kept: true})
	})
}

// TellEmptied says that what only a deleted disk had itself is given back, by who has it under e.
func (b *Blockd) TellEmptied(ctx context.Context, by id.Holder, v id.Volume, e id.Epoch) error {
	return b.p.call(ctx, retryAlways, func(ctx context.Context, t *target) error {
		_, err := t.blockd.TellEmptied(ctx, &api.TellEmptiedRequest{Holder: api.FromHolder(by), Volume: v[:], Epoch: uint64(e)})
		return err
	})
}

// Deletion says how a disk is deleted.
type Deletion struct {
	Force     bool // also while clients are attached
	Snapshots api.SnapshotsOfDeleted
}

// DeleteDisk deletes a disk and gives its id. ErrConflict while clients are attached,
// unless forced, and where it has snapshots and d does not say what is to become of them.
// After a lost answer it asks again by the id, so that a new disk of
// the same name is safe; that the disk is gone then counts as success.
func (c *Cluster) DeleteDisk(ctx context.Context, nameOrID string, d Deletion) (string, error) {
	disk, err := c.Disk(ctx, nameOrID)
	if err != nil {
		return "", err
	}
	asked := 0
	err = c.p.call(ctx, retryAlways, func(ctx context.Context, conn *target) error {
		asked++
		_, err := conn.cluster.DeleteDisk(ctx, &api.DeleteDiskRequest{NameOrId: disk.DiskId, Force: d.Force, Snapshots: d.Snapshots})
		if _, class := api.FromStatus(err); asked > 1 && errs.CodeOf(class) == errs.NotFound {
			return nil
		}
		return err
	})
	if err != nil {
		return "", err
	}
	return disk.DiskId, nil
}

// SetProtection protects a disk against deletion, or lets it be deleted again.
func (c *Cluster) SetProtection(ctx context.Context, disk string, on bool) (*api.Disk, error) {
	return ask(ctx, c, &api.SetProtectionRequest{NameOrId: disk, On: on}, func(x api.ClusterClient, ctx context.Context, r *api.SetProtectionRequest) (*api.Disk, error) {
		return x.SetProtection(ctx, r)
	})
}
