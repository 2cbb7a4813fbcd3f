package cli

import (
	"context"
	"errors"
	"fmt"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
)

// originView is the snapshot that a disk began with, in JSON. Names are empty where what had them is deleted.
type originView struct {
	DiskID     string `json:"diskId"`
	Disk       string `json:"disk,omitempty"`
	SnapshotID string `json:"snapshotId"`
	Snapshot   string `json:"snapshot,omitempty"`
	Depth      uint32 `json:"depth"` // ancestors, this one included
}

func viewOrigin(o *api.DiskOrigin) *originView {
	if o == nil {
		return nil
	}
	return &originView{DiskID: o.DiskId, Disk: o.Disk, SnapshotID: o.SnapshotId, Snapshot: o.Snapshot, Depth: o.Depth}
}

// originText says where a clone comes from: by names, by ids where these are gone.
func originText(o *api.DiskOrigin) string {
	disk, snapshot := o.Disk, o.Snapshot
	if disk == "" {
		disk = o.DiskId + " (deleted)"
	}
	if snapshot == "" {
		return fmt.Sprintf("a snapshot of %s, deleted since and kept for its clones", disk)
	}
	return disk + "@" + snapshot
}

// clone makes the disk of a snapshot.
func (c *diskCreate) clone(ctx context.Context, cl Cluster, limits cluster.QoS) (*api.Disk, error) {
	disk, snapshot, err := snapshotOf(c.From)
	if err != nil {
		return nil, err
	}
	d, err := cl.CloneDisk(ctx, client.Clone{Name: c.Name, Disk: disk, Snapshot: snapshot, SizeBytes: uint64(c.Size), QoS: limits})
	switch {
	case errors.Is(err, errs.ErrNotFound):
		return nil, &hinted{err, "ashlar snapshot list shows what there is"}
	case errors.Is(err, errs.ErrInvalid) && c.Size != 0:
		return nil, &hinted{err, "a clone cannot be smaller than its snapshot; leave --size out for the same size"}
	}
	return d, err
}
