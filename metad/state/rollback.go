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

// A rollback is committed before anything of it is done, and ends with the owner's word. Its
// beginning raises the epoch and leaves the disk without an owner: who opens it next knows from
// the record that it is to let nobody in until the rollback is done. So no write is acknowledged
// between the safety snapshot and the disk's going back.

// RollbackVolume begins a rollback of a disk that nobody is attached to, as the leader judged at Epoch.
type RollbackVolume struct {
	Volume id.Volume
	Epoch  id.Epoch
	To     id.Snapshot
	Safety id.Snapshot // the snapshot that is to keep what the disk is now
	Name   string      // of that one, if no other has it
	NowMS  int64
}

// VolumeRolledBack ends it. Only the owner knows that.
type VolumeRolledBack struct {
	Volume id.Volume
	Epoch  id.Epoch
	Safety id.Snapshot
}

func (m *Machine) rollbackVolume(c *RollbackVolume) Result {
	v, i := m.snapshotOf(c.Volume, c.To)
	switch {
	case i < 0 || !v.Live():
		return refuse(errs.ErrNotFound, "snapshot %s of disk %s", c.To, c.Volume)
	case v.Rollback != nil && *v.Rollback == (cluster.Rollback{To: c.To, Safety: c.Safety}):
		return Result{Volume: m.volumes[c.Volume]} // the answer was lost
	case v.Rollback != nil:
		return refuseWith(m.volumes[c.Volume], errs.ErrConflict, "disk %s is being rolled back", v.Name)
	case slices.ContainsFunc(v.Snapshots, func(s cluster.Snapshot) bool { return s.ID == c.Safety }):
		return Result{Volume: m.volumes[c.Volume]} // it was, and is done
	case v.Snapshots[i].State != cluster.SnapshotReady:
		return refuse(errs.ErrConflict, "snapshot %s of disk %s is %s", v.Snapshots[i].Name, v.Name, v.Snapshots[i].State)
	case slices.ContainsFunc(v.Snapshots, taking):
		return refuse(errs.ErrConflict, "a snapshot of disk %s is being taken", v.Name)
	case c.Epoch != v.Epoch:
		return refuse(errs.ErrConflict, "disk %s was opened meanwhile", v.Name)
	case len(v.Snapshots) >= cluster.SnapshotsMax || c.Safety.IsZero():
		return refuse(errs.ErrConflict, "a rollback takes another snapshot: %v", v.tooMany())
	}
	name := c.Name
	if _, taken := v.FindSnapshot(name); taken || CheckSnapshotName(name) != nil {
		name = c.Safety.String()
	}
	v.Snapshots = append(v.Snapshots, cluster.Snapshot{ID: c.Safety, Name: name, Size: v.Size, Created: time.UnixMilli(c.NowMS).UTC(), State: cluster.SnapshotCreating, Branch: v.Branch})
	base := v.baseOn(c.To)
	v.leaveBranch()
	if m.level >= LevelImages { // members that know less forget it
		v.ArchiveBase = base
	}
	v.Rollback = &cluster.Rollback{To: c.To, Safety: c.Safety}
	v.putAside()
	return m.put(v)
}

// taking tells that the mark of a snapshot may be anywhere: on the branch that is left or the new one.
func taking(s cluster.Snapshot) bool {
	return s.State == cluster.SnapshotCreating || s.State == cluster.SnapshotGrouped
}

// leaveBranch: what is taken from now on does not go on from what was taken before, or nobody knows.
// So nothing is archived against that, unless the caller knows better.
func (v *Volume) leaveBranch() {
	v.Branch++
	v.ArchiveBase = cluster.ArchiveBase{}
}

// baseOn is what may be uploaded against by snapshots of a head that begins with s: s itself if it is archived, else what s
// may be uploaded against. All of it is in the history of both: what they have below its watermark, it had.
func (v *Volume) baseOn(s id.Snapshot) (base cluster.ArchiveBase) {
	of := func(x id.Snapshot) bool {
		for i := range v.Snapshots {
			if y := &v.Snapshots[i]; y.ID == x && y.Archived.State == cluster.ArchiveDone {
				base = cluster.ArchiveBase{Snapshot: y.ID, Created: y.Created}
				return true
			}
		}
		return false
	}
	if of(s) {
		return base
	}
	if b := v.BaseOf(s); !b.IsZero() && !of(b) { // it was deleted here
		base = v.ArchiveBase
	}
	return base
}

// putAside leaves a volume without an owner, under a higher epoch: the present one is fenced by the next.
func (v *Volume) putAside() {
	if v.OpenComplete && !slices.Contains(v.Prior, v.Owner.Host) {
		v.Prior = append(v.Prior, v.Owner.Host)
		slices.Sort(v.Prior)
	}
	v.Epoch++
	v.Owner, v.OpenComplete, v.lastN = id.Holder{}, false, 0
}

func (m *Machine) volumeRolledBack(c *VolumeRolledBack) Result {
	v, r := m.owned(c.Volume, c.Epoch)
	switch {
	case v == nil:
		return r
	case v.Rollback == nil:
		return Result{Volume: v}
	case v.Rollback.Safety != c.Safety:
		return refuseWith(v, errs.ErrConflict, "disk %s is being rolled back with another snapshot", v.Name)
	}
	v = v.clone()
	v.endRollback()
	return m.put(v)
}

// endRollback forgets a rollback; its safety snapshot is one like others from now on.
func (v *Volume) endRollback() {
	for i := range v.Snapshots {
		if s := &v.Snapshots[i]; s.ID == v.Rollback.Safety && s.State == cluster.SnapshotCreating {
			s.State = cluster.SnapshotReady
		}
	}
	v.Rollback = nil
}

// rolling tells whether a snapshot is needed by a rollback under way.
func (v *Volume) rolling(s id.Snapshot) bool {
	return v.Rollback != nil && (v.Rollback.To == s || v.Rollback.Safety == s)
}

func (*RollbackVolume) kind() kind   { return kindRollbackVolume }
func (*VolumeRolledBack) kind() kind { return kindVolumeRolledBack }

func (c *RollbackVolume) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(appendSnapshotID(b, c.Volume, c.To), uint64(c.Epoch))
	b = codec.AppendString(append(b, c.Safety[:]...), c.Name)
	return binary.LittleEndian.AppendUint64(b, uint64(c.NowMS))
}

func (c *RollbackVolume) read(r *codec.Reader) {
	c.Volume, c.To = readSnapshotID(r)
	c.Epoch = id.Epoch(r.U64())
	r.Fill(c.Safety[:])
	c.Name, c.NowMS = r.String(NameMax), int64(r.U64())
}

func (c *VolumeRolledBack) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(appendSnapshotID(b, c.Volume, c.Safety), uint64(c.Epoch))
}

func (c *VolumeRolledBack) read(r *codec.Reader) {
	c.Volume, c.Safety = readSnapshotID(r)
	c.Epoch = id.Epoch(r.U64())
}
