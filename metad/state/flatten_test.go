package state

import (
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// A clone holds its snapshot until its owner says that it reads it no more: were it let go earlier, or by an owner
// that was replaced, its bytes would go; were it never, its space would never come back.
func TestFlattenedCloneLetsItsSnapshotGo(t *testing.T) {
	w, v, s := withSnapshot(t)
	w.ok(clone(v, s, 9, 2))
	c := id.Volume{200, 2}
	w.refused(errs.ErrUnavailable, &FlattenVolume{Volume: c, On: true}) // of a later level
	w.ok(&SetLevel{Level: LevelTrash})
	w.ok(&DeleteSnapshot{Volume: v, ID: s})
	w.ok(&FlattenVolume{Volume: c, On: true, Rate: 5})
	w.Machine = restored(t, w.Machine)
	if x, _ := w.Volume(c); !w.Flattening() || x.Flatten.Rate != 5 {
		t.Fatal("nothing is ordered")
	}
	e := w.open(c, holder(1, 1)).Epoch
	w.refused(errs.ErrConflict, &VolumeFlattened{Volume: c, Epoch: e}) // without a checkpoint it reads all of it
	w.ok(&CommitCheckpoint{Volume: c, Epoch: e, Checkpoint: cluster.Checkpoint{Epoch: e, Meta: 1, Opaque: []byte{1}}})
	w.refused(errs.ErrStaleEpoch, &VolumeFlattened{Volume: c, Epoch: e - 1})
	if w.Children(s) != 1 || w.stateOf(v, s) != cluster.SnapshotHidden {
		t.Fatal("it was let go")
	}
	w.ok(&VolumeFlattened{Volume: c, Epoch: e})
	w.ok(&VolumeFlattened{Volume: c, Epoch: e}) // the answer was lost
	if x, _ := w.Volume(c); x.Origin != nil || x.Flatten != nil || w.Flattening() || w.Children(s) != 0 {
		t.Fatalf("%+v", x)
	}
	if w.stateOf(v, s) != cluster.SnapshotDeleting {
		t.Errorf("the hidden snapshot is %s", w.stateOf(v, s))
	}
	w.refused(errs.ErrConflict, &FlattenVolume{Volume: c, On: true})
}

// What cannot be flattened is refused, and an order ends with the disk.
func TestFlatteningThatCannotBeIsRefused(t *testing.T) {
	w, v, s := withSnapshot(t)
	w.ok(clone(v, s, 9, 2))
	c := id.Volume{200, 2}
	w.ok(&SetLevel{Level: LevelTrash})
	w.refused(errs.ErrConflict, &FlattenVolume{Volume: v, On: true})
	w.refused(errs.ErrConflict, &FlattenVolume{Volume: c})
	w.refused(errs.ErrNotFound, &FlattenVolume{Volume: id.Volume{99}, On: true})
	w.ok(&FlattenVolume{Volume: c, On: true})
	w.ok(&FlattenVolume{Volume: c, On: true, Rate: 7})
	w.ok(&FlattenVolume{Volume: c})
	w.ok(&FlattenVolume{Volume: c, On: true})
	x, _ := w.Volume(c)
	w.ok(&RetireVolume{Volume: c, Epoch: x.Epoch, Snapshots: SnapshotsGoToo})
	if w.Flattening() {
		t.Error("a deleted disk is flattened")
	}
}

// flattenOr is a command about a clone that is flattened, or another.
func (s *script) flattenOr(v *Volume, other func(*Volume) Command) Command {
	switch s.pick("of clones", 6) {
	case 0:
		return &FlattenVolume{Volume: v.ID, On: s.pick("on", 2) == 0, Rate: uint64(s.pick("rate", 3))}
	case 1:
		return &VolumeFlattened{Volume: v.ID, Epoch: v.Epoch}
	}
	return other(v)
}

// goldenFlatten is the part of LevelTrash about clones that are flattened.
func goldenFlatten() []Command {
	return []Command{
		&SetLevel{Level: LevelTrash},
		&Acquire{Volume: id.Volume{1}, By: holder(2, 1)},
		&VolumeRolledBack{Volume: id.Volume{1}, Epoch: 7, Safety: id.Snapshot{13}},
		&CreateSnapshot{Volume: id.Volume{1}, ID: id.Snapshot{40}, Name: "for-flat", NowMS: 1700000000800},
		&SnapshotTaken{Volume: id.Volume{1}, ID: id.Snapshot{40}},
		&CreateClone{CreateVolume: CreateVolume{ID: id.Volume{11}, Name: "flat", Size: 4 << 30, NowMS: 1700000000800}, Origin: originOf(id.Volume{1}, id.Snapshot{40}, 77)},
		&Acquire{Volume: id.Volume{11}, By: holder(2, 1)},
		&VolumeFlattened{Volume: id.Volume{11}, Epoch: 1}, // it has no checkpoint
		&FlattenVolume{Volume: id.Volume{11}, On: true, Rate: 100 << 20},
	}
}

// Were a restored metad to go on believing its backup, it would keep what is not needed, and give the next owner an origin
// that is gone.
func TestRebuildLearnsThatACloneIsFlattened(t *testing.T) {
	w, v, s := withSnapshot(t)
	w.ok(&SetLevel{Level: LevelTrash})
	w.ok(clone(v, s, 9, 2))
	c := id.Volume{200, 2}
	w.opened(c, holder(1, 1), 5)
	w.ok(&DeleteSnapshot{Volume: v, ID: s})
	w.ok(&FlattenVolume{Volume: c, On: true})
	backup := w.Snapshot()
	x, _ := w.Volume(c)
	w.ok(&CommitCheckpoint{Volume: c, Epoch: x.Epoch, Checkpoint: cluster.Checkpoint{Epoch: x.Epoch, Meta: 9, Covered: 9, Opaque: []byte{9}}})
	w.ok(&VolumeFlattened{Volume: c, Epoch: x.Epoch})
	old := w.behind(backup)
	old.tell(w)
	old.ok(&TellLineage{Volumes: []LineageSighting{{Volume: c, Epoch: x.Epoch, Meta: 9}}})
	old.ok(&FinishRebuild{})
	if y, _ := old.Volume(c); y.Origin != nil || y.Flatten != nil || old.Flattening() {
		t.Fatalf("%+v", y)
	}
	if old.stateOf(v, s) != cluster.SnapshotDeleting {
		t.Errorf("the snapshot is %s", old.stateOf(v, s))
	}
}
