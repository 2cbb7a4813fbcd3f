package archive

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/objectstore/objectstoretest"
)

// lockWorld is an archive in a bucket that locks, with a clock of its own.
type lockWorld struct {
	mu    sync.Mutex
	now   time.Time
	owner *owner
	store *objectstoretest.Faulty
}

const lockDay = 24 * time.Hour

func (w *lockWorld) wall() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }

func (w *lockWorld) pass(d time.Duration) { w.mu.Lock(); defer w.mu.Unlock(); w.now = w.now.Add(d) }

func newLockWorld(t *testing.T) *lockWorld {
	t.Helper()
	w := &lockWorld{now: time.Unix(2e9, 0), owner: newOwner(t)}
	s, done, err := (&objectstoretest.S3Server{Bucket: "bucket", Locks: true, Clock: w.wall}).Open(objectstore.S3Config{EveryVersion: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	w.store = &objectstoretest.Faulty{Store: s}
	w.owner.write(t, 120, 1)
	w.owner.take(id.Snapshot{1})
	w.owner.write(t, 15, 2)
	w.owner.take(id.Snapshot{2})
	return w
}

func (w *lockWorld) upload(t *testing.T, s, base byte) {
	t.Helper()
	j := job(w.store, s, base)
	j.Lock = Locking{For: 10 * lockDay, Mode: objectstore.Compliance, Wall: w.wall}
	if _, err := Upload(t.Context(), j, w.owner); err != nil {
		t.Fatal(err)
	}
}

func (w *lockWorld) keeper() *Keeper {
	k := keeper(w.store, &Holds{})
	k.Wall, k.Locks = w.wall, true
	return k
}

func (w *lockWorld) gc(t *testing.T, dry bool) *api.ArchiveTaskReply {
	t.Helper()
	p := &api.ArchiveTaskReply{}
	if err := w.keeper().Gc(t.Context(), time.Hour, dry, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// chain checks that everything a manifest names is locked for no less than the manifest.
func (w *lockWorld) chain(t *testing.T, s byte) (until time.Time, m *archive.Manifest) {
	t.Helper()
	key := archive.ManifestKey(id.Volume{1}, id.Snapshot{s})
	m, err := archive.ReadManifest(t.Context(), w.store, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	is, err := w.store.Head(t.Context(), key)
	if err != nil || is.Lock.Until.Before(w.wall()) {
		t.Fatalf("manifest of %d: %+v %v", s, is, err)
	}
	for _, o := range m.Objects {
		if at, err := w.store.Head(t.Context(), o.Key); err != nil || at.Lock.Until.Before(is.Lock.Until) {
			t.Errorf("%s is locked until %s, and a manifest that needs it until %s (%v)", o.Key, at.Lock.Until, is.Lock.Until, err)
		}
	}
	return is.Lock.Until, m
}

// Without this what a locked snapshot needs of an earlier upload could be deleted before it: an incremental locks its base's objects for longer.
func TestIncrementalLocksWhatItReliesOn(t *testing.T) {
	w := newLockWorld(t)
	w.upload(t, 1, 0)
	if n := w.store.Count("extend"); n != 0 {
		t.Errorf("%d objects that had just been locked were locked again", n)
	}
	first, _ := w.chain(t, 1)
	w.pass(9 * lockDay)
	w.upload(t, 2, 1)
	second, m := w.chain(t, 2)
	if !second.After(first) || !strings.HasPrefix(m.Objects[0].Key, uploadPrefix(id.Raw{1, 9})) {
		t.Fatalf("%s then %s, %+v", first, second, m.Objects)
	}
	w.pass(5 * lockDay) // the first one's manifest is free now
	if err := w.keeper().Delete(t.Context(), id.Volume{1}, id.Snapshot{1}, false); err != nil {
		t.Fatal(err)
	}
	w.pass(2 * time.Hour)
	w.gc(t, false)
	verified(t, job(w.store, 2, 1))
	w.chain(t, 2)
}

// Without this a manifest could be locked and what it names not: when an object cannot be locked there is no manifest.
func TestNoManifestWithoutItsLocks(t *testing.T) {
	w := newLockWorld(t)
	w.upload(t, 1, 0)
	w.pass(9 * lockDay)
	w.store.Before = failing("extend", errs.ErrDenied)
	j := job(w.store, 2, 1)
	j.Lock = Locking{For: 10 * lockDay, Mode: objectstore.Compliance, Wall: w.wall}
	if _, err := Upload(t.Context(), j, w.owner); !errors.Is(err, errs.ErrDenied) {
		t.Fatal(err)
	}
	w.store.Before = nil
	if _, err := w.store.Head(t.Context(), archive.ManifestKey(id.Volume{1}, id.Snapshot{2})); !errors.Is(err, errs.ErrNotFound) {
		t.Fatalf("there is a manifest: %v", err)
	}
	w.upload(t, 2, 1) // goes on where it ended
	w.chain(t, 2)
}

// Without this a deletion that is refused would have been done by half, or nobody would know until when to wait.
func TestLockedSnapshotIsNotDeleted(t *testing.T) {
	w := newLockWorld(t)
	w.upload(t, 1, 0)
	until, _ := w.chain(t, 1)
	before := w.store.Count("put") + w.store.Count("delete")
	for _, dry := range []bool{true, false} {
		err := w.keeper().Delete(t.Context(), id.Volume{1}, id.Snapshot{1}, dry)
		if !errors.Is(err, errs.ErrConflict) || !strings.Contains(err.Error(), until.Format(time.RFC3339)) {
			t.Fatalf("%v, want it to say %s", err, until)
		}
	}
	if n := w.store.Count("put") + w.store.Count("delete"); n != before {
		t.Error("something was written by a deletion that was refused")
	}
	// A clock that is ahead believes it free, and is refused by the server: nothing is left in the trash.
	k := w.keeper()
	k.Wall = func() time.Time { return until.Add(time.Hour) }
	if err := k.Delete(t.Context(), id.Volume{1}, id.Snapshot{1}, false); !errors.Is(err, objectstore.ErrLocked) {
		t.Fatal(err)
	}
	if all, err := w.store.List(t.Context(), archive.TrashPrefix, "", 0); err != nil || len(all) > 0 {
		t.Fatalf("in the trash: %v %v", all, err)
	}
	entries, _, err := w.keeper().List(t.Context(), "")
	if err != nil || len(entries) != 1 || entries[0].GetLockedUntilUnixMs() != until.UnixMilli() {
		t.Fatalf("%v %v", entries, err)
	}
	p := &api.ArchiveTaskReply{}
	if err := w.keeper().Verify(t.Context(), id.Volume{1}, id.Snapshot{1}, p, nil); err != nil || p.GetLockedUntilUnixMs() != until.UnixMilli() || p.GetUnlockedObjects() != 0 {
		t.Fatalf("%v %v", p, err)
	}
}

// Without this gc would fail at the first locked object, or never come back to it: it takes what it may, tells what stays, and until when.
func TestGcLeavesWhatIsLockedForLater(t *testing.T) {
	w := newLockWorld(t)
	w.upload(t, 1, 0)
	until, m := w.chain(t, 1)
	w.pass(until.Sub(w.wall()) + time.Minute)
	if err := w.keeper().Delete(t.Context(), id.Volume{1}, id.Snapshot{1}, false); err != nil {
		t.Fatal(err)
	}
	w.pass(2 * time.Hour) // its objects are locked for a day longer
	for _, dry := range []bool{true, false} {
		p := w.gc(t, dry)
		if p.GetLockedObjects() != uint64(len(m.Objects)) || !time.UnixMilli(p.GetLockedUntilUnixMs()).After(w.wall()) {
			t.Fatalf("dry %v: %v", dry, p)
		}
	}
	w.pass(2 * lockDay)
	if p := w.gc(t, false); p.GetLockedObjects() != 0 || p.GetDoneObjects() != uint64(len(m.Objects)) {
		t.Fatalf("%v", p)
	}
	if all, err := w.store.List(t.Context(), "", "", 0); err != nil || len(all) > 0 {
		t.Fatalf("left for ever: %v %v", all, err)
	}
}
