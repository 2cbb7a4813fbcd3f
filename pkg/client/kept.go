package client

import (
	"context"
	"time"

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
	Purge     bool // not into the trash
	Snapshots api.SnapshotsOfDeleted
}

// Deleted is a disk that was deleted.
type Deleted struct {
	DiskID string
	// Until is when it cannot be brought back from the trash any more; zero: it cannot be now, or the answer was lost.
	Until time.Time
}

// DeleteDisk deletes a disk, into the trash if there is one. ErrConflict while clients are attached,
// unless forced, and where it has snapshots and d does not say what is to become of them.
// After a lost answer it asks again by the id, so that a new disk of
// the same name is safe; that the disk is gone then counts as success.
func (c *Cluster) DeleteDisk(ctx context.Context, nameOrID string, d Deletion) (Deleted, error) {
	disk, err := c.Disk(ctx, nameOrID)
	if err != nil {
		return Deleted{}, err
	}
	asked, out := 0, Deleted{DiskID: disk.DiskId}
	err = c.p.call(ctx, retryAlways, func(ctx context.Context, conn *target) error {
		asked++
		r, err := conn.cluster.DeleteDisk(ctx, &api.DeleteDiskRequest{NameOrId: disk.DiskId, Force: d.Force, Snapshots: d.Snapshots, Purge: d.Purge})
		if ms := r.GetTrashedUntilUnixMs(); ms != 0 {
			out.Until = time.UnixMilli(ms)
		}
		if _, class := api.FromStatus(err); asked > 1 && errs.CodeOf(class) == errs.NotFound {
			return nil
		}
		return err
	})
	if err != nil {
		return Deleted{}, err
	}
	return out, nil
}

// SetProtection protects a disk against deletion, or lets it be deleted again.
func (c *Cluster) SetProtection(ctx context.Context, disk string, on bool) (*api.Disk, error) {
	return ask(ctx, c, &api.SetProtectionRequest{NameOrId: disk, On: on}, func(x api.ClusterClient, ctx context.Context, r *api.SetProtectionRequest) (*api.Disk, error) {
		return x.SetProtection(ctx, r)
	})
}
