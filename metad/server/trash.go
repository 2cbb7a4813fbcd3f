package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// The trash; see state/trash.go. A leader lets time pass there: what passed on its own clock since it first looked,
// in steps, and a step early when something is due before.

const (
	trashStep = time.Minute // the longest between two commands while something is in the trash
	trashLook = 200 * time.Millisecond
	trashMax  = 10_000 // of one list
)

// trashTime is what a leader knows of the time in the trash.
type trashTime struct {
	look    time.Duration // when to look next
	from    time.Duration // up to which on the leader's clock time has been let pass
	at      time.Duration // what it was on the trash's clock then
	known   bool
	passing bool
}

// pendingTrash is what passed since the last command, as far as it may count: r.mu is held. While the trash is
// empty, or a command of ours whose outcome was unknown came to something, counting begins anew.
func (r *reign) pendingTrash(m *state.Machine) time.Duration {
	t, now := &r.mu.trash, r.s.clock.Now()
	if _, some := m.NextInTrash(); !some || !t.known || t.at != m.TrashClock() {
		t.from, t.at, t.known = now, m.TrashClock(), true
	}
	return min(now-t.from, state.TrashPassMax).Truncate(time.Millisecond)
}

// passTrash lets time pass, so that what is due goes.
func (r *reign) passTrash() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, t := r.s.clock.Now(), &r.mu.trash
	if now < t.look || t.passing {
		return
	}
	t.look = now + trashLook
	var c *state.PassTrash
	var ends []trashItem
	r.s.node.View(func(m *state.Machine) {
		passed := r.pendingTrash(m)
		first, some := m.NextInTrash()
		if !some || m.Rebuilding() || passed <= 0 || passed < min(trashStep, first-t.at) {
			return
		}
		c = &state.PassTrash{From: t.at, Passed: passed}
		for _, x := range trashItems(m) {
			if x.until() <= t.at+passed {
				ends = append(ends, x)
			}
		}
	})
	if c == nil {
		return
	}
	t.passing = r.s.group.Go("trash", func(context.Context) error {
		err := r.apply(r.ctx, c)
		r.mu.Lock()
		defer r.mu.Unlock()
		t.passing = false
		if err != nil {
			return nil // it is looked at again
		}
		t.from, t.at = t.from+c.Passed, c.From+c.Passed
		for _, x := range ends {
			r.s.note(state.Info, "trash_ended", aboutDisk, x.disk.Name, "", "%s %s has been in the trash for its time and is deleted for good", x.kind(), x.name())
			r.s.log.Info("time in the trash is over", "volume", x.disk.ID.String(), "name", x.name())
		}
		if len(ends) > 0 {
			close(r.mu.snapped)
			r.mu.snapped = make(chan struct{})
		}
		return nil
	})
}

// trashItem is a disk in the trash, or one of its snapshots that is there by itself.
type trashItem struct {
	disk     *state.Volume
	snapshot *cluster.Snapshot // nil: the disk
}

func trashItems(m *state.Machine) (all []trashItem) {
	for _, v := range m.Trashed() {
		if v.Trashed() {
			all = append(all, trashItem{disk: v})
		}
		for i := range v.Snapshots {
			if t := v.Snapshots[i].Trash; t != nil && !t.With {
				all = append(all, trashItem{v, &v.Snapshots[i]})
			}
		}
	}
	return all
}

func (x trashItem) kind() string {
	if x.snapshot != nil {
		return "snapshot"
	}
	return "disk"
}

func (x trashItem) name() string {
	if x.snapshot != nil {
		return x.disk.Name + "@" + x.snapshot.Trash.Name
	}
	return x.disk.Name
}

func (x trashItem) until() time.Duration {
	if x.snapshot != nil {
		return x.snapshot.Trash.Until
	}
	return x.disk.Kept.Until
}

// dueAt is when something is due, on people's clock. r.mu is held.
func (r *reign) dueAt(m *state.Machine, until time.Duration) int64 {
	return r.s.clock.Wall().Add(until - m.TrashClock() - r.pendingTrash(m)).UnixMilli()
}

// describeTrash is what is in the trash as people see it. r.mu is held.
func (r *reign) describeTrash(m *state.Machine, l *reconcile.Liveness, top *cluster.Topology, x trashItem) *api.TrashEntry {
	v := x.disk
	out := &api.TrashEntry{Kind: x.kind(), Id: v.ID.String(), Name: v.Name, SizeBytes: v.Size, UntilUnixMs: r.dueAt(m, x.until())}
	if s := x.snapshot; s != nil {
		out.Id, out.Name, out.SizeBytes = s.ID.String(), s.Trash.Name, s.Size
		out.DiskId, out.Disk = v.ID.String(), m.Called(v)
		out.DeletedUnixMs, out.DeletedBy = s.Trash.Since.UnixMilli(), s.Trash.By
		return out
	}
	for i := range v.Snapshots {
		if t := v.Snapshots[i].Trash; t != nil && t.With {
			out.Snapshots++
		}
	}
	out.UsedBytes = l.Used(top, v.ID)
	out.DeletedUnixMs, out.DeletedBy = v.Kept.Since.UnixMilli(), v.Kept.By
	return out
}

// ListTrash tells what is in the trash, the last first.
func (c *clusterService) ListTrash(ctx context.Context, _ *api.ListTrashRequest) (*api.ListTrashReply, error) {
	if err := c.s.fresh(ctx); err != nil {
		return nil, c.s.fail(err)
	}
	r, err := c.s.ruling()
	if err != nil {
		return nil, c.s.fail(err)
	}
	out := &api.ListTrashReply{}
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		top := reconcile.Topology(m, l, now)
		for _, x := range trashItems(m) {
			out.Entries = append(out.Entries, r.describeTrash(m, l, top, x))
		}
		out.KeepSeconds = uint64(m.TrashTime() / time.Second)
	})
	slices.SortStableFunc(out.Entries, func(a, b *api.TrashEntry) int { return cmp.Compare(b.DeletedUnixMs, a.DeletedUnixMs) })
	if out.More = len(out.Entries) > trashMax; out.More {
		out.Entries = out.Entries[:trashMax]
	}
	return out, nil
}

// inTrash finds what an id means: a disk, or a snapshot of one. It need not be in the trash any more.
func (c *clusterService) inTrash(ctx context.Context, x string) (r *reign, v *state.Volume, s id.Snapshot, e *api.TrashEntry, err error) {
	if err = c.s.fresh(ctx); err == nil {
		r, err = c.s.ruling()
	}
	if err != nil {
		return nil, nil, s, nil, c.s.fail(err)
	}
	e = &api.TrashEntry{Kind: "disk", Id: x}
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		top := reconcile.Topology(m, l, now)
		for _, y := range trashItems(m) {
			if d := r.describeTrash(m, l, top, y); d.Id == x {
				v, e = y.disk, d
			}
		}
		if raw, err := id.ParseVolume(x); err == nil && v == nil {
			v, _ = m.Volume(raw)
		}
		var parseErr error
		if s, parseErr = id.ParseSnapshot(x); parseErr != nil {
			s = id.Snapshot{}
			return
		}
		for _, y := range m.Volumes() { // brought back already, perhaps
			if _, ok := y.FindSnapshot(x); ok && v == nil && !y.Deleted {
				v, e.Kind, e.DiskId, e.Disk = y, "snapshot", y.ID.String(), m.Called(y)
			}
		}
	})
	if v == nil {
		return nil, nil, s, nil, c.s.fail(fmt.Errorf("%.140q is not in the trash: %w", x, errs.ErrNotFound))
	}
	return r, v, s, e, nil
}

// RestoreTrash brings a disk or a snapshot back. Asked again it is the same.
func (c *clusterService) RestoreTrash(ctx context.Context, q *api.RestoreTrashRequest) (*api.TrashEntry, error) {
	r, v, s, e, err := c.inTrash(ctx, q.GetId())
	if err != nil {
		return nil, err
	}
	res, err := c.s.commit(ctx, &state.TakeFromTrash{Volume: v.ID, Snapshot: s, Name: q.GetName()})
	if err != nil {
		return nil, err
	}
	r.with(func(l *reconcile.Liveness, _ *state.Machine, _ time.Duration) {
		if s.IsZero() {
			l.Forget(v.ID)
		}
	})
	r.tellSnapped()
	if e.Name = res.Volume.Name; !s.IsZero() {
		x, _ := res.Volume.FindSnapshot(s.String())
		e.Name = x.Name
	}
	c.s.note(state.Info, "trash_restored", aboutDisk, res.Volume.Name, caller(ctx).String(), "%s %s (%s) is back from the trash", e.Kind, e.Name, e.Id)
	c.s.log.Info("restored from the trash", "volume", v.ID.String(), "id", e.Id, "name", e.Name, "by", caller(ctx).String())
	return e, nil
}

// EmptyTrash deletes a disk or a snapshot of the trash for good.
func (c *clusterService) EmptyTrash(ctx context.Context, q *api.EmptyTrashRequest) (*api.TrashEntry, error) {
	r, v, s, e, err := c.inTrash(ctx, q.GetId())
	if err != nil {
		return nil, err
	}
	if _, err := c.s.commit(ctx, &state.EmptyTrash{Volume: v.ID, Snapshot: s}); err != nil {
		return nil, err
	}
	r.tellSnapped()
	c.s.note(state.Info, "trash_emptied", aboutDisk, v.Name, caller(ctx).String(), "%s %s (%s) is deleted for good", e.Kind, e.Name, e.Id)
	c.s.log.Info("taken out of the trash for good", "volume", v.ID.String(), "id", e.Id, "by", caller(ctx).String())
	return e, nil
}

// setTrash changes how long what is deleted from now on is kept.
func (c *clusterService) setTrash(ctx context.Context, seconds uint64) error {
	keep := time.Duration(min(seconds, uint64(2*state.TrashMax/time.Second))) * time.Second
	if _, err := c.s.commit(ctx, &state.SetTrash{Keep: keep}); err != nil {
		return err
	}
	what := fmt.Sprintf("what is deleted from now on can be brought back for %s", keep)
	if days := keep / (24 * time.Hour); days > 0 && keep%(24*time.Hour) == 0 {
		what = fmt.Sprintf("what is deleted from now on can be brought back for %d days", days)
	}
	if keep == 0 {
		what = "the trash is off: what is deleted from now on is gone; what is in it keeps its time"
	}
	c.s.note(state.Info, "trash_set", aboutDisk, "", caller(ctx).String(), "%s", what)
	c.s.log.Info("trash changed", "keep", keep, "by", caller(ctx).String())
	return nil
}

// putInTrash commits a deletion into the trash, and tells until when it can be taken back; 0: it is deleted for good.
func (c *clusterService) putInTrash(ctx context.Context, r *reign, q *state.PutInTrash) (res state.Result, until int64, err error) {
	q.By, q.NowMS = firstBytes(caller(ctx).String(), state.NameMax), c.s.clock.Wall().UnixMilli()
	r.with(func(_ *reconcile.Liveness, m *state.Machine, _ time.Duration) { q.Passed = r.pendingTrash(m) })
	if res, err = c.s.commit(ctx, q); err != nil {
		return res, 0, err
	}
	r.with(func(_ *reconcile.Liveness, m *state.Machine, _ time.Duration) {
		for _, x := range trashItems(m) {
			if x.disk.ID == q.Volume && (x.snapshot == nil && q.Snapshot.IsZero() || x.snapshot != nil && x.snapshot.ID == q.Snapshot) {
				until = r.dueAt(m, x.until())
			}
		}
	})
	return res, until, nil
}

// trashing tells whether what is deleted goes into the trash.
func (s *Server) trashing() (on bool) {
	s.node.View(func(m *state.Machine) { on = m.TrashTime() != 0 })
	return on
}

// trashRoom sums up what the trash holds.
func trashRoom(m *state.Machine, l *reconcile.Liveness, top *cluster.Topology) *api.TrashRoom {
	out := &api.TrashRoom{UsedBytes: l.TrashUsed(m, top), KeepSeconds: uint64(m.TrashTime() / time.Second)}
	for _, x := range trashItems(m) {
		if x.snapshot != nil {
			out.Snapshots++
		} else {
			out.Disks++
		}
	}
	return out
}

// releasable waits until a disk may be deleted: nobody uses it, by its owner's word. Of an owner that is silent the last
// word counts.
func (r *reign) releasable(ctx context.Context, v *state.Volume, mode state.SnapshotsOfDeleted) (*state.Volume, error) {
	err := v.MayDelete(mode)
	if err == nil {
		v, err = r.unused(ctx, v)
	}
	if err == nil {
		err = r.idle(v)
	}
	return v, err
}
