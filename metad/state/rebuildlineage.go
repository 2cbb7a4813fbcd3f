package state

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
)

// A state that is behind its cluster does not know the clones and snapshots that were made
// since. Their disks' checkpoints, which the stores have, do: what a volume began with and
// which snapshots it has. Without it a clone would be opened as an empty disk, and a snapshot
// that clones read would be one that nobody protects.

// TellLineage is what checkpoints found on stores say of where volumes come from.
type TellLineage struct{ Volumes []LineageSighting }

// LineageSighting is what one checkpoint says.
type LineageSighting struct {
	Volume    id.Volume
	Epoch     id.Epoch // of the checkpoint
	Meta      id.LSN
	Origin    *lineage.Origin // nil: none, or not any more
	Snapshots []SnapshotSighting
}

// SnapshotSighting is a snapshot that a checkpoint lists.
type SnapshotSighting struct {
	ID   id.Snapshot
	Size uint64
}

func (m *Machine) tellLineage(c *TellLineage) Result {
	if !m.Rebuilding() {
		return refuse(errs.ErrConflict, "the state is not being rebuilt")
	}
	for i := range c.Volumes {
		x := c.Volumes[i]
		if was := m.rebuild.lineages[x.Volume]; was == nil || x.Epoch > was.Epoch || x.Epoch == was.Epoch && x.Meta > was.Meta {
			m.rebuild.lineages[x.Volume] = &x
		}
	}
	return Result{}
}

// takeLineage takes what the stores' checkpoints say, if none is later that the state has.
// v has been given its checkpoint.
func (m *Machine) takeLineage(v *Volume) {
	x := m.rebuild.lineages[v.ID]
	if x == nil || v.Checkpoint == nil || x.Epoch != v.Checkpoint.Epoch || x.Meta != v.Checkpoint.Meta {
		return
	}
	if v.Origin = x.Origin.Clone(); v.Origin == nil {
		v.Flatten = nil
	}
	for _, s := range x.Snapshots {
		known := slices.ContainsFunc(v.Snapshots, func(y cluster.Snapshot) bool { return y.ID == s.ID })
		if !known && len(v.Snapshots) < cluster.SnapshotsMax {
			v.Snapshots = append(v.Snapshots, cluster.Snapshot{ID: s.ID, Name: s.ID.String(), Size: s.Size, Created: time.UnixMilli(0).UTC(), State: cluster.SnapshotReady, Branch: v.Branch})
			v.leaveBranch()
		}
	}
}

// settleHidden lets those snapshots go, and hides others, as the clones and images have it that are known in the end.
func (m *Machine) settleHidden() {
	for _, x := range m.Volumes() {
		v, ok := m.volumes[x.ID] // as it is now: another may have let a snapshot of it go
		if !ok {
			continue
		}
		c := v.clone()
		changed := false
		for i := range c.Snapshots {
			s := &c.Snapshots[i]
			switch held := m.Held(s.ID); {
			case v.Deleted:
			case s.State == cluster.SnapshotHidden && !held:
				s.State, changed = cluster.SnapshotDeleting, true
			case s.State == cluster.SnapshotDeleting && held:
				hide(s)
				changed = true
			}
		}
		if changed {
			m.putOrUnlink(c)
		}
	}
}

func (*TellLineage) kind() kind { return kindTellLineage }

func (x *LineageSighting) append(b []byte) []byte {
	b = binary.AppendUvarint(binary.AppendUvarint(append(b, x.Volume[:]...), uint64(x.Epoch)), uint64(x.Meta))
	b = binary.AppendUvarint(lineage.Append(b, x.Origin), uint64(len(x.Snapshots)))
	for _, s := range x.Snapshots {
		b = binary.AppendUvarint(append(b, s.ID[:]...), s.Size)
	}
	return b
}

func (x *LineageSighting) read(r *codec.Reader) {
	x.Volume, x.Epoch, x.Meta, x.Origin = readVolumeID(r), id.Epoch(r.Uvarint()), id.LSN(r.Uvarint()), lineage.Read(r)
	for n := r.Count(cluster.SnapshotsMax, 17); n > 0; n-- {
		var s SnapshotSighting
		r.Fill(s.ID[:])
		s.Size = r.Uvarint()
		x.Snapshots = append(x.Snapshots, s)
	}
}

func (c *TellLineage) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(c.Volumes)))
	for i := range c.Volumes {
		b = c.Volumes[i].append(b)
	}
	return b
}

func (c *TellLineage) read(r *codec.Reader) {
	for n := r.Count(sightingsMax, 20); n > 0; n-- {
		var x LineageSighting
		x.read(r)
		c.Volumes = append(c.Volumes, x)
	}
}

// appendLineages is the part of a snapshot of a rebuilding that came with LevelTime.
func (x *Rebuild) appendLineages(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(x.lineages)))
	for _, v := range slices.SortedFunc(maps.Keys(x.lineages), func(a, b id.Volume) int { return bytes.Compare(a[:], b[:]) }) {
		b = x.lineages[v].append(b)
	}
	return b
}

func (x *Rebuild) readLineages(r *codec.Reader) {
	var last id.Volume
	for n := r.Count(2*VolumesMax, 20); n > 0 && r.Err() == nil; n-- {
		s := &LineageSighting{}
		s.read(r)
		if bytes.Compare(s.Volume[:], last[:]) <= 0 {
			r.Fail("order of lineages", 0, 1)
		}
		last = s.Volume
		x.lineages[s.Volume] = s
	}
}
