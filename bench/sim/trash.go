package sim

import (
	"errors"
	"time"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// The trash: disks and snapshots that are deleted and may come back for a time, which the leader lets
// pass. What comes back must be as it was.

// trashKeep is how long what is deleted stays in the trash: the shortest that there is.
const trashKeep = time.Second

// trashPassed is how much time has passed since the state heard last.
func (m *metad) trashPassed() time.Duration {
	return min(max(m.now()-m.trashAt, 0), state.TrashPassMax)
}

// passTrash lets time pass, so that what is due goes.
func (m *metad) passTrash() {
	passed := m.trashPassed()
	if _, some := m.m.NextInTrash(); !some || passed == 0 {
		m.trashAt = m.now()
		return
	}
	if passed < 50*time.Millisecond {
		return
	}
	if r := m.apply(&state.PassTrash{From: m.m.TrashClock(), Passed: passed}); r.Err != nil {
		m.w.fail(CheckMetad, "time in the trash does not pass: %v", r.Err)
	}
	m.trashAt = m.now()
	for _, d := range m.w.disks {
		if d.lookInTrash() {
			m.backUp() // from an older one it would come back
		}
	}
}

// lookInTrash notes what of the disk is not in the trash any more; true: something has gone from there for good.
func (d *disk) lookInTrash() (gone bool) {
	v, ok := d.w.metad.m.Volume(d.id)
	kept := ok && !v.Deleted
	if d.trashed && !(kept && v.Trashed()) {
		d.trashed, gone = false, true
		d.w.log("%s is in the trash no more", d.name)
	}
	for _, s := range d.snaps {
		if s.trashed && !(kept && d.stateOf(v, s) == cluster.SnapshotTrashed) {
			s.trashed, gone = false, true
		}
	}
	return gone
}

func (d *disk) stateOf(v *state.Volume, s *snap) cluster.SnapshotState {
	for _, x := range v.Snapshots {
		if x.ID == s.id {
			return x.State
		}
	}
	return cluster.SnapshotDeleting
}

// putInTrash is a deletion of the disk, into the trash.
func (d *disk) putInTrash(e id.Epoch, mode state.SnapshotsOfDeleted) error {
	m := d.w.metad
	r := m.apply(&state.PutInTrash{Volume: d.id, Epoch: e, Snapshots: mode, NowMS: 1, Passed: m.trashPassed()})
	if r.Err == nil {
		d.trashed = true
		d.w.cover.Trashed++
		for _, s := range d.snaps { // those that went with it
			s.trashed = s.trashed || mode == state.SnapshotsGoToo && d.stateOf(r.Volume, s) == cluster.SnapshotTrashed
		}
	}
	return r.Err
}

// trash deletes a snapshot, into the trash.
func (d *disk) trash(s *snap) {
	m := d.w.metad
	r := m.apply(&state.PutInTrash{Volume: d.id, Snapshot: s.id, NowMS: 1, Passed: m.trashPassed()})
	if r.Err != nil && !errors.Is(r.Err, errs.ErrNotFound) {
		d.w.fail(CheckMetad, "%s: snapshot %s is not put into the trash: %v", d.name, s, r.Err)
	}
	s.dropped = true
	s.trashed = r.Err == nil && d.stateOf(r.Volume, s) == cluster.SnapshotTrashed
}

// takeBack brings back what of the disk is in the trash: all of it, or snapshots.
func (d *disk) takeBack() {
	w, m := d.w, d.w.metad
	if d.trashed {
		if r := m.apply(&state.TakeFromTrash{Volume: d.id}); r.Err != nil {
			w.fail(CheckTrash, "%s does not come back from the trash: %v", d.name, r.Err)
			return
		}
		w.log("%s comes back from the trash", d.name)
		w.cover.Back++
		d.back()
		return
	}
	for _, s := range d.snaps {
		if !s.trashed || d.leaves {
			continue
		}
		if r := m.apply(&state.TakeFromTrash{Volume: d.id, Snapshot: s.id}); r.Err != nil {
			w.fail(CheckTrash, "snapshot %s of %s does not come back from the trash: %v", s, d.name, r.Err)
		}
		w.cover.Back++
		s.trashed, s.dropped = false, false
		w.log("%s of %s comes back from the trash", s, d.name)
	}
}

// back: the disk is one like others again, with the snapshots that went with it.
func (d *disk) back() {
	v, ok := d.w.metad.m.Volume(d.id)
	if !ok || !v.Live() {
		d.w.fail(CheckTrash, "%s came back from the trash, and is not there", d.name)
		return
	}
	d.trashed, d.retired = false, false
	for _, s := range d.snaps {
		if s.trashed && d.stateOf(v, s) == cluster.SnapshotReady {
			s.trashed, s.dropped = false, false
		}
	}
}

// emptyTrash ends the time of what of the disk is in the trash.
func (d *disk) emptyTrash() {
	m := d.w.metad
	empty := func(s id.Snapshot) {
		if r := m.apply(&state.EmptyTrash{Volume: d.id, Snapshot: s}); r.Err != nil {
			d.w.fail(CheckTrash, "%s does not leave the trash: %v", d.name, r.Err)
		}
	}
	if d.trashed {
		empty(id.Snapshot{})
	}
	gone := d.lookInTrash()
	for _, s := range d.snaps {
		if v, ok := m.m.Volume(d.id); ok && s.trashed && d.stateOf(v, s) == cluster.SnapshotTrashed {
			empty(s.id)
		}
	}
	if d.lookInTrash() || gone {
		m.backUp() // from an older one it would come back
	}
}

// restoredTrash: a restored metad brings back all that was in the trash.
func (d *disk) restoredTrash(v *state.Volume) {
	if d.trashed && v.Live() {
		d.back()
	}
	for _, s := range d.snaps {
		if s.trashed && d.stateOf(v, s) == cluster.SnapshotReady {
			s.trashed, s.dropped = false, false
		}
	}
	d.lookInTrash()
}
