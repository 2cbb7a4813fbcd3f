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

// Snapshots of several disks at one point in time. All records come first, none of them ready; their marks are taken
// under holds, which the leader that asked for them arranges; and they become ready all at once, or
// are deleted. A leader that finds some that it did not ask for deletes them: nobody knows what held.

// GroupMax bounds the disks of one group of snapshots.
const GroupMax = 16

// GroupMember is a snapshot of a group. Epoch is that under which its hold stood.
type GroupMember struct {
	Volume id.Volume
	ID     id.Snapshot
	Epoch  id.Epoch
}

// CreateSnapshots asks for snapshots of several disks. They have no name before they are ready.
type CreateSnapshots struct {
	Members []GroupMember
	NowMS   int64
}

// EndSnapshots makes the snapshots of a group ready under a name (empty: their ids) if every disk is owned
// under the epoch of the hold still; or, if they are not OK, has those deleted that are not ready.
type EndSnapshots struct {
	Members []GroupMember
	OK      bool
	Name    string
}

// The kinds of groups, apart from the others so that all lists may grow.
const (
	kindCreateSnapshots kind = iota + 176
	kindEndSnapshots
)

func emptySnapGroup(k kind) Command {
	switch k {
	case kindCreateSnapshots:
		return &CreateSnapshots{}
	case kindEndSnapshots:
		return &EndSnapshots{}
	}
	return nil
}

func (m *Machine) applySnapGroup(c Command) (Result, bool) {
	switch c := c.(type) {
	case *CreateSnapshots:
		return m.createSnapshots(c), true
	case *EndSnapshots:
		return m.endSnapshots(c), true
	}
	return Result{}, false
}

// CheckGroupName refuses a name that a disk of the group has a snapshot of.
func (m *Machine) CheckGroupName(members []GroupMember, name string) error {
	if name == "" {
		return nil
	}
	if err := CheckSnapshotName(name); err != nil {
		return err
	}
	for _, x := range members {
		if v, ok := m.volumes[x.Volume]; ok {
			if have, ok := v.FindSnapshot(name); ok {
				return refuse(errs.ErrExists, "disk %s has a snapshot %q, %s", v.Name, name, have.State).Err
			}
		}
	}
	return nil
}

func (m *Machine) createSnapshots(c *CreateSnapshots) Result {
	if n := len(c.Members); n < 1 || n > GroupMax {
		return refuse(errs.ErrInvalid, "a group of %d snapshots, at most %d", n, GroupMax)
	}
	var all []*Volume
	for _, x := range c.Members {
		v, i := m.snapshotOf(x.Volume, x.ID)
		switch {
		case v == nil || !v.Live():
			return refuse(errs.ErrNotFound, "disk %s", x.Volume)
		case slices.ContainsFunc(all, func(y *Volume) bool { return y.ID == v.ID }):
			return refuse(errs.ErrInvalid, "disk %s is named twice", v.Name)
		case i >= 0:
			return refuse(errs.ErrExists, "snapshot %s of disk %s", x.ID, v.Name)
		case v.Rollback != nil:
			return refuse(errs.ErrConflict, "disk %s is being rolled back", v.Name)
		case len(v.Snapshots) >= cluster.SnapshotsMax || x.ID.IsZero():
			return Result{Err: v.tooMany()}
		}
		v.Snapshots = append(v.Snapshots, cluster.Snapshot{ID: x.ID, Name: x.ID.String(), Size: v.Size, Created: time.UnixMilli(c.NowMS).UTC(), State: cluster.SnapshotGrouped, Branch: v.Branch})
		all = append(all, v)
	}
	return m.putAll(all)
}

func (m *Machine) endSnapshots(c *EndSnapshots) Result {
	var all []*Volume
	for _, x := range c.Members {
		v, i := m.snapshotOf(x.Volume, x.ID)
		grouped := i >= 0 && v.Snapshots[i].State == cluster.SnapshotGrouped
		switch {
		case c.OK && !grouped:
			return refuse(errs.ErrConflict, "snapshot %s of the group is not there any more", x.ID)
		case c.OK && (v.Epoch != x.Epoch || v.Owner == id.Holder{}):
			return refuse(errs.ErrConflict, "disk %s has another owner since its snapshot was taken", v.Name)
		case c.OK:
			v.Snapshots[i].State = cluster.SnapshotReady
			if c.Name != "" {
				v.Snapshots[i].Name = c.Name
			}
		case grouped:
			v.Snapshots[i].State = cluster.SnapshotDeleting
		default:
			continue
		}
		all = append(all, v)
	}
	if c.OK {
		if err := m.CheckGroupName(c.Members, c.Name); err != nil {
			return Result{Err: err}
		}
	}
	return m.putAll(all)
}

// ungroup makes snapshots that were being taken in groups ones like others, when the state is rebuilt: since the backup the group may
// have become ready, and somebody may count on it. Those that have their marks are what they were, the others are taken now.
func (v *Volume) ungroup() {
	for i := range v.Snapshots {
		if s := &v.Snapshots[i]; s.State == cluster.SnapshotGrouped {
			s.State = cluster.SnapshotCreating
		}
	}
}

// putAll puts volumes, of which none is refused any more.
func (m *Machine) putAll(all []*Volume) (r Result) {
	for _, v := range all {
		r = m.put(v)
	}
	return r
}

func (*CreateSnapshots) kind() kind { return kindCreateSnapshots }
func (*EndSnapshots) kind() kind    { return kindEndSnapshots }

func appendMembers(b []byte, all []GroupMember) []byte {
	b = binary.AppendUvarint(b, uint64(len(all)))
	for _, x := range all {
		b = binary.LittleEndian.AppendUint64(appendSnapshotID(b, x.Volume, x.ID), uint64(x.Epoch))
	}
	return b
}

func readMembers(r *codec.Reader) (all []GroupMember) {
	for n := r.Count(GroupMax, 40); n > 0; n-- {
		v, s := readSnapshotID(r)
		all = append(all, GroupMember{v, s, id.Epoch(r.U64())})
	}
	return all
}

func (c *CreateSnapshots) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(appendMembers(b, c.Members), uint64(c.NowMS))
}

func (c *CreateSnapshots) read(r *codec.Reader) { c.Members, c.NowMS = readMembers(r), int64(r.U64()) }

func (c *EndSnapshots) append(b []byte) []byte {
	return codec.AppendString(appendBool(appendMembers(b, c.Members), c.OK), c.Name)
}

func (c *EndSnapshots) read(r *codec.Reader) {
	c.Members, c.OK, c.Name = readMembers(r), readBool(r), r.String(NameMax)
}
