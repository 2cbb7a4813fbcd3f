package reconcile

import (
	"slices"
	"testing"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Without this a disk that is deleted, and whose record waits for a store that is away or gone, would keep what it was made of
// from being deleted for as long, and the uploads of its snapshots from being reclaimed. (Found by seeds 60 and 64 of bench/sim.)
func TestDeletedDisksHoldNothingInTheArchive(t *testing.T) {
	m := state.New()
	index := uint64(0)
	apply := func(c state.Command) *state.Volume {
		t.Helper()
		index++
		r := m.Apply(index, c)
		if r.Err != nil {
			t.Fatalf("%T: %v", c, r.Err)
		}
		return r.Volume
	}
	apply(&state.Init{ClusterID: [16]byte{1}, Settings: state.DefaultSettings})
	apply(&state.SetLevel{Level: state.LevelNewest})
	refs := []cluster.StoreRef{ref(1, 1), ref(2, 1)}
	by := id.Holder{Host: "h1", Number: 1}
	apply(&state.RegisterHost{Holder: by, DataAddress: "a:1", Exports: true, Stores: []state.RegisterStore{{StoreRef: refs[0], Capacity: 1 << 40}, {StoreRef: refs[1], Capacity: 1 << 40}}})
	apply(&state.EnsurePlacement{Healthy: refs, Seed: 1})
	made := apply(&state.CreateRestored{Create: state.CreateVolume{ID: id.Volume{1}, Name: "made", Size: 1 << 20}, Manifest: "manifests/x", Segments: 10, PGs: []id.PG{m.PGs()[0].Number}})
	old := apply(&state.CreateVolume{ID: id.Volume{2}, Name: "old", Size: 1 << 20})
	s := id.Snapshot{7}
	apply(&state.CreateSnapshot{Volume: old.ID, ID: s})
	apply(&state.SnapshotTaken{Volume: old.ID, ID: s})
	apply(&state.QueueArchive{Volume: old.ID, ID: s, Upload: id.Raw{9}})
	lease := apply(&state.LeaseArchive{Volume: old.ID, ID: s, Worker: "w"}).Snapshots[0].Archived.Epoch

	h, err := HoldsOf(m)
	if err != nil || !slices.Equal(h.Disks, []string{"manifests/x"}) || !slices.Equal(h.Uploads, []id.Raw{{9}}) {
		t.Fatalf("%+v %v", h, err)
	}
	apply(&state.EndArchive{Volume: old.ID, ID: s, Epoch: lease, State: cluster.ArchiveFailed, Reason: "no"})
	for _, v := range []*state.Volume{made, old} { // deleted, and no store has said that it forgot them
		apply(&state.RetireVolume{Volume: v.ID, Epoch: v.Epoch, Snapshots: state.SnapshotsGoToo})
	}
	if len(m.Deleted()) != 2 {
		t.Fatalf("%d records wait to be purged, want both", len(m.Deleted()))
	}
	if h, err = HoldsOf(m); err != nil || len(h.Disks)+len(h.Uploads)+len(h.Bases) > 0 {
		t.Errorf("deleted disks hold %+v %v", h, err)
	}
}
