//go:build e2e

package e2e

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ashlar.dev/bench/e2e/cluster"
)

// snapshot takes one through the command line, and says how long that took.
func snapshot(t *testing.T, c *cluster.Cluster, disk, name string) {
	t.Helper()
	began := time.Now()
	r, err := c.CLI("snapshot", "create", disk, "--name", name)
	must(t, err)
	if r.Code != 0 {
		t.Fatalf("snapshot %s: %s", name, r.Stderr)
	}
	t.Logf("snapshot %s@%s after %s, the start of the program included", disk, name, time.Since(began).Round(time.Millisecond))
}

// exported is the URI of another export of the host that serves uri.
func exported(uri, disk, export string) string { return strings.Replace(uri, disk, export, 1) }

// sumOf reads a whole export.
func sumOf(t *testing.T, uri string) string {
	t.Helper()
	file := scratch(t, "read")
	run(t, "nbdcopy", uri, file)
	return sumOfFile(t, file)
}

// sumOfFile reads a file and removes it.
func sumOfFile(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	must(t, os.Remove(file))
	return fmt.Sprintf("%d bytes %x", len(b), sha256.Sum256(b))
}

// Without this a snapshot could be anything but the disk at its moment: taken of a quiet
// disk it is that disk, taken under load it never changes, its maker's death right after
// takes nothing from it, every host serves it, nobody writes to it, and it goes when asked.
func TestSnapshotsStayAsTheyWere(t *testing.T) {
	needTools(t, "fio", "nbdcopy", "nbdinfo", "qemu-io")
	c := mortal(t)
	disk(t, c, "snapped", "96MiB")
	run(t, "nbdinfo", endpoints(t, c, "snapped").Unix) // now it has an owner
	e := endpoints(t, c, "snapped")
	owner := e.All[0].Host
	id := filepath.Base(strings.SplitN(e.Unix, "?", 2)[0]) // how the URIs name it
	image := scratch(t, "image")
	b := make([]byte, 96<<20)
	_, err := rand.Read(b[:48<<20])
	must(t, err)
	must(t, os.WriteFile(image, b, 0o600))
	run(t, "nbdcopy", image, e.Unix)
	want := fmt.Sprintf("%d bytes %x", len(b), sha256.Sum256(b))
	snapshot(t, c, "snapped", "quiet")

	w := write(t, e.Unix, 8, "--size=64M")
	must(t, cluster.Wait("the load to show", patience, func() bool { return sumOf(t, e.Unix) != want }))
	snapshot(t, c, "snapped", "busy")
	busy := sumOf(t, exported(e.All[1].Unix, id, "snapped@busy"))
	w.finish()

	snapshot(t, c, "snapped", "last")
	kill(t, c, owner)
	other := e.All[1].Unix
	run(t, "nbdcopy", image, other) // overwrites all of it; the disk has another owner now
	last := sumOf(t, exported(other, id, "snapped@last"))
	revive(t, c, owner)
	must(t, c.WaitUp(patience))
	for export, want := range map[string]string{"snapped@quiet": want, "snapped@busy": busy, "snapped@last": last, "snapped": want} {
		if got := sumOf(t, exported(e.Unix, id, export)); got != want { // at the host that owned it
			t.Errorf("%s at %s is %s, was %s", export, owner, got, want)
		}
	}
	if busy == want || last == want || busy == last {
		t.Error("the load changed nothing: the test compares nothing")
	}
	for _, x := range e.All {
		if out, err := try("qemu-io", "-f", "raw", "-c", "write 0 4k", exported(x.Unix, id, "snapped@quiet")); err == nil && !strings.Contains(out, "failed") {
			t.Errorf("a snapshot was written to at %s: %s", x.Host, out)
		}
	}
	if r, err := c.CLI("disk", "delete", "snapped", "--force"); err != nil || r.Code == 0 || !strings.Contains(r.Stderr, "--with-snapshots") {
		t.Errorf("a disk with snapshots was deleted: %v %+v", err, r)
	}
	dropSnapshots(t, c, "snapped")
	if got := sumOf(t, e.All[1].Unix); got != want {
		t.Errorf("without its snapshots the disk is %s, was %s", got, want)
	}
}

// dropSnapshots deletes all snapshots of a disk and waits until they are gone.
func dropSnapshots(t *testing.T, c *cluster.Cluster, disk string) {
	t.Helper()
	var all []struct{ Export, State string }
	must(t, c.JSON(&all, "snapshot", "list", disk))
	for _, x := range all {
		if r, err := c.CLI("snapshot", "delete", x.Export); err != nil || r.Code != 0 {
			t.Fatalf("delete %s: %v %+v", x.Export, err, r)
		}
	}
	must(t, cluster.Wait("snapshots to be gone", patience, func() bool {
		all = nil
		return c.JSON(&all, "snapshot", "list", disk) == nil && len(all) == 0
	}))
}
