package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/objectstore/objectstoretest"
)

// backing is a schedule over a store, a clock and a metad that are the test's.
type backing struct {
	Backups
	t     *testing.T
	clock *clock.Manual
	store *objectstoretest.Faulty
	entry uint64
	deny  error // of metad
}

func newBacking(t *testing.T) *backing {
	key, err := archive.NewSecret(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	x := &backing{t: t, clock: clock.NewManual(), store: &objectstoretest.Faulty{Store: objectstoretest.NewMemory()}}
	x.Backups = Backups{Store: x.store, Secret: key, Cluster: "c", Every: time.Hour, Keep: 3, Wall: x.clock.Wall, Fetch: func(context.Context) ([]byte, uint64, error) {
		x.entry++
		b := cluster.Backup{Cluster: "c", Taken: x.clock.Wall(), Member: "m1", State: fmt.Append(nil, "state ", x.entry)}
		return b.Encode(), x.entry, x.deny
	}}
	return x
}

// keys are those in the store, each of which must be a whole backup.
func (x *backing) keys() (out []string) {
	x.t.Helper()
	all, err := archive.ListBackups(x.t.Context(), x.store.Store, "c")
	if err != nil {
		x.t.Fatal(err)
	}
	for _, b := range all {
		if _, _, err := archive.ReadBackup(x.t.Context(), x.store.Store, b.Key, x.Secret); err != nil {
			x.t.Errorf("what is found under the name of a backup is none: %v", err)
		}
		out = append(out, b.Key)
	}
	return out
}

func (x *backing) step(wrote bool) Kept {
	x.t.Helper()
	k, err := x.Step(x.t.Context())
	if err != nil || k.Wrote != wrote {
		x.t.Fatalf("wrote %v: %v", k.Wrote, err)
	}
	return k
}

// Without this an archive would fill with backups, lose those that count, or get none when a clock was wrong once.
func TestBackupsAreTakenInTurnAndKeptByNumber(t *testing.T) {
	x := newBacking(t)
	other := archive.BackupKey("other", time.Unix(0, 0), 1)
	if err := x.store.Put(t.Context(), other, []byte("not ours")); err != nil {
		t.Fatal(err)
	}
	var taken []string
	for range 5 {
		taken = append(taken, x.step(true).Newest.Key)
		x.clock.Advance(59 * time.Minute)
		x.step(false)
		x.clock.Advance(time.Minute)
	}
	if got := x.keys(); !slices.Equal(got, taken[2:]) {
		t.Errorf("kept %v, want %v", got, taken[2:])
	}
	x.clock.SetWall(x.clock.Wall().Add(-24 * time.Hour)) // it was wrong all the time
	now := x.step(true)
	if got := x.keys(); !slices.Contains(got, now.Newest.Key) || len(got) != 3 || now.Count != 3 {
		t.Errorf("%d kept, %v, want %s among them", now.Count, got, now.Newest.Key)
	}
	x.step(false)
	if _, err := x.store.Head(t.Context(), other); err != nil {
		t.Errorf("another cluster's is gone: %v", err)
	}
	x.store.Before = func(o objectstoretest.Op) error { // a bucket that locks whatever is put there
		if o.Name == "delete" {
			return objectstore.ErrLocked
		}
		return nil
	}
	x.clock.Advance(2 * time.Hour)
	if k := x.step(true); k.Count != 4 {
		t.Errorf("%d kept of which none can go", k.Count)
	}
}

// Without this a store that is down, refuses, or keeps other bytes than it got would cost the backups that are right, or leave
// one that is none.
func TestBackupThatDoesNotCountCostsNoOther(t *testing.T) {
	x := newBacking(t)
	for range 3 {
		x.step(true)
		x.clock.Advance(time.Hour)
	}
	had := x.keys()
	spoil := func(o objectstoretest.Op) error {
		if o.Name == "readat" && strings.HasPrefix(o.Key, archive.BackupsPrefix) {
			o.Dst[len(o.Dst)/2] ^= 1
		}
		return nil
	}
	refuse := func(name string, class error) func(objectstoretest.Op) error {
		return func(o objectstoretest.Op) error {
			if o.Name == name {
				return class
			}
			return nil
		}
	}
	for name, f := range map[string]func(){
		"down":      func() { x.store.Before = func(objectstoretest.Op) error { return errs.ErrUnavailable } },
		"refused":   func() { x.store.Before = refuse("put", errs.ErrDenied) },
		"full":      func() { x.store.Before = refuse("put", errs.ErrNoSpace) },
		"spoilt":    func() { x.store.After = spoil },
		"no metad":  func() { x.deny = errs.ErrUnavailable },
		"too large": func() { x.store.Before = refuse("put", errs.ErrInvalid) },
	} {
		f()
		if k, err := x.Step(t.Context()); err == nil || k.Wrote {
			t.Errorf("%s: a backup was taken", name)
		}
		x.store.Before, x.store.After, x.deny = nil, nil, nil
		if got := x.keys(); !slices.Equal(got, had) {
			t.Errorf("%s: %v, had %v", name, got, had)
		}
	}
	x.step(true)
}

// Without this a backup that was written, though nobody heard so, would be taken for none and never be counted; and one that
// could not be read back would be deleted though it may be right.
func TestBackupOfUnknownOutcomeStaysIfItIsWhole(t *testing.T) {
	x := newBacking(t)
	x.store.After = func(o objectstoretest.Op) error {
		if o.Name == "put" || o.Name == "readat" {
			return errs.ErrUnavailable
		}
		return nil
	}
	if _, err := x.Step(t.Context()); !errors.Is(err, errs.ErrUnavailable) {
		t.Fatal(err)
	}
	x.store.After = nil
	if got := x.keys(); len(got) != 1 {
		t.Fatal(got)
	}
	if k := x.step(false); k.Count != 1 {
		t.Error(k)
	}
}

// Without this the state of another cluster would be put under this one's name.
func TestBackupOfAnotherClusterIsRefused(t *testing.T) {
	x := newBacking(t)
	x.Fetch = func(context.Context) ([]byte, uint64, error) {
		return (&cluster.Backup{Cluster: "d", Member: "m1"}).Encode(), 1, nil
	}
	if _, err := x.Step(t.Context()); !errors.Is(err, errs.ErrInvalid) || len(x.keys()) != 0 {
		t.Error(err)
	}
	if all, err := x.store.List(t.Context(), "", "", objectstore.ListMax); err != nil || len(all) != 0 {
		t.Error(all, err)
	}
}

// Without this whoever wants the archive gone could take the backups out of it, or those that are locked would be asked for every
// hour, or stay for ever: each is locked from when it was taken, and goes when that has ended.
func TestBackupsAreLocked(t *testing.T) {
	x := newBacking(t)
	s, done, err := (&objectstoretest.S3Server{Bucket: "bucket", Locks: true, Clock: x.clock.Wall}).Open(objectstore.S3Config{EveryVersion: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	x.store.Store, x.Lock = s, Locking{For: 5 * time.Hour, Mode: objectstore.Compliance, Wall: x.clock.Wall}
	locked := func(key string, until time.Time) {
		t.Helper()
		if is, err := s.Head(t.Context(), key); err != nil || !is.Lock.Until.Equal(until) || is.Lock.Mode != objectstore.Compliance {
			t.Errorf("%s: %+v %v, want it locked until %s", key, is.Lock, err, until)
		}
	}
	for n := range 8 {
		k := x.step(true)
		locked(k.Newest.Key, k.Newest.Taken.Add(5*time.Hour))
		if want := min(n+1, 5); k.Count != want || len(x.keys()) != want { // three are to be kept
			t.Errorf("%d: %d are there, %d told, want %d", n, len(x.keys()), k.Count, want)
		}
		if n := x.store.Count("delete"); n != max(0, int(x.entry)-5) {
			t.Errorf("%d were asked to be deleted", n)
		}
		x.clock.Advance(time.Hour)
	}
	x.store.Before = failing("extend", errs.ErrUnavailable)
	had := x.keys()
	if _, err := x.Step(t.Context()); !errors.Is(err, errs.ErrUnavailable) || len(x.keys()) != len(had)+1 {
		t.Errorf("the lock failed: %v; %v", err, x.keys())
	}
	if _, err := x.Step(t.Context()); !errors.Is(err, errs.ErrUnavailable) {
		t.Errorf("it is not locked, and nobody says so: %v", err)
	}
	x.store.Before = nil
	x.clock.Advance(time.Minute)
	k := x.step(false)
	locked(k.Newest.Key, k.Newest.Taken.Add(5*time.Hour))
	x.clock.Advance(time.Hour)
	x.store.After = func(o objectstoretest.Op) error {
		if o.Name == "readat" {
			o.Dst[len(o.Dst)/2] ^= 1
		}
		return nil
	}
	if _, err := x.Step(t.Context()); !errors.Is(err, errs.ErrCorrupt) {
		t.Error(err)
	}
	x.store.After = nil
	if got := x.keys(); got[len(got)-1] != k.Newest.Key {
		t.Error("what was read back damaged is locked, and cannot go")
	}
}
