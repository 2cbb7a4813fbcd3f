package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

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
	Image      string `json:"image,omitempty"` // that holds the snapshot, which nobody sees any more
	Depth      uint32 `json:"depth"`           // ancestors, this one included
	// Hydration is how far the oldest ancestor, HydratedDisk, is brought in from its archive; absent: nothing lies there.
	Hydration    *hydrationView `json:"hydration,omitempty"`
	HydratedDisk string         `json:"hydratedDisk,omitempty"`
}

func viewOrigin(o *api.DiskOrigin) *originView {
	if o == nil {
		return nil
	}
	return &originView{DiskID: o.DiskId, Disk: o.Disk, SnapshotID: o.SnapshotId, Snapshot: o.Snapshot, Image: o.Image, Depth: o.Depth, Hydration: viewHydration(o.Hydration), HydratedDisk: o.HydratedDisk}
}

// originText says where a clone comes from: by names, by ids where these are gone.
func originText(o *api.DiskOrigin) string {
	disk, snapshot := o.Disk, o.Snapshot
	if o.Image != "" {
		return "image " + o.Image
	}
	if disk == "" {
		disk = o.DiskId + " (deleted)"
	}
	if snapshot == "" {
		return fmt.Sprintf("a snapshot of %s, deleted since and kept for its clones", disk)
	}
	return disk + "@" + snapshot
}

// namesMax bounds the names in a hint.
const namesMax = 8

// clone makes the disk of a snapshot.
func (c *diskCreate) clone(ctx context.Context, cl Cluster, limits cluster.QoS) (*api.Disk, error) {
	disk, snapshot, err := findSnapshot(ctx, cl, c.From)
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

type diskRollback struct {
	Snapshot string `arg:"" help:"DISK@NAME, or its id. Nobody may be attached to the disk." placeholder:"DISK@NAME"`
}

// Run is called by kong.
func (c *diskRollback) Run(ctx context.Context, s *session) error {
	disk, snapshot, err := s.snapshotOf(ctx, c.Snapshot)
	if err != nil {
		return err
	}
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		x, err := cl.RollbackDisk(ctx, disk, snapshot)
		switch {
		case errors.Is(err, errs.ErrNotFound):
			return &hinted{err, "ashlar snapshot list " + disk + " shows what there is"}
		case errors.Is(err, errs.ErrConflict):
			return &hinted{err, "detach the disk's clients first; ashlar disk show " + disk + " says how it is"}
		case errors.Is(err, errs.ErrUnavailable):
			return &hinted{err, "ashlar disk show " + disk + " says when it is done"}
		case err != nil:
			return err
		}
		return s.show(viewSnapshot(x), func(w io.Writer) {
			fmt.Fprintf(w, "disk %s is as %s was; what it was before is snapshot %s@%s\n  undo it: ashlar disk rollback %s@%s\n", x.Disk, c.Snapshot, x.Disk, x.Name, x.Disk, x.Name)
		})
	})
}
