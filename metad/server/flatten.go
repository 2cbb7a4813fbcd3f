package server

import (
	"context"
	"fmt"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
)

// flattenFill is how full, in percent, a store may be for a flattening to begin: above it owners copy nothing.
const flattenFill = 85

// FlattenDisk has a clone copy what it reads of its ancestors.
func (c *clusterService) FlattenDisk(ctx context.Context, q *api.FlattenDiskRequest) (*api.Disk, error) {
	r, v, err := c.found(ctx, q.GetNameOrId())
	if err != nil {
		return nil, err
	}
	if !q.GetStop() && v.Flatten == nil {
		if err := roomToFlatten(r.refresh()); err != nil {
			return nil, c.s.fail(fmt.Errorf("flatten disk %s: %w", v.Name, err))
		}
	}
	res, err := c.s.commit(ctx, &state.FlattenVolume{Volume: v.ID, On: !q.GetStop(), Rate: q.GetBytesPerSecond()})
	if err != nil {
		return nil, err
	}
	c.s.log.Info("flattening ordered or stopped", "volume", v.ID.String(), "name", v.Name, "stop", q.GetStop(), "rate", q.GetBytesPerSecond(), "by", caller(ctx).String())
	return c.answer(r, res.Volume), nil
}

// roomToFlatten refuses where nothing could be copied.
func roomToFlatten(t *cluster.Topology) error {
	for i := range t.Stores {
		s := &t.Stores[i]
		if !s.State.Serves() || s.Capacity == 0 {
			continue
		}
		if fill := min(s.Used, s.Capacity) * 100 / s.Capacity; s.Full || fill >= flattenFill {
			return fmt.Errorf("store %s is %d %% full, and copies take the room that they share now: %w", s.Store, fill, errs.ErrNoSpace)
		}
	}
	return nil
}

// VolumeFlattened takes an owner's word that nothing of a clone reads an ancestor any more. The checkpoint that is committed must say so, too.
func (b *blockdService) VolumeFlattened(ctx context.Context, q *api.VolumeFlattenedRequest) (*api.VolumeRecord, error) {
	x, err := api.VolumeID(q.GetVolume())
	if err != nil {
		return nil, b.s.fail(err)
	}
	if _, err := b.ruling(); err != nil {
		return nil, b.s.fail(err)
	}
	var v *state.Volume
	b.s.node.View(func(m *state.Machine) { v, _ = m.Volume(x) })
	if v != nil && v.Origin != nil && v.Epoch == id.Epoch(q.GetEpoch()) {
		if err := needsNoOrigin(v); err != nil {
			return nil, b.s.fail(err)
		}
		defer b.noteFlat(x, v)
	}
	return b.record(ctx, &state.VolumeFlattened{Volume: x, Epoch: id.Epoch(q.GetEpoch())})
}

// needsNoOrigin looks into the checkpoint that is committed.
func needsNoOrigin(v *state.Volume) error {
	if v.Checkpoint == nil {
		return fmt.Errorf("disk %s has no checkpoint: %w", v.Name, errs.ErrConflict)
	}
	k, err := record.DecodeCheckpoint("checkpoint of "+v.ID.String(), v.Checkpoint.Opaque)
	if err != nil {
		return fmt.Errorf("flatten disk %s: %w", v.Name, err)
	}
	if k.Origin != nil {
		return fmt.Errorf("disk %s still reads what it began with, by its checkpoint: %w", v.Name, errs.ErrConflict)
	}
	return nil
}

// noteFlat tells the world once the clone stands alone.
func (b *blockdService) noteFlat(x id.Volume, was *state.Volume) {
	var now *state.Volume
	b.s.node.View(func(m *state.Machine) { now, _ = m.Volume(x) })
	if now != nil && now.Origin == nil {
		b.s.note(state.Info, "disk_flattened", aboutDisk, was.Name, "", "disk %s needs snapshot %s of disk %s no more", x, was.Origin.Snapshot, was.Origin.Volume)
		b.s.log.Info("disk is flattened", "volume", x.String(), "name", was.Name, "from", was.Origin.Volume.String())
	}
}

// describeFlattening is how far a clone is flattened, as people see it; nil: nobody ordered it.
func describeFlattening(v *state.Volume, b *reconcile.VolumeBeat) *api.Flattening {
	if v.Flatten == nil {
		return nil
	}
	out := &api.Flattening{}
	if b.Flattening != nil {
		out = api.FromFlattening(b.Flattening)
		for _, s := range b.Flattening.SnapshotIDs {
			name := s.String()
			for i := range v.Snapshots {
				if x := &v.Snapshots[i]; x.ID == s {
					name = x.Name
				}
			}
			out.SnapshotNames = append(out.SnapshotNames, name)
		}
	}
	out.Rate = v.Flatten.Rate
	return out
}

// flattening is what an owner says of it, cut to a size.
func flattening(x *api.Flattening) (*cluster.Flattening, error) {
	f, err := x.Value()
	if f != nil {
		f.Problem = firstBytes(f.Problem, 256)
	}
	return f, err
}
