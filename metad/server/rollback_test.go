package server

import (
	"testing"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/id"
)

// An owner says that a rollback is done, metad commits that, and the answer is lost. There is no order
// any more that would be repeated: were the next heartbeat not to say so, the disk would let nobody in
// until it is opened anew.
func TestOwnerHearsThatTheRollbackIsOver(t *testing.T) {
	m, index := state.New(), uint64(0)
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
	by := id.Holder{Host: "h1", Number: 1}
	apply(&state.RegisterHost{Holder: by, DataAddress: "a:1", Exports: true})
	v := apply(&state.CreateVolume{ID: id.Volume{1}, Name: "d", Size: 1 << 20}).ID
	to, safety := id.Snapshot{1}, id.Snapshot{2}
	apply(&state.CreateSnapshot{Volume: v, ID: to})
	apply(&state.SnapshotTaken{Volume: v, ID: to})
	news := func() bool {
		x, _ := m.Volume(v)
		all := volumeNews(m, reconcile.Beat{Holder: by, Volumes: []reconcile.VolumeBeat{{Volume: v, Epoch: x.Epoch}}})
		if len(all) != 1 || !all[0].Owned {
			t.Fatalf("%v", all)
		}
		return all[0].NoRollback
	}
	e := apply(&state.Acquire{Volume: v, By: by}).Epoch
	if !news() {
		t.Error("nobody ordered a rollback")
	}
	apply(&state.RollbackVolume{Volume: v, Epoch: e, To: to, Safety: safety})
	e = apply(&state.Acquire{Volume: v, By: by}).Epoch
	if news() {
		t.Error("clients are let in while the disk is rolled back")
	}
	apply(&state.VolumeRolledBack{Volume: v, Epoch: e, Safety: safety})
	if !news() {
		t.Error("the disk is rolled back, and its owner does not hear of it")
	}
}
