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

// cloned makes a disk of a snapshot, that goes with the test, and gives where it is served.
func cloned(t *testing.T, c *cluster.Cluster, name, from string, more ...string) string {
	t.Helper()
	began := time.Now()
	ok(t, c, append([]string{"disk", "create", name, "--from-snapshot", from}, more...)...)
	t.Logf("disk %s of %s after %s, the start of the program included", name, from, time.Since(began).Round(time.Millisecond))
	t.Cleanup(func() {
		if !t.Failed() {
			_, _ = c.CLI("disk", "delete", name, "--force") // it may be gone already
		}
	})
	return endpoints(t, c, name).Unix
}

// ok runs a command that must succeed.
func ok(t *testing.T, c *cluster.Cluster, args ...string) {
	t.Helper()
	if r, err := c.CLI(args...); err != nil || r.Code != 0 {
		t.Fatalf("ashlar %s: %v %s", strings.Join(args, " "), err, r.Stderr)
	}
}

// Without this a clone could change with its parent, or die with it: it is the snapshot byte for
// byte, also one of a disk that nobody owns; it keeps that while its snapshot is deleted, its
// parent overwritten, and both their owners killed; and so does a clone of it.
func TestClonesGoTheirOwnWay(t *testing.T) {
	needTools(t, "nbdcopy", "nbdinfo", "qemu-io")
	c := mortal(t)
	disk(t, c, "parent", "64MiB")
	parent := endpoints(t, c, "parent")
	image := scratch(t, "image")
	b := make([]byte, 64<<20)
	_, err := rand.Read(b[:24<<20])
	must(t, err)
	must(t, os.WriteFile(image, b, 0o600))
	run(t, "nbdcopy", image, parent.Unix)
	want := fmt.Sprintf("%d bytes %x", len(b), sha256.Sum256(b))
	snapshot(t, c, "parent", "gold")
	child := cloned(t, c, "child", "parent@gold")
	cloned(t, c, "larger", "parent@gold", "--size", "1TiB")
	if r, err := c.CLI("disk", "create", "smaller", "--from-snapshot", "parent@gold", "--size", "1MiB"); err != nil || r.Code == 0 || !strings.Contains(r.Stderr, "smaller") {
		t.Errorf("a clone smaller than its snapshot: %v %+v", err, r)
	}
	if got := sumOf(t, child); got != want {
		t.Fatalf("the clone is %s, its snapshot %s", got, want)
	}
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 1 8M 8M", child)
	if got := sumOf(t, parent.Unix); got != want {
		t.Errorf("what the clone wrote is in its parent: %s", got)
	}
	own := sumOf(t, child)
	snapshot(t, c, "child", "mid")
	grandchild := cloned(t, c, "grandchild", "child@mid")
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 2 0 64k", grandchild)
	third := sumOf(t, grandchild)

	ok(t, c, "snapshot", "delete", "parent@gold")
	must(t, os.WriteFile(image, make([]byte, 64<<20), 0o600))
	run(t, "nbdcopy", "--destination-is-zero", "--allocated", image, parent.Unix)
	for _, d := range []string{"parent", "child"} {
		owner := endpoints(t, c, d).All[0].Host
		kill(t, c, owner)
		if got := sumOf(t, otherThan(t, endpoints(t, c, "child"), owner)); got != own {
			t.Errorf("with the owner of %s dead the clone is %s, was %s", d, got, own)
		}
		if got := sumOf(t, otherThan(t, endpoints(t, c, "grandchild"), owner)); got != third {
			t.Errorf("with the owner of %s dead the clone of the clone is %s, was %s", d, got, third)
		}
		revive(t, c, owner)
		must(t, c.WaitUp(patience))
	}
	ok(t, c, "disk", "delete", "grandchild", "--force")
	dropSnapshots(t, c, "child")
	ok(t, c, "disk", "delete", "child", "--force")
	ok(t, c, "disk", "delete", "larger", "--force")
	must(t, cluster.Wait("the parent to be without snapshots", patience, func() bool {
		r, err := c.CLI("disk", "delete", "parent", "--force") // hidden ones would stop it
		if err == nil && r.Code == 0 {
			ok(t, c, "disk", "create", "parent", "--size", "1MiB") // for the end of the test
		}
		return err == nil && r.Code == 0
	}))
}

// otherThan is where a disk is served by a host that lives.
func otherThan(t *testing.T, e cluster.Endpoints, dead string) string {
	t.Helper()
	for _, x := range e.All {
		if x.Host != dead {
			return x.Unix
		}
	}
	t.Fatal("nobody else serves it")
	return ""
}

// exportOf is how URIs name a disk.
func exportOf(e cluster.Endpoints) string {
	return filepath.Base(strings.SplitN(e.Unix, "?", 2)[0])
}
