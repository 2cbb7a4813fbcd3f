package objectstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/objectstore/objectstoretest"
	"ashlar.dev/pkg/vfs"
)

// serve gives an S3 body on a server of the test's own, over TLS.
func serve(t *testing.T, s *objectstoretest.S3Server, pace *objectstore.Pace) objectstore.Store {
	t.Helper()
	x, done, err := s.Open(objectstore.S3Config{Prefix: "here/"}, pace)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	return x
}

// Without this an archive would work on one kind of store and fail on the other.
func TestBodiesKeepTheContract(t *testing.T) {
	dir, err := objectstore.NewDirectory(vfs.OS, filepath.Join(t.TempDir(), "archive"))
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]objectstore.Store{
		"directory": dir, "memory": objectstoretest.NewMemory(),
		"s3": serve(t, &objectstoretest.S3Server{Bucket: "bucket"}, nil),
	} {
		t.Run(name, func(t *testing.T) { conform(t, s) })
		t.Run(name+" race", func(t *testing.T) { race(t, s) })
	}
}

func conform(t *testing.T, s objectstore.Store) {
	ctx := context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(err, class error) {
		t.Helper()
		if !errors.Is(err, class) {
			t.Fatalf("%v, want %v", err, class)
		}
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	must(s.Put(ctx, "a/b/c", []byte("one")))
	must(s.Put(ctx, "a/b/c", big))
	want(s.PutNew(ctx, "a/b/c", []byte("two")), errs.ErrExists)
	must(s.PutNew(ctx, "a/b.c", nil))
	got := make([]byte, 100_000)
	must(s.ReadAt(ctx, "a/b/c", got, 7))
	if !bytes.Equal(got, big[7:100_007]) {
		t.Fatal("other bytes")
	}
	want(s.ReadAt(ctx, "a/b/c", got, int64(len(big)-10)), errs.ErrCorrupt)
	want(s.ReadAt(ctx, "a/b/c", got, int64(len(big)+10)), errs.ErrCorrupt)
	want(s.ReadAt(ctx, "a/b/d", got, 0), errs.ErrNotFound)
	_, err := s.Head(ctx, "a/b")
	want(err, errs.ErrNotFound)
	is, err := s.Head(ctx, "a/b/c")
	must(err)
	if is.Size != int64(len(big)) || is.Key != "a/b/c" {
		t.Fatalf("%+v", is)
	}
	for _, k := range []string{"", "a//b", "/a", "a/", ".a", "a/../b", "a b", "a/.tmp", strings.Repeat("x", 513)} {
		want(s.Put(ctx, k, nil), errs.ErrInvalid)
	}
	for i := range 7 {
		must(s.PutNew(ctx, fmt.Sprintf("l/%d/x", i), nil))
		must(s.PutNew(ctx, fmt.Sprintf("l/%d.y", i), nil))
	}
	listed := func(prefix, after string, limit int) string {
		t.Helper()
		all, err := s.List(ctx, prefix, after, limit)
		must(err)
		var keys []string
		for _, i := range all {
			keys = append(keys, i.Key)
		}
		return strings.Join(keys, " ")
	}
	if got, want := listed("l/", "", 3), "l/0.y l/0/x l/1.y"; got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	if got, want := listed("l/", "l/1.y", 3), "l/1/x l/2.y l/2/x"; got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	if got, want := listed("l/6", "", 0), "l/6.y l/6/x"; got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	if got := listed("nothing/", "", 0); got != "" {
		t.Fatal(got)
	}
	must(s.Delete(ctx, "a/b/c"))
	must(s.Delete(ctx, "a/b/c"))
	want(s.ReadAt(ctx, "a/b/c", got, 0), errs.ErrNotFound)
	must(s.PutNew(ctx, "a/b/c", []byte("again")))
}

// race: of many at once one is first, and the others know it.
func race(t *testing.T, s objectstore.Store) {
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			switch err := s.PutNew(context.Background(), "race/won", fmt.Appendf(nil, "%2d", i)); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, errs.ErrExists):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d of 16 were first", won.Load())
	}
}

// Without this a power cut would leave half an object under its name, or none of one that was promised.
func TestDirectorySurvivesPowerCuts(t *testing.T) {
	fs := vfs.NewCrash()
	d, err := objectstore.NewDirectory(fs, "/x")
	if err != nil {
		t.Fatal(err)
	}
	body := bytes.Repeat([]byte{7}, 20_000)
	var done []string
	check := func(when string, seed uint64) {
		after, err := objectstore.NewDirectory(fs.Clone(50, seed), "/x")
		if err != nil {
			t.Fatal(err)
		}
		all, err := after.List(context.Background(), "", "", 0)
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]bool{}
		for _, i := range all {
			got := make([]byte, len(body))
			if err := after.ReadAt(context.Background(), i.Key, got, 0); err != nil || !bytes.Equal(got, body) || i.Size != int64(len(body)) {
				t.Fatalf("%s: %s is there in part: %v", when, i.Key, err)
			}
			have[i.Key] = true
		}
		for _, k := range done {
			if !have[k] {
				t.Fatalf("%s: %s was promised and is gone", when, k)
			}
		}
	}
	fs.OnSync(func(n int) { check(fmt.Sprint("sync ", n), uint64(n)) })
	for i := range 6 {
		key := fmt.Sprintf("a/%d/b", i/2) + fmt.Sprint(i)
		if err := d.PutNew(context.Background(), key, body); err != nil {
			t.Fatal(err)
		}
		done = append(done, key)
		check(key, uint64(i))
	}
}

// Without this a server's trouble would be taken for an answer, or an answer for trouble.
func TestFaultsOfAServer(t *testing.T) {
	ctx := context.Background()
	var fault atomic.Pointer[objectstoretest.Fault]
	srv := &objectstoretest.S3Server{Bucket: "bucket", Fault: func(*http.Request) objectstoretest.Fault { return *fault.Load() }}
	fault.Store(&objectstoretest.Fault{})
	s := serve(t, srv, nil)
	body := bytes.Repeat([]byte{1}, 1<<18)
	if err := s.Put(ctx, "k", body); err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, len(body))
	for name, c := range map[string]struct {
		fault objectstoretest.Fault
		read  error
		put   error
	}{
		"denied":      {objectstoretest.Fault{Status: 403, Code: "AccessDenied"}, errs.ErrDenied, errs.ErrDenied},
		"gone":        {objectstoretest.Fault{Status: 404, Code: "NoSuchKey"}, errs.ErrNotFound, nil},
		"bucket gone": {objectstoretest.Fault{Status: 404, Code: "NoSuchBucket"}, errs.ErrInvalid, errs.ErrInvalid},
		"too many":    {objectstoretest.Fault{Status: 429, Code: "SlowDown"}, errs.ErrUnavailable, errs.ErrUnavailable},
		"error":       {objectstoretest.Fault{Status: 500, Code: "InternalError"}, errs.ErrUnavailable, errs.ErrUnavailable},
		"cut off":     {objectstoretest.Fault{CutAfter: 70_000}, errs.ErrUnavailable, nil},
		"wrong ETag":  {objectstoretest.Fault{}, nil, nil},
	} {
		f := c.fault
		fault.Store(&f)
		if err := s.ReadAt(ctx, "k", dst, 0); !errors.Is(err, c.read) {
			t.Errorf("%s: read: %v, want %v", name, err, c.read)
		}
		if err := s.Put(ctx, "k", body); c.put != nil && !errors.Is(err, c.put) {
			t.Errorf("%s: put: %v, want %v", name, err, c.put)
		}
	}
	srv.Fault = func(r *http.Request) objectstoretest.Fault {
		if r.Method == http.MethodPut {
			return objectstoretest.Fault{ETag: `"00000000000000000000000000000000"`}
		}
		return objectstoretest.Fault{}
	}
	if err := s.Put(ctx, "k2", body); !errors.Is(err, errs.ErrUnavailable) {
		t.Errorf("an ETag that is not the object's: %v", err)
	}
}

// Without this a lost answer to a conditional write would fail what succeeded, and a server that
// is away would be asked for ever.
func TestRetriesEnd(t *testing.T) {
	ctx := context.Background()
	fails := 2
	f := &objectstoretest.Faulty{Store: objectstoretest.NewMemory()}
	f.After = func(o objectstoretest.Op) error {
		if o.Name == "putnew" && fails > 0 {
			fails--
			return errs.ErrUnavailable
		}
		return nil
	}
	c := clock.NewManual()
	run := func(fn func() error) error {
		done := make(chan error, 1)
		go func() { done <- fn() }()
		for {
			select {
			case err := <-done:
				return err
			default:
				c.Advance(time.Second)
			}
		}
	}
	s := objectstore.Retry(f, c, 4)
	if err := run(func() error { return s.PutNew(ctx, "a", []byte("mine")) }); err != nil {
		t.Fatal(err)
	}
	fails = 1
	if err := run(func() error { return s.PutNew(ctx, "a", []byte("other")) }); !errors.Is(err, errs.ErrExists) {
		t.Fatal(err)
	}
	f.Before = func(objectstoretest.Op) error { return errs.ErrUnavailable }
	before := f.Count("head")
	if err := run(func() error { _, err := s.Head(ctx, "a"); return err }); !errors.Is(err, errs.ErrUnavailable) {
		t.Fatal(err)
	}
	if n := f.Count("head") - before; n != 4 {
		t.Fatalf("asked %d times, want 4", n)
	}
}

// Without this secrets would lie open, or show in a log.
func TestSecretsAreKept(t *testing.T) {
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, []byte("access_key = me\nsecret_key = hidden\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := objectstore.ReadCredentials(name); !errors.Is(err, errs.ErrDenied) {
		t.Fatal(err)
	}
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := objectstore.ReadCredentials(name)
	if err != nil || c.Access != "me" || c.Secret != "hidden" {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c)} {
		if strings.Contains(text, "hidden") {
			t.Error(text)
		}
	}
}

// Without this an archive would take the whole line.
func TestPaceHoldsBack(t *testing.T) {
	c := clock.NewManual()
	s := serve(t, &objectstoretest.S3Server{Bucket: "bucket"}, objectstore.NewPace(c, 1<<20))
	began := c.Now()
	done := make(chan error, 1)
	go func() { done <- s.Put(context.Background(), "k", make([]byte, 4<<20)) }()
	for {
		select {
		case err := <-done:
			if took := c.Now() - began; err != nil || took < 4*time.Second {
				t.Fatalf("4 MiB at 1 MiB/s took %s: %v", took, err)
			}
			return
		default:
			c.Advance(10 * time.Millisecond)
		}
	}
}
