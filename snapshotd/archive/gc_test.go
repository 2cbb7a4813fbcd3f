package archive

import (
	"errors"
	"fmt"
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

// atRequest calls f after the n-th request to a store; count tells how many there were.
func atRequest(store *objectstoretest.Faulty, n int, f func()) (count func() int) {
	var mu sync.Mutex
	c := 0
	store.After = func(objectstoretest.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if c++; c == n {
			f()
		}
		return nil
	}
	return func() int { mu.Lock(); defer mu.Unlock(); return c }
}

// Without this an incremental would name objects of its base that were deleted and reclaimed while it was made: whenever in its course
// the base is deleted, and gc runs, it is whole.
func TestBaseDeletedDuringAnIncremental(t *testing.T) {
	o := newOwner(t)
	o.write(t, 120, 1)
	o.take(id.Snapshot{1})
	o.write(t, 15, 2)
	o.take(id.Snapshot{2})
	base := archive.ManifestKey(id.Volume{1}, id.Snapshot{1})
	for n := 0; ; n += 3 {
		store := &objectstoretest.Faulty{Store: objectstoretest.NewMemory()}
		if _, err := Upload(t.Context(), job(store, 1, 0), o); err != nil {
			t.Fatal(err)
		}
		bare := &objectstoretest.Faulty{Store: store.Store}
		reclaim := func() {
			held := &Holds{Manifests: map[string]bool{base: true}, Uploads: map[string]bool{fmt.Sprintf("%x", (id.Raw{2, 9})): true}}
			if err := keeper(bare, held).Delete(t.Context(), id.Volume{1}, id.Snapshot{1}, false); !errors.Is(err, errs.ErrConflict) {
				t.Fatalf("what is uploaded against was deleted: %v", err)
			}
			// It was asked for before the upload was: nothing held it then.
			if err := keeper(bare, &Holds{}).Delete(t.Context(), id.Volume{1}, id.Snapshot{1}, false); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := keeper(bare, held).Gc(t.Context(), time.Minute, false, &api.ArchiveTaskReply{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n == 0 {
			reclaim()
		}
		count := atRequest(store, n, reclaim)
		if _, err := Upload(t.Context(), job(store, 2, 1), o); err != nil {
			t.Fatalf("base deleted after request %d: %v", n, err)
		}
		store.After = nil
		if n%12 == 0 {
			whole(t, o, job(store, 2, 1))
		} else {
			verified(t, job(store, 2, 1))
		}
		if count() < n {
			return
		}
	}
}

// cloned has what another store has.
func cloned(t *testing.T, of objectstore.Store) objectstore.Store {
	t.Helper()
	out := objectstoretest.NewMemory()
	if err := each(t.Context(), of, "", func(i objectstore.Info) error {
		b, err := fetch(t.Context(), of, i.Key)
		if err != nil {
			return err
		}
		return out.Put(t.Context(), i.Key, b)
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// Without this a gc that is killed would leave what nobody finds again, or the trash of manifests whose objects it could not take: it dies
// after some requests, more each time, what is archived stays whole, and the next one takes the rest.
func TestGcSurvivesItsDeath(t *testing.T) {
	_, made, _, _ := littered(t)
	for n := 1; ; n += n + 1 {
		store := &objectstoretest.Faulty{Store: cloned(t, made)}
		k := keeper(store, &Holds{})
		if err := k.Delete(t.Context(), id.Volume{1}, id.Snapshot{1}, false); err != nil {
			t.Fatal(err)
		}
		count := 0
		store.Before = func(objectstoretest.Op) error {
			if count++; count >= n {
				return errs.ErrDenied
			}
			return nil
		}
		err := k.Gc(t.Context(), time.Minute, false, &api.ArchiveTaskReply{})
		store.Before = nil
		verified(t, job(store, 2, 1))
		verified(t, job(store, 3, 2))
		for range 3 {
			if err := k.Gc(t.Context(), time.Minute, false, &api.ArchiveTaskReply{}); err != nil {
				t.Fatal(err)
			}
		}
		verified(t, job(store, 3, 2))
		for _, prefix := range []string{"trash/", gcPrefix, uploadPrefix(id.Raw{4, 9}), uploadPrefix(id.Raw{5, 9})} {
			if left, lerr := store.List(t.Context(), prefix, "", 0); lerr != nil || len(left) > 0 {
				t.Fatalf("gc died at request %d: %d are left under %s: %v", n, len(left), prefix, lerr)
			}
		}
		if err == nil {
			return
		}
	}
}
