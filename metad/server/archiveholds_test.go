package server

import (
	"errors"
	"slices"
	"testing"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
)

// Without this a metad that was restored from a backup of before a disk was made from an archive would let its manifest and
// objects be reclaimed, though the disk has blocks there only: its record does not say so, and its checkpoint, which the
// stores tell, does.
func TestManifestIsHeldByACheckpointToo(t *testing.T) {
	k := record.Checkpoint{Volume: id.Volume{1}, Epoch: 3, Meta: 7, Blocks: 2048, Archive: &record.Archive{Manifest: "manifests/d-1/s-1", First: 50, Segments: 4,
		PGs: []id.PG{3}, Left: []record.ArchiveRun{{From: 1, Count: 2}}}}
	v := &state.Volume{Volume: cluster.Volume{ID: id.Volume{1}, Name: "recovered"}}
	checkpoint := func() {
		v.Checkpoint = &cluster.Checkpoint{Epoch: 3, Meta: 7, Opaque: record.EncodeCheckpoint(&k)}
	}
	want := func(keys ...string) {
		t.Helper()
		if got, err := reconcile.ManifestsOf(v); err != nil || !slices.Equal(got, keys) {
			t.Fatalf("%q %v, want %q", got, err, keys)
		}
	}
	want()
	checkpoint()
	want("manifests/d-1/s-1")
	v.Restored = &cluster.Restored{Manifest: "manifests/d-1/s-1"}
	want("manifests/d-1/s-1")
	k.Archive = nil
	checkpoint()
	want("manifests/d-1/s-1") // until the owner says that it was committed
	v.Restored = nil
	want()
	v.Checkpoint.Opaque = []byte("what is this")
	if _, err := reconcile.ManifestsOf(v); !errors.Is(err, errs.ErrCorrupt) {
		t.Fatalf("gc may go on though nobody knows what is needed: %v", err)
	}
}

// Without this a rebuilding would not hear from the stores which disks lie in an archive, and where.
func TestInventoryTellsWhatLiesInArchives(t *testing.T) {
	k := record.Checkpoint{Volume: id.Volume{1}, Epoch: 3, Meta: 7, Blocks: 2048, Archive: &record.Archive{Manifest: "manifests/d-1/s-1", First: 50, Segments: 4,
		PGs: []id.PG{3}, Left: []record.ArchiveRun{{From: 1, Count: 2}}}}
	told := func() []state.ArchiveSighting {
		t.Helper()
		_, a, err := reconcile.Told(&state.TellInventory{Volumes: []state.Sighting{{Volume: id.Volume{2}}, {Volume: k.Volume, Checkpoint: &cluster.Checkpoint{Epoch: 3, Meta: 7, Opaque: record.EncodeCheckpoint(&k)}}}})
		must(t, err)
		return a.Volumes
	}
	got := told()
	if len(got) != 1 || got[0].Volume != k.Volume || got[0].Epoch != 3 || got[0].Meta != 7 || got[0].Archive.Manifest != k.Archive.Manifest || got[0].Archive.First != 50 || got[0].Archive.Segments != 4 || !slices.Equal(got[0].Archive.PGs, k.Archive.PGs) {
		t.Fatalf("told %+v", got)
	}
	if k.Archive = nil; len(told()) != 0 {
		t.Error("a disk that is whole is told of")
	}
}
