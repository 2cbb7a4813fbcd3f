//go:build e2e

package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ashlar.dev/bench/e2e/cluster"
	metadata "ashlar.dev/pkg/cluster"
)

// archived is what ashlar archive list tells of a snapshot.
type archived struct {
	Snapshot    string `json:"snapshot"`
	Manifest    string `json:"manifest"`
	Base        string `json:"base"`
	StoredBytes uint64 `json:"storedBytes"`
	NeedsBytes  uint64 `json:"needsBytes"`
}

// inArchive finds a snapshot in the archive.
func inArchive(t *testing.T, c *cluster.Cluster, disk, name string) archived {
	t.Helper()
	var all []archived
	must(t, c.JSON(&all, "archive", "list", disk))
	for _, a := range all {
		if a.Snapshot == name {
			return a
		}
	}
	t.Fatalf("%s@%s is not in the archive: %+v", disk, name, all)
	return archived{}
}

// objectsIn are the objects of an archive in a folder, with when each was written.
func objectsIn(t *testing.T, c *cluster.Cluster) map[string]time.Time {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(c.Dir, "archive", "data", "*", "*"))
	must(t, err)
	out := make(map[string]time.Time)
	for _, n := range names {
		if i, err := os.Stat(n); err == nil {
			out[n] = i.ModTime()
		}
	}
	return out
}

// ashlar runs a command that must succeed.
func ashlar(t *testing.T, c *cluster.Cluster, args ...string) string {
	t.Helper()
	r, err := c.CLI(args...)
	must(t, err)
	if r.Code != 0 {
		t.Fatalf("ashlar %s: %s", strings.Join(args, " "), r.Stderr)
	}
	return string(r.Stdout)
}

// restored brings an archived snapshot back with the program that knows nothing of Ashlar.
func restored(t *testing.T, c *cluster.Cluster, a archived) string {
	t.Helper()
	tool, out := scratch(t, "restore"), scratch(t, "restored")
	run(t, "go", "build", "-o", tool, "ashlar.dev/pkg/archive/restore")
	run(t, tool, filepath.Join(c.Dir, "archive"), a.Manifest, out)
	return out
}

// Without this the death of a snapshotd, or of the disk's owner, in the middle of an upload would lose it, upload
// again what is there, or leave an archive of something that never was.
func TestArchiveSurvivesItsWorkersAndOwners(t *testing.T) {
	needTools(t, "fio", "nbdcopy", "nbdinfo", "go")
	c := mortal(t)
	disk(t, c, "kept", "256MiB")
	e := endpoints(t, c, "kept")
	image := scratch(t, "image")
	b := make([]byte, 256<<20)
	_, err := rand.Read(b[:192<<20])
	must(t, err)
	must(t, os.WriteFile(image, b, 0o600))
	run(t, "nbdcopy", image, e.Unix)
	owner := endpoints(t, c, "kept").All[0].Host
	snapshot(t, c, "kept", "one")
	before := objectsIn(t, c)
	ashlar(t, c, "snapshot", "archive", "kept@one")
	must(t, cluster.Wait("the first object", patience, func() bool { return len(objectsIn(t, c)) > len(before) }))
	kill(t, c, "s1")
	there := objectsIn(t, c)
	kill(t, c, owner)
	revive(t, c, "s1")
	ashlar(t, c, "--timeout", "2m", "snapshot", "archive", "kept@one", "--wait")
	revive(t, c, owner)
	for name, at := range there {
		if now := objectsIn(t, c)[name]; !now.Equal(at) {
			t.Errorf("%s was written again", name)
		}
	}
	t.Logf("%d of %d objects were there when snapshotd and %s were killed", len(there)-len(before), len(objectsIn(t, c))-len(before), owner)

	uri := endpoints(t, c, "kept").All[1].Unix
	const changed = 640 * 4096 // one in a hundred of 256 MiB
	run(t, "fio", "--name=w", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--bs=4k", "--size=256M", fmt.Sprint("--io_size=", changed), "--refill_buffers", "--norandommap=0")
	snapshot(t, c, "kept", "two")
	ashlar(t, c, "snapshot", "archive", "kept@two", "--wait")
	for _, name := range []string{"one", "two"} {
		ashlar(t, c, "snapshot", "verify", "kept@"+name)
	}
	a := inArchive(t, c, "kept", "two")
	id := filepath.Base(strings.SplitN(uri, "?", 2)[0])
	if got, want := sumOfFile(t, restored(t, c, a)), sumOf(t, exported(uri, id, "kept@two")); got != want || a.Base == "" {
		t.Errorf("what was archived against %q came back as %s, is %s", a.Base, got, want)
	}
	if a.StoredBytes > changed*13/10 {
		t.Errorf("%d bytes were changed, and %d stored", changed, a.StoredBytes)
	}
	t.Logf("%d bytes changed: %d bytes stored of %d needed", changed, a.StoredBytes, a.NeedsBytes)

	for _, name := range []string{"one", "two"} {
		ashlar(t, c, "snapshot", "delete", "kept@"+name)
	}
	must(t, cluster.Wait("the snapshots to go", patience, func() bool { return !strings.Contains(ashlar(t, c, "snapshot", "list"), "kept") }))
	ashlar(t, c, "snapshot", "verify", "kept@two") // the archive stands by itself
}

// archivedRight archives a snapshot and checks that what lies there is it, byte for byte. It tells what it was uploaded against.
func archivedRight(t *testing.T, c *cluster.Cluster, disk, name string) (base string) {
	t.Helper()
	ashlar(t, c, "--timeout", "2m", "snapshot", "archive", disk+"@"+name, "--wait")
	a := inArchive(t, c, disk, name)
	uri := endpoints(t, c, disk).Unix
	id := filepath.Base(strings.SplitN(uri, "?", 2)[0])
	if got, want := sumOfFile(t, restored(t, c, a)), sumOf(t, exported(uri, id, disk+"@"+name)); got != want {
		t.Errorf("%s@%s, archived against %q, came back as %s, is %s", disk, name, a.Base, got, want)
	}
	return a.Base
}

// Without this what is archived after a rollback, or of a clone, or of a clone of a clone, could lack what it has of its ancestors, or have
// of what was left behind: all of it is compared, also when the ancestors' snapshots are deleted.
func TestArchiveFollowsRollbacksAndClones(t *testing.T) {
	needTools(t, "qemu-io", "nbdcopy", "go")
	c := mortal(t)
	write := func(disk string, pattern int, places ...string) {
		t.Helper()
		args := []string{"-f", "raw"}
		for _, p := range places {
			args = append(args, "-c", fmt.Sprintf("write -P %d %s", pattern, p))
		}
		run(t, "qemu-io", append(args, endpoints(t, c, disk).Unix)...)
	}
	disk(t, c, "root", "64MiB")
	write("root", 1, "0 8M", "20M 1M")
	snapshot(t, c, "root", "one")
	if base := archivedRight(t, c, "root", "one"); base != "" {
		t.Errorf("the first one was archived against %s", base)
	}
	write("root", 2, "1M 1M", "30M 1M")
	snapshot(t, c, "root", "left")
	archivedRight(t, c, "root", "left")
	write("root", 3, "40M 1M")
	must(t, cluster.Wait("a rollback", patience, func() bool {
		r, err := c.CLI("disk", "rollback", "root@one")
		return err == nil && r.Code == 0
	}))
	write("root", 4, "2M 1M", "30M 64k")
	snapshot(t, c, "root", "after")
	if base := archivedRight(t, c, "root", "after"); base == "" {
		t.Error("the first one after the rollback was archived whole")
	}
	ashlar(t, c, "disk", "create", "kid", "--from-snapshot", "root@after")
	write("kid", 5, "3M 1M")
	snapshot(t, c, "kid", "one")
	ashlar(t, c, "disk", "create", "grandkid", "--from-snapshot", "kid@one")
	write("grandkid", 6, "4M 1M", "50M 64k")
	snapshot(t, c, "grandkid", "one")
	archivedRight(t, c, "kid", "one")
	dropSnapshots(t, c, "root")
	dropSnapshots(t, c, "kid")
	archivedRight(t, c, "grandkid", "one")
	write("grandkid", 7, "5M 64k")
	snapshot(t, c, "grandkid", "two")
	if base := archivedRight(t, c, "grandkid", "two"); base == "" {
		t.Error("the second one of a clone was archived whole")
	}
	dropSnapshots(t, c, "grandkid")
	for _, name := range []string{"grandkid", "kid"} { // what clones read goes with the last of them
		must(t, cluster.Wait("deleting "+name, patience, func() bool {
			r, err := c.CLI("disk", "delete", name, "--force")
			return err == nil && r.Code == 0
		}))
	}
}

// Without this the archive would have no backup of metad, or one that no metad can begin with.
func TestBackupOfMetadIsInTheArchive(t *testing.T) {
	c := mortal(t)
	file := scratch(t, "state")
	var b struct {
		Cluster string `json:"cluster"`
		Entry   uint64 `json:"entry"`
	}
	must(t, cluster.Wait("a backup in the archive", patience, func() bool { return c.JSON(&b, "metad", "backups", "fetch", file) == nil }))
	bytes, err := os.ReadFile(file)
	must(t, err)
	if x, err := metadata.DecodeBackup(bytes); err != nil || x.Cluster != b.Cluster || b.Entry == 0 || len(x.State) == 0 {
		t.Errorf("%+v: %v", b, err)
	}
	if out := ashlar(t, c, "status"); !strings.Contains(out, "\nbackup  of metad ") {
		t.Errorf("status does not say so: %s", out)
	}
}
