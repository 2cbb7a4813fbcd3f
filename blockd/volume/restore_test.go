package volume_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"ashlar.dev/blockd/restore"
	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/archive/archivetest"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/objectstore/objectstoretest"
)

// archivedDisk is a disk of another cluster, archived; nobody changes it.
var archivedDisk = sync.OnceValues(func() (*archivedImage, error) {
	const blocks = 1 << 10
	d, err := archivetest.NewDisk(blocks, 7)
	if err != nil {
		return nil, err
	}
	var lbas []block.LBA
	for l := range block.LBA(200) {
		lbas = append(lbas, 3*l)
	}
	d.Write(lbas, 48)
	x := &archivedImage{data: d.Image, store: objectstoretest.NewMemory()}
	base, err := d.Archive(context.Background(), x.store, nil, nil, 3)
	if err != nil {
		return nil, err
	}
	d.Write(lbas[:48], 48) // the base has a page that leads to a segment of which nothing is held any more
	d.Write(lbas[10:40], 48)
	x.manifest, err = d.Archive(context.Background(), x.store, base, nil, 3)
	return x, err
})

type archivedImage struct {
	data     []byte
	store    objectstore.Store
	manifest *archive.Manifest
}

// restoredRig is a rig with a volume made of that disk.
func restoredRig(t *testing.T) (*rig, *archivedImage, id.Volume) {
	t.Helper()
	x, err := archivedDisk()
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, 3, 2, 4, 2)
	r.limits.CheckpointDead, r.limits.CheckpointIdle = 64<<10, time.Millisecond
	r.archive = restore.New(restore.Config{Store: x.store})
	v := id.Volume{1}
	r.metad.CreateRestored(v, uint64(len(x.data)), archive.ManifestKey(x.manifest.Volume, x.manifest.Snapshot), uint32(len(x.manifest.Segments)))
	return r, x, v
}

// whole waits until nothing of the volume lies in the archive, and metad knows.
func whole(t *testing.T, r *rig, v *volume.Volume) {
	t.Helper()
	for end := clock.System.Now() + 30*time.Second; r.metad.Record(v.ID()).Restored != nil; {
		if clock.System.Sleep(t.Context(), time.Millisecond) != nil || clock.System.Now() > end {
			t.Fatalf("%d segments are left: %s, %+v", v.ArchiveLeft(), v.ArchiveProblem(), v.Stats())
		}
	}
}

// Without this what the simulated world knows of restored volumes would be tried nowhere on a real
// archive and real shards: random writes, trims and zeros, snapshots, the death of owners and of
// a store, against flat bytes, while segments are read from the archive and brought in.
func TestRestoredVolumeIsLikeFlatBytes(t *testing.T) {
	before := buf.Outstanding().Buffers
	r, x, v := restoredRig(t)
	r.limits.HydrateRate = 4 << 20
	f := &flat{t: t, rng: seed(t), data: bytes.Clone(x.data)}
	var all []*still
	for life := range 3 {
		e := r.engine(id.Host([]string{"b1", "b2"}[life%2]))
		vol := e.mustOpen(v)
		f.all(vol)
		for n := range 40 {
			f.step(vol)
			if n == 7 {
				s := &still{id.Snapshot{1, byte(life), byte(n)}, bytes.Clone(f.data)}
				if err := vol.TakeSnapshot(t.Context(), s.id); err != nil {
					t.Fatal(err)
				}
				all = append(all, s)
			}
		}
		f.all(vol)
		if life == 2 {
			vol.SetHydrateRate(1 << 40)
			whole(t, r, vol)
		}
		for _, s := range all {
			if !bytes.Equal(s.read(t, vol), s.data) {
				t.Fatalf("life %d: snapshot %s is not what it was", life, s.id)
			}
		}
		r.stores[life].Crash(1)
		f.all(vol)
		r.stores[life].Restart()
		if life < 2 {
			e.Kill()
			vol.Abandon()
			continue
		}
		if err := vol.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r.archive = nil // nobody needs it any more
	vol := r.engine("b1").mustOpen(v)
	f.all(vol)
	for _, s := range all {
		if !bytes.Equal(s.read(t, vol), s.data) {
			t.Fatalf("snapshot %s is not what it was, without the archive", s.id)
		}
	}
	vol.Abandon()
	if err := vol.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := buf.Outstanding().Buffers; n > before {
		t.Logf("%d buffers are on their way", n-before)
	}
}

// A damaged object is an error for those who read what lies in it, and words for the operator. The
// rest is served and brought in.
func TestRestoredVolumeWithADamagedObject(t *testing.T) {
	r, x, v := restoredRig(t)
	victim := x.manifest.Objects[0].Key
	r.archive = restore.New(restore.Config{Store: &objectstoretest.Faulty{Store: x.store, After: func(o objectstoretest.Op) error {
		if o.Name == "readat" && o.Key == victim {
			o.Dst[len(o.Dst)/2] ^= 1
		}
		return nil
	}}})
	vol := r.engine("b1").mustOpen(v)
	failed, right := 0, 0
	for l := range len(x.data) / block.Size {
		got, err := readBack(vol, uint64(l*block.Size), block.Size)
		switch {
		case err == nil && bytes.Equal(got, x.data[l*block.Size:][:block.Size]):
			right++
		case errors.Is(err, errs.ErrCorrupt):
			failed++
		default:
			t.Fatalf("block %d: %v", l, err)
		}
	}
	if failed == 0 || right == 0 {
		t.Fatalf("%d blocks failed, %d are right", failed, right)
	}
	if p := vol.ArchiveProblem(); !strings.Contains(p, victim) {
		t.Fatalf("the operator is told %q", p)
	}
	if r, err := do(vol, nbd.OpWrite, 0, block.Size, make([]byte, block.Size)); err != nil {
		t.Fatal(err)
	} else {
		r.Recycle()
	}
	if got, err := readBack(vol, 0, block.Size); err != nil || !bytes.Equal(got, make([]byte, block.Size)) {
		t.Fatalf("what was written over it: %v", err)
	}
}

// A host that does not know the archive says so, and does not serve zeros.
func TestRestoredVolumeNeedsItsArchive(t *testing.T) {
	r, x, v := restoredRig(t)
	a := r.archive
	r.archive = nil
	if _, err := r.engine("b1").open(v); err == nil || !strings.Contains(err.Error(), "archive") {
		t.Fatalf("opened without an archive: %v", err)
	}
	r.archive = a
	vol := r.engine("b1").mustOpen(v)
	whole(t, r, vol)
	f := &flat{t: t, rng: seed(t), data: x.data}
	f.all(vol)
}
