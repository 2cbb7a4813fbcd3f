package server

import (
	"slices"
	"testing"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
)

// Without this the owner of a clone would not know which of its ancestors' segments lie in an archive, and where: it gets
// the allotments of all that are not here wholly, a grandparent's too, and no others. And nobody would see that the clone still needs the archive.
func TestOwnerOfACloneHearsWhatLiesInArchives(t *testing.T) {
	m, index := state.New(), uint64(0)
	apply := func(c state.Command) *state.Volume {
		t.Helper()
		index++
		r := m.Apply(index, c)
		must(t, r.Err)
		return r.Volume
	}
	apply(&state.Init{ClusterID: [16]byte{1}, Settings: state.DefaultSettings})
	apply(&state.SetLevel{Level: state.LevelNewest})
	by := id.Holder{Host: "h1", Number: 1}
	refs := []cluster.StoreRef{{Store: id.Store{1}, Incarnation: id.Incarnation{1}}, {Store: id.Store{2}, Incarnation: id.Incarnation{2}}}
	apply(&state.RegisterHost{Holder: by, DataAddress: "a:1", Exports: true, Stores: []state.RegisterStore{{StoreRef: refs[0], Capacity: 1 << 40}, {StoreRef: refs[1], Capacity: 1 << 40}}})
	apply(&state.EnsurePlacement{Healthy: refs, Seed: 1})
	group := m.PGs()[0].Number
	old := apply(&state.CreateRestored{Create: state.CreateVolume{ID: id.Volume{1}, Name: "old", Size: 1 << 20}, Manifest: "manifests/old", Segments: 10, PGs: []id.PG{group}})
	clone := func(n byte, of *state.Volume) *state.Volume {
		s := id.Snapshot{n}
		apply(&state.CreateSnapshot{Volume: of.ID, ID: s})
		apply(&state.SnapshotTaken{Volume: of.ID, ID: s})
		e := apply(&state.Acquire{Volume: of.ID, By: by}).Epoch
		index++
		given := m.Apply(index, &state.AllocRange{Volume: of.ID, Epoch: e})
		must(t, given.Err)
		o := lineage.Origin{Volume: of.ID, Snapshot: s, Root: blockmap.Root{Location: id.MakeLocation(id.MakeSegment(given.First, group), 0), Height: 1}, Watermark: given.First, Blocks: 256, Ancestors: of.Origin.Chain()}
		return apply(&state.CreateClone{CreateVolume: state.CreateVolume{ID: id.Volume{n}, Name: string('a' + rune(n)), Size: 1 << 20}, Origin: o})
	}
	middle := clone(2, old)
	young := clone(3, middle)
	for _, v := range []*state.Volume{middle, young} {
		got := reconcile.Lent(m, &v.Volume).Lent
		if len(got) != 1 || got[0].Manifest != "manifests/old" || got[0].First != old.Restored.First || !slices.Equal(got[0].PGs, old.Restored.PGs) {
			t.Errorf("the owner of %s is told %+v, %+v was allotted", v.Name, got, old.Restored)
		}
	}
	if got := reconcile.Lent(m, &old.Volume).Lent; len(got) != 0 {
		t.Errorf("a disk is told of itself: %+v", got)
	}
	live := reconcile.NewLiveness(0, state.DefaultSettings)
	for _, v := range []*state.Volume{middle, young} {
		d := described(live, m, v, &cluster.Topology{}, 0)
		if o := d.Origin; o.GetHydratedDisk() != "old" || o.Hydration.GetManifest() != "manifests/old" || o.Hydration.GetLeft() != 10 || d.Hydration != nil {
			t.Errorf("of %s people see %+v", v.Name, d)
		}
	}
}
