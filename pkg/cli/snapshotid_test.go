package cli

import (
	"strings"
	"testing"

	"ashlar.dev/pkg/api"
)

// Without this a program that has the id of a snapshot, as every answer tells it, would have to look for its disk.
func TestSnapshotIsFoundByItsIDAlone(t *testing.T) {
	x := newTerminal(t)
	const name = "s-06h0gac1bf65a583n1d455vv1w"
	x.fake.snapshots = []*api.Snapshot{{SnapshotId: name, Name: "monday", Disk: "db", DiskId: "d-1", State: "ready"}}
	x.fake.disks = []*api.Disk{{DiskId: "d-1", Name: "db"}}
	for _, c := range []struct {
		line string
		code int
		want string
	}{
		{"snapshot show " + name, 0, "monday"},
		{"snapshot archive " + name, 0, "is queued"},
		{"disk rollback " + name, 0, "db"},
		{"disk create copy --from-snapshot " + name, 0, "copy"},
		{"snapshot show s-06h0gac1bf65a583n1d455vv20", 3, "not found"},
		{"snapshot show monday", 2, "or give its id"},
	} {
		code := x.run(c.line)
		if text := x.out.String() + x.err.String(); code != c.code || !strings.Contains(text, c.want) {
			t.Errorf("%s: exit code %d, want %d and %q: %s", c.line, code, c.code, c.want, text)
		}
	}
}
