package enroll

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// Without this a machine with a snapshotd would have no certificate for it, or an archive nobody named.
func TestSnapshotdGetsItsFileAndCertificate(t *testing.T) {
	h := firstHost(t)
	h.Roles = append(h.Roles, pki.RoleSnapshotd)
	if _, err := Init(clock.System, "lab", h); !errors.Is(err, errs.ErrInvalid) {
		t.Fatalf("an archive nowhere: %v", err)
	}
	h.Archive = "/srv/archive"
	if _, err := Init(clock.System, "lab", h); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(h.Dir, SnapshotdFile))
	if err != nil || !strings.Contains(string(text), "directory: /srv/archive") {
		t.Fatalf("%v: %s", err, text)
	}
	c, err := pki.Load(clock.System, h.files(pki.RoleSnapshotd))
	if err != nil || c.Self().Role != pki.RoleSnapshotd || c.Self().Name != h.Name {
		t.Fatal(c, err)
	}
}
