package objectstore_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"testing"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/objectstore/objectstoretest"
)

// Without this a file that is larger than one request could be there in part, or parts of it stay for ever.
func TestFilesAreThereWhollyOrNot(t *testing.T) {
	ctx := context.Background()
	file := make([]byte, 40<<20+77)
	for i := range file {
		file[i] = byte(i * i >> 7)
	}
	failing, lost := "", false
	server := &objectstoretest.S3Server{Bucket: "bucket", Fault: func(r *http.Request) objectstoretest.Fault {
		if failing != "" && r.URL.Query().Get("partNumber") == failing {
			return objectstoretest.Fault{Status: http.StatusForbidden, Code: "AccessDenied"}
		}
		if ends := r.Method == http.MethodPost && r.URL.Query().Has("uploadId"); ends && !lost {
			lost = true
			return objectstoretest.Fault{Status: http.StatusServiceUnavailable, Code: "SlowDown", AfterDone: true}
		}
		return objectstoretest.Fault{}
	}}
	s := objectstore.Retry(serve(t, server, nil), clock.System, 3)
	for _, size := range []int64{0, 1, 8 << 20, int64(len(file))} {
		var seen int64
		f := objectstore.File{Key: "images/x", Body: bytes.NewReader(file[:size]), Size: size, PartBytes: 8 << 20, Each: func(done int64) { seen = done }}
		if err := objectstore.PutFile(ctx, s, f); err != nil || seen != size {
			t.Fatalf("%d bytes: %v, %d seen", size, err, seen)
		}
		var got bytes.Buffer
		n, err := objectstore.GetFile(ctx, s, "images/x", &got, func(done, all int64) { seen = all - done })
		if err != nil || n != size || seen != 0 && size > 0 || !bytes.Equal(got.Bytes(), file[:size]) {
			t.Fatalf("%d bytes came back as %d: %v", size, n, err)
		}
	}
	failing = "4"
	f := objectstore.File{Key: "images/y", Body: bytes.NewReader(file), Size: int64(len(file)), PartBytes: 8 << 20}
	if err := objectstore.PutFile(ctx, s, f); !errors.Is(err, errs.ErrDenied) {
		t.Fatalf("a part is refused: %v", err)
	}
	if _, err := s.Head(ctx, "images/y"); !errors.Is(err, errs.ErrNotFound) || server.Uploads() != 0 {
		t.Fatalf("half a file: %v, %d uploads are left", err, server.Uploads())
	}
	if err := objectstore.PutFile(ctx, objectstoretest.NewMemory(), f); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("a place for objects only: %v", err)
	}
}
