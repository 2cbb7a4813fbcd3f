package state

import (
	"encoding/binary"
	"slices"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Snapshots of disks. The record comes first, so that no snapshot is without one; then the
// disk's owner takes the mark, and says so. Backwards the record goes last: when the owner
// says that nothing of the snapshot is in any checkpoint that could be opened.

// CreateSnapshot asks for a snapshot of a disk. The same id again is the same snapshot,
// and so is the same name while it is being taken.
type CreateSnapshot struct {
	Volume id.Volume
	ID     id.Snapshot
	Name   string // empty: its id
	NowMS  int64
}

// SnapshotTaken says that the mark is durable. That is true under whatever epoch.
type SnapshotTaken struct {
	Volume id.Volume
	ID     id.Snapshot
}

// DeleteSnapshot asks for a snapshot to go.
type DeleteSnapshot struct {
	Volume id.Volume
	ID     id.Snapshot
}

// SnapshotGone says that nothing of it is left. Only the owner knows that.
type SnapshotGone struct {
	Volume id.Volume
	Epoch  id.Epoch
	ID     id.Snapshot
}

// The kinds of snapshots, apart from the others so that all lists may grow.
const (
	kindCreateSnapshot kind = iota + 96
	kindSnapshotTaken
	kindDeleteSnapshot
	kindSnapshotGone
)

func emptySnapshot(k kind) Command {
	switch k {
	case kindCreateSnapshot:
		return &CreateSnapshot{}
	case kindSnapshotTaken:
		return &SnapshotTaken{}
	case kindDeleteSnapshot:
		return &DeleteSnapshot{}
	case kindSnapshotGone:
		return &SnapshotGone{}
	}
	return nil
}

func (m *Machine) applySnapshot(c Command) (Result, bool) {
	switch c := c.(type) {
	case *CreateSnapshot:
		return m.createSnapshot(c), true
	case *SnapshotTaken:
		return m.snapshotTaken(c), true
	case *DeleteSnapshot:
		return m.deleteSnapshot(c), true
	case *SnapshotGone:
		return m.snapshotGone(c), true
	}
	return Result{}, false
}

// snapshotOf gives a copy of the record with the place of one of its snapshots; -1: it is not there.
func (m *Machine) snapshotOf(v id.Volume, s id.Snapshot) (*Volume, int) {
	x, ok := m.volumes[v]
	if !ok || x.Deleted {
		return nil, -1
	}
	return x.clone(), slices.IndexFunc(x.Snapshots, func(y cluster.Snapshot) bool { return y.ID == s })
}

// SnapshotWork are the disks that have snapshots to be taken or to go, in order of ids.
func (m *Machine) SnapshotWork() []*Volume {
	return m.inOrder(m.snapWork)
}

// countSnapshots keeps snapWork.
func (m *Machine) countSnapshots(v *Volume, present bool) {
	work := func(s cluster.Snapshot) bool {
		return s.State == cluster.SnapshotCreating || s.State == cluster.SnapshotGrouped || s.State == cluster.SnapshotDeleting
	}
	if present && !v.Deleted && (v.Rollback != nil || v.toEmpty() || slices.ContainsFunc(v.Snapshots, work)) {
		m.snapWork[v.ID] = struct{}{}
	} else {
		delete(m.snapWork, v.ID)
	}
}

func (m *Machine) createSnapshot(c *CreateSnapshot) Result {
	v, _ := m.snapshotOf(c.Volume, c.ID)
	if v == nil || !v.Live() {
		return refuse(errs.ErrNotFound, "disk %s", c.Volume)
	}
	if slices.ContainsFunc(v.Snapshots, func(s cluster.Snapshot) bool { return s.ID == c.ID }) {
		return Result{Volume: m.volumes[c.Volume]} // asked again
	}
	name := c.Name
	if name == "" {
		name = c.ID.String()
	} else if err := CheckSnapshotName(name); err != nil {
		return Result{Err: err}
	}
	if have, ok := v.FindSnapshot(name); ok {
		if have.State == cluster.SnapshotCreating {
			return Result{Volume: m.volumes[c.Volume]}
		}
		return refuseWith(v, errs.ErrExists, "disk %s has a snapshot %q, %s", v.Name, name, have.State)
	}
	if v.Rollback != nil {
		return refuse(errs.ErrConflict, "disk %s is being rolled back", v.Name)
	}
	if len(v.Snapshots) >= cluster.SnapshotsMax || c.ID.IsZero() {
		return Result{Err: v.tooMany()}
	}
	v.Snapshots = append(v.Snapshots, cluster.Snapshot{ID: c.ID, Name: name, Size: v.Size, Created: time.UnixMilli(c.NowMS).UTC(), State: cluster.SnapshotCreating, Branch: v.Branch})
	return m.put(v)
}

func (m *Machine) snapshotTaken(c *SnapshotTaken) Result {
	v, i := m.snapshotOf(c.Volume, c.ID)
	if i < 0 {
		return refuse(errs.ErrNotFound, "snapshot %s of disk %s", c.ID, c.Volume)
	}
	if v.Snapshots[i].State != cluster.SnapshotCreating {
		return Result{Volume: m.volumes[c.Volume]}
	}
	v.Snapshots[i].State = cluster.SnapshotReady
	return m.put(v)
}

func (m *Machine) deleteSnapshot(c *DeleteSnapshot) Result {
	v, i := m.snapshotOf(c.Volume, c.ID)
	if i < 0 {
		return refuse(errs.ErrNotFound, "snapshot %s of disk %s", c.ID, c.Volume)
	}
	if err := v.mayDelete(&v.Snapshots[i]); err != nil {
		return Result{Err: err}
	}
	v.Snapshots[i].State = cluster.SnapshotDeleting
	if m.Held(c.ID) {
		hide(&v.Snapshots[i])
	}
	return m.putOrUnlink(v)
}

// mayDelete refuses to delete a snapshot that something counts on.
func (v *Volume) mayDelete(s *cluster.Snapshot) error {
	switch {
	case s.Archived.Pending():
		return refuse(errs.ErrConflict, "snapshot %s of disk %s is on its way into the archive; wait, or give it up first (ashlar snapshot archive --cancel)", s.Name, v.Name).Err
	case v.rolling(s.ID):
		return refuse(errs.ErrConflict, "disk %s is being rolled back with snapshot %s", v.Name, s.Name).Err
	case s.State == cluster.SnapshotTrashed:
		return refuse(errs.ErrConflict, "snapshot %s of disk %s is in the trash", s.Name, v.Name).Err
	}
	return nil
}

func (m *Machine) snapshotGone(c *SnapshotGone) Result {
	if v, r := m.owned(c.Volume, c.Epoch); v == nil {
		return r
	}
	v, i := m.snapshotOf(c.Volume, c.ID)
	switch {
	case i < 0:
		return Result{Volume: m.volumes[c.Volume]}
	case v.Snapshots[i].State != cluster.SnapshotDeleting:
		return refuse(errs.ErrConflict, "snapshot %s of disk %s is not to go", c.ID, v.Name)
	}
	v.Snapshots = slices.Delete(v.Snapshots, i, i+1)
	return m.putOrUnlink(v)
}

func (*CreateSnapshot) kind() kind { return kindCreateSnapshot }
func (*SnapshotTaken) kind() kind  { return kindSnapshotTaken }
func (*DeleteSnapshot) kind() kind { return kindDeleteSnapshot }
func (*SnapshotGone) kind() kind   { return kindSnapshotGone }

func appendSnapshotID(b []byte, v id.Volume, s id.Snapshot) []byte {
	return append(append(b, v[:]...), s[:]...)
}

func readSnapshotID(r *codec.Reader) (v id.Volume, s id.Snapshot) {
	r.Fill(v[:])
	r.Fill(s[:])
	return v, s
}

func (c *CreateSnapshot) append(b []byte) []byte {
	b = codec.AppendString(appendSnapshotID(b, c.Volume, c.ID), c.Name)
	return binary.LittleEndian.AppendUint64(b, uint64(c.NowMS))
}

func (c *CreateSnapshot) read(r *codec.Reader) {
	c.Volume, c.ID = readSnapshotID(r)
	c.Name, c.NowMS = r.String(NameMax), int64(r.U64())
}

func (c *SnapshotTaken) append(b []byte) []byte  { return appendSnapshotID(b, c.Volume, c.ID) }
func (c *SnapshotTaken) read(r *codec.Reader)    { c.Volume, c.ID = readSnapshotID(r) }
func (c *DeleteSnapshot) append(b []byte) []byte { return appendSnapshotID(b, c.Volume, c.ID) }
func (c *DeleteSnapshot) read(r *codec.Reader)   { c.Volume, c.ID = readSnapshotID(r) }

func (c *SnapshotGone) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(appendSnapshotID(b, c.Volume, c.ID), uint64(c.Epoch))
}

func (c *SnapshotGone) read(r *codec.Reader) {
	c.Volume, c.ID = readSnapshotID(r)
	c.Epoch = id.Epoch(r.U64())
}

// appendSnapshots is the part of a volume that came with LevelSnapshots.
func appendSnapshots(b []byte, v *Volume) []byte {
	b = binary.AppendUvarint(b, uint64(len(v.Snapshots)))
	for _, s := range v.Snapshots {
		b = codec.AppendString(append(b, s.ID[:]...), s.Name)
		b = binary.LittleEndian.AppendUint64(b, s.Size)
		b = append(binary.LittleEndian.AppendUint64(b, uint64(s.Created.UnixMilli())), byte(s.State))
	}
	return b
}

func readSnapshots(r *codec.Reader, v *Volume) {
	for n := r.Count(cluster.SnapshotsMax, 34); n > 0; n-- {
		var s cluster.Snapshot
		r.Fill(s.ID[:])
		s.Name, s.Size, s.Created, s.State = r.String(NameMax), r.U64(), readTime(r), cluster.SnapshotState(r.U8())
		if s.State < cluster.SnapshotCreating || s.State > cluster.SnapshotTrashed {
			r.Fail("state of a snapshot", uint64(cluster.SnapshotTrashed), uint64(s.State))
		}
		v.Snapshots = append(v.Snapshots, s)
	}
}
