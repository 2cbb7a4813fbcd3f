package state

import (
	"testing"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// toTrash is toDelete at the level of the trash, where things stay for a minute. The disk is open on host 1, and its
// snapshot is called one.
func toTrash(t *testing.T) (*world, id.Volume, id.Snapshot) {
	w, v, s := toDelete(t)
	w.refused(errs.ErrUnavailable, &PutInTrash{Volume: v, Epoch: 1}) // of a later level
	if w.TrashTime() != 0 {
		t.Error("members that do not know the trash keep things in it")
	}
	w.ok(&SetLevel{Level: LevelTrash})
	if w.TrashTime() != TrashDefault {
		t.Errorf("kept for %s where nobody said", w.TrashTime())
	}
	w.ok(&SetTrash{Keep: time.Minute})
	return w, v, s
}

// pass lets time pass.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	w.ok(&PassTrash{From: w.TrashClock(), Passed: d})
	w.Machine = restored(w.t, w.Machine)
}

// trashed puts the disk in the trash.
func (w *world) trashed(v id.Volume, mode SnapshotsOfDeleted) {
	w.t.Helper()
	x, _ := w.Volume(v)
	w.ok(&PutInTrash{Volume: v, Epoch: x.Epoch, Snapshots: mode, NowMS: 77, By: "ann"})
	w.Machine = restored(w.t, w.Machine)
}

// A disk of the trash that could be used, emptied or deleted again would not be what it was when it is brought back.
func TestDiskComesBackFromTheTrashWithItsSnapshots(t *testing.T) {
	w, v, s := toTrash(t)
	x, _ := w.Volume(v)
	name := x.Name
	w.ok(&SetProtection{Volume: v, On: true})
	w.refused(errs.ErrConflict, &PutInTrash{Volume: v, Epoch: 1, Forced: true, Snapshots: SnapshotsGoToo})
	w.ok(&SetProtection{Volume: v})
	w.refused(errs.ErrConflict, &PutInTrash{Volume: v, Epoch: 1})                            // nobody said what is to become of snapshots
	w.refused(errs.ErrConflict, &PutInTrash{Volume: v, Epoch: 7, Snapshots: SnapshotsGoToo}) // it was opened meanwhile
	w.ok(&CreateSnapshot{Volume: v, ID: id.Snapshot{2}, Name: "half"})                       // and goes with it, for good
	w.refused(errs.ErrConflict, &PutInTrash{Volume: v, Epoch: 1, Snapshots: SnapshotsStay})  // it could be of the disk as it is then
	w.ok(&CreateVolume{ID: id.Volume{219}, Name: "other", Size: 1 << 20})
	w.trashed(v, SnapshotsGoToo)
	x, _ = w.Volume(v)
	if x.Live() || !x.Trashed() || x.Epoch != 2 || x.Owner != (id.Holder{}) || w.stateOf(v, s) != cluster.SnapshotTrashed || w.stateOf(v, id.Snapshot{2}) != cluster.SnapshotDeleting || x.Kept.By != "ann" {
		t.Fatalf("in the trash: %+v %+v", x.Volume, x.Kept)
	}
	if _, ok := w.Find(v.String()); ok {
		t.Error("clients find it")
	}
	for _, c := range []Command{&RetireVolume{Volume: v, Epoch: 2, Forced: true}, &PutInTrash{Volume: v, Epoch: 2, Forced: true}, &DeleteVolume{Volume: v, Forced: true},
		&ResizeVolume{Volume: v, Size: 1 << 40}, &CreateSnapshot{Volume: v, ID: id.Snapshot{3}}, &SetQoS{Volume: v}, &SetProtection{Volume: v, On: true},
		&RollbackVolume{Volume: v, Epoch: 2, To: s, Safety: id.Snapshot{3}}} {
		w.refused(errs.ErrNotFound, c)
	}
	w.refused(errs.ErrConflict, clone(v, s, 9, 4))
	w.refused(errs.ErrConflict, &QueueArchive{Volume: v, ID: s, Upload: id.Raw{1}})
	w.ok(&Acquire{Volume: v, By: holder(2, 1)}) // to be looked after, as any disk
	w.refused(errs.ErrConflict, &VolumeEmptied{Volume: v, Epoch: 3})
	w.ok(&CreateVolume{ID: id.Volume{220}, Name: name, Size: 1 << 20}) // its name is free
	w.refused(errs.ErrExists, &TakeFromTrash{Volume: v})
	w.refused(errs.ErrExists, &TakeFromTrash{Volume: v, Name: "other"})
	w.refused(errs.ErrInvalid, &TakeFromTrash{Volume: v, Name: "a b"})
	w.refused(errs.ErrConflict, &TakeFromTrash{Volume: v, Snapshot: s}) // it comes with the disk
	w.ok(&TakeFromTrash{Volume: v, Name: "back"})
	w.ok(&TakeFromTrash{Volume: v, Name: "back"}) // the answer was lost
	w.Machine = restored(t, w.Machine)
	x, ok := w.Find("back")
	if !ok || x.ID != v || x.Kept != nil || x.Epoch != 4 || w.stateOf(v, s) != cluster.SnapshotReady || x.Snapshots[0].Name != "one" || x.Snapshots[0].Trash != nil {
		t.Fatalf("brought back: %v %+v", ok, x)
	}
	if len(w.Trashed()) != 0 {
		t.Error("it is in the trash still")
	}
	w.pass(time.Hour)
	if !x.Live() {
		t.Error("what was brought back was deleted when it was due")
	}
}

// What is due must go, and nothing before; what went must not come back by halves.
func TestWhatIsDueGoesForGood(t *testing.T) {
	w, v, s := toTrash(t)
	w.ok(clone(v, s, 9, 2))
	w.trashed(v, SnapshotsGoToo)
	w.ok(clone(w.unrelated(), id.Snapshot{50}, 9, 3))
	w.pass(time.Minute - time.Millisecond)
	if x, _ := w.Volume(v); !x.Trashed() {
		t.Fatal("it went before its time")
	}
	due, some := w.NextInTrash()
	if !some || due != time.Minute {
		t.Fatalf("next is %s %t", due, some)
	}
	w.pass(time.Millisecond)
	x, _ := w.Volume(v)
	if x.Live() || x.Trashed() || x.Deleted || x.Epoch != 3 || w.stateOf(v, s) != cluster.SnapshotHidden || len(w.SnapshotWork()) != 1 {
		t.Fatalf("due, and a clone reads its snapshot: %+v", x.Volume)
	}
	w.refused(errs.ErrNotFound, &TakeFromTrash{Volume: v})
	w.refused(errs.ErrNotFound, &TakeFromTrash{Volume: v, Snapshot: s})
	w.refused(errs.ErrNotFound, &EmptyTrash{Volume: v})
	child, _ := w.Find("c2")
	w.trashed(child.ID, SnapshotsStop)
	if w.purged(v) {
		t.Fatal("what a disk in the trash reads went")
	}
	w.ok(&EmptyTrash{Volume: child.ID})
	if !w.purged(child.ID) || !w.purged(v) {
		t.Error("nobody needs them and they are there")
	}
	w.refused(errs.ErrNotFound, &TakeFromTrash{Volume: child.ID})
}

// unrelated is a disk with a snapshot.
func (w *world) unrelated() id.Volume {
	v := id.Volume{218}
	w.ok(&CreateVolume{ID: v, Name: "unrelated", Size: 1 << 20})
	w.ok(&CreateSnapshot{Volume: v, ID: id.Snapshot{50}})
	w.ok(&SnapshotTaken{Volume: v, ID: id.Snapshot{50}})
	return v
}

// Schedule: a host opens the disk while it is in the trash, or is told to empty it when it is due; the other order meets
// the owner of the other time. Each has an epoch of its own.
func TestEndOfTheTrashFencesWhoKeptTheDisk(t *testing.T) {
	w, v, _ := toTrash(t)
	w.trashed(v, SnapshotsStay)
	if len(w.SnapshotWork()) != 0 {
		t.Error("a disk in the trash is to be emptied")
	}
	w.ok(&Acquire{Volume: v, By: holder(2, 1)})
	w.ok(&EmptyTrash{Volume: v})
	w.refused(errs.ErrStaleEpoch, &VolumeEmptied{Volume: v, Epoch: 3})
	if x, _ := w.Volume(v); x.Owner != (id.Holder{}) || x.Epoch != 4 || len(w.SnapshotWork()) != 1 {
		t.Fatalf("%+v", x.Volume)
	}
	w.ok(&Acquire{Volume: v, By: holder(2, 1)})
	w.ok(&VolumeEmptied{Volume: v, Epoch: 5})
	w.refused(errs.ErrNotFound, &TakeFromTrash{Volume: v})
}

// Two leaders whose clocks differ, or whose answers were lost, would let more time pass than there was.
func TestTimeInTheTrashOnlyRises(t *testing.T) {
	w, v, _ := toTrash(t)
	w.pass(time.Second)
	w.refused(errs.ErrConflict, &PassTrash{Passed: time.Second})
	w.refused(errs.ErrConflict, &PassTrash{From: 2 * time.Second, Passed: time.Second})
	w.refused(errs.ErrInvalid, &PassTrash{From: time.Second})
	w.refused(errs.ErrInvalid, &PassTrash{From: time.Second, Passed: 2 * time.Hour})
	w.refused(errs.ErrInvalid, &SetTrash{Keep: time.Millisecond})
	w.refused(errs.ErrInvalid, &SetTrash{Keep: TrashMax + time.Second})
	if _, some := w.NextInTrash(); some {
		t.Error("something is due in an empty trash")
	}
	w.ok(&PutInTrash{Volume: v, Epoch: 1, Snapshots: SnapshotsStay, Passed: 5 * time.Second}) // which no command has told of yet
	if due, _ := w.NextInTrash(); due != 66*time.Second {
		t.Errorf("due at %s", due)
	}
	w.ok(&SetTrash{}) // what is there keeps its time
	w.pass(64 * time.Second)
	if x, _ := w.Volume(v); !x.Trashed() {
		t.Error("it went when the trash was turned off")
	}
	w.pass(time.Second)
	if x, _ := w.Volume(v); x.Trashed() {
		t.Error("it is due and stays")
	}
	other := w.unrelated()
	w.ok(&PutInTrash{Volume: other, Snapshot: id.Snapshot{50}})
	if w.stateOf(other, id.Snapshot{50}) != cluster.SnapshotDeleting {
		t.Error("the trash is off and keeps a snapshot")
	}
	w.ok(&PutInTrash{Volume: other, Forced: true, Snapshots: SnapshotsGoToo})
	if !w.purged(other) {
		t.Error("the trash is off and keeps a disk")
	}
}

// A snapshot of the trash is nobody's to read, and whole when it comes back.
func TestSnapshotComesBackFromTheTrash(t *testing.T) {
	w, v, s := toTrash(t)
	w.ok(clone(v, s, 9, 2))
	del := &PutInTrash{Volume: v, Snapshot: s, NowMS: 5, By: "bob"}
	w.ok(&RollbackVolume{Volume: v, Epoch: 1, To: s, Safety: id.Snapshot{3}})
	w.refused(errs.ErrConflict, del) // the disk goes back to it
	w.ok(&Acquire{Volume: v, By: holder(1, 1)})
	w.ok(&VolumeRolledBack{Volume: v, Epoch: 3, Safety: id.Snapshot{3}})
	w.ok(&QueueArchive{Volume: v, ID: s, Upload: id.Raw{1}})
	w.refused(errs.ErrConflict, del)
	w.ok(&EndArchive{Volume: v, ID: s, State: cluster.ArchiveNone})
	w.ok(del)
	w.ok(del) // the answer was lost
	w.Machine = restored(t, w.Machine)
	x, _ := w.Volume(v)
	if y := x.Snapshots[0]; y.State != cluster.SnapshotTrashed || y.Name != s.String() || y.Trash.Name != "one" || y.Trash.By != "bob" || y.Listed() || !y.Needed() {
		t.Fatalf("in the trash: %+v %+v", y, y.Trash)
	}
	for _, c := range []Command{&DeleteSnapshot{Volume: v, ID: s}, &SnapshotGone{Volume: v, Epoch: 3, ID: s}, clone(v, s, 9, 4),
		&QueueArchive{Volume: v, ID: s, Upload: id.Raw{2}}, &RollbackVolume{Volume: v, Epoch: 3, To: s, Safety: id.Snapshot{4}},
		&CreateImage{Image: Image{ID: id.Image{1}, Name: "i", Volume: v, Snapshot: s}}} {
		w.refused(errs.ErrConflict, c)
	}
	w.ok(&CreateSnapshot{Volume: v, ID: id.Snapshot{5}, Name: "one"}) // the name is free
	w.ok(&SnapshotTaken{Volume: v, ID: id.Snapshot{5}})
	w.refused(errs.ErrExists, &TakeFromTrash{Volume: v, Snapshot: s})
	w.ok(&TakeFromTrash{Volume: v, Snapshot: s, Name: "uno"})
	w.ok(&TakeFromTrash{Volume: v, Snapshot: s, Name: "uno"})
	if w.stateOf(v, s) != cluster.SnapshotReady {
		t.Fatal("it is not back")
	}
	w.ok(&PutInTrash{Volume: v, Snapshot: s})
	w.pass(time.Minute)
	if w.stateOf(v, s) != cluster.SnapshotHidden {
		t.Error("due, and a clone reads it")
	}
	w.refused(errs.ErrNotFound, &TakeFromTrash{Volume: v, Snapshot: s})
}

// What was thrown away before the disk has its own time: it neither goes nor comes back with the disk.
func TestSnapshotsOfTheTrashHaveTheirOwnTime(t *testing.T) {
	w, v, s := toTrash(t)
	b := id.Snapshot{2}
	w.ok(&CreateSnapshot{Volume: v, ID: b, Name: "b"})
	w.ok(&SnapshotTaken{Volume: v, ID: b})
	w.ok(&PutInTrash{Volume: v, Snapshot: s})
	w.pass(30 * time.Second)
	w.trashed(v, SnapshotsGoToo)
	w.pass(29 * time.Second)
	w.ok(&TakeFromTrash{Volume: v})
	if w.stateOf(v, s) != cluster.SnapshotTrashed || w.stateOf(v, b) != cluster.SnapshotReady {
		t.Fatalf("%s %s", w.stateOf(v, s), w.stateOf(v, b))
	}
	w.trashed(v, SnapshotsGoToo)
	w.ok(&TakeFromTrash{Volume: v, Snapshot: s}) // alone: it is a snapshot of a deleted disk then
	w.ok(&EmptyTrash{Volume: v})
	if w.purged(v) || w.stateOf(v, s) != cluster.SnapshotReady || w.stateOf(v, b) != cluster.SnapshotDeleting {
		t.Fatal("what was brought back went with the disk")
	}
	if x, ok := w.FindKept(v.String()); !ok || x.ID != v {
		t.Error("nobody finds it")
	}
	w.ok(&PutInTrash{Volume: v, Snapshot: s})
	if _, ok := w.FindKept(v.String()); !ok { // b is on its way out
		t.Error("what is deleted is not listed")
	}
	w.pass(time.Minute)
	if !w.purged(v) {
		t.Error("the last of it is due and the disk stays")
	}
}

// A disk that is deleted by force may have an owner that goes on serving it, and writes that are in journals only.
func TestDiskInTheTrashIsPackedAndLetGo(t *testing.T) {
	w, v, _ := toTrash(t)
	w.opened(v, holder(1, 1), 3)
	w.trashed(v, SnapshotsStay)
	x, _ := w.Volume(v)
	if !x.Unsettled() {
		t.Fatal("nobody is asked to look after it")
	}
	w.acquire(v, holder(2, 1))
	x, _ = w.Volume(v)
	w.ok(&Release{Volume: v, Epoch: x.Epoch, By: holder(2, 1)}) // its opening broke off
	if x, _ = w.Volume(v); !x.Unsettled() {
		t.Fatal("who never opened it has packed it")
	}
	x = w.opened(v, holder(2, 1), 9)
	w.ok(&Release{Volume: v, Epoch: x.Epoch, By: holder(2, 1)})
	w.Machine = restored(t, w.Machine)
	if x, _ = w.Volume(v); x.Unsettled() {
		t.Fatal("it is packed, and to be opened again")
	}
	w.ok(&TakeFromTrash{Volume: v})
	w.trashed(v, SnapshotsStay)
	if x, _ = w.Volume(v); x.Unsettled() {
		t.Error("nobody had it open since, and it is to be opened")
	}
}

// Schedule: a backup is taken, a disk is brought back from the trash and used, and metad is restored from the backup: were it
// in the trash then, it would be deleted when it is due.
func TestRebuildBringsBackWhatIsInTheTrash(t *testing.T) {
	w, v, s := toTrash(t)
	b := id.Snapshot{2}
	w.ok(&CreateSnapshot{Volume: v, ID: b, Name: "b"})
	w.ok(&SnapshotTaken{Volume: v, ID: b})
	w.opened(v, holder(1, 1), 3)
	x, _ := w.Volume(v)
	name := x.Name
	w.ok(&PutInTrash{Volume: v, Snapshot: s})
	live := w.Snapshot()
	w.trashed(v, SnapshotsGoToo)
	trashed := w.Snapshot()
	w.ok(&CreateVolume{ID: id.Volume{220}, Name: name, Size: 1 << 20})
	for _, backup := range [][]byte{live, trashed, w.Snapshot()} {
		r := w.behind(backup)
		r.refused(errs.ErrUnavailable, &PassTrash{From: r.TrashClock(), Passed: time.Hour})
		r.refused(errs.ErrUnavailable, &EmptyTrash{Volume: v})
		r.tell(w)
		r.ok(&FinishRebuild{})
		r.Machine = restored(t, r.Machine)
		x, ok := r.Find(v.String())
		if !ok || r.stateOf(v, s) != cluster.SnapshotReady || r.stateOf(v, b) != cluster.SnapshotReady || len(r.Trashed()) != 0 {
			t.Fatalf("%v %s %s", ok, r.stateOf(v, s), r.stateOf(v, b))
		}
		if other, _ := r.Find(name); other == nil || x.Name == name != (other.ID == v) {
			t.Errorf("%s and %v", x.Name, other)
		}
		if one, ok := x.FindSnapshot("one"); !ok || one.ID != s {
			t.Error("its snapshot has another name")
		}
	}
}

// Without the count of those in the trash a disk could have more snapshots than an engine takes when they are brought back.
func TestSnapshotsOfTheTrashCount(t *testing.T) {
	w, v, s := toTrash(t)
	for i := range cluster.SnapshotsMax - 1 {
		w.ok(&CreateSnapshot{Volume: v, ID: id.Snapshot{9, byte(i), 1}})
	}
	w.ok(&PutInTrash{Volume: v, Snapshot: s})
	w.refused(errs.ErrConflict, &CreateSnapshot{Volume: v, ID: id.Snapshot{8}})
	w.ok(&EmptyTrash{Volume: v, Snapshot: s})
	w.ok(&SnapshotGone{Volume: v, Epoch: 1, ID: s})
	w.ok(&CreateSnapshot{Volume: v, ID: id.Snapshot{8}})
}

// An image keeps its snapshot whatever its owner does with it, and disks are made of it meanwhile.
func TestImageOfASnapshotInTheTrash(t *testing.T) {
	w, v, s := toTrash(t)
	w.ok(&CreateImage{Image: Image{ID: id.Image{1}, Name: "i", Volume: v, Snapshot: s}})
	w.ok(&PutInTrash{Volume: v, Snapshot: s})
	w.ok(&CreateFromImage{Image: id.Image{1}, CreateClone: *clone(v, s, 9, 2)})
	w.ok(&DeleteImage{ID: id.Image{1}})
	child, _ := w.Find("c2")
	w.ok(&RetireVolume{Volume: child.ID, Forced: true})
	if w.stateOf(v, s) != cluster.SnapshotTrashed {
		t.Fatalf("the last clone took it out of the trash: %s", w.stateOf(v, s))
	}
	w.ok(&TakeFromTrash{Volume: v, Snapshot: s})
}

// ofTrash draws something about the trash.
func (s *script) ofTrash(v *Volume, n id.Snapshot) Command {
	if s.pick("disk", 2) == 0 {
		n = id.Snapshot{}
	}
	switch s.pick("of the trash", 6) {
	case 0:
		return &SetTrash{Keep: time.Duration(s.pick("keep", 4)) * time.Second}
	case 1:
		return &TakeFromTrash{Volume: v.ID, Snapshot: n, Name: []string{"", "d1", "d7"}[s.pick("name", 3)]}
	case 2:
		return &EmptyTrash{Volume: v.ID, Snapshot: n}
	case 3:
		return &PassTrash{From: s.m.TrashClock(), Passed: time.Duration(1+s.pick("passed", 3000)) * time.Millisecond}
	}
	return &PutInTrash{Volume: v.ID, Snapshot: n, Epoch: s.epoch(v), Forced: s.pick("force", 2) == 0, Snapshots: SnapshotsOfDeleted(s.pick("mode", 4)), NowMS: 12,
		By: "ann", Passed: time.Duration(s.pick("passed", 2)) * time.Second}
}

// goldenTrash is the part about the trash.
func goldenTrash() []Command {
	v := id.Volume{41}
	return []Command{
		&SetLevel{Level: LevelTrash},
		&CreateVolume{ID: v, Name: "thrown", Size: 1 << 30, NowMS: 1700000000800},
		&CreateSnapshot{Volume: v, ID: id.Snapshot{41}, Name: "alone", NowMS: 1700000000801},
		&SnapshotTaken{Volume: v, ID: id.Snapshot{41}},
		&CreateSnapshot{Volume: v, ID: id.Snapshot{42}, Name: "with", NowMS: 1700000000802},
		&SnapshotTaken{Volume: v, ID: id.Snapshot{42}},
		&SetTrash{Keep: 7 * 24 * time.Hour},
		&PutInTrash{Volume: v, Snapshot: id.Snapshot{41}, NowMS: 1700000000803, By: "ann"},
		&PassTrash{Passed: 1500 * time.Millisecond},
		&PutInTrash{Volume: v, Forced: true, Snapshots: SnapshotsGoToo, NowMS: 1700000000804, By: "bob", Passed: 200 * time.Millisecond},
		&CreateVolume{ID: id.Volume{42}, Name: "back", Size: 1 << 30, NowMS: 1700000000805},
		&PutInTrash{Volume: id.Volume{42}, Forced: true, NowMS: 1700000000806},
		&TakeFromTrash{Volume: id.Volume{42}, Name: "again"},
		&PutInTrash{Volume: id.Volume{42}, Forced: true, NowMS: 1700000000807},
		&EmptyTrash{Volume: id.Volume{42}},
	}
}
