package state

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// ofImages draws something about an image.
func (s *script) ofImages(v *Volume, n id.Snapshot) Command {
	x, name := id.Image{1 + byte(s.pick("image", 3))}, fmt.Sprintf("i%d", s.pick("name", 3))
	switch s.pick("of an image", 5) {
	case 0:
		return &SetImage{ID: x, Name: name, Description: "d"}
	case 1:
		return &DeleteImage{ID: x}
	case 2:
		c := &CreateFromImage{Image: x, CreateClone: *s.lineage(v).(*CreateClone)}
		if y := s.m.images[x]; y != nil {
			c.Origin.Volume, c.Origin.Snapshot = y.Volume, y.Snapshot
		}
		return c
	}
	for _, y := range v.Snapshots {
		if y.State == cluster.SnapshotReady {
			n = y.ID
		}
	}
	return &CreateImage{Image: Image{ID: x, Name: name, Volume: v.ID, Snapshot: n, Created: time.UnixMilli(5).UTC()}, Keep: s.pick("keep", 2) == 0}
}

// goldenImages is the part of LevelImages about images.
func goldenImages() []Command {
	v := id.Volume{1}
	image := func(n byte, name string, s id.Snapshot) Image {
		return Image{ID: id.Image{n}, Name: name, Description: "as it was", Volume: v, Snapshot: s, Created: time.UnixMilli(1700000000600).UTC(), Source: "debian.qcow2", Format: "qcow2"}
	}
	return []Command{
		&SetLevel{Level: LevelImages},
		&CreateImage{Image: image(1, "debian", id.Snapshot{3})},
		&CreateImage{Image: image(2, "kept", id.Snapshot{4}), Keep: true},
		&SetImage{ID: id.Image{1}, Name: "debian-12", Description: "newer"},
		&CreateFromImage{Image: id.Image{2}, CreateClone: CreateClone{CreateVolume: CreateVolume{ID: id.Volume{9}, Name: "of-image", Size: 4 << 30, RequestID: "i", NowMS: 1700000000601}, Origin: originOf(v, id.Snapshot{4}, 77)}},
		&CreateImage{Image: image(3, "gone", id.Snapshot{3})},
		&DeleteImage{ID: id.Image{3}},
		&SetPolicyHook{Policy: "nightly", Hook: PolicyHook{Volume: v, Host: "h1", Hook: "db", Timeout: 10 * time.Second, Anyway: true}},
	}
}

// imageOf is the command that makes image n of a snapshot.
func imageOf(v id.Volume, s id.Snapshot, n byte) *CreateImage {
	return &CreateImage{Image: Image{ID: id.Image{n}, Name: fmt.Sprintf("i%d", n), Volume: v, Snapshot: s, Source: "x", Created: time.UnixMilli(9).UTC()}}
}

// fromImage is the command that makes volume n of an image.
func fromImage(x byte, v id.Volume, s id.Snapshot, n byte) *CreateFromImage {
	return &CreateFromImage{Image: id.Image{x}, CreateClone: *clone(v, s, 9, n)}
}

// withImage is withSnapshot with image 1 of the snapshot.
func withImage(t *testing.T) (*world, id.Volume, id.Snapshot) {
	w, v, s := withSnapshot(t)
	w.refused(errs.ErrUnavailable, imageOf(v, s, 1)) // of a later level
	w.ok(&SetLevel{Level: LevelImages})
	w.ok(imageOf(v, s, 1))
	w.ok(imageOf(v, s, 1)) // the answer was lost
	return w, v, s
}

// Without these rules a snapshot could be deleted under an image, so that no disk could be made of it any more, or
// under a disk that was made of it; or it would stay for ever after both are gone.
func TestSnapshotOfAnImageStaysAsLongAsTheImageAndItsDisks(t *testing.T) {
	w, v, s := withImage(t)
	w.ok(imageOf(v, s, 2))
	w.ok(&DeleteSnapshot{Volume: v, ID: s})
	if w.stateOf(v, s) != cluster.SnapshotHidden || len(w.SnapshotWork()) != 0 {
		t.Fatalf("a snapshot with an image is %s", w.stateOf(v, s))
	}
	w.refused(errs.ErrConflict, clone(v, s, 9, 4)) // by its name nobody sees it any more,
	w.ok(fromImage(1, v, s, 5))                    // but by the image
	w.ok(fromImage(1, v, s, 5))
	w.ok(&DeleteImage{ID: id.Image{2}})
	w.Machine = restored(t, w.Machine)
	w.ok(&DeleteImage{ID: id.Image{1}})
	w.refused(errs.ErrNotFound, fromImage(1, v, s, 6))
	if w.stateOf(v, s) != cluster.SnapshotHidden {
		t.Fatal("it goes before the last disk made of it")
	}
	w.ok(&DeleteVolume{Volume: id.Volume{200, 5}, Forced: true})
	if w.stateOf(v, s) != cluster.SnapshotDeleting || len(w.SnapshotWork()) != 1 || w.Held(s) {
		t.Fatalf("without image and disks it is %s", w.stateOf(v, s))
	}
	w.refused(errs.ErrConflict, imageOf(v, s, 3)) // too late
}

// The last image, too, lets a hidden snapshot go; one that is not deleted stays.
func TestLastImageLetsAHiddenSnapshotGo(t *testing.T) {
	w, v, s := withImage(t)
	w.ok(&DeleteImage{ID: id.Image{1}})
	if w.stateOf(v, s) != cluster.SnapshotReady {
		t.Fatalf("the user's own snapshot is %s", w.stateOf(v, s))
	}
	c := imageOf(v, s, 2)
	c.Keep = true // it was taken for the image
	w.ok(c)
	if w.stateOf(v, s) != cluster.SnapshotHidden {
		t.Fatalf("it is %s", w.stateOf(v, s))
	}
	w.Machine = restored(t, w.Machine)
	w.ok(&DeleteImage{ID: id.Image{2}})
	if w.stateOf(v, s) != cluster.SnapshotDeleting {
		t.Fatalf("it is %s", w.stateOf(v, s))
	}
}

// A name means one image, and an image is what its record says.
func TestImagesThatCannotBeAreRefused(t *testing.T) {
	w, v, s := withImage(t)
	for what, x := range map[string]struct {
		class error
		spoil func(c *CreateImage)
	}{
		"a name that is taken":       {errs.ErrExists, func(c *CreateImage) { c.Image.Name = "i1" }},
		"no name":                    {errs.ErrInvalid, func(c *CreateImage) { c.Image.Name = "" }},
		"no id":                      {errs.ErrInvalid, func(c *CreateImage) { c.Image.ID = id.Image{} }},
		"a snapshot that is not":     {errs.ErrNotFound, func(c *CreateImage) { c.Image.Snapshot = id.Snapshot{77} }},
		"a snapshot that is not yet": {errs.ErrConflict, func(c *CreateImage) { c.Image.Snapshot = id.Snapshot{5} }},
		"a snapshot of no such disk": {errs.ErrNotFound, func(c *CreateImage) { c.Image.Volume = id.Volume{99} }},
	} {
		t.Log(what)
		c := imageOf(v, s, 2)
		w.ok(&CreateSnapshot{Volume: v, ID: id.Snapshot{5}, Name: "five"})
		x.spoil(c)
		w.refused(x.class, c)
	}
	w.ok(imageOf(v, s, 2))
	w.refused(errs.ErrExists, &SetImage{ID: id.Image{2}, Name: "i1"})
	w.refused(errs.ErrInvalid, &SetImage{ID: id.Image{2}, Name: ""})
	if err := CheckImage("x", strings.Repeat("x", ImageDescriptionMax+1)); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("a novel: %v", err)
	}
	w.refused(errs.ErrNotFound, &SetImage{ID: id.Image{3}, Name: "x"})
	w.ok(&SetImage{ID: id.Image{2}, Name: "other", Description: "words"})
	if x, ok := w.FindImage("other"); !ok || x.ID != (id.Image{2}) || x.Description != "words" || x.Size != 1<<20 {
		t.Errorf("%+v", x)
	}
	if _, ok := w.FindImage("i2"); ok {
		t.Error("it still has its old name")
	}
	w.refused(errs.ErrNotFound, &DeleteImage{ID: id.Image{3}})
	w.refused(errs.ErrInvalid, fromImage(1, v, id.Snapshot{5}, 7)) // another snapshot than the image's
}

// A metad restored from a backup has the image that the backup has: a snapshot that was deleted since stays hidden for it.
func TestRebuildKeepsWhatImagesHold(t *testing.T) {
	w, v, s := withImage(t)
	w.ok(&DeleteSnapshot{Volume: v, ID: s})
	w.Reopen([16]byte{1})
	w.Machine = restored(t, w.Machine)
	x, _ := w.Volume(v)
	x = x.clone()
	x.Snapshots[0].State = cluster.SnapshotDeleting // as a backup from before the image might have it
	w.put(x)
	for i := range 3 {
		w.ok(&TellInventory{Store: storeRef(i+1, 1), Last: true, Volumes: []Sighting{{Volume: v, Fence: 1, Shards: 1, Size: 1 << 20}}})
	}
	w.ok(&FinishRebuild{})
	if w.stateOf(v, s) != cluster.SnapshotHidden {
		t.Fatalf("it is %s", w.stateOf(v, s))
	}
	w.ok(&DeleteImage{ID: id.Image{1}})
	if w.stateOf(v, s) != cluster.SnapshotDeleting {
		t.Fatalf("it is %s", w.stateOf(v, s))
	}
}

// Without this an imported image would keep the disk that it came over, or lose what it holds with it.
func TestImageOutlivesItsDisk(t *testing.T) {
	w, v, s := withImage(t)
	w.ok(&DeleteSnapshot{Volume: v, ID: s})
	w.ok(&RetireVolume{Volume: v, Epoch: 1, Forced: true})
	if _, there := w.Find("d"); there || w.stateOf(v, s) != cluster.SnapshotHidden {
		t.Fatalf("listed %v, its snapshot is %s", there, w.stateOf(v, s))
	}
	w.Machine = restored(t, w.Machine)
	w.ok(fromImage(1, v, s, 5))
	x, _ := w.Volume(v)
	w.ok(&Acquire{Volume: v, By: holder(1, 1), Gone: x.Owner})
	x, _ = w.Volume(v)
	w.ok(&VolumeEmptied{Volume: v, Epoch: x.Epoch})
	w.ok(&DeleteImage{ID: id.Image{1}})
	if w.stateOf(v, s) != cluster.SnapshotHidden {
		t.Fatalf("under the disk that was made of it, it is %s", w.stateOf(v, s))
	}
	w.ok(&DeleteVolume{Volume: id.Volume{200, 5}, Forced: true})
	if x, ok := w.Volume(v); ok && !x.Deleted && w.stateOf(v, s) != cluster.SnapshotDeleting {
		t.Fatalf("with nobody left it is %s", w.stateOf(v, s))
	}
}
