package server

import (
	"errors"
	"testing"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
	"ashlar.dev/pkg/record"
)

// An owner that says that a clone reads no other disk is believed only if the checkpoint says so that is committed: who
// opens the clone next begins with that one.
func TestOriginIsKeptWhileTheCheckpointHasIt(t *testing.T) {
	k := &record.Checkpoint{Volume: id.Volume{1}, Epoch: 2, Meta: 3, Blocks: 100, Map: blockmap.Root{Height: 1}, Table: blockmap.Root{Height: 1}}
	o := &lineage.Origin{Volume: id.Volume{2}, Snapshot: id.Snapshot{3}, Root: blockmap.Root{Height: 1}, Watermark: 7, Blocks: 100}
	v := &state.Volume{Volume: cluster.Volume{ID: k.Volume, Origin: o}}
	if err := needsNoOrigin(v); !errors.Is(err, errs.ErrConflict) {
		t.Errorf("without a checkpoint: %v", err)
	}
	for _, has := range []bool{true, false} {
		if k.Origin = nil; has {
			k.Origin = o
		}
		v.Checkpoint = &cluster.Checkpoint{Epoch: 2, Meta: 3, Opaque: record.EncodeCheckpoint(k)}
		if err := needsNoOrigin(v); has != errors.Is(err, errs.ErrConflict) || !has && err != nil {
			t.Errorf("the checkpoint has it: %t; %v", has, err)
		}
	}
}

// Where stores are so full that nothing would be copied the order is refused.
func TestFlatteningNeedsRoom(t *testing.T) {
	for _, x := range []struct {
		store cluster.Store
		fits  bool
	}{
		{cluster.Store{State: cluster.StoreUp, Capacity: 100, Used: 84}, true},
		{cluster.Store{State: cluster.StoreUp, Capacity: 100, Used: 85}, false},
		{cluster.Store{State: cluster.StoreUp, Capacity: 100, Full: true}, false},
		{cluster.Store{State: cluster.StoreDown, Capacity: 100, Used: 99}, true},
	} {
		if err := roomToFlatten(&cluster.Topology{Stores: []cluster.Store{x.store}}); (err == nil) != x.fits || err != nil && !errors.Is(err, errs.ErrNoSpace) {
			t.Errorf("%+v: %v", x.store, err)
		}
	}
}
