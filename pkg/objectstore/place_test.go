package objectstore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
)

// Without this a place that was mistyped would be filled with objects, or its secret be printed.
func TestPlacesAreCheckedAndKeepTheirSecrets(t *testing.T) {
	for text, want := range map[string]string{
		"file:///srv/archive/":        "/srv/archive",
		"s3://host:9000/snaps":        "host:9000 snaps ",
		"https://host/snaps/dr/here/": "host snaps dr/here",
		"file:///":                    "", "file://host/x": "", "/srv": "", "http://host/b": "", "s3://host": "", "s3://a:b@host/b": "", "s3://host/b?x": "", "s3://host/b/..": "", "": "",
	} {
		c, err := objectstore.ParsePlace(text)
		if want == "" {
			if !errors.Is(err, errs.ErrInvalid) || strings.Contains(fmt.Sprint(err), "a:b@") {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		got := c.Directory
		if got == "" {
			got = c.S3.Endpoint + " " + c.S3.Bucket + " " + c.S3.Prefix
		}
		if err != nil || got != want {
			t.Errorf("%s: %q, want %q: %v", text, got, want, err)
		}
	}
	p := objectstore.Place{URL: "s3://host/b", Credentials: objectstore.Credentials{Access: "me", Secret: "hidden"}}
	for _, text := range []string{fmt.Sprint(p), fmt.Sprintf("%+v", p), fmt.Sprintf("%#v", p)} {
		if strings.Contains(text, "hidden") {
			t.Error(text)
		}
	}
	dir := t.TempDir()
	place := objectstore.Place{URL: "file://" + dir}
	for range 2 { // empty, then an archive
		if _, err := objectstore.OpenPlace(place, clock.System); err != nil {
			t.Fatal(err)
		}
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "thesis"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := objectstore.OpenPlace(objectstore.Place{URL: "file://" + other}, clock.System); !errors.Is(err, errs.ErrConflict) {
		t.Errorf("a folder with other files was taken for an archive: %v", err)
	}
	if _, err := objectstore.OpenPlace(objectstore.Place{URL: "s3://host/b"}, clock.System); !errors.Is(err, errs.ErrInvalid) {
		t.Error(err)
	}
}
