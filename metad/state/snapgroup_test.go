package state

import (
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Without these rules a group could be there in part, count though one of its disks had gone on under another
// owner meanwhile, or be left behind half taken.
func TestGroupOfSnapshotsIsThereWhollyOrNot(t *testing.T) {
	w, a := withDisk(t)
	w.ok(&SetLevel{Level: LevelTime})
	b := id.Volume{8}
	w.ok(&CreateVolume{ID: b, Name: "e", Size: 1 << 20})
	w.ok(&Acquire{Volume: b, By: holder(2, 1)})
	state := func(v id.Volume, s id.Snapshot) cluster.Snapshot {
		x, _ := w.Volume(v)
		y, _ := x.FindSnapshot(s.String())
		return y
	}
	group := func(n byte) []GroupMember { return []GroupMember{{a, id.Snapshot{1, n}, 1}, {b, id.Snapshot{2, n}, 1}} }
	w.refused(errs.ErrInvalid, &CreateSnapshots{Members: []GroupMember{{a, id.Snapshot{1}, 0}, {a, id.Snapshot{2}, 0}}}) // a disk twice
	w.refused(errs.ErrNotFound, &CreateSnapshots{Members: []GroupMember{{a, id.Snapshot{1}, 0}, {id.Volume{9}, id.Snapshot{2}, 0}}})
	if x, _ := w.Volume(a); len(x.Snapshots) != 0 {
		t.Fatal("a refused group left something")
	}
	w.ok(&CreateSnapshots{Members: group(1), NowMS: 5})
	if len(w.SnapshotWork()) != 2 {
		t.Fatal("nobody would see to it")
	}
	w.ok(&SnapshotTaken{Volume: a, ID: id.Snapshot{1, 1}}) // that alone makes nothing of it
	if state(a, id.Snapshot{1, 1}).State != cluster.SnapshotGrouped {
		t.Fatal("one of a group is ready before the others")
	}
	w.refused(errs.ErrConflict, &CreateClone{CreateVolume: CreateVolume{ID: id.Volume{11}, Name: "c", Size: 1 << 20}, Origin: originOf(a, id.Snapshot{1, 1}, 1)})
	w.ok(&EndSnapshots{Members: group(1), OK: true, Name: "both"})
	for v, s := range map[id.Volume]id.Snapshot{a: {1, 1}, b: {2, 1}} {
		if x := state(v, s); x.State != cluster.SnapshotReady || x.Name != "both" {
			t.Errorf("%+v", x)
		}
	}
	w.refused(errs.ErrConflict, &EndSnapshots{Members: group(1), OK: true, Name: "again"})

	w.ok(&CreateSnapshots{Members: group(2), NowMS: 6})
	w.refused(errs.ErrExists, &EndSnapshots{Members: group(2), OK: true, Name: "both"})
	w.ok(&Acquire{Volume: b, By: holder(1, 1), Gone: holder(2, 1)}) // it acknowledges what the hold would have kept back
	w.refused(errs.ErrConflict, &EndSnapshots{Members: group(2), OK: true, Name: "late"})
	if state(a, id.Snapshot{1, 2}).State != cluster.SnapshotGrouped {
		t.Fatal("a refused end changed something")
	}
	w.ok(&DeleteSnapshot{Volume: a, ID: id.Snapshot{1, 2}})
	w.ok(&EndSnapshots{Members: group(2)})
	w.ok(&EndSnapshots{Members: group(1)}) // late: what is ready stays
	for v, s := range map[id.Volume]id.Snapshot{a: {1, 2}, b: {2, 2}} {
		if x := state(v, s); x.State != cluster.SnapshotDeleting {
			t.Errorf("%+v", x)
		}
	}
	if state(b, id.Snapshot{2, 1}).State != cluster.SnapshotReady {
		t.Error("a group that is ready was deleted by a late word")
	}
}
