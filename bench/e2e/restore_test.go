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
	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/archive/archivetest"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/vfs"
)

// hydration is how far a disk is brought in; Segments is 0 when nothing lies in the archive.
type hydration struct {
	Segments, Left, Percent uint32
	Problem                 string
}

func hydrationOf(t *testing.T, c *cluster.Cluster, disk string) hydration {
	t.Helper()
	var d struct{ Hydration hydration }
	must(t, c.JSON(&d, "disk", "show", disk))
	return d.Hydration
}

// archivedImage puts the archive of a disk of another cluster, written to some times, into that of c. It gives the
// key of its manifest, the files of its objects and what was on the disk. Others use that archive, too.
func archivedImage(t *testing.T, c *cluster.Cluster, writes int) (manifest string, objects []string, image []byte) {
	t.Helper()
	d, err := archivetest.NewDisk(1<<14, uint64(writes))
	must(t, err)
	var lbas []block.LBA
	for l := range block.LBA(5000) {
		lbas = append(lbas, 3*l)
	}
	d.Write(lbas, 256)
	for i := range writes {
		d.Write(lbas[100*i:100*i+100], 256)
	}
	dir := filepath.Join(c.Dir, "archive")
	store, err := objectstore.NewDirectory(vfs.OS, dir)
	must(t, err)
	m, err := d.Archive(t.Context(), store, nil, nil, 4)
	must(t, err)
	for _, o := range m.Objects {
		objects = append(objects, filepath.Join(dir, o.Key))
	}
	return archive.ManifestKey(m.Volume, m.Snapshot), objects, d.Image
}

func sumText(b []byte) string { return fmt.Sprintf("%d bytes %x", len(b), sha256.Sum256(b)) }

// Without this a disk could come back from the archive as anything but what it was: it is there at
// once, on a cluster that made none of it, and stays what it was while it is brought in,
// written to, and its owner killed; and when it is whole it needs the archive no more.
func TestDiskComesBackFromTheArchive(t *testing.T) {
	needTools(t, "nbdcopy", "nbdinfo", "qemu-io")
	c := mortal(t)
	manifest, objects, image := archivedImage(t, c, 3)
	began := time.Now()
	ok(t, c, "disk", "create", "back", "--from-archive", manifest, "--hydrate", "1MiB")
	dropped := false
	t.Cleanup(func() {
		if !t.Failed() && !dropped {
			_, _ = c.CLI("disk", "delete", "back", "--force")
		}
	})
	e := endpoints(t, c, "back")
	run(t, "qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", e.Unix)
	t.Logf("first block after %s, the starts of three programs included", time.Since(began).Round(time.Millisecond))
	if got := sumOf(t, e.Unix); got != sumText(image) {
		t.Fatalf("the disk is %s, was %s", got, sumText(image))
	}
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 7 1M 2M", "-c", "write -P 9 40M 64k", "-c", "discard 8M 1M", e.Unix)
	for i := range 2 << 20 {
		image[1<<20+i] = 7
	}
	for i := range 64 << 10 {
		image[40<<20+i] = 9
	}
	clear(image[8<<20 : 9<<20])
	snapshot(t, c, "back", "early")

	t.Logf("after %s", time.Since(began).Round(time.Millisecond))
	h := hydrationOf(t, c, "back")
	if h.Left == 0 || h.Left > h.Segments {
		t.Fatalf("nothing is left to be brought in: %+v", h)
	}
	owner := endpoints(t, c, "back").All[0].Host
	kill(t, c, owner)
	if got := sumOf(t, otherThan(t, endpoints(t, c, "back"), owner)); got != sumText(image) {
		t.Errorf("with its owner dead the disk is %s, was %s", got, sumText(image))
	}
	revive(t, c, owner)
	must(t, c.WaitUp(patience))
	t.Logf("one host was killed and is back after %s", time.Since(began).Round(time.Millisecond))
	ok(t, c, "disk", "set", "back", "--hydrate", "1GiB")
	must(t, cluster.Wait("the disk to be brought in", patience, func() bool { h = hydrationOf(t, c, "back"); return h.Segments == 0 }))
	t.Logf("all of it is here after %s", time.Since(began).Round(time.Millisecond))
	for _, o := range objects {
		must(t, os.Remove(o))
	}
	ok(t, c, "disk", "move", "back", "--to", owner) // who knows nothing of it but what stores have
	other := endpoints(t, c, "back").Unix
	id := filepath.Base(strings.SplitN(other, "?", 2)[0])
	if got := sumOf(t, other); got != sumText(image) {
		t.Errorf("without the archive the disk is %s, was %s", got, sumText(image))
	}
	if got := sumOf(t, exported(other, id, "back@early")); got != sumText(image) {
		t.Errorf("without the archive its snapshot is %s, was %s", got, sumText(image))
	}
	dropSnapshots(t, c, "back")
	dropped = true
	ok(t, c, "disk", "delete", "back", "--force")
}

// Without this two disks of one manifest, brought in by one host at once, would find each other's blocks.
func TestTwoRestoresIntoOneCluster(t *testing.T) {
	needTools(t, "nbdcopy")
	c := mortal(t)
	manifest, _, image := archivedImage(t, c, 5)
	for _, name := range []string{"first", "second"} {
		ok(t, c, "disk", "create", name, "--from-archive", manifest, "--hydrate", "1MiB")
		t.Cleanup(func() { _, _ = c.CLI("disk", "delete", name, "--force") })
	}
	host := endpoints(t, c, "first").All[0].Host
	for _, name := range []string{"first", "second"} {
		for _, e := range endpoints(t, c, name).All {
			if e.Host == host {
				if got := sumOf(t, e.Unix); got != sumText(image) {
					t.Errorf("%s is %s, was %s", name, got, sumText(image))
				}
			}
		}
	}
	for _, name := range []string{"first", "second"} {
		ok(t, c, "disk", "set", name, "--hydrate", "1GiB")
		must(t, cluster.Wait(name+" to be brought in", patience, func() bool { return hydrationOf(t, c, name).Segments == 0 }))
		if got := sumOf(t, endpoints(t, c, name).Unix); got != sumText(image) {
			t.Errorf("brought in, %s is %s, was %s", name, got, sumText(image))
		}
	}
}

// saidWhole tells whether an owner of a disk has said that nothing of it lies in the archive any more.
func saidWhole(t *testing.T, c *cluster.Cluster, disk string) bool {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(c.Dir, "log", "b*.log"))
	must(t, err)
	for _, name := range logs {
		b, err := os.ReadFile(name)
		must(t, err)
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, "nothing of the disk lies in the archive") && strings.Contains(line, disk) {
				return true
			}
		}
	}
	return false
}

// Without this nobody could make a clone or an image of what lies in the archive before all of it is here, and those that are made would
// be anything but their snapshot: with the disk they came from deleted and, when the rest is brought in for them, the archive
// gone.
func TestClonesOfWhatLiesInTheArchive(t *testing.T) {
	needTools(t, "nbdcopy", "qemu-io")
	c := mortal(t)
	manifest, objects, image := archivedImage(t, c, 6)
	ok(t, c, "disk", "create", "parent", "--from-archive", manifest, "--hydrate", "1MiB")
	snapshot(t, c, "parent", "early")
	ok(t, c, "disk", "create", "early", "--from-snapshot", "parent@early")
	ok(t, c, "image", "create", "golden", "--from-archive", manifest)
	ok(t, c, "disk", "create", "golden", "--from-image", "golden")
	for _, name := range []string{"early", "golden"} {
		t.Cleanup(func() { _, _ = c.CLI("disk", "delete", name, "--force") })
		if got := sumOf(t, endpoints(t, c, name).Unix); got != sumText(image) {
			t.Errorf("%s is %s, was archived as %s", name, got, sumText(image))
		}
	}
	if h := hydrationOf(t, c, "parent"); h.Left == 0 {
		t.Fatalf("nothing is left to be brought in: %+v", h)
	}
	parent, err := c.Disk("parent")
	must(t, err)
	e := endpoints(t, c, "early")
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 7 1M 2M", "-c", "discard 8M 1M", e.Unix)
	for i := range 2 << 20 {
		image[1<<20+i] = 7
	}
	clear(image[8<<20 : 9<<20])
	ok(t, c, "disk", "set", "parent", "--hydrate", "1GiB")
	ok(t, c, "disk", "delete", "parent", "--with-snapshots")
	if got := sumOf(t, e.Unix); got != sumText(image) {
		t.Errorf("with its parent deleted the clone is %s, was %s", got, sumText(image))
	}
	ok(t, c, "image", "delete", "golden")
	ok(t, c, "disk", "delete", "golden", "--force")
	must(t, cluster.Wait("all of the deleted parent to be here", patience, func() bool { return saidWhole(t, c, parent.DiskID) }))
	for _, o := range objects {
		must(t, os.Remove(o))
	}
	ok(t, c, "disk", "move", "early", "--to", e.All[1].Host)
	if got := sumOf(t, endpoints(t, c, "early").Unix); got != sumText(image) {
		t.Errorf("without the archive the clone is %s, was %s", got, sumText(image))
	}
}

// Without this a clone of what lies in the archive would not say that it needs that, or could not be made to stand alone: flattened, it is
// what it was with the disk it came from deleted and the archive gone.
func TestFlattenedCloneNeedsNoArchive(t *testing.T) {
	needTools(t, "nbdcopy", "qemu-io")
	c := mortal(t)
	manifest, objects, image := archivedImage(t, c, 7)
	ok(t, c, "disk", "create", "parent", "--from-archive", manifest, "--hydrate", "1MiB")
	snapshot(t, c, "parent", "early")
	uri := cloned(t, c, "alone", "parent@early")
	if text := ashlar(t, c, "disk", "show", "alone"); !strings.Contains(text, "of disk parent still lie in the archive only") || !strings.Contains(text, manifest) {
		t.Errorf("the clone does not say that it reads the archive:\n%s", text)
	}
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 7 1M 2M", uri)
	for i := range 2 << 20 {
		image[1<<20+i] = 7
	}
	ok(t, c, "--timeout", "2m", "disk", "flatten", "alone", "--wait")
	h := hydrationOf(t, c, "parent")
	t.Logf("flattened with %d of %d segments of its parent in the archive", h.Left, h.Segments)
	if text := ashlar(t, c, "disk", "show", "alone"); strings.Contains(text, "archive") {
		t.Errorf("flattened, the clone says that it reads the archive:\n%s", text)
	}
	ok(t, c, "disk", "delete", "parent", "--with-snapshots", "--force")
	must(t, cluster.Wait("the parent to be gone", patience, func() bool {
		s, err := c.Status()
		return err == nil && s.Counts.DisksDeleted == 0
	}))
	for _, o := range objects {
		must(t, os.Remove(o))
	}
	ok(t, c, "disk", "move", "alone", "--to", endpoints(t, c, "alone").All[1].Host)
	if got := sumOf(t, endpoints(t, c, "alone").Unix); got != sumText(image) {
		t.Errorf("without its parent and the archive the clone is %s, was %s", got, sumText(image))
	}
}

// Without this a damaged archive would come back as zeros, or take the whole disk with it.
func TestDamagedArchiveIsSaid(t *testing.T) {
	needTools(t, "qemu-io")
	c := mortal(t)
	manifest, objects, image := archivedImage(t, c, 4)
	b, err := os.ReadFile(objects[0])
	must(t, err)
	for i := len(b) / 4; i < len(b)/2; i++ {
		b[i] ^= 0x55
	}
	must(t, os.WriteFile(objects[0], b, 0o600))
	if r, err := c.CLI("disk", "create", "damaged", "--from-archive", manifest+"x"); err != nil || r.Code != 3 {
		t.Errorf("a manifest that is not there: %v %+v", err, r)
	}
	ok(t, c, "disk", "create", "damaged", "--from-archive", manifest)
	t.Cleanup(func() { _, _ = c.CLI("disk", "delete", "damaged", "--force") })
	e := endpoints(t, c, "damaged")
	failed := 0
	for l := 0; l < 5000; l += 250 {
		out, err := try("qemu-io", "-r", "-f", "raw", "-c", fmt.Sprintf("read -v %d 512", 3*l*block.Size), e.Unix)
		if err != nil || strings.Contains(out, "failed") {
			failed++
			continue
		}
		if first := fmt.Sprintf("%02x %02x %02x", image[3*l*block.Size], image[3*l*block.Size+1], image[3*l*block.Size+2]); !strings.Contains(out, first) {
			t.Fatalf("block %d is not %s…: %s", 3*l, first, out)
		}
	}
	if failed == 0 || failed == 20 {
		t.Errorf("%d of 20 reads failed", failed)
	}
	must(t, cluster.Wait("the damage to show", patience, func() bool {
		return strings.Contains(hydrationOf(t, c, "damaged").Problem, filepath.Base(filepath.Dir(objects[0])))
	}))
}

// Without this the archive would be of use only to the cluster that made it: with that one's folder gone
// another, of other names and another CA, makes the disk of what lies in a copy of the archive alone.
func TestDiskComesBackOnAnotherCluster(t *testing.T) {
	needTools(t, "nbdcopy", "nbdinfo")
	c := mortal(t)
	disk(t, c, "lost", "64MiB")
	image := scratch(t, "image")
	b := make([]byte, 64<<20)
	_, err := rand.Read(b[:24<<20])
	must(t, err)
	must(t, os.WriteFile(image, b, 0o600))
	run(t, "nbdcopy", image, endpoints(t, c, "lost").Unix)
	snapshot(t, c, "lost", "kept")
	ok(t, c, "--timeout", "2m", "snapshot", "archive", "lost@kept", "--wait")

	other := t.TempDir()
	to := "file://" + filepath.Join(other, "archive")
	ok(t, c, "--timeout", "2m", "snapshot", "copy", "lost@kept", "--to", to)
	var again struct{ Objects, Found int }
	must(t, c.JSON(&again, "snapshot", "copy", "lost@kept", "--to", to))
	if again.Objects == 0 || again.Found != again.Objects {
		t.Errorf("copied again: %+v", again)
	}
	n, err := cluster.Start(cluster.Options{Dir: other, Args: []string{"--metad", "1", "--store-size", "2GiB"}})
	must(t, err)
	t.Cleanup(func() { must(t, n.Stop(false)) })
	var all []struct{ Disk, Snapshot, Manifest string }
	must(t, n.JSON(&all, "archive", "list"))
	for _, x := range all {
		if x.Disk == "lost" && x.Snapshot == "kept" {
			ok(t, n, "disk", "create", "found", "--from-archive", x.Manifest)
		}
	}
	ok(t, n, "snapshot", "verify", "lost@kept")
	uri := endpoints(t, n, "found").Unix
	if got := sumOf(t, uri); got != sumText(b) {
		t.Errorf("the disk is %s, was %s", got, sumText(b))
	}
	must(t, cluster.Wait("the disk to be brought in", patience, func() bool { return hydrationOf(t, n, "found").Segments == 0 }))
	if got := sumOf(t, uri); got != sumText(b) {
		t.Errorf("brought in, the disk is %s, was %s", got, sumText(b))
	}
	dropSnapshots(t, c, "lost")
}
