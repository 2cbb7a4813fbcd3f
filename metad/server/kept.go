package server

import (
	"context"
	"fmt"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Disks that are deleted and of which there are snapshots: see state/kept.go.

// snapshotsOfDeleted reads what is to become of them.
func snapshotsOfDeleted(x api.SnapshotsOfDeleted) (state.SnapshotsOfDeleted, error) {
	switch x {
	case api.SnapshotsOfDeleted_SNAPSHOTS_OF_DELETED_STOP:
		return state.SnapshotsStop, nil
	case api.SnapshotsOfDeleted_SNAPSHOTS_OF_DELETED_STAY:
		return state.SnapshotsStay, nil
	case api.SnapshotsOfDeleted_SNAPSHOTS_OF_DELETED_GO_TOO:
		return state.SnapshotsGoToo, nil
	}
	return 0, fmt.Errorf("what is to become of snapshots: %d: %w", x, errs.ErrInvalid)
}

// DeleteDisk deletes a disk. Snapshots that are kept, or read by clones, outlive it.
func (c *clusterService) DeleteDisk(ctx context.Context, q *api.DeleteDiskRequest) (*api.DeleteDiskReply, error) {
	r, v, err := c.found(ctx, q.GetNameOrId())
	if err != nil {
		return nil, err
	}
	mode, err := snapshotsOfDeleted(q.GetSnapshots())
	if err == nil && !q.GetForce() {
		v, err = r.releasable(ctx, v, mode)
	}
	if err != nil {
		return nil, c.s.fail(err)
	}
	var res state.Result
	var until int64
	if !q.GetPurge() && c.s.trashing() {
		res, until, err = c.putInTrash(ctx, r, &state.PutInTrash{Volume: v.ID, Epoch: v.Epoch, Forced: q.GetForce(), Snapshots: mode})
	} else {
		res, err = c.s.commit(ctx, c.deletion(v, q.GetForce(), mode))
	}
	if err != nil {
		return nil, err
	}
	r.with(func(l *reconcile.Liveness, _ *state.Machine, _ time.Duration) { l.Forget(v.ID) })
	r.tellSnapped()
	kept := keptText(res.Volume)
	if until != 0 {
		kept = ", into the trash"
	}
	c.s.note(state.Info, "disk_deleted", aboutDisk, v.Name, caller(ctx).String(), "disk %s of %d bytes deleted%s", v.ID, v.Size, kept)
	c.s.log.Info("disk deleted", "volume", v.ID.String(), "name", v.Name, "forced", q.GetForce(), "kept", kept, "by", caller(ctx).String())
	return &api.DeleteDiskReply{DiskId: v.ID.String(), TrashedUntilUnixMs: until}, nil
}

// deletion is the command that deletes a disk for good, as all members know it.
func (c *clusterService) deletion(v *state.Volume, force bool, mode state.SnapshotsOfDeleted) (cmd state.Command) {
	c.s.node.View(func(m *state.Machine) {
		if cmd = (&state.DeleteVolume{Volume: v.ID, Epoch: v.Epoch, Forced: force}); m.Level() >= state.LevelImages {
			cmd = &state.RetireVolume{Volume: v.ID, Epoch: v.Epoch, Forced: force, Snapshots: mode, NowMS: c.s.clock.Wall().UnixMilli()}
		}
	})
	return cmd
}

// keptText says what of a deleted disk is kept; nothing: it says nothing.
func keptText(v *state.Volume) string {
	if v == nil || v.Kept == nil || v.Deleted {
		return ""
	}
	listed, hidden := 0, 0
	for i := range v.Snapshots {
		switch s := &v.Snapshots[i]; {
		case s.State == cluster.SnapshotHidden:
			hidden++
		case s.Needed():
			listed++
		}
	}
	return fmt.Sprintf("; %d snapshots are kept, and %d that clones read", listed, hidden)
}

// TellEmptied takes an owner's word that what only a deleted disk had itself is given back.
func (b *blockdService) TellEmptied(ctx context.Context, q *api.TellEmptiedRequest) (*api.TellEmptiedReply, error) {
	r, err := b.ruling()
	if err == nil {
		err = mustBe(ctx, q.GetHolder().Value().Host)
	}
	v, e := api.VolumeID(q.GetVolume())
	if err == nil {
		err = e
	}
	if err != nil {
		return nil, b.s.fail(err)
	}
	if _, err := b.s.commit(ctx, &state.VolumeEmptied{Volume: v, Epoch: id.Epoch(q.GetEpoch())}); err != nil {
		return nil, err
	}
	r.tellSnapped()
	return &api.TellEmptiedReply{}, nil
}

// foundKept is found for what is asked of snapshots: their disk may be deleted.
func (c *clusterService) foundKept(ctx context.Context, nameOrID string) (r *reign, v *state.Volume, err error) {
	if err = c.s.fresh(ctx); err == nil {
		r, err = c.s.ruling()
	}
	if err == nil {
		v, err = c.kept(nameOrID)
	}
	if err != nil {
		return nil, nil, c.s.fail(err)
	}
	return r, v, nil
}

// kept finds a disk, also one that is deleted and of which there are snapshots.
func (c *clusterService) kept(nameOrID string) (v *state.Volume, err error) {
	c.s.node.View(func(m *state.Machine) { v, _ = m.FindKept(nameOrID) })
	if v == nil {
		err = fmt.Errorf("disk %.140q: %w", nameOrID, errs.ErrNotFound)
	}
	return v, err
}

// keptRoom sums up what deleted disks take.
func keptRoom(m *state.Machine, l *reconcile.Liveness, top *cluster.Topology) *api.KeptRoom {
	out := &api.KeptRoom{}
	for _, v := range m.Kept() {
		if v.Trashed() {
			continue // trashRoom has it
		}
		out.Disks++
		out.UsedBytes += l.Used(top, v.ID)
	}
	return out
}

// SetProtection protects a disk against deletion, or lets it be deleted again.
func (c *clusterService) SetProtection(ctx context.Context, q *api.SetProtectionRequest) (*api.Disk, error) {
	r, v, err := c.found(ctx, q.GetNameOrId())
	if err != nil {
		return nil, err
	}
	res, err := c.s.commit(ctx, &state.SetProtection{Volume: v.ID, On: q.GetOn()})
	if err != nil {
		return nil, err
	}
	kind, what := "disk_protected", "is protected against deletion"
	if !q.GetOn() {
		kind, what = "disk_unprotected", "may be deleted"
	}
	c.s.note(state.Info, kind, aboutDisk, v.Name, caller(ctx).String(), "disk %s %s", v.ID, what)
	c.s.log.Info("protection of a disk changed", "volume", v.ID.String(), "on", q.GetOn(), "by", caller(ctx).String())
	return c.answer(r, res.Volume), nil
}
