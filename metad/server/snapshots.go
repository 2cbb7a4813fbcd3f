package server

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Snapshots of disks: what is asked for is committed first, then ordered from the disk's
// owner, who says when it is done. Orders are repeated until then, so nothing depends on
// this leader: the next one orders what is left.

const (
	snapshotsAgain = 500 * time.Millisecond // orders are repeated, and given to another host if need be
	snapshotWait   = 10 * time.Second       // of who asked for one
	ordersMax      = 1024
	snapshotsMax   = 10_000 // of one list
)

// snapped is closed when something about snapshots changes next.
func (r *reign) snapped() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.snapped
}

// tellSnapped wakes whoever waits for a change.
func (r *reign) tellSnapped() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.mu.snapped)
	r.mu.snapped = make(chan struct{})
}

// snapshotOrders are what a host has to do: about its disks, and about those that nobody
// owns and that it is to open.
func (r *reign) snapshotOrders(host id.Host) *api.SnapshotOrders {
	out := &api.SnapshotOrders{Manifests: r.manifestsFor(host)}
	reminded, grouped := r.reminders(), r.groupSteps()
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		out.Yields = r.yielding(m, host)
		work := m.SnapshotWork()
		for _, x := range reminded {
			if v, ok := m.Volume(x); ok && !v.Deleted && !slices.Contains(work, v) {
				work = append(work, v)
			}
		}
		if len(work) == 0 {
			return
		}
		var openers []id.Host // of disks that nobody owns; cordoned hosts only if there is no other
		for _, cordoned := range []bool{false, true} {
			for _, h := range m.Hosts() {
				if len(openers) > 0 && cordoned {
					break
				}
				if h.Exports && m.Cordoned(h.Host) == cordoned && l.HostUp(now, h.Host) {
					openers = append(openers, h.Host)
				}
			}
		}
		for _, v := range work {
			to := v.Owner.Host
			if !l.HostUp(now, to) && len(openers) > 0 {
				to = openers[int(v.ID[15])%len(openers)]
			}
			if to != host {
				continue
			}
			if v.Kept != nil && !v.Kept.Emptied && len(out.Empty) < ordersMax {
				out.Empty = append(out.Empty, v.ID[:])
			}
			if r := v.Rollback; r != nil && len(out.Orders) < ordersMax {
				out.Orders = append(out.Orders, &api.SnapshotOrder{Volume: v.ID[:], Snapshot: r.To[:], RollbackSafety: r.Safety[:]})
			}
			for _, s := range v.Snapshots {
				if v.Rollback != nil && v.Rollback.Safety == s.ID {
					continue // not by an owner that lets clients in
				}
				if g, due := grouped[s.ID]; due && s.State == cluster.SnapshotGrouped {
					out.Orders = append(out.Orders, &api.SnapshotOrder{Volume: v.ID[:], Snapshot: s.ID[:], Step: g.step, HoldMs: uint32(g.hold.Milliseconds())})
				}
				_, due := reminded[s.ID]
				due = due && s.State == cluster.SnapshotReady || s.State == cluster.SnapshotCreating || s.State == cluster.SnapshotDeleting
				if due && len(out.Orders) < ordersMax {
					out.Orders = append(out.Orders, &api.SnapshotOrder{Volume: v.ID[:], Snapshot: s.ID[:], Drop: s.State == cluster.SnapshotDeleting})
				}
			}
		}
	})
	return out
}

func (b *blockdService) WatchSnapshots(q *api.WatchSnapshotsRequest, stream grpc.ServerStreamingServer[api.SnapshotOrders]) error {
	r, err := b.ruling()
	holder := q.GetHolder().Value()
	if err == nil {
		err = mustBe(stream.Context(), holder.Host)
	}
	if err == nil {
		b.s.node.View(func(m *state.Machine) { err = knownLife(m, holder) })
	}
	if err != nil {
		return b.s.fail(err)
	}
	t := b.s.clock.NewTicker(snapshotsAgain)
	defer t.Stop()
	sent := make(ordered)
	for {
		changed := r.snapped()
		orders := r.snapshotOrders(holder.Host)
		if sent.strip(orders); len(orders.Orders)+len(orders.Manifests)+len(orders.Yields)+len(orders.Empty) > 0 {
			if err := stream.Send(orders); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-t.C():
			clear(sent)
		case <-stream.Context().Done():
			return nil
		case <-r.ctx.Done():
			return b.s.fail(b.s.node.NotLeader())
		}
	}
}

// ordered is what a host was ordered lately about snapshots. Each order that is carried out changes something: were all others sent
// again for that, they would be carried out again, change something again, and a host with many would hear of nothing else.
type ordered map[string]bool

// strip takes out of x what was ordered lately, and notes the rest.
func (o ordered) strip(x *api.SnapshotOrders) {
	again := func(parts ...[]byte) bool {
		key := string(bytes.Join(parts, []byte{0}))
		was := o[key]
		o[key] = true
		return was
	}
	x.Orders = slices.DeleteFunc(x.Orders, func(q *api.SnapshotOrder) bool {
		drop := byte(0)
		if q.Drop {
			drop = 1
		}
		return again(q.Volume, q.Snapshot, q.RollbackSafety, []byte{byte(q.Step), drop})
	})
	x.Empty = slices.DeleteFunc(x.Empty, func(v []byte) bool { return again(v) })
}

func (b *blockdService) TellSnapshot(ctx context.Context, q *api.TellSnapshotRequest) (*api.TellSnapshotReply, error) {
	r, err := b.ruling()
	if err == nil {
		err = mustBe(ctx, q.GetHolder().Value().Host)
	}
	v, e1 := api.VolumeID(q.GetVolume())
	s, e2 := api.SnapshotID(q.GetSnapshot())
	for _, e := range []error{err, e1, e2} {
		if e != nil {
			return nil, b.s.fail(e)
		}
	}
	if step := q.GetStep(); step != api.SnapshotStep_SNAPSHOT_STEP_NONE {
		r.groupTold(s, step, id.Epoch(q.GetEpoch()), q.GetFailed())
		return &api.TellSnapshotReply{}, nil
	}
	var c state.Command = &state.SnapshotTaken{Volume: v, ID: s}
	if q.GetGone() {
		c = &state.SnapshotGone{Volume: v, Epoch: id.Epoch(q.GetEpoch()), ID: s}
	}
	if len(q.GetRolledBack()) > 0 {
		safety, err := api.SnapshotID(q.GetRolledBack())
		if err != nil {
			return nil, b.s.fail(err)
		}
		c = &state.VolumeRolledBack{Volume: v, Epoch: id.Epoch(q.GetEpoch()), Safety: safety}
	}
	if _, err := b.s.commit(ctx, c); err != nil {
		return nil, err
	}
	r.tellSnapped()
	return &api.TellSnapshotReply{}, nil
}

func describeSnapshot(v *state.Volume, s cluster.Snapshot) *api.Snapshot {
	out := &api.Snapshot{SnapshotId: s.ID.String(), Name: s.Name, DiskId: v.ID.String(), Disk: v.Name, SizeBytes: s.Size,
		CreatedUnixMs: s.Created.UnixMilli(), State: s.State.String(), Archive: archiveText(&s.Archived), DiskDeleted: !v.Live()}
	if out.DiskDeleted {
		out.Disk = v.ID.String() // always means it; see Machine.Called
	}
	return out
}

// snapshotRequest makes the command, with an id.
func (c *clusterService) snapshotRequest(v *state.Volume, q *api.CreateSnapshotRequest) (*state.CreateSnapshot, error) {
	out := &state.CreateSnapshot{Volume: v.ID, Name: q.GetName(), NowMS: c.s.clock.Wall().UnixMilli()}
	if q.GetName() != "" { // checked here too, so that nonsense is not committed to be refused by everyone
		if err := state.CheckSnapshotName(q.GetName()); err != nil {
			return nil, err
		}
	}
	if q.GetSnapshotId() != "" {
		var err error
		out.ID, err = id.ParseSnapshot(q.GetSnapshotId())
		return out, err
	}
	raw, err := id.NewRaw(c.s.clock.Wall(), c.s.random)
	out.ID = id.Snapshot(raw)
	return out, err
}

// CreateSnapshot answers when the mark is durable on the disk's stores and this is committed.
func (c *clusterService) CreateSnapshot(ctx context.Context, q *api.CreateSnapshotRequest) (*api.Snapshot, error) {
	r, v, err := c.found(ctx, q.GetDisk())
	if err != nil {
		return nil, err
	}
	cmd, err := c.snapshotRequest(v, q)
	if err != nil {
		return nil, c.s.fail(err)
	}
	began := c.s.clock.Now()
	res, err := c.s.commit(ctx, cmd)
	if err != nil {
		return nil, err
	}
	s, ok := res.Volume.FindSnapshot(cmd.ID.String())
	if !ok { // one of that name is being taken already
		s, _ = res.Volume.FindSnapshot(cmd.Name)
	}
	r.tellSnapped()
	ctx, cancel := context.WithTimeout(ctx, snapshotWait)
	defer cancel()
	for {
		changed := r.snapped()
		c.s.node.View(func(m *state.Machine) {
			if x, ok := m.Volume(v.ID); ok {
				if s, ok = x.FindSnapshot(s.ID.String()); !ok {
					s.State = cluster.SnapshotDeleting
				}
			}
		})
		switch s.State {
		case cluster.SnapshotReady:
			c.s.note(state.Info, "snapshot_taken", aboutDisk, v.Name, caller(ctx).String(), "snapshot %s (%s)", s.Name, s.ID)
			c.s.log.Info("snapshot taken", "volume", v.ID.String(), "snapshot", s.ID.String(), "took", c.s.clock.Now()-began, "by", caller(ctx).String())
			return describeSnapshot(v, s), nil
		case cluster.SnapshotDeleting:
			return nil, c.s.fail(fmt.Errorf("snapshot of disk %s was deleted while it was taken: %w", v.Name, errs.ErrConflict))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, c.s.fail(fmt.Errorf("disk %s cannot be reached now, snapshot %s will be taken as soon as it can: %w", v.Name, s.Name, errs.ErrUnavailable))
		case <-r.ctx.Done():
			return nil, c.s.fail(c.s.node.NotLeader())
		}
	}
}

func (c *clusterService) ListSnapshots(ctx context.Context, q *api.ListSnapshotsRequest) (*api.ListSnapshotsReply, error) {
	if err := c.s.fresh(ctx); err != nil {
		return nil, c.s.fail(err)
	}
	out := &api.ListSnapshotsReply{}
	add := func(m *state.Machine, v *state.Volume) {
		for _, s := range v.Snapshots {
			if !s.Listed() {
				continue
			}
			if out.More = len(out.Snapshots) >= snapshotsMax; out.More {
				return
			}
			x := describeSnapshot(v, s)
			x.Disk = m.Called(v)
			out.Snapshots = append(out.Snapshots, x)
		}
	}
	if q.GetDisk() != "" {
		v, err := c.kept(q.GetDisk())
		if err != nil {
			return nil, c.s.fail(err)
		}
		c.s.node.View(func(m *state.Machine) { add(m, v) })
		return out, nil
	}
	c.s.node.View(func(m *state.Machine) {
		all, _ := m.Named("", state.VolumesMax)
		for _, v := range append(all, m.Kept()...) {
			if !out.More {
				add(m, v)
			}
		}
	})
	return out, nil
}

func (c *clusterService) DeleteSnapshot(ctx context.Context, q *api.DeleteSnapshotRequest) (*api.Snapshot, error) {
	r, v, err := c.foundKept(ctx, q.GetDisk())
	if err != nil {
		return nil, err
	}
	s, ok := v.FindSnapshot(q.GetSnapshot())
	if !ok || !s.Listed() {
		return nil, c.s.fail(fmt.Errorf("snapshot %.140q of disk %s: %w", q.GetSnapshot(), v.Name, errs.ErrNotFound))
	}
	var res state.Result
	var until int64
	if !q.GetPurge() && c.s.trashing() {
		res, until, err = c.putInTrash(ctx, r, &state.PutInTrash{Volume: v.ID, Snapshot: s.ID})
	} else {
		res, err = c.s.commit(ctx, &state.DeleteSnapshot{Volume: v.ID, ID: s.ID})
	}
	if err != nil {
		return nil, err
	}
	r.tellSnapped()
	s.State = cluster.SnapshotDeleting
	if now, ok := res.Volume.FindSnapshot(s.ID.String()); ok {
		s.State = now.State // hidden, where clones need it
	}
	what := "is to go"
	if until != 0 {
		what = "is in the trash"
	}
	c.s.note(state.Info, "snapshot_deleted", aboutDisk, v.Name, caller(ctx).String(), "snapshot %s (%s) %s", s.Name, s.ID, what)
	c.s.log.Info("snapshot deleted", "volume", v.ID.String(), "snapshot", s.ID.String(), "by", caller(ctx).String())
	out := describeSnapshot(v, s)
	out.TrashedUntilUnixMs = until
	c.s.node.View(func(m *state.Machine) { out.Disk = m.Called(v) })
	return out, nil
}
