//go:build e2e

package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ashlar.dev/bench/e2e/cluster"
)

// strays is how many objects an upload has left that was given up: enough for gc to be killed among them.
const strays = 2000

// litterArchive leaves objects and records of an upload in an archive that nobody goes on with.
func litterArchive(t *testing.T, archive string) (left func() int) {
	t.Helper()
	const upload = "00000000000000000000000000000bad"
	dir := filepath.Join(archive, "data", upload)
	must(t, os.MkdirAll(dir, 0o700))
	must(t, os.MkdirAll(filepath.Join(archive, "uploads", upload), 0o700))
	must(t, os.WriteFile(filepath.Join(archive, "uploads", upload, "0"), []byte("a record"), 0o600))
	for n := range strays {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(n)), []byte("an object"), 0o600))
	}
	return func() int {
		names, _ := os.ReadDir(dir) // gone with the last of them
		return len(names)
	}
}

// age makes everything in a folder two days old: it was all deleted, or given up, longer ago than any grace, and nobody who left a mark lives.
func age(t *testing.T, folder string) {
	t.Helper()
	then := time.Now().Add(-48 * time.Hour)
	must(t, filepath.WalkDir(folder, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.Chtimes(name, then, then)
		}
		return err
	}))
}

// filesIn counts the files below a folder, which need not be there.
func filesIn(folder string) (n int) {
	_ = filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return nil
	})
	return n
}

// Without this a gc that dies half way would have taken what a manifest needs, or leave what nothing ever takes: snapshotd is killed
// among what it deletes, and whoever comes next goes on.
func TestGcSurvivesKills(t *testing.T) {
	needTools(t, "qemu-io")
	c := mortal(t)
	archive := filepath.Join(c.Dir, "archive")
	disk(t, c, "swept", "16MiB")
	for i, write := range []string{"write -P 7 0 4M", "write -P 8 1M 1M"} {
		name := []string{"one", "two"}[i]
		run(t, "qemu-io", "-f", "raw", "-c", write, endpoints(t, c, "swept").Unix)
		snapshot(t, c, "swept", name)
		ashlar(t, c, "snapshot", "archive", "swept@"+name, "--wait")
	}
	ashlar(t, c, "archive", "delete", "swept@one")
	left := litterArchive(t, archive)
	age(t, archive)
	done := sweep(c)
	for began := time.Now(); left() > strays*3/4 && time.Since(began) < patience; { // it is quick: no time to lose between looks
	}
	kill(t, c, "s1")
	n := left()
	t.Logf("%d of %d strays were left when snapshotd was killed", n, strays)
	if n == 0 || n == strays {
		t.Errorf("snapshotd was not killed in the middle of gc: %d of %d are left", n, strays)
	}
	revive(t, c, "s1")
	must(t, <-done) // the next life goes on with it
	ashlar(t, c, "snapshot", "verify", "swept@two")
	age(t, archive) // the mark of the dead, too
	ashlar(t, c, "archive", "gc", "--grace", "1m")
	ashlar(t, c, "snapshot", "verify", "swept@two")
	var usage struct{ Objects int }
	must(t, c.JSON(&usage, "archive", "usage"))
	if have := filesIn(filepath.Join(archive, "data")); have != usage.Objects || usage.Objects == 0 {
		t.Errorf("%d objects are there, and %d needed", have, usage.Objects)
	}
	for _, folder := range []string{"trash", "uploads", "gc", "copying"} {
		if n := filesIn(filepath.Join(archive, folder)); n > 0 {
			t.Errorf("%d files are left in %s", n, folder)
		}
	}
	dropSnapshots(t, c, "swept")
}

// sweep has the archive's gc run, and tells how it ended.
func sweep(c *cluster.Cluster) <-chan error {
	done := make(chan error, 1)
	go func() {
		r, err := c.CLI("--timeout", "2m", "archive", "gc", "--grace", "1m")
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("archive gc: %s", r.Stderr)
		}
		done <- err
	}()
	return done
}
