//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
	"ashlar.dev/pkg/nbd"
)

// private: other users of the machine could else read what disks hold.
func private(t *testing.T, dir string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return nil // a file that has gone meanwhile
		}
		if fi, err := d.Info(); err == nil && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %04o", path, fi.Mode().Perm())
		}
		return nil
	}))
}

// Without this a cluster on one machine would lose its disks or its addresses at a restart,
// leave daemons behind, or be run twice on one folder.
func TestDevStartsAgainWithAllData(t *testing.T) {
	needTools(t, "nbdcopy", "qemu-img")
	c, err := cluster.Start(cluster.Options{Args: []string{"--store-size", "2GiB"}, Allowed: cluster.Faults})
	must(t, err)
	t.Cleanup(func() {
		if err := c.Stop(t.Failed()); err != nil {
			t.Error(err)
		}
	})
	in, out := scratch(t, "in"), scratch(t, "out")
	image(t, in, 128<<20)
	disk(t, c, "kept", "128MiB")
	before := endpoints(t, c, "kept")
	run(t, "nbdcopy", in, before.Unix)
	for _, d := range []string{"m1", "m2", "m3", "b1", "b2", "b3"} {
		if c.Pid(d) == 0 {
			t.Errorf("no pid file of %s", d)
		}
	}
	aloneOnItsFolder(t, c)
	private(t, filepath.Join(c.Dir, "data"))

	must(t, c.Down())
	if left, _ := filepath.Glob(filepath.Join(c.Dir, "run", "*.pid")); len(left) > 0 {
		t.Errorf("pid files after a clean end: %v", left)
	}
	must(t, c.Restart())
	after := endpoints(t, c, "kept")
	for _, e := range after.All {
		for _, b := range before.All {
			if e.Host == b.Host && (e.Unix != b.Unix || e.TCP != b.TCP) {
				t.Errorf("addresses changed: %+v, %+v", b, e)
			}
		}
	}
	run(t, "nbdcopy", after.Unix, out)
	sameFiles(t, in, out)

	// SIGKILL of ashlar dev itself: no daemon outlives it, and nothing is lost.
	var pids []int
	for _, d := range []string{"m1", "m2", "m3", "b1", "b2", "b3"} {
		pids = append(pids, c.Pid(d))
	}
	must(t, c.Signal(syscall.SIGKILL))
	must(t, cluster.Wait("all daemons to be gone", patience, func() bool {
		for _, pid := range pids {
			if syscall.Kill(pid, 0) == nil {
				return false
			}
		}
		return true
	}))
	must(t, c.Restart())
	must(t, os.Remove(out))
	run(t, "nbdcopy", endpoints(t, c, "kept").Unix, out)
	sameFiles(t, in, out)

	startsTheDeadAgain(t, c, in)
}

// aloneOnItsFolder: a second ashlar dev is refused on the same folder and welcome on another.
func aloneOnItsFolder(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	second, err := cluster.Start(cluster.Options{Dir: c.Dir})
	if err == nil || !strings.Contains(second.Said(), "another ashlar dev") {
		t.Fatalf("a second ashlar dev on the same folder: %v", err)
	}
	other, err := cluster.Start(cluster.Options{Args: []string{"--store-size", "2GiB"}})
	must(t, err)
	if _, err := other.Disk("kept"); err == nil {
		t.Error("two clusters on one machine share a disk")
	}
	must(t, other.Stop(false))
}

// startsTheDeadAgain: a daemon that dies is started again by ashlar dev.
func startsTheDeadAgain(t *testing.T, c *cluster.Cluster, in string) {
	t.Helper()
	pid := c.Pid("b2")
	_, err := c.Kill("b2")
	must(t, err)
	must(t, cluster.Wait("b2 to be started again", patience, func() bool { n := c.Pid("b2"); return n != 0 && n != pid }))
	// metad takes a daemon for alive until its heartbeats are missed: its clients know better.
	for _, e := range endpoints(t, c, "kept").All {
		must(t, cluster.Wait(e.Host+" to serve", patience, func() bool {
			n, err := nbd.Dial(t.Context(), e.Unix, nbd.ClientOptions{})
			if err == nil {
				n.Hangup()
			}
			return err == nil
		}))
		run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", in, e.Unix)
	}
}
