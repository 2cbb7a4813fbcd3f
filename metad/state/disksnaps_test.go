package state

import (
	"fmt"
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// withDisk is a world of the newest level with one disk, owned and open under epoch 1.
func withDisk(t *testing.T) (*world, id.Volume) {
	w := newWorld(t, 3, 1)
	v := id.Volume{7}
	w.ok(&CreateVolume{ID: v, Name: "d", Size: 1 << 20})
	w.refused(errs.ErrUnavailable, &CreateSnapshot{Volume: v, ID: id.Snapshot{1}, Name: "early"}) // of a later level
	w.ok(&SetLevel{Level: LevelSnapshots})
	w.ok(&Acquire{Volume: v, By: holder(1, 1)})
	return w, v
}

// Without these rules a snapshot could be forgotten while its blocks are there, be said to
// be there while they are not, or two be meant by one name.
func TestSnapshotsComeAndGoStepByStep(t *testing.T) {
	w, v := withDisk(t)
	a, b := id.Snapshot{1}, id.Snapshot{2}
	state := func(s id.Snapshot) cluster.SnapshotState {
		x, _ := w.Volume(v)
		y, _ := x.FindSnapshot(s.String())
		return y.State
	}
	w.ok(&CreateSnapshot{Volume: v, ID: a, Name: "one", NowMS: 5})
	if len(w.SnapshotWork()) != 1 || state(a) != cluster.SnapshotCreating {
		t.Fatal("nobody would take it")
	}
	w.ok(&CreateSnapshot{Volume: v, ID: a, Name: "one", NowMS: 6}) // the answer was lost
	w.ok(&CreateSnapshot{Volume: v, ID: b, Name: "one", NowMS: 6}) // and so was that of another try
	if x, _ := w.Volume(v); len(x.Snapshots) != 1 {
		t.Fatalf("%d snapshots", len(x.Snapshots))
	}
	w.refused(errs.ErrConflict, &SnapshotGone{Volume: v, Epoch: 1, ID: a}) // nobody wants that
	w.ok(&SnapshotTaken{Volume: v, ID: a})
	w.ok(&SnapshotTaken{Volume: v, ID: a})
	if len(w.SnapshotWork()) != 0 || state(a) != cluster.SnapshotReady {
		t.Fatal("it is not ready")
	}
	w.refused(errs.ErrExists, &CreateSnapshot{Volume: v, ID: b, Name: "one"})
	w.refused(errs.ErrInvalid, &CreateSnapshot{Volume: v, ID: b, Name: "a@b"})
	w.refused(errs.ErrInvalid, &CreateSnapshot{Volume: v, ID: b, Name: a.String()})
	w.refused(errs.ErrNotFound, &SnapshotTaken{Volume: v, ID: b})
	w.refused(errs.ErrConflict, &DeleteVolume{Volume: v, Epoch: 1, Forced: true}) // it has a snapshot

	w.ok(&DeleteSnapshot{Volume: v, ID: a})
	w.ok(&SnapshotTaken{Volume: v, ID: a}) // late: it stays as it is
	if len(w.SnapshotWork()) != 1 || state(a) != cluster.SnapshotDeleting {
		t.Fatal("nobody would delete it")
	}
	w.ok(&Acquire{Volume: v, By: holder(2, 1), Gone: holder(1, 1)})
	w.refused(errs.ErrStaleEpoch, &SnapshotGone{Volume: v, Epoch: 1, ID: a}) // an older owner does not know
	w.ok(&SnapshotGone{Volume: v, Epoch: 2, ID: a})
	w.ok(&SnapshotGone{Volume: v, Epoch: 2, ID: a})
	if x, _ := w.Volume(v); len(x.Snapshots) != 0 || len(w.SnapshotWork()) != 0 {
		t.Fatal("it is not forgotten")
	}
	w.ok(&DeleteVolume{Volume: v, Forced: true})
}

// All snapshots of a disk are in one record and in one checkpoint, so there is a limit.
func TestSnapshotsOfADiskAreLimited(t *testing.T) {
	w, v := withDisk(t)
	for i := range cluster.SnapshotsMax {
		w.ok(&CreateSnapshot{Volume: v, ID: id.Snapshot{1, byte(i), byte(i >> 8)}, Name: fmt.Sprintf("s%d", i)})
	}
	w.refused(errs.ErrConflict, &CreateSnapshot{Volume: v, ID: id.Snapshot{2}, Name: "more"})
}
