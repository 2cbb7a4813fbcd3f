package objectstore_test

import (
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/objectstore/objectstoretest"
	"ashlar.dev/pkg/vfs"
)

// Without this what is locked could be deleted or overwritten, or stay locked for ever, or a lock could become shorter.
func TestLockedObjectsStay(t *testing.T) {
	ctx, now := t.Context(), atomic.Int64{}
	now.Store(1e9)
	srv := &objectstoretest.S3Server{Bucket: "bucket", Locks: true, Clock: func() time.Time { return time.Unix(now.Load(), 0) }}
	s, done, err := srv.Open(objectstore.S3Config{Prefix: "here", EveryVersion: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	want := func(err, class error) {
		t.Helper()
		if !errors.Is(err, class) || class == nil && err != nil {
			t.Fatalf("%v, want %v", err, class)
		}
	}
	until := func(seconds int64) objectstore.Lock {
		return objectstore.Lock{Until: time.Unix(1e9+seconds, 1), Mode: objectstore.Compliance}
	}
	want(s.CanLock(ctx), nil)
	want(s.PutLocked(ctx, "a", []byte("one"), until(100)), nil)
	want(s.Put(ctx, "ab", []byte("two")), nil)
	want(s.PutLocked(ctx, "a", []byte("evil"), until(100)), errs.ErrExists)
	want(s.PutNew(ctx, "a", []byte("evil")), errs.ErrExists)
	want(s.Put(ctx, "a", []byte("evil")), objectstore.ErrLocked)
	want(s.Delete(ctx, "a"), objectstore.ErrLocked)
	want(s.Extend(ctx, "a", until(50)), nil)
	if is, err := s.Head(ctx, "a"); err != nil || is.Lock.Until.Unix() != 1e9+101 || is.Lock.Mode != objectstore.Compliance {
		t.Fatalf("%+v %v", is, err)
	}
	now.Add(90)
	want(s.Extend(ctx, "a", objectstore.Lock{Until: time.Unix(1e9+200, 0), Mode: objectstore.Governance}), nil)
	now.Add(60)
	want(s.Delete(ctx, "a"), errs.ErrConflict)
	now.Add(60)
	want(s.Delete(ctx, "a"), nil)
	_, err = s.Head(ctx, "a")
	want(err, errs.ErrNotFound)
	_, err = s.Head(ctx, "ab")
	want(err, nil)
	want(s.Extend(ctx, "a", until(1000)), errs.ErrNotFound)
}

// Without this somebody would believe to have locked what is not.
func TestStoresThatCannotLockSaySo(t *testing.T) {
	dir, err := objectstore.NewDirectory(vfs.OS, filepath.Join(t.TempDir(), "archive"))
	if err != nil {
		t.Fatal(err)
	}
	l := objectstore.Lock{Until: time.Unix(1e9, 0), Mode: objectstore.Governance}
	for name, s := range map[string]objectstore.Store{
		"directory": dir,
		"no lock":   serve(t, &objectstoretest.S3Server{Bucket: "bucket"}, nil),
		"forgets":   serve(t, &objectstoretest.S3Server{Bucket: "bucket", Forgets: true}, nil),
		"default":   serve(t, &objectstoretest.S3Server{Bucket: "bucket", Locks: true, LocksByDefault: true}, nil),
	} {
		if err := s.CanLock(t.Context()); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%s: can lock: %v", name, err)
		}
		if err := s.PutLocked(t.Context(), "a", []byte("one"), l); !errors.Is(err, errs.ErrInvalid) && name != "default" {
			t.Errorf("%s: locked: %v", name, err)
		}
	}
}
