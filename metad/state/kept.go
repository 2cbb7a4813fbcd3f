package state

import (
	"cmp"
	"encoding/binary"
	"slices"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// A disk that is deleted and of which there are snapshots, because its user keeps them or
// clones or images need them, is retired: its name is free, nobody may use it, and its record stays as
// long as somebody needs one of them. Its epoch rises and nobody owns it, as in a rollback, so
// that whoever opens it next knows from the record that no client may; that one gives back what
// only the disk had. When no snapshot is needed any more the whole of it is purged at
// once: nothing has to be looked for of what nobody reads. Before that it may be in the trash; see trash.go.

// RetireVolume deletes a disk that has snapshots, as nobody was attached to it at Epoch, or by force.
type RetireVolume struct {
	Volume    id.Volume
	Epoch     id.Epoch
	Forced    bool
	Snapshots SnapshotsOfDeleted
	NowMS     int64
}

// SnapshotsOfDeleted says what becomes of the snapshots of a disk that is deleted. Values are
// those of metad's log.
type SnapshotsOfDeleted uint8

// The zero value refuses to delete a disk with snapshots that are listed.
const (
	SnapshotsStop  SnapshotsOfDeleted = iota
	SnapshotsStay                     // they stay listed, and can be deleted one by one
	SnapshotsGoToo                    // those that clones read are hidden
	snapshotsModes
)

// VolumeEmptied says that what only a retired disk had itself is given back. Only its owner knows.
type VolumeEmptied struct {
	Volume id.Volume
	Epoch  id.Epoch
}

// The kinds of deleted disks, apart from the others so that all lists may grow.
const (
	kindRetireVolume kind = iota + 192
	kindVolumeEmptied
	kindSetProtection
)

func emptyKept(k kind) Command {
	switch k {
	case kindRetireVolume:
		return &RetireVolume{}
	case kindVolumeEmptied:
		return &VolumeEmptied{}
	case kindSetProtection:
		return &SetProtection{}
	}
	return nil
}

func (m *Machine) applyKept(c Command) (Result, bool) {
	switch c := c.(type) {
	case *RetireVolume:
		return m.retireVolume(c), true
	case *VolumeEmptied:
		return m.volumeEmptied(c), true
	case *SetProtection:
		return m.setProtection(c), true
	}
	return Result{}, false
}

func (m *Machine) retireVolume(c *RetireVolume) Result {
	v, err := m.mayDeleteDisk(c.Volume, c.Epoch, c.Forced, c.Snapshots)
	if err != nil {
		return Result{Err: err, Volume: v}
	}
	v = v.clone()
	for i := range v.Snapshots {
		s := &v.Snapshots[i]
		switch {
		case c.Snapshots == SnapshotsStay || !s.Listed(): // what is in the trash has its time
		case m.Held(s.ID):
			hide(s)
		default:
			s.State = cluster.SnapshotDeleting
		}
	}
	delete(m.names, v.Name)
	v.Flatten = nil
	v.Kept = &cluster.Kept{Since: time.UnixMilli(c.NowMS).UTC()}
	v.putAside()
	return m.putOrUnlink(v)
}

// mayDeleteDisk finds a disk that may be deleted now, or refuses.
func (m *Machine) mayDeleteDisk(x id.Volume, e id.Epoch, forced bool, mode SnapshotsOfDeleted) (*Volume, error) {
	v, ok := m.volumes[x]
	switch {
	case !ok || !v.Live():
		return nil, refuse(errs.ErrNotFound, "disk %s", x).Err
	case !forced && e != v.Epoch:
		return nil, refuse(errs.ErrConflict, "disk %s was opened meanwhile", v.Name).Err
	case mode >= snapshotsModes:
		return nil, refuse(errs.ErrInvalid, "what is to become of snapshots: %d", mode).Err
	}
	return v, v.MayDelete(mode)
}

// MayDelete refuses to delete a disk that is protected, or of which that would lose a snapshot that somebody counts on.
func (v *Volume) MayDelete(mode SnapshotsOfDeleted) error {
	return cmp.Or(v.unprotected(), v.mayRetire(mode))
}

// mayRetire refuses what would lose a snapshot that somebody waits for or did not think of.
func (v *Volume) mayRetire(mode SnapshotsOfDeleted) error {
	listed := 0
	for i := range v.Snapshots {
		s := &v.Snapshots[i]
		switch {
		case mode == SnapshotsStay && taking(*s):
			return refuse(errs.ErrConflict, "a snapshot of disk %s is being taken; it could be of the disk as it is when it is deleted", v.Name).Err
		case mode == SnapshotsGoToo && s.Archived.Pending():
			return refuse(errs.ErrConflict, "snapshot %s of disk %s is on its way into the archive; wait, or give it up first (ashlar snapshot archive --cancel)", s.Name, v.Name).Err
		case s.Listed() && s.Needed():
			listed++
		}
	}
	switch {
	case v.Rollback != nil:
		return refuse(errs.ErrConflict, "disk %s is being rolled back", v.Name).Err
	case mode == SnapshotsStop && listed > 0:
		return refuse(errs.ErrConflict, "disk %s has %d snapshots, and it was not said what is to become of them", v.Name, listed).Err
	}
	return nil
}

// putOrUnlink is put; a deleted disk of which nobody needs a snapshot any more is purged.
func (m *Machine) putOrUnlink(v *Volume) Result {
	if v.Kept == nil || v.Trashed() || slices.ContainsFunc(v.Snapshots, func(s cluster.Snapshot) bool { return s.Needed() }) {
		return m.put(v)
	}
	return m.unlink(v)
}

func (m *Machine) volumeEmptied(c *VolumeEmptied) Result {
	v, r := m.owned(c.Volume, c.Epoch)
	switch {
	case v == nil:
		return r
	case v.Live() || v.Trashed():
		return refuseWith(v, errs.ErrConflict, "disk %s is not deleted for good", v.Name)
	}
	v = v.clone()
	v.Kept.Emptied = true
	return m.put(v)
}

// countKept keeps kept and keptNames.
func (m *Machine) countKept(v *Volume, present bool) {
	switch {
	case v.Kept == nil || v.Deleted:
	case present:
		m.kept[v.ID] = struct{}{}
		m.keptNames[v.Name]++
	default:
		delete(m.kept, v.ID)
		if m.keptNames[v.Name]--; m.keptNames[v.Name] == 0 {
			delete(m.keptNames, v.Name)
		}
	}
}

// Kept are the deleted disks of which there are snapshots, in order of ids.
func (m *Machine) Kept() []*Volume { return m.inOrder(m.kept) }

// FindKept is Find for a disk's snapshots: it also finds one that is deleted, by its id, and by
// the name that it had where no other disk has or had it.
func (m *Machine) FindKept(nameOrID string) (*Volume, bool) {
	if v, ok := m.Find(nameOrID); ok {
		return v, true
	}
	if x, err := id.ParseVolume(nameOrID); err == nil {
		if v, ok := m.volumes[x]; ok && !v.Deleted && !v.unseen() {
			return v, true
		}
		return nil, false
	}
	if m.keptNames[nameOrID] == 1 {
		for x := range m.kept {
			if v := m.volumes[x]; v.Name == nameOrID && !v.unseen() {
				return v, true
			}
		}
	}
	return nil, false
}

// Called is what FindKept finds v by: its name, or its id where another disk has or had that.
func (m *Machine) Called(v *Volume) string {
	if _, taken := m.names[v.Name]; v.Live() || !taken && m.keptNames[v.Name] == 1 {
		return v.Name
	}
	return v.ID.String()
}

func (*RetireVolume) kind() kind  { return kindRetireVolume }
func (*VolumeEmptied) kind() kind { return kindVolumeEmptied }

func (c *RetireVolume) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(append(b, c.Volume[:]...), uint64(c.Epoch))
	return binary.LittleEndian.AppendUint64(append(appendBool(b, c.Forced), byte(c.Snapshots)), uint64(c.NowMS))
}

func (c *RetireVolume) read(r *codec.Reader) {
	c.Volume, c.Epoch, c.Forced = readVolumeID(r), id.Epoch(r.U64()), readBool(r)
	c.Snapshots, c.NowMS = SnapshotsOfDeleted(r.U8()), int64(r.U64())
}

func (c *VolumeEmptied) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(append(b, c.Volume[:]...), uint64(c.Epoch))
}

func (c *VolumeEmptied) read(r *codec.Reader) {
	c.Volume, c.Epoch = readVolumeID(r), id.Epoch(r.U64())
}

// appendKeptDisk is the part of a volume that came with LevelImages.
func appendKeptDisk(b []byte, v *Volume) []byte {
	if b = appendBool(b, v.Kept != nil); v.Kept != nil {
		b = appendBool(binary.LittleEndian.AppendUint64(b, uint64(v.Kept.Since.UnixMilli())), v.Kept.Emptied)
	}
	return appendBool(b, v.Protected)
}

func readKeptDisk(r *codec.Reader, v *Volume) {
	if readBool(r) {
		v.Kept = &cluster.Kept{Since: readTime(r), Emptied: readBool(r)}
	}
	v.Protected = readBool(r)
}
