package state

import (
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// toDelete is withSnapshot at the level where disks with snapshots can be deleted.
func toDelete(t *testing.T) (*world, id.Volume, id.Snapshot) {
	w, v, s := withSnapshot(t)
	w.refused(errs.ErrUnavailable, &RetireVolume{Volume: v, Epoch: 1}) // of a later level
	w.ok(&SetLevel{Level: LevelImages})
	return w, v, s
}

// purged tells whether stores are told to forget all of a volume.
func (w *world) purged(v id.Volume) bool {
	x, ok := w.Volume(v)
	return !ok || x.Deleted
}

// Without these rules snapshots would go with their disk, unasked, or a disk that is deleted could
// be used on, and its last state never be given back.
func TestSnapshotsOutliveTheirDisk(t *testing.T) {
	w, v, s := toDelete(t)
	x, _ := w.Volume(v)
	name := x.Name
	w.refused(errs.ErrConflict, &RetireVolume{Volume: v, Epoch: x.Epoch})                               // nobody said what is to become of them
	w.refused(errs.ErrConflict, &RetireVolume{Volume: v, Epoch: x.Epoch - 1, Snapshots: SnapshotsStay}) // it was opened meanwhile
	w.ok(&RetireVolume{Volume: v, Epoch: x.Epoch, Snapshots: SnapshotsStay, NowMS: 5})
	x, _ = w.Volume(v)
	if x.Live() || x.Deleted || x.Epoch != 2 || x.Owner != (id.Holder{}) || w.stateOf(v, s) != cluster.SnapshotReady {
		t.Fatalf("after its deletion: %+v", x.Volume)
	}
	if _, ok := w.Find(v.String()); ok {
		t.Error("people find it")
	}
	for _, c := range []Command{&RetireVolume{Volume: v, Epoch: 2, Forced: true}, &DeleteVolume{Volume: v, Forced: true}, &ResizeVolume{Volume: v, Size: 1 << 40},
		&CreateSnapshot{Volume: v, ID: id.Snapshot{2}}, &CreateSnapshots{Members: []GroupMember{{Volume: v, ID: id.Snapshot{2}}}}, &SetQoS{Volume: v},
		&RollbackVolume{Volume: v, Epoch: 2, To: s, Safety: id.Snapshot{3}}} {
		w.refused(errs.ErrNotFound, c)
	}
	w.ok(&CreateVolume{ID: id.Volume{220}, Name: name, Size: 1 << 20}) // its name is free
	w.refused(errs.ErrStaleEpoch, &VolumeEmptied{Volume: v, Epoch: 2}) // nobody owns it
	if len(w.SnapshotWork()) != 1 {
		t.Error("nobody is told to give back what only the disk had")
	}
	w.ok(&Acquire{Volume: v, By: holder(2, 1)})
	w.refused(errs.ErrStaleEpoch, &VolumeEmptied{Volume: v, Epoch: 1})
	w.ok(&VolumeEmptied{Volume: v, Epoch: 3})
	w.ok(&VolumeEmptied{Volume: v, Epoch: 3})
	w.Machine = restored(t, w.Machine)
	if len(w.SnapshotWork()) != 0 || len(w.Kept()) != 1 {
		t.Error("it is to be emptied again")
	}
	w.ok(clone(v, s, 9, 2))
	w.ok(&DeleteSnapshot{Volume: v, ID: s})
	if w.stateOf(v, s) != cluster.SnapshotHidden || w.purged(v) {
		t.Fatal("a snapshot that a clone reads goes with the disk")
	}
	child, _ := w.Find("c2")
	w.ok(&RetireVolume{Volume: child.ID, Forced: true})
	if !w.purged(v) || len(w.Kept()) != 0 {
		t.Fatal("nobody needs it and it is kept")
	}
}

// Without these rules deleting a clone could take away what other clones read, or leave volumes behind
// that nobody needs: three generations, the middle one deleted first.
func TestDeletedDisksStayForTheirClones(t *testing.T) {
	w, v, s := toDelete(t)
	child, grandchild, mid := id.Volume{200, 2}, id.Volume{200, 3}, id.Snapshot{7}
	w.ok(clone(v, s, 9, 2))
	w.ok(&CreateSnapshot{Volume: child, ID: mid, Name: "mid"})
	w.ok(&SnapshotTaken{Volume: child, ID: mid})
	of := clone(child, mid, 10, 3)
	x, _ := w.Volume(child)
	of.Origin.Ancestors = x.Origin.Chain()
	w.ok(of)
	w.ok(&RetireVolume{Volume: child, Forced: true, Snapshots: SnapshotsGoToo})
	w.ok(&RetireVolume{Volume: v, Epoch: 1, Snapshots: SnapshotsGoToo})
	if w.stateOf(child, mid) != cluster.SnapshotHidden || w.stateOf(v, s) != cluster.SnapshotHidden || w.purged(child) || w.purged(v) {
		t.Fatal("what the last one reads is not kept")
	}
	w.Machine = restored(t, w.Machine)
	w.refused(errs.ErrConflict, clone(v, s, 9, 4)) // nobody sees it
	w.ok(&RetireVolume{Volume: grandchild, Forced: true})
	if !w.purged(grandchild) || !w.purged(child) || !w.purged(v) {
		t.Fatal("nobody reads any of them and they stay")
	}
}

// What nobody reads is not looked through snapshot by snapshot: the volume is purged at once. And who
// did not think of a snapshot that is on its way does not lose it.
func TestSnapshotsGoWithTheirDiskWhereThatIsSaid(t *testing.T) {
	w, v, s := toDelete(t)
	w.ok(&QueueArchive{Volume: v, ID: s, Upload: id.Raw{1}})
	w.refused(errs.ErrConflict, &RetireVolume{Volume: v, Epoch: 1, Snapshots: SnapshotsGoToo})
	w.ok(&EndArchive{Volume: v, ID: s, State: cluster.ArchiveNone})
	w.ok(&CreateSnapshot{Volume: v, ID: id.Snapshot{2}, Name: "two"})
	w.refused(errs.ErrConflict, &RetireVolume{Volume: v, Epoch: 1, Snapshots: SnapshotsStay}) // it could be taken of the emptied disk
	w.ok(&SnapshotTaken{Volume: v, ID: id.Snapshot{2}})
	w.ok(&RollbackVolume{Volume: v, Epoch: 1, To: s, Safety: id.Snapshot{3}})
	w.refused(errs.ErrConflict, &RetireVolume{Volume: v, Epoch: 2, Snapshots: SnapshotsGoToo})
	w.ok(&Acquire{Volume: v, By: holder(2, 1)})
	w.ok(&VolumeRolledBack{Volume: v, Epoch: 3, Safety: id.Snapshot{3}})
	w.refused(errs.ErrInvalid, &RetireVolume{Volume: v, Epoch: 3, Snapshots: snapshotsModes})
	w.ok(&RetireVolume{Volume: v, Epoch: 3, Snapshots: SnapshotsGoToo})
	if !w.purged(v) || len(w.Deleted()) != 1 {
		t.Fatal("it is not purged")
	}
}

// A name that means another disk today must not reach the snapshots of the one that had it.
func TestSnapshotsOfDeletedDisksAreFoundByWhatIsUnique(t *testing.T) {
	w, v, _ := toDelete(t)
	x, _ := w.Volume(v)
	name := x.Name
	w.ok(&RetireVolume{Volume: v, Epoch: 1, Snapshots: SnapshotsStay})
	look := func(nameOrID string, want id.Volume, called string) {
		t.Helper()
		got, ok := w.FindKept(nameOrID)
		if !ok || got.ID != want || w.Called(got) != called {
			t.Errorf("%s is %v, called %s", nameOrID, got, called)
		}
	}
	look(name, v, name)
	look(v.String(), v, name)
	second := id.Volume{220}
	w.ok(&CreateVolume{ID: second, Name: name, Size: 1 << 20})
	look(name, second, name)
	look(v.String(), v, v.String())
	w.ok(&CreateSnapshot{Volume: second, ID: id.Snapshot{9}})
	w.ok(&SnapshotTaken{Volume: second, ID: id.Snapshot{9}})
	w.ok(&RetireVolume{Volume: second, Forced: true, Snapshots: SnapshotsStay})
	w.Machine = restored(t, w.Machine)
	if _, ok := w.FindKept(name); ok {
		t.Error("a name that two had finds one of them")
	}
	look(second.String(), second, second.String())
}

// A rebuilding that finds the clones of a deleted disk gone lets the disk go, and one that finds a clone keeps it.
func TestRebuildSettlesDeletedDisks(t *testing.T) {
	for _, found := range []bool{true, false} {
		w, v, s := toDelete(t)
		child := id.Volume{200, 2}
		w.ok(clone(v, s, 9, 2))
		w.ok(&Acquire{Volume: child, By: holder(1, 1)})
		w.ok(&AddEnsemble{At: At{Volume: child, Epoch: 1}, Candidates: []EnsembleCandidate{{StoreRef: storeRef(1, 1)}, {StoreRef: storeRef(2, 1)}}, Want: 2, Fallback: 2})
		w.ok(&ReplaceList{At: At{Volume: child, Epoch: 1, Version: 1}, Keep: id.Ensemble{Epoch: 1, N: 1}})
		w.ok(&CommitCheckpoint{Volume: child, Epoch: 1, Checkpoint: cluster.Checkpoint{Epoch: 1, Meta: 2, Opaque: []byte("x")}})
		w.ok(&RetireVolume{Volume: v, Epoch: 1, Snapshots: SnapshotsGoToo})
		w.Reopen([16]byte{1})
		w.Machine = restored(t, w.Machine)
		has := Sighting{Volume: child, Fence: 2}
		if found {
			has = Sighting{Volume: child, Fence: 1, Shards: 3, Checkpoint: &cluster.Checkpoint{Epoch: 1, Meta: 2, Opaque: []byte("x")}}
		}
		for i := range 3 {
			w.ok(&TellInventory{Store: storeRef(i+1, 1), Last: true, Volumes: []Sighting{{Volume: v, Fence: 1, Shards: 3}, has}})
		}
		w.ok(&FinishRebuild{})
		if w.purged(v) == found {
			t.Errorf("clone found: %t, disk purged: %t", found, w.purged(v))
		}
	}
}

// A deleted disk of which a rebuilding finds nothing does not take the name along that another disk has by now.
func TestRebuildLeavesTheNameToWhoHasIt(t *testing.T) {
	w, v, _ := toDelete(t)
	w.ok(&AddEnsemble{At: At{Volume: v, Epoch: 1}, Candidates: []EnsembleCandidate{{StoreRef: storeRef(1, 1)}, {StoreRef: storeRef(2, 1)}}, Want: 2, Fallback: 2})
	x, _ := w.Volume(v)
	w.ok(&ReplaceList{At: At{Volume: v, Epoch: 1, Version: x.ListVersion}, Keep: x.List[len(x.List)-1].ID})
	w.ok(&CommitCheckpoint{Volume: v, Epoch: 1, Checkpoint: cluster.Checkpoint{Epoch: 1, Meta: 2, Opaque: []byte("x")}})
	w.ok(&RetireVolume{Volume: v, Epoch: 1, Snapshots: SnapshotsStay})
	w.ok(&CreateVolume{ID: id.Volume{220}, Name: x.Name, Size: 1 << 20})
	w.Reopen([16]byte{1})
	for i := range 3 {
		w.ok(&TellInventory{Store: storeRef(i+1, 1), Last: true, Volumes: []Sighting{{Volume: v, Fence: 9}, {Volume: id.Volume{220}, Fence: 1, Shards: 3}}})
	}
	w.next++
	if r := w.Apply(w.next, &FinishRebuild{}); r.Err != nil { // not through a snapshot, which would find the names again
		t.Fatal(r.Err)
	}
	if y, ok := w.Find(x.Name); !ok || y.ID != (id.Volume{220}) {
		t.Errorf("the name is %v's", y)
	}
	if _, ok := w.Volume(v); ok {
		t.Error("the test tests nothing: the deleted disk is there")
	}
}

// goldenKept is the part about disks that are deleted and kept.
func goldenKept() []Command {
	v := id.Volume{9}
	return []Command{
		&CreateSnapshot{Volume: v, ID: id.Snapshot{30}, Name: "stays", NowMS: 1700000000700},
		&SnapshotTaken{Volume: v, ID: id.Snapshot{30}},
		&RetireVolume{Volume: v, Forced: true, Snapshots: SnapshotsStay, NowMS: 1700000000701},
		&Acquire{Volume: v, By: holder(2, 1)},
		&VolumeEmptied{Volume: v, Epoch: 2},
		&SetProtection{Volume: id.Volume{1}, On: true},
		&RetireVolume{Volume: id.Volume{5}, Forced: true, Snapshots: SnapshotsGoToo, NowMS: 1700000000702},
	}
}
