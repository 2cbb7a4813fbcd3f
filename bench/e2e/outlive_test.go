//go:build e2e

package e2e

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
)

// Without this deleting a disk could take the snapshots along that its user keeps or clones read, or leave
// it and its space behind for ever: they are there under another disk of the name, with the host dead that
// had the disk; and the whole of it goes with the last that needs it.
func TestSnapshotsOutliveTheirDisk(t *testing.T) {
	needTools(t, "nbdcopy", "nbdinfo", "qemu-io")
	c := mortal(t)
	d, err := c.Create("outlived", "64MiB")
	must(t, err)
	e := endpoints(t, c, "outlived")
	image := scratch(t, "image")
	b := make([]byte, 64<<20)
	_, err = rand.Read(b[:24<<20])
	must(t, err)
	must(t, os.WriteFile(image, b, 0o600))
	run(t, "nbdcopy", image, e.Unix)
	want := fmt.Sprintf("%d bytes %x", len(b), sha256.Sum256(b))
	snapshot(t, c, "outlived", "gold")
	snapshot(t, c, "outlived", "read")
	cloned(t, c, "heir", "outlived@read")
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 1 0 32M", e.Unix)

	if r, err := c.CLI("disk", "delete", "outlived"); err != nil || r.Code == 0 || !strings.Contains(r.Stderr, "--keep-snapshots") {
		t.Fatalf("a disk with snapshots, and nothing said of them: %v %+v", err, r)
	}
	owner := endpoints(t, c, "outlived").All[0].Host
	ok(t, c, "disk", "set", "outlived", "--protect", "on")
	if r, err := c.CLI("disk", "delete", "outlived", "--force", "--keep-snapshots"); err != nil || r.Code == 0 || !strings.Contains(r.Stderr, "--protect off") {
		t.Fatalf("a protected disk: %v %+v", err, r)
	}
	ok(t, c, "disk", "set", "outlived", "--protect", "off")
	ok(t, c, "disk", "delete", "outlived", "--force", "--keep-snapshots")
	kill(t, c, owner)
	disk(t, c, "outlived", "1MiB")
	heir := otherThan(t, endpoints(t, c, "heir"), owner)
	for _, export := range []string{exportOf(endpoints(t, c, "heir")), d.DiskID + "@gold"} {
		if got := sumOf(t, exported(heir, exportOf(endpoints(t, c, "heir")), export)); got != want {
			t.Errorf("%s is %s, was %s", export, got, want)
		}
	}
	if r, err := c.CLI("disk", "show", d.DiskID); err != nil || r.Code == 0 {
		t.Errorf("a deleted disk is shown: %v %+v", err, r)
	}
	revive(t, c, owner)
	must(t, c.WaitUp(patience))
	ok(t, c, "snapshot", "delete", d.DiskID+"@read") // the clone reads it
	ok(t, c, "snapshot", "delete", d.DiskID+"@gold")
	if got := sumOf(t, endpoints(t, c, "heir").Unix); got != want {
		t.Errorf("the clone of a snapshot that is deleted is %s", got)
	}
	ok(t, c, "disk", "delete", "heir", "--force")
	must(t, cluster.Wait("nothing to be kept", patience, func() bool {
		var s struct{ Kept struct{ Disks int } }
		return c.JSON(&s, "status") == nil && s.Kept.Disks == 0
	}))
}
