package state

import (
	"cmp"
	"fmt"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// The trash: what people delete can be brought back for some time. A disk in the trash is a deleted one that is kept
// (kept.go) with all that it has: its epoch has risen, nobody but readers of listed snapshots gets at it, and in all else,
// repair, drains, coding anew, it is a disk like others. A snapshot there is one that nobody sees. When their time is over
// exactly that happens which a deletion without the trash does, under a higher epoch, and nothing takes it back.
//
// Time in the trash is that which leaders saw pass: each commits what passed by its own clock since the last time, so two
// members whose clocks differ agree, a clock that is set changes nothing, and while nobody leads no time passes. It only
// rises, and nothing ends but by a command that says so.

// Limits of the trash.
const (
	// TrashDefault is how long deleted disks and snapshots are kept where nobody said.
	TrashDefault = 24 * time.Hour
	TrashMax     = 10 * 366 * 24 * time.Hour
	// TrashPassMax is the most that one command lets pass.
	TrashPassMax = time.Hour
)

// trash is the part of the state that is no disk's.
type trash struct {
	clock time.Duration // that passed
	set   bool          // else keep is TrashDefault
	keep  time.Duration // 0: the trash is off
}

// Commands of the trash.
type (
	// SetTrash says for how long what is deleted from now on is kept; 0: not at all. What is in the trash keeps its time.
	SetTrash struct{ Keep time.Duration }

	// PutInTrash deletes a disk, as RetireVolume does, or if Snapshot is not zero a snapshot, into the trash. Where the trash
	// is off it is the deletion itself. Passed is what passed since the last PassTrash.
	PutInTrash struct {
		Volume    id.Volume
		Snapshot  id.Snapshot
		Epoch     id.Epoch
		Forced    bool
		Snapshots SnapshotsOfDeleted
		NowMS     int64 // for people
		By        string
		Passed    time.Duration
	}

	// TakeFromTrash brings a disk, or a snapshot, back under a name; empty: the one it had.
	TakeFromTrash struct {
		Volume   id.Volume
		Snapshot id.Snapshot
		Name     string
	}

	// EmptyTrash ends the time of one disk or snapshot now.
	EmptyTrash struct {
		Volume   id.Volume
		Snapshot id.Snapshot
	}

	// PassTrash lets time pass, from what the leader saw it to be, and ends what is due then.
	PassTrash struct{ From, Passed time.Duration }
)

// TrashTime is how long what is deleted now is kept; 0: not at all.
func (m *Machine) TrashTime() time.Duration {
	switch {
	case m.level < LevelTrash:
		return 0
	case !m.trash.set:
		return TrashDefault
	}
	return m.trash.keep
}

// TrashClock is the time that passed; Until of what is in the trash is on it.
func (m *Machine) TrashClock() time.Duration { return m.trash.clock }

// Trashed are the disks that are in the trash or have snapshots there, in order of ids.
func (m *Machine) Trashed() []*Volume { return m.inOrder(m.trashed) }

// NextInTrash is when the first of what is in the trash is due; false: it is empty.
func (m *Machine) NextInTrash() (due time.Duration, some bool) {
	take := func(t time.Duration) {
		if t != 0 && (!some || t < due) {
			due, some = t, true
		}
	}
	for x := range m.trashed {
		v := m.volumes[x]
		if v.Trashed() {
			take(v.Kept.Until)
		}
		for i := range v.Snapshots {
			if t := v.Snapshots[i].Trash; t != nil {
				take(t.Until)
			}
		}
	}
	return due, some
}

// countTrash keeps trashed.
func (m *Machine) countTrash(v *Volume, present bool) {
	if present && !v.Deleted && (v.Trashed() || v.inTrash() > 0) {
		m.trashed[v.ID] = struct{}{}
	} else {
		delete(m.trashed, v.ID)
	}
}

// inTrash counts the snapshots that are in the trash.
func (v *Volume) inTrash() (n int) {
	for i := range v.Snapshots {
		if v.Snapshots[i].State == cluster.SnapshotTrashed {
			n++
		}
	}
	return n
}

// unseen: a deleted disk of which people see no snapshot either.
func (v *Volume) unseen() bool {
	for i := range v.Snapshots {
		if v.Snapshots[i].Listed() {
			return false
		}
	}
	return v.Kept != nil
}

// toEmpty: what only the disk itself has is to be given back.
func (v *Volume) toEmpty() bool { return v.Kept != nil && !v.Trashed() && !v.Kept.Emptied }

// Unsettled: it is in the trash, and an owner from before may still serve it, or not have packed it.
func (v *Volume) Unsettled() bool { return v.Trashed() && !v.Kept.Settled }

// settle is said when an owner lets the volume go in peace; that one came after the deletion.
func (v *Volume) settle() {
	if v.Trashed() && v.OpenComplete {
		v.Kept.Settled = true
	}
}

// tooMany is the refusal of one snapshot more.
func (v *Volume) tooMany() error {
	more := ""
	if n := v.inTrash(); n > 0 {
		more = fmt.Sprintf(" (%d are in the trash: ashlar trash list)", n)
	}
	return refuse(errs.ErrConflict, "disk %s has %d snapshots, as many as it may%s; delete one first", v.Name, len(v.Snapshots), more).Err
}

func (m *Machine) setTrash(c *SetTrash) Result {
	if c.Keep < 0 || c.Keep > TrashMax || c.Keep != 0 && c.Keep < time.Second {
		return refuse(errs.ErrInvalid, "a trash of %s: want 0, or one second to ten years", c.Keep)
	}
	m.trash.set, m.trash.keep = true, c.Keep
	return Result{}
}

// until is when what is deleted now is due.
func (m *Machine) until(passed time.Duration) time.Duration {
	return m.trash.clock + min(max(passed, 0), TrashPassMax) + m.TrashTime()
}

func (m *Machine) putInTrash(c *PutInTrash) Result {
	switch off := m.TrashTime() == 0; {
	case !c.Snapshot.IsZero():
		return m.trashSnapshot(c)
	case off:
		return m.retireVolume(&RetireVolume{Volume: c.Volume, Epoch: c.Epoch, Forced: c.Forced, Snapshots: c.Snapshots, NowMS: c.NowMS})
	}
	v, err := m.mayDeleteDisk(c.Volume, c.Epoch, c.Forced, c.Snapshots)
	if err != nil {
		return Result{Err: err, Volume: v}
	}
	v = v.clone()
	for i := range v.Snapshots {
		switch s := &v.Snapshots[i]; {
		case c.Snapshots != SnapshotsGoToo:
		case taking(*s):
			s.State = cluster.SnapshotDeleting
		case s.State == cluster.SnapshotReady:
			s.State, s.Trash = cluster.SnapshotTrashed, &cluster.Trashed{Since: time.UnixMilli(c.NowMS).UTC(), By: c.By, With: true}
		}
	}
	delete(m.names, v.Name)
	// Who released it last had packed it, and nobody before that one may have served since.
	settled := v.Owner == id.Holder{} && len(v.Prior) == 0
	v.Flatten = nil
	v.Kept = &cluster.Kept{Since: time.UnixMilli(c.NowMS).UTC(), Until: m.until(c.Passed), By: c.By, Settled: settled}
	v.putAside()
	return m.put(v)
}

func (m *Machine) trashSnapshot(c *PutInTrash) Result {
	v, i := m.snapshotOf(c.Volume, c.Snapshot)
	switch {
	case i < 0:
		return refuse(errs.ErrNotFound, "snapshot %s of disk %s", c.Snapshot, c.Volume)
	case v.Snapshots[i].State == cluster.SnapshotTrashed:
		return Result{Volume: m.volumes[c.Volume]} // the answer was lost
	case m.TrashTime() == 0 || v.Snapshots[i].State != cluster.SnapshotReady: // there is nothing to be brought back
		return m.deleteSnapshot(&DeleteSnapshot{Volume: c.Volume, ID: c.Snapshot})
	}
	s := &v.Snapshots[i]
	if err := v.mayDelete(s); err != nil {
		return Result{Err: err}
	}
	s.Trash = &cluster.Trashed{Since: time.UnixMilli(c.NowMS).UTC(), Until: m.until(c.Passed), By: c.By, Name: s.Name}
	s.State, s.Name = cluster.SnapshotTrashed, s.ID.String()
	return m.put(v)
}

func (m *Machine) takeFromTrash(c *TakeFromTrash) Result {
	if !c.Snapshot.IsZero() {
		return m.takeSnapshotBack(c)
	}
	v, ok := m.volumes[c.Volume]
	if !ok || v.Deleted {
		return refuse(errs.ErrNotFound, "disk %s is deleted for good", c.Volume)
	}
	name := cmp.Or(c.Name, v.Name)
	switch other, taken := m.names[name]; {
	case v.Live() && v.Name == name:
		return Result{Volume: v} // the answer was lost
	case !v.Trashed():
		return refuse(errs.ErrNotFound, "disk %s is not in the trash", c.Volume)
	case taken:
		return refuse(errs.ErrExists, "there is a disk %s (%s)", name, other)
	}
	if err := CheckDiskName(name); err != nil {
		return Result{Err: err}
	}
	v = v.clone()
	v.Name = name
	m.revive(v)
	v.putAside()
	return m.put(v)
}

// revive makes a disk of the trash one like others, with the snapshots that went with it. v is a copy, its name is nobody's.
func (m *Machine) revive(v *Volume) {
	for i := range v.Snapshots {
		if s := &v.Snapshots[i]; s.Trash != nil && s.Trash.With {
			s.State, s.Trash = cluster.SnapshotReady, nil
		}
	}
	v.Kept = nil
	m.names[v.Name] = v.ID
}

func (m *Machine) takeSnapshotBack(c *TakeFromTrash) Result {
	v, i := m.snapshotOf(c.Volume, c.Snapshot)
	if i < 0 {
		return refuse(errs.ErrNotFound, "snapshot %s is deleted for good", c.Snapshot)
	}
	s := &v.Snapshots[i]
	switch t := s.Trash; {
	case s.State == cluster.SnapshotReady && (c.Name == "" || c.Name == s.Name):
		return Result{Volume: m.volumes[c.Volume]} // the answer was lost
	case t == nil:
		return refuse(errs.ErrNotFound, "snapshot %s of disk %s is not in the trash", s.Name, v.Name)
	case t.With:
		return refuse(errs.ErrConflict, "snapshot %s is in the trash with its disk %s (%s), and comes back with it", s.Name, v.Name, v.ID)
	}
	name := cmp.Or(c.Name, s.Trash.Name)
	if name != s.ID.String() { // that of one without a name
		if err := CheckSnapshotName(name); err != nil {
			return Result{Err: err}
		}
		if have, taken := v.FindSnapshot(name); taken {
			return refuse(errs.ErrExists, "disk %s has a snapshot %q, %s", v.Name, name, have.State)
		}
	}
	s.State, s.Name, s.Trash = cluster.SnapshotReady, name, nil
	return m.put(v)
}

func (m *Machine) emptyTrash(c *EmptyTrash) Result {
	if !c.Snapshot.IsZero() {
		v, i := m.snapshotOf(c.Volume, c.Snapshot)
		if i < 0 || v.Snapshots[i].Trash == nil || v.Snapshots[i].Trash.With {
			return refuse(errs.ErrNotFound, "snapshot %s is not in the trash by itself", c.Snapshot)
		}
		return m.endSnapshot(v, i)
	}
	v, ok := m.volumes[c.Volume]
	if !ok || !v.Trashed() {
		return refuse(errs.ErrNotFound, "disk %s is not in the trash", c.Volume)
	}
	return m.endDisk(v)
}

func (m *Machine) passTrash(c *PassTrash) Result {
	switch {
	case c.From != m.trash.clock:
		return refuse(errs.ErrConflict, "time in the trash is %s, not %s", m.trash.clock, c.From) // it was let pass already
	case c.Passed <= 0 || c.Passed > TrashPassMax:
		return refuse(errs.ErrInvalid, "%s cannot pass at once", c.Passed)
	}
	m.trash.clock += c.Passed
	for _, v := range m.Trashed() {
		m.endDue(v.ID)
	}
	return Result{}
}

// endDue ends what is due of one volume, as it is now: the end of another one may have changed it.
func (m *Machine) endDue(x id.Volume) {
	if v := m.volumes[x]; v != nil && v.Trashed() && v.Kept.Until <= m.trash.clock {
		m.endDisk(v)
	}
	for {
		v := m.volumes[x]
		if v == nil || v.Deleted {
			return
		}
		i := 0
		for ; i < len(v.Snapshots); i++ {
			if t := v.Snapshots[i].Trash; t != nil && !t.With && t.Until <= m.trash.clock {
				break
			}
		}
		if i == len(v.Snapshots) {
			return
		}
		m.endSnapshot(v.clone(), i)
	}
}

// endDisk deletes a disk of the trash for good. The epoch rises, so that an owner that opened it as one to be
// kept never empties it, and one that empties it never has one that was brought back.
func (m *Machine) endDisk(v *Volume) Result {
	v = v.clone()
	for i := range v.Snapshots {
		if s := &v.Snapshots[i]; s.Trash != nil && s.Trash.With {
			m.endOne(s)
		}
	}
	v.Kept = &cluster.Kept{Since: v.Kept.Since}
	v.putAside()
	return m.putOrUnlink(v)
}

// endSnapshot deletes a snapshot of the trash for good; v is a copy.
func (m *Machine) endSnapshot(v *Volume, i int) Result {
	m.endOne(&v.Snapshots[i])
	return m.putOrUnlink(v)
}

func (m *Machine) endOne(s *cluster.Snapshot) {
	s.State, s.Trash = cluster.SnapshotDeleting, nil
	if m.Held(s.ID) {
		hide(s)
	}
}

// bringBack takes everything out of the trash: since the backup from which the state is rebuilt it may
// have been brought back, and be in use.
func (m *Machine) bringBack(v *Volume) {
	if v.Trashed() {
		if _, taken := m.names[v.Name]; taken {
			v.Name = "recovered-" + v.ID.String()
		}
		m.revive(v)
	}
	for i := range v.Snapshots {
		s := &v.Snapshots[i]
		if s.Trash == nil {
			continue
		}
		name := s.Trash.Name
		if _, taken := v.FindSnapshot(name); taken {
			name = s.Name
		}
		s.State, s.Name, s.Trash = cluster.SnapshotReady, name, nil
	}
}
