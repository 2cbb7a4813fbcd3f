package state

import (
	"errors"
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// A metad restored from a backup that is older than a disk made from an archive learns from the stores that
// it lies there. Without it the disk would seem whole to it: nobody would bring the rest in, its first owner could be given
// the very sequences that mean blocks of the archive (no store has one of them yet), and the disk that lies there for the
// backup, and no longer does, would stay held for ever.
func TestRebuildLearnsWhatLiesInArchives(t *testing.T) {
	w := withGroups(t)
	w.ok(&SetLevel{Level: LevelArchives})
	known := w.ok(w.fromArchive("known", "r1")).Volume
	w.Reopen([16]byte{1})
	w.Machine = restored(t, w.Machine)
	far := w.nextSequence + 1<<40/4
	late, whole := id.Volume{201}, id.Volume{202}
	a := cluster.Restored{Manifest: "manifests/late", Segments: 1000, First: far, PGs: []id.PG{1, 2}}
	sighting := func(v id.Volume, meta id.LSN) ArchiveSighting {
		return ArchiveSighting{Volume: v, Epoch: 1, Meta: meta, Archive: a}
	}
	w.ok(&TellArchives{Volumes: []ArchiveSighting{sighting(late, 7), sighting(whole, 3), sighting(known.ID, 7)}})
	older := sighting(late, 3)
	older.Archive.Manifest = "manifests/older"
	w.ok(&TellArchives{Volumes: []ArchiveSighting{older}})
	w.Machine = restored(t, w.Machine)
	check := &cluster.Checkpoint{Epoch: 1, Meta: 7, Opaque: []byte("y")}
	for i := range 3 {
		w.ok(&TellInventory{Store: storeRef(i+1, 1), Last: true, Volumes: []Sighting{
			{Volume: late, Fence: 1, Shards: 3, Checkpoint: check}, {Volume: whole, Fence: 1, Shards: 3, Checkpoint: check}, {Volume: known.ID, Fence: 1, Shards: 3, Checkpoint: check}}})
	}
	w.ok(&FinishRebuild{})
	x, _ := w.Volume(late)
	if x == nil || x.Restored == nil || x.Restored.Manifest != a.Manifest || x.Restored.First != far || x.Restored.Segments != 1000 || len(x.Restored.PGs) != 2 {
		t.Fatalf("the disk that was made after the backup: %+v", x)
	}
	if x, _ := w.Volume(whole); x == nil || x.Restored != nil {
		t.Errorf("a disk whose last checkpoint knows of no archive: %+v", x)
	}
	if x, _ := w.Volume(known.ID); x.Restored == nil || x.Restored.Manifest != known.Restored.Manifest {
		t.Errorf("what the backup knew is now %+v", x.Restored)
	}
	if w.nextSequence < far+1000 {
		t.Errorf("sequences from %d on are given out again, %d to %d are those of the archive", w.nextSequence, far, far+1000)
	}
	if r := w.do(&TellArchives{}); !errors.Is(r.Err, errs.ErrConflict) {
		t.Errorf("told after the end: %v", r.Err)
	}
	restored(t, w.Machine)
}

// goldenArchives is the part of LevelArchives: in the time of a rebuilding only.
func goldenArchives() []Command {
	return []Command{
		&SetLevel{Level: LevelArchives},
		&TellArchives{Volumes: []ArchiveSighting{{Volume: id.Volume{8}, Epoch: 3, Meta: 70, Archive: cluster.Restored{Manifest: "manifests/m", Segments: 70, First: 5000, PGs: []id.PG{1}}}}}, // refused: nothing is rebuilt
	}
}
