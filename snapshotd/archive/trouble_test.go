package archive

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/objectstore/objectstoretest"
)

// troubles are what an S3 server, or who looks after it, may do to an upload. Each ends it, after the tries that make sense, with an
// error of a class and with words that say what to do.
var troubles = map[string]struct {
	fault func(r *http.Request, never chan struct{}) objectstoretest.Fault
	class error
	says  string
}{
	"403":         {of(403, "AccessDenied"), errs.ErrDenied, "look at the credentials and the bucket's policy"},
	"429":         {of(429, "SlowDown"), errs.ErrUnavailable, "wait, or lower objects_at_once"},
	"500":         {of(500, "InternalError"), errs.ErrUnavailable, "its log says more"},
	"bucket gone": {of(404, "NoSuchBucket"), errs.ErrInvalid, "make the bucket"},
	"no space":    {of(507, "InsufficientStorage"), errs.ErrNoSpace, "no space"},
	"slow": {func(_ *http.Request, never chan struct{}) objectstoretest.Fault {
		return objectstoretest.Fault{Wait: never}
	}, errs.ErrUnavailable, "is it quick enough?"},
	"cut-off bodies": {func(*http.Request, chan struct{}) objectstoretest.Fault { return objectstoretest.Fault{CutAfter: 50} }, errs.ErrUnavailable, "given up after 2 tries"},
	"wrong ETag": {func(r *http.Request, _ chan struct{}) objectstoretest.Fault {
		if r.Method == http.MethodPut {
			return objectstoretest.Fault{ETag: `"00000000000000000000000000000000"`}
		}
		return objectstoretest.Fault{}
	}, errs.ErrUnavailable, "with ETag"},
}

func of(status int, code string) func(*http.Request, chan struct{}) objectstoretest.Fault {
	return func(*http.Request, chan struct{}) objectstoretest.Fault {
		return objectstoretest.Fault{Status: status, Code: code}
	}
}

// troubled is a server with one snapshot in its archive and a fault that is put on, and a disk with another.
func troubled(t *testing.T, fault func(*http.Request, chan struct{}) objectstoretest.Fault) (s objectstore.Store, on *atomic.Bool, o *owner, stop func()) {
	t.Helper()
	on, never := &atomic.Bool{}, make(chan struct{})
	srv := &objectstoretest.S3Server{Bucket: "bucket", Fault: func(r *http.Request) objectstoretest.Fault {
		if !on.Load() {
			return objectstoretest.Fault{}
		}
		return fault(r, never)
	}}
	bare, stop, err := srv.Open(objectstore.S3Config{Timeout: config.Duration(300 * time.Millisecond)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	o, s = newOwner(t), objectstore.Retry(bare, clock.System, 2)
	o.write(t, 120, 1)
	o.take(id.Snapshot{1})
	o.write(t, 15, 2)
	o.take(id.Snapshot{2})
	if _, err := Upload(t.Context(), on1(s), o); err != nil {
		t.Fatal(err)
	}
	return s, on, o, stop
}

// on1 is the job of the first snapshot, on2 that of the second, against it.
func on1(s objectstore.Store) Job {
	j := job(nil, 1, 0)
	j.Store = s
	return j
}

func on2(s objectstore.Store) Job {
	j := job(nil, 2, 1)
	j.Store = s
	return j
}

// Without this trouble of an S3 server would end in a snapshot that looks archived, an upload that never ends, or words that help nobody;
// and what was over would not be gone on with.
func TestTroublesOfS3AreSaidAndOver(t *testing.T) {
	for name, c := range troubles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, on, o, stop := troubled(t, c.fault)
			defer stop()
			on.Store(true)
			_, err := Upload(t.Context(), on2(s), o)
			if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %v and %q", err, c.class, c.says)
			}
			on.Store(false)
			if _, err := s.Head(t.Context(), archive.ManifestKey(id.Volume{1}, id.Snapshot{2})); !errors.Is(err, errs.ErrNotFound) {
				t.Errorf("there is a manifest: %v", err)
			}
			if _, err := Upload(t.Context(), on2(s), o); err != nil {
				t.Errorf("afterwards: %v", err)
			}
			whole(t, o, on2(s))
		})
	}
}

// Without this a server that is away would be waited for without end, or without words.
func TestServerThatIsDownIsSaid(t *testing.T) {
	s, _, o, stop := troubled(t, of(0, ""))
	stop()
	if _, err := Upload(t.Context(), on2(s), o); !errors.Is(err, errs.ErrUnavailable) || !strings.Contains(err.Error(), "does the server run") || !strings.Contains(err.Error(), "given up after 2 tries") {
		t.Errorf("%v", err)
	}
}

// Without this what is damaged or missing in a bucket would be believed: by a verification, or by an upload against it.
func TestDamagedAndMissingInS3(t *testing.T) {
	s, _, o, stop := troubled(t, of(0, ""))
	defer stop()
	ctx, key := t.Context(), archive.ManifestKey(id.Volume{1}, id.Snapshot{1})
	k := &Keeper{Store: s, Wall: time.Now, Clock: clock.System, Holds: nil}
	verify := func() error { return k.Verify(ctx, id.Volume{1}, id.Snapshot{1}, &api.ArchiveTaskReply{}, nil) }
	spoil := func(key string, f func(b []byte) error) {
		t.Helper()
		b, err := fetch(ctx, s, key)
		if err == nil {
			err = f(bytes.Clone(b))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	object := (&upload{Job: Job{Upload: id.Raw{1, 9}}}).objectKey(0)
	var was []byte
	spoil(object, func(b []byte) error { was = bytes.Clone(b); b[len(b)/2] ^= 1; return s.Put(ctx, object, b) })
	if err := verify(); !errors.Is(err, errs.ErrCorrupt) || !strings.Contains(err.Error(), object) {
		t.Errorf("damaged: %v", err)
	}
	spoil(object, func([]byte) error { return s.Delete(ctx, object) })
	if err := verify(); !errors.Is(err, errs.ErrNotFound) || !strings.Contains(err.Error(), object) {
		t.Errorf("missing: %v", err)
	}
	if err := s.Put(ctx, object, was); err != nil {
		t.Fatal(err)
	}
	if err := verify(); err != nil {
		t.Errorf("put back: %v", err)
	}
	spoil(key, func(b []byte) error { b[100] ^= 1; return s.Put(ctx, key, b) })
	if _, err := Upload(ctx, on2(s), o); !errors.Is(err, errs.ErrCorrupt) || !strings.Contains(err.Error(), "ashlar archive delete") {
		t.Errorf("against a damaged one: %v", err)
	}
}
