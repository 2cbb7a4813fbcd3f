package volume_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"ashlar.dev/blockd/restore"
	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
	"ashlar.dev/pkg/objectstore/objectstoretest"
	"ashlar.dev/pkg/record"
)

// originOf waits until metad's checkpoint lists a snapshot, and gives where a clone of it begins.
func (r *rig) originOf(v id.Volume, s id.Snapshot) *lineage.Origin {
	r.t.Helper()
	for end := clock.System.Now() + 30*time.Second; ; {
		if c := r.metad.Record(v).Checkpoint; c != nil {
			k, err := record.DecodeCheckpoint("checkpoint", c.Opaque)
			if err != nil {
				r.t.Fatal(err)
			}
			for _, x := range k.Snapshots {
				if x.ID == id.Raw(s) {
					return &lineage.Origin{Volume: v, Snapshot: s, Root: x.Root, Watermark: x.Watermark, Blocks: x.Blocks, Ancestors: k.Origin.Chain()}
				}
			}
		}
		if clock.System.Sleep(r.t.Context(), time.Millisecond) != nil || clock.System.Now() > end {
			r.t.Fatalf("snapshot %s is in no checkpoint", s)
		}
	}
}

// clone makes volume v of a snapshot.
func (r *rig) clone(v, of id.Volume, vol *volume.Volume, f *flat) *flat {
	r.t.Helper()
	s := id.Snapshot{9, v[0]}
	if err := vol.TakeSnapshot(r.t.Context(), s); err != nil {
		r.t.Fatal(err)
	}
	c := &flat{t: r.t, rng: f.rng, data: bytes.Clone(f.data)}
	r.metad.CreateClone(v, uint64(len(c.data)), r.originOf(of, s))
	return c
}

// Without this a clone of a disk that is still being brought in from an archive could be anything but its snapshot:
// it, a clone of it, and the disk go on by themselves, with the death of their owners and of stores, while
// segments are read from the archive and brought in; and when the disk is whole the archive may go, under clones
// that were opened before, too.
func TestClonesOfADiskInTheArchiveAreLikeFlatBytes(t *testing.T) {
	r, x, v := restoredRig(t)
	gone := false
	r.archive = restore.New(restore.Config{CacheBytes: 64 << 10, Store: &objectstoretest.Faulty{Store: x.store, Before: func(objectstoretest.Op) error {
		if gone {
			return errs.ErrNotFound
		}
		return nil
	}}})
	r.metad.SetHydrate(v, 1)
	f := &flat{t: t, rng: seed(t), data: bytes.Clone(x.data)}
	e := r.engine("b1")
	vol := e.mustOpen(v)
	for range 5 {
		f.step(vol)
	}
	c1 := r.clone(id.Volume{2}, v, vol, f)
	e2 := r.engine("b2")
	one := e2.mustOpen(id.Volume{2})
	c1.all(one)
	for range 10 {
		f.step(vol)
		c1.step(one)
	}
	c2 := r.clone(id.Volume{3}, id.Volume{2}, one, c1)
	two := r.engine("b3").mustOpen(id.Volume{3})
	c2.all(two)
	if vol.ArchiveLeft() == 0 {
		t.Fatal("nothing was left in the archive")
	}
	e.Kill()
	vol.Abandon()
	r.stores[0].Crash(1)
	for range 10 {
		c1.step(one)
		c2.step(two)
	}
	c1.all(one)
	c2.all(two)
	r.stores[0].Restart()
	vol = r.engine("b1").mustOpen(v)
	f.all(vol)
	vol.SetHydrateRate(1 << 40)
	c2.all(two) // while segments arrive
	whole(t, r, vol)
	gone = true
	c1.all(one)
	c2.all(two)
	e2.Kill()
	one.Abandon()
	r.archive = nil // nobody needs it any more
	one = r.engine("b2").mustOpen(id.Volume{2})
	c1.all(one)
	f.all(vol)
}

// A host that knows no archive, or an archive that is damaged or away, is an error for who reads what lies there: never zeros,
// and what the clone wrote itself is served.
func TestCloneOfADiskInTheArchiveNeedsIt(t *testing.T) {
	r, x, v := restoredRig(t)
	r.metad.SetHydrate(v, 1)
	vol := r.engine("b1").mustOpen(v)
	f := &flat{t: t, rng: seed(t), data: bytes.Clone(x.data)}
	r.clone(id.Volume{2}, v, vol, f)
	for name, s := range map[string]struct {
		a    *restore.Archive
		want error
	}{
		"no archive": {nil, errs.ErrInvalid},
		"damaged": {restore.New(restore.Config{Store: &objectstoretest.Faulty{Store: x.store, After: func(o objectstoretest.Op) error {
			if o.Name == "readat" {
				clear(o.Dst)
			}
			return nil
		}}}), errs.ErrCorrupt},
	} {
		r.archive = s.a
		e := r.engine("b2")
		c := e.mustOpen(id.Volume{2})
		if got, err := readBack(c, 0, block.Size); !errors.Is(err, s.want) {
			t.Errorf("%s: a block of zeros is %v: %v", name, bytes.Equal(got, make([]byte, block.Size)), err)
		}
		e.Kill()
		c.Abandon()
	}
	r.archive = restore.New(restore.Config{Store: x.store})
	c := r.engine("b2").mustOpen(id.Volume{2})
	if err := c.TakeSnapshot(t.Context(), id.Snapshot{8}); err != nil {
		t.Fatal(err)
	}
	r.originOf(id.Volume{2}, id.Snapshot{8})
	if _, err := c.PlanSnapshot(t.Context(), id.Snapshot{8}, 0, 0); !errors.Is(err, errs.ErrUnavailable) || !strings.Contains(err.Error(), "ancestor") {
		t.Errorf("what lies in the archive is planned to be archived: %v", err)
	}
}
