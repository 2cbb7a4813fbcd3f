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

// RollbackDisk commits the rollback, which leaves the disk without an owner, and answers when
// whoever opens it for that has said that it is done.
func (c *clusterService) RollbackDisk(ctx context.Context, q *api.RollbackDiskRequest) (*api.Snapshot, error) {
	r, v, err := c.found(ctx, q.GetDisk())
	if err != nil {
		return nil, err
	}
	s, ok := v.FindSnapshot(q.GetSnapshot())
	if !ok || !s.Listed() {
		return nil, c.s.fail(fmt.Errorf("snapshot %.140q of disk %s: %w", q.GetSnapshot(), v.Name, errs.ErrNotFound))
	}
	now := c.s.clock.Wall()
	safety, err := id.ParseSnapshot(q.GetSafetyId())
	if _, asked := v.FindSnapshot(q.GetSafetyId()); err == nil && v.Rollback == nil && !asked {
		v, err = r.unused(ctx, v)
	}
	if err != nil {
		return nil, c.s.fail(err)
	}
	began := c.s.clock.Now()
	cmd := &state.RollbackVolume{Volume: v.ID, Epoch: v.Epoch, To: s.ID, Safety: safety, Name: "before-rollback-" + now.UTC().Format("20060102-150405"), NowMS: now.UnixMilli()}
	if _, err := c.s.commit(ctx, cmd); err != nil {
		return nil, err
	}
	r.with(func(l *reconcile.Liveness, _ *state.Machine, _ time.Duration) { l.Forget(v.ID) })
	r.tellSnapped()
	kept, err := c.rolled(ctx, r, v, safety)
	if err != nil {
		return nil, c.s.fail(err)
	}
	c.s.note(state.Info, "disk_rolled_back", aboutDisk, v.Name, caller(ctx).String(), "to snapshot %s; what it was before is in snapshot %s", s.Name, kept.Name)
	c.s.log.Info("disk rolled back", "volume", v.ID.String(), "to", s.ID.String(), "safety", kept.ID.String(), "took", c.s.clock.Now()-began, "by", caller(ctx).String())
	return describeSnapshot(v, kept), nil
}

// rolled waits until a rollback is done, and gives the safety snapshot.
func (c *clusterService) rolled(ctx context.Context, r *reign, v *state.Volume, safety id.Snapshot) (cluster.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotWait)
	defer cancel()
	for {
		changed := r.snapped()
		c.s.node.View(func(m *state.Machine) { v, _ = m.Volume(v.ID) })
		if v == nil || !v.Live() {
			return cluster.Snapshot{}, fmt.Errorf("the disk is deleted: %w", errs.ErrNotFound)
		}
		if v.Rollback == nil || v.Rollback.Safety != safety {
			if kept, ok := v.FindSnapshot(safety.String()); ok {
				return kept, nil
			}
			return cluster.Snapshot{}, fmt.Errorf("the snapshot that kept what disk %s was is deleted: %w", v.Name, errs.ErrNotFound)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return cluster.Snapshot{}, fmt.Errorf("disk %s cannot be opened now, it will be rolled back as soon as it can: %w", v.Name, errs.ErrUnavailable)
		case <-r.ctx.Done():
			return cluster.Snapshot{}, c.s.node.NotLeader()
		}
	}
}
