package archive

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/objectstore/objectstoretest"
)

// named is a store of another name, for all in memory have one.
type named struct {
	objectstore.Store
	name string
}

func (n named) String() string { return n.name }

// archivedTwice is an archive that nobody changes.
var archivedTwice struct {
	sync.Once
	o     *owner
	store *objectstoretest.Faulty
}

// twice is an archive of two snapshots, the second one against the first. It is that of all tests, and not to be changed.
func twice(t *testing.T) (*owner, *objectstoretest.Faulty) {
	t.Helper()
	a := &archivedTwice
	a.Do(func() { a.o, a.store = makeTwice(t) })
	return a.o, a.store
}

func makeTwice(t *testing.T) (*owner, *objectstoretest.Faulty) {
	t.Helper()
	o, store := newOwner(t), &objectstoretest.Faulty{Store: objectstoretest.NewMemory()}
	for s := range byte(2) {
		o.write(t, 250-200*int(s), uint64(s)+1)
		o.take(id.Snapshot{s + 1})
		if _, err := Upload(t.Context(), job(store, s+1, s), o); err != nil {
			t.Fatal(err)
		}
	}
	return o, store
}

func copyingOf(from, to objectstore.Store, s byte) Copying {
	return Copying{From: named{from, "here"}, To: named{to, "there"}, Manifest: archive.ManifestKey(id.Volume{1}, id.Snapshot{s}), AtOnce: 2, Clock: clock.NewManual()}
}

// Without this what was copied to another place could not be restored there, or every copy would take all of the ones before along.
func TestCopyIsTheSnapshotAndTakesNothingTwice(t *testing.T) {
	o, from := twice(t)
	to := &objectstoretest.Faulty{Store: objectstoretest.NewMemory()}
	first, err := Copy(t.Context(), copyingOf(from, to, 1))
	if err != nil || first.Found != 0 || first.Objects != first.ObjectsAll || first.Bytes != first.BytesAll {
		t.Fatalf("%+v: %v", first, err)
	}
	second, err := Copy(t.Context(), copyingOf(from, to, 2))
	if err != nil || second.Found == 0 || second.Found == second.Objects {
		t.Fatalf("of what the first copy has: %+v: %v", second, err)
	}
	again, err := Copy(t.Context(), copyingOf(from, to, 2))
	if err != nil || again.Found != again.ObjectsAll {
		t.Fatalf("asked again: %+v: %v", again, err)
	}
	for s := range byte(2) { // and nothing else is needed
		whole(t, o, job(to, s+1, s))
	}
	if left, err := to.List(t.Context(), copyingPrefix, "", 0); err != nil || len(left) > 0 {
		t.Fatalf("%d marks are left: %v", len(left), err)
	}
	if _, err := Copy(t.Context(), Copying{From: named{from, "x"}, To: named{from, "x"}, Clock: clock.NewManual()}); !errors.Is(err, errs.ErrInvalid) {
		t.Fatalf("an archive was copied onto itself: %v", err)
	}
}

// Without this a copy that broke off would be half a snapshot that looks whole, or begin anew: it dies before and after every
// fifth request, and whoever goes on puts no object that is there.
func TestCopyGoesOnWhereItEnded(t *testing.T) {
	_, from := twice(t)
	key := archive.ManifestKey(id.Volume{1}, id.Snapshot{2})
	for _, after := range []bool{false, true} {
		for n := 1; ; n += 5 {
			to := &objectstoretest.Faulty{Store: objectstoretest.NewMemory()}
			var mu sync.Mutex
			count, puts := 0, make(map[string]int)
			die := func(op objectstoretest.Op) error {
				mu.Lock()
				defer mu.Unlock()
				if count++; count >= n {
					return errs.ErrDenied // for good: it is dead
				}
				return nil
			}
			if to.Before = die; after {
				to.Before, to.After = nil, die
			}
			_, err := Copy(t.Context(), copyingOf(from, to, 2))
			to.Before, to.After = nil, nil
			if _, herr := to.Head(t.Context(), key); herr == nil {
				verified(t, job(to, 2, 1)) // if there is a manifest, all is there
			}
			if err == nil {
				break
			}
			there := make(map[string]bool)
			all, lerr := to.List(t.Context(), "data/", "", 0)
			if lerr != nil {
				t.Fatal(lerr)
			}
			for _, i := range all {
				there[i.Key] = true
			}
			to.Before = func(op objectstoretest.Op) error {
				mu.Lock()
				defer mu.Unlock()
				if op.Name == "putnew" {
					puts[op.Key]++
				}
				return nil
			}
			if _, err := Copy(t.Context(), copyingOf(from, to, 2)); err != nil {
				t.Fatalf("dead at %d: going on: %v", n, err)
			}
			for k := range puts {
				if there[k] {
					t.Fatalf("dead at %d: object %s was put again", n, k)
				}
			}
			verified(t, job(to, 2, 1))
		}
	}
}

// Without this damage would be copied, and found when the original is gone.
func TestDamageIsNotCopied(t *testing.T) {
	_, from := makeTwice(t)
	to := &objectstoretest.Faulty{Store: objectstoretest.NewMemory()}
	m, err := archive.ReadManifest(t.Context(), from, archive.ManifestKey(id.Volume{1}, id.Snapshot{1}), nil)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, m.Objects[1].Size)
	if err := from.ReadAt(t.Context(), m.Objects[1].Key, b, 0); err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := from.Put(t.Context(), m.Objects[1].Key, b); err != nil {
		t.Fatal(err)
	}
	if _, err := Copy(t.Context(), copyingOf(from, to, 1)); !errors.Is(err, errs.ErrCorrupt) || !strings.Contains(err.Error(), m.Objects[1].Key) {
		t.Fatal(err)
	}
	for _, key := range []string{archive.ManifestKey(id.Volume{1}, id.Snapshot{1}), m.Objects[1].Key} {
		if _, err := to.Head(t.Context(), key); !errors.Is(err, errs.ErrNotFound) {
			t.Fatalf("%s was copied: %v", key, err)
		}
	}
}

// gcOf reclaims in an archive of another cluster, which knows nothing of a copy: all that is older than a minute, in two hours.
func gcOf(t *testing.T, store objectstore.Store) *api.ArchiveTaskReply {
	t.Helper()
	k := keeper(&objectstoretest.Faulty{Store: store}, &Holds{})
	k.Wall = func() time.Time { return time.Now().Add(2 * time.Hour) }
	p := &api.ArchiveTaskReply{}
	if err := k.Gc(t.Context(), time.Minute, false, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// Without this a gc where something is copied to would take what has no manifest yet: when it runs at any point of a
// copy, what is there when that ends is whole.
func TestGcKeepsWhatIsCopied(t *testing.T) {
	_, from := twice(t)
	for n := 1; ; n += 4 {
		to := &objectstoretest.Faulty{Store: objectstoretest.NewMemory()}
		if _, err := Copy(t.Context(), copyingOf(from, to, 1)); err != nil {
			t.Fatal(err)
		}
		// The first copy is deleted, so that its objects are the second one's only.
		if err := keeper(to, &Holds{}).Delete(t.Context(), id.Volume{1}, id.Snapshot{1}, false); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		count := 0
		to.After = func(op objectstoretest.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if count++; count == n {
				gcOf(t, to.Store)
			}
			return nil
		}
		_, err := Copy(t.Context(), copyingOf(from, to, 2))
		to.After = nil
		if err != nil {
			t.Fatalf("gc after request %d: %v", n, err)
		}
		verified(t, job(to, 2, 1))
		if count < n {
			break
		}
	}
}

// Without this a copy would rely on objects that a gc is just about to delete, which began before it was known.
func TestCopyWaitsForTheGcThatRuns(t *testing.T) {
	_, from := twice(t)
	to := &objectstoretest.Faulty{Store: objectstoretest.NewMemory()}
	if err := to.Put(t.Context(), gcPrefix+"other", []byte("a gc")); err != nil {
		t.Fatal(err)
	}
	c := copyingOf(from, to, 1)
	hand := clock.NewManual()
	c.Clock = hand
	began := hand.Now()
	copying, over := context.WithCancel(t.Context())
	var ended error
	go func() { _, ended = Copy(t.Context(), c); over() }()
	for hand.AwaitPending(copying, 1) == nil && hand.Now()-began < gcLife/2 { // time goes on only while it waits
		hand.Advance(gcPoll)
	}
	if copying.Err() != nil {
		t.Fatalf("it waited for %s: %v", hand.Now()-began, ended)
	}
	if left, err := to.List(t.Context(), "data/", "", 0); err != nil || len(left) > 0 {
		t.Fatalf("%d objects were put: %v", len(left), err)
	}
	for hand.AwaitPending(copying, 1) == nil { // the mark of a dead one does not count for ever
		hand.Advance(gcPoll)
	}
	if waited := hand.Now() - began; ended != nil || waited < gcLife-gcPoll {
		t.Fatalf("after %s: %v", waited, ended)
	}
}

// Without this a copy that slept for longer than its mark counts would put a manifest of what a gc has taken.
func TestCopyThatSleptDoesNotEnd(t *testing.T) {
	_, from := twice(t)
	to := &objectstoretest.Faulty{Store: objectstoretest.NewMemory()}
	c := copyingOf(from, to, 1)
	hand := clock.NewManual()
	c.Clock = hand
	c.Tell = func(p Copied) {
		if p.Objects == p.ObjectsAll {
			hand.Advance(copyingLife)
		}
	}
	if _, err := Copy(t.Context(), c); !errors.Is(err, errs.ErrTimeout) {
		t.Fatal(err)
	}
	if _, err := to.Head(t.Context(), c.Manifest); !errors.Is(err, errs.ErrNotFound) {
		t.Fatalf("there is a manifest: %v", err)
	}
}

// Without this the marks of the dead would keep what nobody needs for ever.
func TestGcTakesWhatWasCopiedInPart(t *testing.T) {
	_, from := twice(t)
	to := &objectstoretest.Faulty{Store: objectstoretest.NewMemory()}
	to.Before = failing("list", errs.ErrDenied)
	_, err := Copy(t.Context(), copyingOf(from, to, 1))
	to.Before = nil
	if !errors.Is(err, errs.ErrDenied) {
		t.Fatal(err)
	}
	if err := to.PutNew(t.Context(), "data/aa/0", []byte("half")); err != nil {
		t.Fatal(err)
	}
	k := keeper(to, &Holds{}) // years from now
	for range 2 {
		if err := k.Gc(t.Context(), time.Minute, false, &api.ArchiveTaskReply{}); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := to.List(t.Context(), "", "", 0); err != nil || len(left) > 0 {
		t.Fatalf("%v are left: %v", left, err)
	}
}
