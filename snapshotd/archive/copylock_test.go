package archive

import (
	"errors"
	"testing"
	"time"

	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/objectstore"
)

// Without this a copy for the day on which all of this cluster is lost could be deleted by whoever has the other bucket's
// credentials: it is locked with everything that it needs, what was there before included; asked again for longer, longer; and a place that
// cannot lock is refused before anything is there.
func TestCopiesAreLockedWithWhatTheyNeed(t *testing.T) {
	_, from := twice(t)
	w := newLockWorld(t)
	copied := func(s byte, days int) (Copied, error) {
		c := copyingOf(from, w.store, s)
		c.Lock = Locking{For: time.Duration(days) * lockDay, Mode: objectstore.Compliance, Wall: w.wall}
		return Copy(t.Context(), c)
	}
	if _, err := Copy(t.Context(), copyingOf(from, w.store, 1)); err != nil { // without a lock, once
		t.Fatal(err)
	}
	done, err := copied(2, 10)
	if err != nil || done.Found == 0 {
		t.Fatalf("%+v %v", done, err)
	}
	first, _ := w.chain(t, 2)
	if !done.Locked.Equal(first) {
		t.Errorf("locked until %s, said to be until %s", first, done.Locked)
	}
	if _, err := copied(2, 20); err != nil {
		t.Fatal(err)
	}
	if second, _ := w.chain(t, 2); !second.After(first) {
		t.Errorf("locked until %s, asked again for longer until %s", first, second)
	}
	if err := w.store.Delete(t.Context(), archive.ManifestKey(id.Volume{1}, id.Snapshot{2})); !errors.Is(err, objectstore.ErrLocked) {
		t.Errorf("deleted: %v", err)
	}
	c := copyingOf(w.store, from, 2)
	c.Lock = Locking{For: lockDay, Mode: objectstore.Compliance, Wall: w.wall}
	if _, err := Copy(t.Context(), c); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("a place that cannot lock: %v", err)
	}
}

// Without this a copy could be there unlocked, though somebody was told that it is not to be deleted: nothing has a manifest before all is locked.
func TestNoCopyWithoutItsLocks(t *testing.T) {
	_, from := twice(t)
	w := newLockWorld(t)
	if _, err := Copy(t.Context(), copyingOf(from, w.store, 1)); err != nil {
		t.Fatal(err)
	}
	w.store.Before = failing("extend", errs.ErrDenied)
	c := copyingOf(from, w.store, 2)
	c.Lock = Locking{For: 10 * lockDay, Mode: objectstore.Governance, Wall: w.wall}
	if _, err := Copy(t.Context(), c); !errors.Is(err, errs.ErrDenied) {
		t.Fatal(err)
	}
	w.store.Before = nil
	if _, err := w.store.Head(t.Context(), archive.ManifestKey(id.Volume{1}, id.Snapshot{2})); !errors.Is(err, errs.ErrNotFound) {
		t.Fatalf("there is a manifest: %v", err)
	}
}
