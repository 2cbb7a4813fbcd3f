package state

import (
	"bytes"
	"slices"
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// withGroups is a world of the newest level that has placement groups.
func withGroups(t *testing.T) *world {
	w := newWorld(t, 3, 1)
	w.ok(&SetLevel{Level: LevelTime})
	w.ok(&EnsurePlacement{Healthy: []cluster.StoreRef{storeRef(1, 1), storeRef(2, 1), storeRef(3, 1)}, Seed: 1})
	if len(w.PGs()) == 0 {
		t.Fatal("no groups")
	}
	return w
}

func (w *world) fromArchive(name, request string) *CreateRestored {
	return &CreateRestored{Create: CreateVolume{ID: id.Volume{9}, Name: name, Size: 1 << 30, RequestID: request},
		Manifest: "manifests/x", Segments: 1000, PGs: []id.PG{w.PGs()[0].Number}}
}

// An allotment that is made twice gives one block of the archive two places: what the first owner
// wrote down would mean something else to the next one.
func TestAllotmentIsMadeOnce(t *testing.T) {
	w := withGroups(t)
	first := w.ok(w.fromArchive("d", "r1")).Volume.Restored
	again := w.ok(w.fromArchive("d", "r1")).Volume // the answer was lost
	if again.Restored.First != first.First || again.Restored.Segments != 1000 {
		t.Fatalf("allotted %+v, then %+v", first, again.Restored)
	}
	w.refused(errs.ErrExists, w.fromArchive("d", "r2"))
	w.ok(&Acquire{Volume: again.ID, By: holder(1, 1)})
	r := w.ok(&AllocRange{Volume: again.ID, Epoch: 1})
	if end := first.First + id.Sequence(first.Segments); r.First < end {
		t.Fatalf("an owner got sequence %d, and those up to %d are allotted", r.First, end)
	}
	if other := w.ok(w.fromArchive("e", "r3")).Volume.Restored; other.First < r.First+id.Sequence(r.Count) {
		t.Fatalf("two disks have sequence %d", other.First)
	}
}

// A manifest that a disk needs is held from the moment the disk is there until its owner has
// committed that nothing lies in the archive: no longer, and not a moment less.
func TestManifestIsHeldWhileADiskNeedsIt(t *testing.T) {
	w := withGroups(t)
	v := w.ok(w.fromArchive("d", "r1")).Volume.ID
	held := func() bool { return slices.Contains(w.HeldManifests(), "manifests/x") }
	if !held() {
		t.Fatal("not held")
	}
	w.ok(&Acquire{Volume: v, By: holder(1, 1)})
	w.refused(errs.ErrStaleEpoch, &RestoreWhole{Volume: v, Epoch: 2})
	w.refused(errs.ErrConflict, &RestoreWhole{Volume: v, Epoch: 1}) // it has no checkpoint that could say so
	w.ok(&SetHydrate{Volume: v, Rate: 5 << 20})
	e := w.ok(&AddEnsemble{At: At{Volume: v, Epoch: 1}, Candidates: []EnsembleCandidate{{StoreRef: storeRef(1, 1)}, {StoreRef: storeRef(2, 1)}, {StoreRef: storeRef(3, 1)}}, Want: 3, Fallback: 2}).Volume
	w.ok(&ReplaceList{At: At{Volume: v, Epoch: 1, Version: e.ListVersion}, Keep: e.List[0].ID})
	w.ok(&CommitCheckpoint{Volume: v, Epoch: 1, Checkpoint: cluster.Checkpoint{Epoch: 1, Meta: 4}})
	if x, _ := w.Volume(v); !held() || x.Restored.Rate != 5<<20 {
		t.Fatalf("held %t, %+v", held(), x.Restored)
	}
	w.ok(&RestoreWhole{Volume: v, Epoch: 1})
	w.ok(&RestoreWhole{Volume: v, Epoch: 1})
	if held() {
		t.Fatal("still held")
	}
	w.refused(errs.ErrConflict, &SetHydrate{Volume: v, Rate: 1})

	w.ok(w.fromArchive("e", "r2"))
	x, _ := w.Find("e")
	w.ok(&DeleteVolume{Volume: x.ID, Forced: true})
	if held() {
		t.Fatal("held by a disk that is deleted")
	}
}

// A clone of a disk that lies in an archive, and an image of it, are read from there, too, which members of an earlier
// version tell nobody: with one of them as the leader the clone could not be read.
func TestClonesOfADiskInTheArchiveWaitForTheirLevel(t *testing.T) {
	w := withGroups(t)
	v, s := w.ok(w.fromArchive("d", "r1")).Volume, id.Snapshot{1}
	w.ok(&CreateSnapshot{Volume: v.ID, ID: s, Name: "s"})
	w.ok(&SnapshotTaken{Volume: v.ID, ID: s})
	w.nextSequence += 100
	clone := &CreateClone{CreateVolume: CreateVolume{ID: id.Volume{10}, Name: "c", Size: 4 << 30}, Origin: originOf(v.ID, s, w.nextSequence-1)}
	w.refused(errs.ErrConflict, clone)
	w.ok(&SetLevel{Level: LevelImages})
	image := &CreateImage{Image: Image{ID: id.Image{3}, Name: "i", Volume: v.ID, Snapshot: s}}
	w.refused(errs.ErrConflict, image)
	w.ok(&SetLevel{Level: LevelArchives})
	w.ok(image)
	w.ok(clone)
	w.ok(&RetireVolume{Volume: v.ID, Forced: true, Snapshots: SnapshotsStay})
	if x, ok := w.Volume(v.ID); !ok || x.Restored == nil || len(w.HeldManifests()) != 1 {
		t.Fatalf("a deleted disk of which a clone reads forgot what lies in the archive: %+v", x)
	}
}

// What a restored disk was allotted must survive a backup and the rebuilding after it.
func TestAllotmentSurvivesARebuild(t *testing.T) {
	w := withGroups(t)
	v := w.ok(w.fromArchive("d", "r1")).Volume
	next := w.nextSequence
	m, err := Restore(w.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	m.Reopen([16]byte{1})
	w.Machine = m
	for h := range 3 {
		w.ok(&TellInventory{Store: storeRef(h+1, 1), Last: true})
	}
	w.ok(&FinishRebuild{})
	x, _ := w.Volume(v.ID)
	if x.Restored == nil || x.Restored.First != v.Restored.First || !slices.Equal(x.Restored.PGs, v.Restored.PGs) || w.nextSequence <= next {
		t.Fatalf("%+v, next %d after %d", x.Restored, w.nextSequence, next)
	}
}

// Members that do not know restored disks never see one.
func TestRestoredDisksWaitForTheirLevel(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.ok(&SetLevel{Level: LevelSnapshots})
	w.refused(errs.ErrUnavailable, &CreateRestored{Create: CreateVolume{Name: "d", Size: 1 << 30}, Manifest: "m"})
	before := w.Snapshot()
	w.ok(&SetLevel{Level: LevelTime})
	if bytes.Equal(before[8:10], w.Snapshot()[8:10]) {
		t.Fatal("the version of the snapshot did not rise with the level")
	}
	w.refused(errs.ErrUnavailable, &CreateRestored{Create: CreateVolume{Name: "d", Size: 1 << 30}, Manifest: "m", Segments: 1})
	w.refused(errs.ErrNotFound, &CreateRestored{Create: CreateVolume{Name: "d", Size: 1 << 30}, Manifest: "m", Segments: 1, PGs: []id.PG{77}})
	w.refused(errs.ErrInvalid, &CreateRestored{Create: CreateVolume{Name: "d", Size: 1 << 30}})
	w.ok(&CreateRestored{Create: CreateVolume{Name: "d", Size: 1 << 30}, Manifest: "m"}) // of an empty disk
}

// goldenRestored is the part of the golden log about restored disks.
func goldenRestored() []Command {
	v := id.Volume{8}
	return []Command{
		&CreateRestored{Create: CreateVolume{ID: v, Name: "restored", Size: 1 << 30, RequestID: "r9", NowMS: 1700000000202}, Manifest: "manifests/m", Segments: 70, PGs: []id.PG{1}, Rate: 1 << 20},
		&SetHydrate{Volume: v, Rate: 2 << 20},
		&Acquire{Volume: v, By: holder(1, 1)},
		&RestoreWhole{Volume: v, Epoch: 1}, // refused: there is no checkpoint that could say so
	}
}
