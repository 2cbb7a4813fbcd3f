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
	"ashlar.dev/pkg/lineage"
	"ashlar.dev/pkg/record"
)

// A clone begins with the tree of a snapshot. Where that lies stands in the checkpoint that
// its disk's owner has committed here; of one whose mark was taken a moment ago, the next one.

// cloneLook is how often a checkpoint is looked for that lists the snapshot.
const cloneLook = 10 * time.Millisecond

// originIn finds a snapshot in the checkpoint that is committed; nil: it is not listed yet.
func originIn(v *state.Volume, s id.Snapshot) (*lineage.Origin, error) {
	if v.Checkpoint == nil {
		return nil, nil
	}
	k, err := record.DecodeCheckpoint("checkpoint of "+v.ID.String(), v.Checkpoint.Opaque)
	if err != nil {
		return nil, fmt.Errorf("find snapshot %s: %w", s, err)
	}
	for _, x := range k.Snapshots {
		if x.ID == id.Raw(s) {
			return &lineage.Origin{Volume: v.ID, Snapshot: s, Root: x.Root, Watermark: x.Watermark, Blocks: x.Blocks, Ancestors: k.Origin.Chain()}, nil
		}
	}
	return nil, nil
}

// standing waits until a snapshot is in the checkpoint that is committed. Whoever owns the
// disk is reminded of it; of a disk that nobody owns a host is told to open it.
func (c *clusterService) standing(ctx context.Context, r *reign, v *state.Volume, s cluster.Snapshot) (*lineage.Origin, error) {
	o, err := originIn(v, s.ID)
	if o != nil || err != nil {
		return o, err
	}
	r.remind(s.ID, v.ID, true)
	defer r.remind(s.ID, v.ID, false)
	ctx, cancel := context.WithTimeout(ctx, snapshotWait)
	defer cancel()
	t := c.s.clock.NewTicker(cloneLook)
	defer t.Stop()
	for {
		c.s.node.View(func(m *state.Machine) { v, _ = m.Volume(v.ID) })
		if v == nil {
			return nil, fmt.Errorf("disk of snapshot %s: %w", s.Name, errs.ErrNotFound)
		}
		if o, err := originIn(v, s.ID); o != nil || err != nil {
			return o, err
		}
		select {
		case <-t.C():
		case <-ctx.Done():
			return nil, fmt.Errorf("snapshot %s was taken but not written yet, and disk %s cannot be reached now: %w", s.Name, v.Name, errs.ErrUnavailable)
		case <-r.ctx.Done():
			return nil, c.s.node.NotLeader()
		}
	}
}

// remind has a snapshot ordered again, though it is taken, or no more.
func (r *reign) remind(s id.Snapshot, v id.Volume, on bool) {
	r.mu.Lock()
	if r.mu.reminded == nil {
		r.mu.reminded = make(map[id.Snapshot]id.Volume)
	}
	if delete(r.mu.reminded, s); on {
		r.mu.reminded[s] = v
	}
	r.mu.Unlock()
	if on {
		r.tellSnapped()
	}
}

// reminders are the snapshots that somebody waits for.
func (r *reign) reminders() map[id.Snapshot]id.Volume {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[id.Snapshot]id.Volume, len(r.mu.reminded))
	for s, v := range r.mu.reminded {
		out[s] = v
	}
	return out
}

// CloneDisk makes a disk that begins as a snapshot was.
func (c *clusterService) CloneDisk(ctx context.Context, q *api.CloneDiskRequest) (*api.Disk, error) {
	r, v, err := c.foundKept(ctx, q.GetFromDisk())
	if err != nil {
		return nil, err
	}
	cmd, s, err := c.cloneCommand(v, q)
	if err != nil {
		return nil, c.s.fail(err)
	}
	o, err := c.standing(ctx, r, v, s)
	if err == nil {
		err = o.Validate()
	}
	if err != nil {
		return nil, c.s.fail(err)
	}
	cmd.Origin = *o
	res, err := c.s.commit(ctx, cmd)
	if err != nil {
		return nil, err
	}
	c.s.note(state.Info, "disk_cloned", aboutDisk, res.Volume.Name, caller(ctx).String(), "disk %s of %d bytes from snapshot %s of disk %s", res.Volume.ID, res.Volume.Size, s.Name, v.Name)
	c.s.log.Info("disk cloned", "volume", res.Volume.ID.String(), "name", res.Volume.Name, "bytes", res.Volume.Size, "from", v.ID.String(), "snapshot", s.ID.String(), "by", caller(ctx).String())
	return c.answer(r, res.Volume), nil
}

// cloneCommand checks a request, so that nonsense is not committed to be refused by everyone,
// and makes the command of it but for the origin.
func (c *clusterService) cloneCommand(v *state.Volume, q *api.CloneDiskRequest) (*state.CreateClone, cluster.Snapshot, error) {
	s, ok := v.FindSnapshot(q.GetFromSnapshot())
	if !ok || !s.Listed() {
		return nil, s, fmt.Errorf("snapshot %.140q of disk %s: %w", q.GetFromSnapshot(), v.Name, errs.ErrNotFound)
	}
	cmd, err := c.cloneOf(v, s, q)
	return cmd, s, err
}

// cloneOf is cloneCommand of a snapshot that was found, hidden or not.
func (c *clusterService) cloneOf(v *state.Volume, s cluster.Snapshot, q *api.CloneDiskRequest) (*state.CreateClone, error) {
	size := q.GetSizeBytes()
	if size == 0 {
		size = s.Size
	}
	raw, err := id.NewRaw(c.s.clock.Wall(), c.s.random)
	switch {
	case err != nil:
	case s.State != cluster.SnapshotReady && s.Listed():
		err = fmt.Errorf("snapshot %s of disk %s is %s: %w", s.Name, v.Name, s.State, errs.ErrConflict)
	case len(q.GetRequestId()) > state.NameMax:
		err = fmt.Errorf("request id of %d bytes, at most %d: %w", len(q.GetRequestId()), state.NameMax, errs.ErrInvalid)
	case size < s.Size:
		err = fmt.Errorf("snapshot %s of disk %s has %d bytes, a clone of it cannot have %d: %w", s.Name, v.Name, s.Size, size, errs.ErrInvalid)
	case len(v.Origin.Chain())+1 >= lineage.DepthMax:
		err = fmt.Errorf("disk %s has %d ancestors, as many as it may: %w", v.Name, len(v.Origin.Chain()), errs.ErrConflict)
	default:
		err = state.CheckDiskName(q.GetName())
		if err == nil {
			err = state.CheckDiskSize(size)
		}
		if err == nil {
			err = q.GetQos().Value().Validate()
		}
	}
	cmd := &state.CreateClone{CreateVolume: state.CreateVolume{ID: id.Volume(raw), Name: q.GetName(), Size: size,
		RequestID: q.GetRequestId(), NowMS: c.s.clock.Wall().UnixMilli(), QoS: q.GetQos().Value()}}
	return cmd, err
}

// describeOrigin is what a disk began with, as people see it.
func describeOrigin(l *reconcile.Liveness, m *state.Machine, v *state.Volume, now time.Duration) *api.DiskOrigin {
	o := v.Origin
	if o == nil {
		return nil
	}
	out := &api.DiskOrigin{DiskId: o.Volume.String(), SnapshotId: o.Snapshot.String(), Depth: uint32(len(o.Ancestors) + 1)}
	if p, ok := m.Volume(o.Volume); ok {
		s, ok := p.FindSnapshot(o.Snapshot.String())
		listed := ok && s.Listed()
		if listed {
			out.Snapshot = s.Name
		} else if x, ok := m.ImageOf(o.Snapshot); ok {
			out.Image = x.Name
		}
		if p.Live() || listed {
			out.Disk = m.Called(p)
		}
	}
	if root, ok := m.Volume(o.Chain()[0].Volume); ok && root.Restored != nil { // no other can be made from an archive
		var b reconcile.VolumeBeat
		if l.HostUp(now, root.Owner.Host) {
			b, _ = l.Volume(root.Owner, root.ID, root.Epoch)
		}
		out.Hydration, out.HydratedDisk = describeHydration(root, &b), m.Called(root)
	}
	return out
}

// described is describe with where the disk comes from.
func described(l *reconcile.Liveness, m *state.Machine, v *state.Volume, top *cluster.Topology, now time.Duration) *api.Disk {
	d := describe(l, v, top, now)
	d.Origin = describeOrigin(l, m, v, now)
	return d
}
