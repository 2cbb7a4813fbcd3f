package state

import (
	"fmt"
	"testing"

	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
)

// originOf is where a clone of a snapshot begins.
func originOf(v id.Volume, s id.Snapshot, watermark id.Sequence) lineage.Origin {
	return lineage.Origin{Volume: v, Snapshot: s, Watermark: watermark, Blocks: 1 << 18,
		Root: blockmap.Root{Location: id.MakeLocation(id.MakeSegment(watermark, 1), 2), Height: 2}}
}

// lineage is a command about clones.
func (s *script) lineage(v *Volume) Command {
	o := lineage.Origin{Volume: v.ID, Snapshot: id.Snapshot{1 + byte(s.pick("snapshot", 3))}, Watermark: s.m.nextSequence - 1, Blocks: 1}
	for _, x := range v.Snapshots {
		if x.State == cluster.SnapshotReady {
			o.Snapshot = x.ID
		}
	}
	o.Ancestors = v.Origin.Chain()
	return &CreateClone{CreateVolume: CreateVolume{ID: id.Volume{byte(s.pick("id", 256))}, Name: fmt.Sprintf("d%d", s.pick("name", 6)),
		Size: v.Size + uint64(s.pick("larger", 2))<<20}, Origin: o}
}

// withSnapshot is withDisk at the level of clones, with a snapshot and sequences given out.
func withSnapshot(t *testing.T) (*world, id.Volume, id.Snapshot) {
	w, v := withDisk(t)
	s := id.Snapshot{1}
	w.ok(&CreateSnapshot{Volume: v, ID: s, Name: "one"})
	w.ok(&AllocRange{Volume: v, Epoch: 1})
	w.refused(errs.ErrUnavailable, clone(v, s, 9, 2)) // of a later level
	w.ok(&SetLevel{Level: LevelTime})
	w.refused(errs.ErrConflict, clone(v, s, 9, 2)) // it is not ready
	w.ok(&SnapshotTaken{Volume: v, ID: s})
	return w, v, s
}

// clone is the command that makes volume n.
func clone(v id.Volume, s id.Snapshot, watermark id.Sequence, n byte) *CreateClone {
	return &CreateClone{CreateVolume: CreateVolume{ID: id.Volume{200, n}, Name: "c" + string(rune('0'+n)), Size: 2 << 20, RequestID: "r" + string(rune('0'+n))}, Origin: originOf(v, s, watermark)}
}

func (w *world) stateOf(v id.Volume, s id.Snapshot) cluster.SnapshotState {
	x, _ := w.Volume(v)
	y, _ := x.FindSnapshot(s.String())
	return y.State
}

// Without these rules a snapshot could be deleted under a clone that reads it, or stay for
// ever after the last one is gone.
func TestSnapshotWithClonesIsHiddenUntilTheLastIsGone(t *testing.T) {
	w, v, s := withSnapshot(t)
	w.ok(clone(v, s, 9, 2))
	w.ok(clone(v, s, 9, 2)) // the answer was lost
	w.ok(clone(v, s, 9, 3))
	if w.Children(s) != 2 {
		t.Fatalf("%d clones", w.Children(s))
	}
	w.ok(&DeleteSnapshot{Volume: v, ID: s})
	if w.stateOf(v, s) != cluster.SnapshotHidden || len(w.SnapshotWork()) != 0 {
		t.Fatalf("a snapshot with clones is %s", w.stateOf(v, s))
	}
	w.refused(errs.ErrConflict, clone(v, s, 9, 4))                         // nobody sees it any more
	w.refused(errs.ErrConflict, &SnapshotGone{Volume: v, Epoch: 1, ID: s}) // nobody asked for that
	w.ok(&CreateSnapshot{Volume: v, ID: id.Snapshot{2}, Name: "one"})      // its name is free
	w.refused(errs.ErrConflict, &DeleteVolume{Volume: v, Epoch: 1, Forced: true})
	w.ok(&DeleteVolume{Volume: id.Volume{200, 2}, Forced: true})
	if w.stateOf(v, s) != cluster.SnapshotHidden {
		t.Fatal("it goes before its last clone")
	}
	w.Machine = restored(t, w.Machine)
	w.ok(&DeleteVolume{Volume: id.Volume{200, 3}, Forced: true})
	if w.stateOf(v, s) != cluster.SnapshotDeleting || len(w.SnapshotWork()) != 1 || w.Children(s) != 0 {
		t.Fatalf("without clones it is %s", w.stateOf(v, s))
	}
	w.ok(&SnapshotGone{Volume: v, Epoch: 1, ID: s})
}

// restored is the machine after its own snapshot.
func restored(t testing.TB, m *Machine) *Machine {
	t.Helper()
	m, err := Restore(m.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A clone whose ids could be below the watermark of its origin would take its own segments for
// an ancestor's, and one that is smaller than its snapshot would hide bytes.
func TestClonesThatCannotBeAreRefused(t *testing.T) {
	w, v, s := withSnapshot(t)
	for what, spoil := range map[string]func(c *CreateClone){
		"a watermark that was never given out": func(c *CreateClone) { c.Origin.Watermark = w.nextSequence },
		"smaller than the snapshot":            func(c *CreateClone) { c.Size = 1 << 19 },
		"no root":                              func(c *CreateClone) { c.Origin.Root.Height = 99 },
		"no name":                              func(c *CreateClone) { c.Name = "" },
	} {
		c := clone(v, s, 9, 2)
		spoil(c)
		w.next++
		if r := w.Apply(w.next, c); r.Err == nil {
			t.Errorf("%s: not refused", what)
		}
	}
	w.refused(errs.ErrNotFound, clone(v, id.Snapshot{7}, 9, 2))
	w.refused(errs.ErrNotFound, clone(id.Volume{99}, s, 9, 2))
	deep := clone(v, s, 9, 2)
	deep.Origin.Ancestors = []lineage.Ancestor{{Volume: id.Volume{9}, Watermark: 3}}
	w.refused(errs.ErrConflict, deep) // the disk has no ancestors
	w.ok(clone(v, s, 9, 2))
	if x, _ := w.Find("c2"); x.Origin == nil || x.Origin.Snapshot != s {
		t.Errorf("it began with %+v", x.Origin)
	}
}

// A metad restored from a backup that is older than a clone learns what it began with from the
// stores, keeps the snapshot that it reads, also one that was taken since, and lets go of one
// whose last clone is gone.
func TestRebuildLearnsWhereClonesComeFrom(t *testing.T) {
	w, v, s := withSnapshot(t)
	w.ok(clone(v, s, 9, 2))
	w.ok(&DeleteSnapshot{Volume: v, ID: s})
	w.ok(&Acquire{Volume: id.Volume{200, 2}, By: holder(1, 1)})
	w.ok(&AddEnsemble{At: At{Volume: id.Volume{200, 2}, Epoch: 1}, Candidates: []EnsembleCandidate{{StoreRef: storeRef(1, 1)}, {StoreRef: storeRef(2, 1)}}, Want: 2, Fallback: 2})
	w.ok(&ReplaceList{At: At{Volume: id.Volume{200, 2}, Epoch: 1, Version: 1}, Keep: id.Ensemble{Epoch: 1, N: 1}})
	w.ok(&CommitCheckpoint{Volume: id.Volume{200, 2}, Epoch: 1, Checkpoint: cluster.Checkpoint{Epoch: 1, Meta: 2, Opaque: []byte("x")}})
	w.Reopen([16]byte{1})
	w.Machine = restored(t, w.Machine)
	newer, late := id.Volume{201}, id.Snapshot{5}
	o := originOf(v, late, 12)
	check := func(e id.Epoch) *cluster.Checkpoint {
		return &cluster.Checkpoint{Epoch: e, Meta: 7, Opaque: []byte("y")}
	}
	w.ok(&TellLineage{Volumes: []LineageSighting{
		{Volume: v, Epoch: 1, Meta: 7, Snapshots: []SnapshotSighting{{ID: s, Size: 1 << 20}, {ID: late, Size: 2 << 20}}},
		{Volume: newer, Epoch: 1, Meta: 7, Origin: &o},
	}})
	w.ok(&TellLineage{Volumes: []LineageSighting{{Volume: newer, Epoch: 1, Meta: 3}}}) // older
	w.Machine = restored(t, w.Machine)
	for i := range 3 { // the clone that the backup has is gone: it was fenced, and nothing of it is anywhere
		w.ok(&TellInventory{Store: storeRef(i+1, 1), Last: true, Volumes: []Sighting{
			{Volume: v, Fence: 1, Shards: 3, Checkpoint: check(1)}, {Volume: newer, Fence: 1, Shards: 3, Checkpoint: check(1)}, {Volume: id.Volume{200, 2}, Fence: 2}}})
	}
	w.ok(&FinishRebuild{})
	x, _ := w.Volume(newer)
	if x == nil || !x.Origin.Equal(&o) || w.Children(late) != 1 {
		t.Fatalf("the clone that is newer than the backup began with %+v", x)
	}
	if got := w.stateOf(v, late); got != cluster.SnapshotReady {
		t.Fatalf("the snapshot that it reads is %s", got)
	}
	w.ok(&DeleteSnapshot{Volume: v, ID: late})
	if got := w.stateOf(v, late); got != cluster.SnapshotHidden {
		t.Fatalf("it is %s after its deletion", got)
	}
	if got := w.stateOf(v, s); got != cluster.SnapshotDeleting {
		t.Fatalf("the snapshot whose last clone is gone is %s", got)
	}
}

// Without these rules a write could be acknowledged after the snapshot that is to keep it, a snapshot
// could go under a rollback, or one that is done could be done again.
func TestRollbackIsDoneByWhoOpensTheDiskForIt(t *testing.T) {
	w, v, s := withSnapshot(t)
	safety := id.Snapshot{3}
	order := &RollbackVolume{Volume: v, Epoch: 1, To: s, Safety: safety, Name: "one", NowMS: 5}
	w.refused(errs.ErrNotFound, &RollbackVolume{Volume: v, Epoch: 1, To: id.Snapshot{9}, Safety: safety})
	w.refused(errs.ErrConflict, &RollbackVolume{Volume: v, Epoch: 0, To: s, Safety: safety}) // judged before it was opened
	w.ok(order)
	w.ok(order) // the answer was lost
	x, _ := w.Volume(v)
	if x.Epoch != 2 || x.Owner != (id.Holder{}) || x.Rollback == nil || len(w.SnapshotWork()) != 1 {
		t.Fatalf("it may still be written: %+v", x.Volume)
	}
	if y, _ := x.FindSnapshot(safety.String()); y.State != cluster.SnapshotCreating || y.Name != safety.String() {
		t.Errorf("the safety snapshot is %+v", y)
	}
	w.refused(errs.ErrConflict, &DeleteSnapshot{Volume: v, ID: s})
	w.refused(errs.ErrConflict, &DeleteSnapshot{Volume: v, ID: safety})
	w.refused(errs.ErrConflict, &RollbackVolume{Volume: v, Epoch: 2, To: s, Safety: id.Snapshot{4}})
	w.ok(&Acquire{Volume: v, By: holder(2, 1)})
	w.refused(errs.ErrStaleEpoch, &VolumeRolledBack{Volume: v, Epoch: 1, Safety: safety})
	w.refused(errs.ErrConflict, &VolumeRolledBack{Volume: v, Epoch: 3, Safety: id.Snapshot{4}})
	w.Machine = restored(t, w.Machine)
	w.ok(&VolumeRolledBack{Volume: v, Epoch: 3, Safety: safety})
	w.ok(&VolumeRolledBack{Volume: v, Epoch: 3, Safety: safety})
	w.ok(order) // very late: it is not done again
	if x, _ := w.Volume(v); x.Rollback != nil || x.Epoch != 3 || len(w.SnapshotWork()) != 0 || w.stateOf(v, safety) != cluster.SnapshotReady {
		t.Fatalf("%+v", x.Volume)
	}
}

// What a snapshot of another branch dropped it lacks: uploaded against it, a snapshot would come back
// from the archive without that.
func TestNothingIsArchivedAgainstAnotherBranch(t *testing.T) {
	w, v, s := withSnapshot(t)
	archive := func(x id.Snapshot) {
		w.ok(&QueueArchive{Volume: v, ID: x, Upload: id.Raw{x[0]}})
		w.ok(&LeaseArchive{Volume: v, ID: x, Worker: "w"})
		y, _ := w.Volume(v)
		z, _ := y.FindSnapshot(x.String())
		w.ok(&EndArchive{Volume: v, ID: x, Epoch: z.Archived.Epoch, State: cluster.ArchiveDone, Manifest: "m"})
	}
	taken := func(n byte, at int64) id.Snapshot {
		x := id.Snapshot{n}
		w.ok(&CreateSnapshot{Volume: v, ID: x, NowMS: at})
		w.ok(&SnapshotTaken{Volume: v, ID: x})
		return x
	}
	base := func(x id.Snapshot) id.Snapshot {
		y, _ := w.Volume(v)
		return y.BaseOf(x)
	}
	left := taken(11, 10)
	archive(left)
	pending := taken(12, 11)
	w.ok(&QueueArchive{Volume: v, ID: pending, Upload: id.Raw{12}})
	w.ok(&LeaseArchive{Volume: v, ID: pending, Worker: "w"})
	if base(pending) != left {
		t.Fatal("the test tests nothing")
	}
	x := id.Snapshot{15}
	w.ok(&CreateSnapshot{Volume: v, ID: x})
	w.refused(errs.ErrConflict, &RollbackVolume{Volume: v, Epoch: 1, To: s, Safety: id.Snapshot{13}}) // which branch is that one of?
	w.ok(&SnapshotTaken{Volume: v, ID: x})
	w.ok(&RollbackVolume{Volume: v, Epoch: 1, To: s, Safety: id.Snapshot{13}, NowMS: 12})
	w.refused(errs.ErrConflict, &CreateSnapshot{Volume: v, ID: id.Snapshot{14}})
	w.ok(&Acquire{Volume: v, By: holder(2, 1)})
	w.ok(&VolumeRolledBack{Volume: v, Epoch: 3, Safety: id.Snapshot{13}})
	y, _ := w.Volume(v)
	z, _ := y.FindSnapshot(pending.String())
	w.ok(&EndArchive{Volume: v, ID: pending, Epoch: z.Archived.Epoch, State: cluster.ArchiveDone, Manifest: "m"})
	w.Machine = restored(t, w.Machine)
	after := taken(16, 20)
	if got := base(after); !got.IsZero() {
		t.Errorf("a snapshot after the rollback is uploaded against %s", got)
	}
	if got := base(id.Snapshot{13}); got != pending {
		t.Errorf("the safety snapshot is uploaded against %s", got)
	}
	archive(after)
	if next := taken(17, 21); base(next) != after {
		t.Errorf("the next one is uploaded against %s", base(next))
	}
}

// Without this a group of snapshots that was being taken when metad was backed up, and that somebody was told is taken, would be
// deleted by a metad that is restored from there: no leader arranges it.
func TestRebuildKeepsSnapshotsOfGroups(t *testing.T) {
	w, v, _ := withSnapshot(t)
	s := id.Snapshot{7}
	w.ok(&CreateSnapshots{Members: []GroupMember{{Volume: v, ID: s}}})
	w.Reopen([16]byte{1})
	for i := range 3 {
		w.ok(&TellInventory{Store: storeRef(i+1, 1), Last: true, Volumes: []Sighting{{Volume: v, Fence: 9, Shards: 3}}})
	}
	w.ok(&FinishRebuild{})
	x, _ := w.Volume(v)
	if y, ok := x.FindSnapshot(s.String()); !ok || y.State != cluster.SnapshotCreating {
		t.Fatalf("%t %+v", ok, y)
	}
}

// A rollback that a backup knows of may be long over, and the disk written since: it is forgotten.
func TestRebuildForgetsRollbacks(t *testing.T) {
	w, v, s := withSnapshot(t)
	w.ok(&RollbackVolume{Volume: v, Epoch: 1, To: s, Safety: id.Snapshot{3}})
	w.Reopen([16]byte{1})
	for i := range 3 {
		w.ok(&TellInventory{Store: storeRef(i+1, 1), Last: true, Volumes: []Sighting{{Volume: v, Fence: 9, Shards: 3}}})
	}
	w.ok(&FinishRebuild{})
	if x, _ := w.Volume(v); x.Rollback != nil {
		t.Fatalf("%+v", x.Rollback)
	}
}
