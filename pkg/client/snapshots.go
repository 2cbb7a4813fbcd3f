package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/id"
)

// SnapshotOrder is what a host has to do about a snapshot: take it, let it go, or, where Safety
// is not zero, take that one and roll the disk back to this. Empty: it is of no snapshot, but of what
// only a deleted disk has itself; that is to be given back.
type SnapshotOrder struct {
	Volume   id.Volume
	Snapshot id.Snapshot
	Drop     bool
	Step     api.SnapshotStep // of a group; none: it is of one disk
	Hold     time.Duration    // of the step HOLD: how long writers may wait; 0: metad does not say
	Safety   id.Snapshot
	Yield    bool // alone: give the volume up if no client has it open
	Empty    bool
}

// WatchSnapshots calls f with every order for a host, again and again until it is carried
// out, and manifest with the key of every manifest that it is to tell of (TellManifest). It returns
// when ctx ends. Neither waits.
func (b *Blockd) WatchSnapshots(ctx context.Context, by id.Holder, f func(SnapshotOrder), manifest func(string)) {
	for ctx.Err() == nil {
		err := b.p.call(ctx, retryUnknown, func(ctx context.Context, t *target) error {
			stream, err := t.blockd.WatchSnapshots(ctx, &api.WatchSnapshotsRequest{Holder: api.FromHolder(by)})
			if err != nil {
				return err
			}
			for {
				x, err := stream.Recv()
				if err != nil {
					return err
				}
				for _, key := range x.Manifests {
					manifest(key)
				}
				for _, o := range x.Yields {
					v, err := api.VolumeID(o)
					if err != nil {
						return err
					}
					f(SnapshotOrder{Volume: v, Yield: true})
				}
				for _, raw := range x.Empty {
					v, err := api.VolumeID(raw)
					if err != nil {
						return err
					}
					f(SnapshotOrder{Volume: v, Empty: true})
				}
				for _, o := range x.Orders {
					v, err := api.VolumeID(o.Volume)
					if err != nil {
						return err
					}
					s, err := api.SnapshotID(o.Snapshot)
					if err != nil {
						return err
					}
					order := SnapshotOrder{Volume: v, Snapshot: s, Drop: o.Drop, Step: o.Step, Hold: time.Duration(o.HoldMs) * time.Millisecond}
					if len(o.RollbackSafety) > 0 {
						if order.Safety, err = api.SnapshotID(o.RollbackSafety); err != nil {
							return err
						}
					}
					f(order)
				}
			}
		})
		if ctx.Err() == nil {
			b.p.o.Log.Debug("snapshot orders ended", "err", err)
			if b.p.o.Clock.Sleep(ctx, backoffMin) != nil {
				return
			}
		}
	}
}

// TellSnapshot says that an order is carried out by who has the volume under e; or, of a step of a group, why it is not.
func (b *Blockd) TellSnapshot(ctx context.Context, by id.Holder, e id.Epoch, o SnapshotOrder, failed string) error {
	return b.p.call(ctx, retryAlways, func(ctx context.Context, t *target) error {
		q := &api.TellSnapshotRequest{Holder: api.FromHolder(by), Volume: o.Volume[:], Epoch: uint64(e), Snapshot: o.Snapshot[:], Gone: o.Drop, Step: o.Step, Failed: failed}
		if o.Safety != (id.Snapshot{}) {
			q.RolledBack = o.Safety[:]
		}
		_, err := t.blockd.TellSnapshot(ctx, q)
		return err
	})
}

// CreateSnapshot takes a snapshot of a disk; an empty name: its id. When it returns, what
// was acknowledged before the call is in it for good. ErrExists: the disk has one of that name.
func (c *Cluster) CreateSnapshot(ctx context.Context, disk, name string) (*api.Snapshot, error) {
	raw, err := id.NewRaw(c.p.o.Clock.Wall(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("draw snapshot id: %w", err)
	}
	q := &api.CreateSnapshotRequest{Disk: disk, Name: name, SnapshotId: id.Snapshot(raw).String()}
	return ask(ctx, c, q, func(x api.ClusterClient, ctx context.Context, r *api.CreateSnapshotRequest) (*api.Snapshot, error) {
		return x.CreateSnapshot(ctx, r)
	})
}

// Snapshots lists the snapshots of one disk, or with "" of all; more: there are more than these.
func (c *Cluster) Snapshots(ctx context.Context, disk string) (all []*api.Snapshot, more bool, err error) {
	r, err := ask(ctx, c, &api.ListSnapshotsRequest{Disk: disk}, func(x api.ClusterClient, ctx context.Context, r *api.ListSnapshotsRequest) (*api.ListSnapshotsReply, error) {
		return x.ListSnapshots(ctx, r)
	})
	return r.GetSnapshots(), r.GetMore(), err
}

// DeleteSnapshot lets a snapshot, named or by its id, go, into the trash if there is one and it is not to be purged. Its
// space comes back behind.
func (c *Cluster) DeleteSnapshot(ctx context.Context, disk, snapshot string, purge bool) (*api.Snapshot, error) {
	q := &api.DeleteSnapshotRequest{Disk: disk, Snapshot: snapshot, Purge: purge}
	return ask(ctx, c, q, func(x api.ClusterClient, ctx context.Context, r *api.DeleteSnapshotRequest) (*api.Snapshot, error) {
		return x.DeleteSnapshot(ctx, r)
	})
}

// CreateSnapshots takes snapshots of several disks at one point in time: what was written to one of them because a write to
// another was acknowledged is in the group only with that write. All of them or none.
func (c *Cluster) CreateSnapshots(ctx context.Context, disks []string, name string) ([]*api.Snapshot, error) {
	r, err := ask(ctx, c, &api.CreateSnapshotsRequest{Disks: disks, Name: name}, func(x api.ClusterClient, ctx context.Context, r *api.CreateSnapshotsRequest) (*api.ListSnapshotsReply, error) {
		return x.CreateSnapshots(ctx, r)
	})
	return r.GetSnapshots(), err
}
