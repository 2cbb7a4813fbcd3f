package state

import (
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// archiving is a disk with snapshots 1 to n, all ready.
func archiving(t *testing.T, n int) (*world, id.Volume) {
	w, v := withDisk(t)
	w.refused(errs.ErrUnavailable, &QueueArchive{Volume: v, ID: id.Snapshot{1}, Upload: id.Raw{1}}) // of a later level
	w.ok(&SetLevel{Level: LevelTime})
	for i := range n {
		w.ok(&CreateSnapshot{Volume: v, ID: id.Snapshot{byte(i + 1)}, NowMS: int64(1000 + i)})
		w.ok(&SnapshotTaken{Volume: v, ID: id.Snapshot{byte(i + 1)}})
	}
	return w, v
}

func (w *world) archived(v id.Volume, s id.Snapshot) cluster.Archived {
	x, _ := w.Volume(v)
	y, _ := x.FindSnapshot(s.String())
	return y.Archived
}

// Without these rules two workers could finish one upload, a failed one begin anew under another id and upload all again, or
// one that was given up come back.
func TestArchivesAreLeased(t *testing.T) {
	w, v := archiving(t, 1)
	s := id.Snapshot{1}
	w.refused(errs.ErrNotFound, &QueueArchive{Volume: v, ID: id.Snapshot{9}, Upload: id.Raw{1}})
	w.refused(errs.ErrInvalid, &QueueArchive{Volume: v, ID: s})
	w.refused(errs.ErrConflict, &LeaseArchive{Volume: v, ID: s, Worker: "a"})
	w.ok(&QueueArchive{Volume: v, ID: s, Upload: id.Raw{1}})
	w.ok(&QueueArchive{Volume: v, ID: s, Upload: id.Raw{2}}) // asked again
	w.ok(&LeaseArchive{Volume: v, ID: s, Worker: "a"})
	w.refused(errs.ErrStaleEpoch, &LeaseArchive{Volume: v, ID: s, Worker: "b"})
	w.ok(&LeaseArchive{Volume: v, ID: s, Worker: "b", Epoch: 1}) // a is silent
	w.refused(errs.ErrStaleEpoch, &EndArchive{Volume: v, ID: s, Epoch: 1, State: cluster.ArchiveDone})
	if a := w.archived(v, s); a.Worker != "b" || a.Epoch != 2 || a.Upload != (id.Raw{1}) || len(w.ArchiveWork()) != 1 {
		t.Fatalf("%+v", a)
	}
	w.refused(errs.ErrConflict, &DeleteSnapshot{Volume: v, ID: s})
	w.ok(&EndArchive{Volume: v, ID: s, Epoch: 2, State: cluster.ArchiveFailed, Reason: "no"})
	w.ok(&QueueArchive{Volume: v, ID: s, Upload: id.Raw{3}})
	if a := w.archived(v, s); a.Upload != (id.Raw{1}) || a.State != cluster.ArchiveQueued {
		t.Fatalf("a failed upload does not go on: %+v", a)
	}
	w.ok(&EndArchive{Volume: v, ID: s, Epoch: 2, State: cluster.ArchiveNone}) // given up
	w.ok(&QueueArchive{Volume: v, ID: s, Upload: id.Raw{4}})
	w.refused(errs.ErrStaleEpoch, &EndArchive{Volume: v, ID: s, Epoch: 2, State: cluster.ArchiveDone}) // of the one given up
	w.ok(&LeaseArchive{Volume: v, ID: s, Worker: "a", Epoch: 3})
	w.ok(&EndArchive{Volume: v, ID: s, Epoch: 4, State: cluster.ArchiveDone, Manifest: "m", Bytes: 7})
	w.refused(errs.ErrConflict, &EndArchive{Volume: v, ID: s, Epoch: 4, State: cluster.ArchiveFailed})
	if a := w.archived(v, s); a.State != cluster.ArchiveDone || a.Manifest != "m" || len(w.ArchiveWork()) != 0 {
		t.Fatalf("%+v", a)
	}
	w.ok(&DeleteSnapshot{Volume: v, ID: s})
}

// Without this an incremental would be made against what is not in its history, or not in the archive.
func TestUploadsAreAgainstTheNewestArchivedBefore(t *testing.T) {
	w, v := archiving(t, 4)
	archive := func(n byte, want id.Snapshot) {
		t.Helper()
		s := id.Snapshot{n}
		w.ok(&QueueArchive{Volume: v, ID: s, Upload: id.Raw{n}})
		w.ok(&LeaseArchive{Volume: v, ID: s, Worker: "a"})
		if a := w.archived(v, s); a.Base != want {
			t.Fatalf("snapshot %d is uploaded against %s, want %s", n, a.Base, want)
		}
		w.ok(&EndArchive{Volume: v, ID: s, Epoch: 1, State: cluster.ArchiveDone})
	}
	archive(3, id.Snapshot{})
	archive(2, id.Snapshot{}) // what came later is not of its history
	archive(4, id.Snapshot{3})
	for n := range byte(4) {
		w.ok(&DeleteSnapshot{Volume: v, ID: id.Snapshot{n + 1}})
		w.ok(&SnapshotGone{Volume: v, Epoch: 1, ID: id.Snapshot{n + 1}})
	}
	w.ok(&CreateSnapshot{Volume: v, ID: id.Snapshot{9}, NowMS: 5000})
	w.ok(&SnapshotTaken{Volume: v, ID: id.Snapshot{9}})
	archive(9, id.Snapshot{4}) // it is gone here, and in the archive still
}

// Without this the first archive after a rollback would take everything along again, or be made against what the rollback left behind:
// of that the new head has nothing, and its segments may be of the same age.
func TestIncrementalAfterRollback(t *testing.T) {
	w, v := archiving(t, 4)
	w.ok(&SetLevel{Level: LevelImages})
	safe := byte(100)
	archive := func(n byte, want byte) {
		t.Helper()
		s := id.Snapshot{n}
		w.ok(&QueueArchive{Volume: v, ID: s, Upload: id.Raw{n}})
		w.ok(&LeaseArchive{Volume: v, ID: s, Worker: "a"})
		if a := w.archived(v, s); a.Base != (id.Snapshot{want}) {
			t.Fatalf("snapshot %d is uploaded against %s, want %d", n, a.Base, want)
		}
		w.ok(&EndArchive{Volume: v, ID: s, Epoch: 1, State: cluster.ArchiveDone})
	}
	rollBack := func(to byte) {
		t.Helper()
		x, _ := w.Volume(v)
		safe++
		w.ok(&RollbackVolume{Volume: v, Epoch: x.Epoch, To: id.Snapshot{to}, Safety: id.Snapshot{safe}, NowMS: 1000 + int64(safe)})
		w.refused(errs.ErrConflict, &CreateSnapshot{Volume: v, ID: id.Snapshot{99}, NowMS: 9000}) // of which head would it be?
		y := w.ok(&Acquire{Volume: v, By: holder(1, 1)}).Volume
		w.ok(&VolumeRolledBack{Volume: v, Epoch: y.Epoch, Safety: id.Snapshot{safe}})
	}
	take := func(n byte) {
		t.Helper()
		w.ok(&CreateSnapshot{Volume: v, ID: id.Snapshot{n}, NowMS: 2000 + int64(n)})
		w.ok(&SnapshotTaken{Volume: v, ID: id.Snapshot{n}})
	}
	archive(2, 0)
	archive(4, 2)
	rollBack(3) // not archived; what it follows is
	take(10)
	archive(10, 2)
	take(11)
	archive(11, 10)
	rollBack(2)
	take(12)
	archive(12, 2)
	rollBack(1) // of before there was anything
	take(13)
	archive(13, 0)
	rollBack(11) // of another branch
	take(14)
	archive(14, 11)
	rollBack(safe) // back to what it was before: that is not archived, and what it follows is
	take(15)
	archive(15, 13)
}
