package state

import (
	"encoding/binary"
	"math"
	"slices"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
)

// Clones are volumes that begin with a snapshot of another one and read its segments. So a
// snapshot with clones is not deleted but hidden: nobody sees it, it has its name no more,
// and it goes by itself when the last clone is gone.

// CreateClone makes a disk that begins as a snapshot was. The leader has read the origin's
// root and watermark from a checkpoint that was committed here, so the watermark is below
// every sequence that is given out from now on.
type CreateClone struct {
	CreateVolume
	Origin lineage.Origin
}

// The kinds of lineage, apart from the others so that all lists may grow.
const (
	kindCreateClone kind = iota + 112
	kindTellLineage
	kindRollbackVolume
	kindVolumeRolledBack
)

func emptyLineage(k kind) Command {
	switch k {
	case kindCreateClone:
		return &CreateClone{}
	case kindTellLineage:
		return &TellLineage{}
	case kindRollbackVolume:
		return &RollbackVolume{}
	case kindVolumeRolledBack:
		return &VolumeRolledBack{}
	}
	return nil
}

func (m *Machine) applyLineage(c Command) (Result, bool) {
	switch c := c.(type) {
	case *CreateClone:
		return m.createClone(c), true
	case *TellLineage:
		return m.tellLineage(c), true
	case *RollbackVolume:
		return m.rollbackVolume(c), true
	case *VolumeRolledBack:
		return m.volumeRolledBack(c), true
	}
	return Result{}, false
}

func (m *Machine) createClone(c *CreateClone) Result { return m.createCloneOf(c, false) }

// createCloneOf is createClone, of a hidden snapshot too.
func (m *Machine) createCloneOf(c *CreateClone, hidden bool) Result {
	o := &c.Origin
	if err := o.Validate(); err != nil {
		return Result{Err: err}
	}
	if have, ok := m.names[c.Name]; ok && c.RequestID != "" && m.volumes[have].requestID == c.RequestID {
		return Result{Volume: m.volumes[have]} // the answer was lost
	}
	v, i := m.snapshotOf(o.Volume, o.Snapshot)
	switch {
	case i < 0:
		return refuse(errs.ErrNotFound, "snapshot %s of disk %s", o.Snapshot, o.Volume)
	case v.Snapshots[i].State != cluster.SnapshotReady && !(hidden && !v.Snapshots[i].Listed()):
		return refuse(errs.ErrConflict, "snapshot %s of disk %s is %s", v.Snapshots[i].Name, v.Name, v.Snapshots[i].State)
	case c.Size < v.Snapshots[i].Size:
		return refuse(errs.ErrInvalid, "snapshot %s of disk %s has %d bytes, a clone of it cannot have %d", v.Snapshots[i].Name, v.Name, v.Snapshots[i].Size, c.Size)
	case v.Restored != nil && m.level < LevelArchives:
		return refuse(errs.ErrConflict, "disk %s is still being brought in from an archive; when all of it is there it can be cloned", v.Name)
	case !slices.Equal(o.Ancestors, v.Origin.Chain()):
		return refuse(errs.ErrConflict, "the ancestors of disk %s are others by now", v.Name)
	case o.Watermark >= m.nextSequence:
		return refuse(errs.ErrInvalid, "watermark %x of snapshot %s was never given out", uint64(o.Watermark), o.Snapshot)
	}
	return m.create(&c.CreateVolume, o.Clone())
}

// Children are how many volumes began with a snapshot and may still read it.
func (m *Machine) Children(s id.Snapshot) int { return m.children[s] }

// countChildren keeps children.
func (m *Machine) countChildren(v *Volume, present bool) {
	switch {
	case v.Origin == nil || v.Deleted:
	case present:
		m.children[v.Origin.Snapshot]++
	case m.children[v.Origin.Snapshot] > 1:
		m.children[v.Origin.Snapshot]--
	default:
		delete(m.children, v.Origin.Snapshot)
	}
}

// hidden counts the snapshots that only clones and images need.
func (v *Volume) hidden() (n int) {
	for _, s := range v.Snapshots {
		if s.State == cluster.SnapshotHidden {
			n++
		}
	}
	return n
}

// hide takes a snapshot from its owner's sight.
func hide(s *cluster.Snapshot) { s.State, s.Name = cluster.SnapshotHidden, s.ID.String() }

// leave is said when a volume needs what it began with no more.
func (m *Machine) leave(o *lineage.Origin) {
	if o != nil {
		m.letGo(o.Volume, o.Snapshot)
	}
}

func (*CreateClone) kind() kind { return kindCreateClone }

func (c *CreateClone) append(b []byte) []byte {
	return c.CreateVolume.append(lineage.Append(b, &c.Origin))
}

func (c *CreateClone) read(r *codec.Reader) {
	if o := lineage.Read(r); o != nil {
		c.Origin = *o
	} else {
		r.Fail("origin of a clone", 1, 0)
	}
	c.CreateVolume.read(r)
}

// appendLineage is the part of a volume that came with LevelTime.
func appendLineage(b []byte, v *Volume) []byte {
	b = appendBool(lineage.Append(b, v.Origin), v.Rollback != nil)
	if r := v.Rollback; r != nil {
		b = append(append(b, r.To[:]...), r.Safety[:]...)
	}
	b = binary.AppendUvarint(b, uint64(v.Branch))
	for i := range v.Snapshots {
		b = binary.AppendUvarint(b, uint64(v.Snapshots[i].Branch))
	}
	return b
}

func readLineage(r *codec.Reader, v *Volume) {
	if v.Origin = lineage.Read(r); readBool(r) {
		v.Rollback = &cluster.Rollback{}
		r.Fill(v.Rollback.To[:])
		r.Fill(v.Rollback.Safety[:])
	}
	v.Branch = readBranch(r)
	for i := range v.Snapshots {
		v.Snapshots[i].Branch = readBranch(r)
	}
}

func readBranch(r *codec.Reader) uint32 {
	n := r.Uvarint()
	if n > math.MaxUint32 {
		r.Fail("branch of a snapshot", math.MaxUint32, n)
	}
	return uint32(n)
}
