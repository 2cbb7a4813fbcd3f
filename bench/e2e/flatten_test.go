//go:build e2e

package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
)

// flat tells what ashlar disk show says of a disk's origin and its flattening.
func flat(t *testing.T, c *cluster.Cluster, name string) (origin bool, state string, held []string) {
	t.Helper()
	var x struct {
		Origin     *struct{} `json:"origin"`
		Flattening *struct {
			State     string   `json:"state"`
			Snapshots []string `json:"snapshots"`
		} `json:"flattening"`
	}
	must(t, c.JSON(&x, "disk", "show", name))
	if x.Flattening != nil {
		state, held = x.Flattening.State, x.Flattening.Snapshots
	}
	return x.Origin != nil, state, held
}

// A clone that is flattened while it is written, and while its owner dies, is what it would have been, and outlives the
// disk that it was made of: all of that can go. Were something left out, or an older copy to win, the bytes would differ;
// were the origin let go too early, they would be gone.
func TestFlattenedCloneOutlivesItsParent(t *testing.T) {
	needTools(t, "nbdcopy", "qemu-io", "qemu-img")
	c := mortal(t)
	disk(t, c, "old", "64MiB")
	image := scratch(t, "image")
	b := make([]byte, 64<<20)
	_, err := rand.Read(b[:48<<20])
	must(t, err)
	must(t, os.WriteFile(image, b, 0o600))
	run(t, "nbdcopy", image, endpoints(t, c, "old").Unix)
	if r, err := c.CLI("disk", "flatten", "old"); err != nil || r.Code == 0 || !strings.Contains(r.Stderr, "no clone") {
		t.Errorf("flatten what is no clone: %v %+v", err, r)
	}
	snapshot(t, c, "old", "gold")
	clone := cloned(t, c, "new", "old@gold")
	snapshot(t, c, "new", "early")
	ok(t, c, "disk", "flatten", "new", "--rate", "16MiB")
	write := func(uri string, mib int) {
		do := fmt.Sprintf("write -P %d %dM 1M", mib, mib)
		run(t, "qemu-io", "-f", "raw", "-c", do, "-c", fmt.Sprintf("discard %dM 1M", mib+1), uri)
		run(t, "qemu-io", "-f", "raw", "-c", do, "-c", fmt.Sprintf("write -z %dM 1M", mib+1), image)
	}
	for mib := 2; mib < 14; mib += 4 {
		write(clone, mib)
	}
	owner := endpoints(t, c, "new").All[0].Host
	kill(t, c, owner)
	other := otherThan(t, endpoints(t, c, "new"), owner)
	for mib := 20; mib < 48; mib += 4 {
		write(other, mib)
	}
	revive(t, c, owner)
	must(t, c.WaitUp(patience))
	ok(t, c, "disk", "flatten", "new", "--wait")
	if origin, state, held := flat(t, c, "new"); !origin || state != "copied" || len(held) != 1 || held[0] != "early" {
		t.Errorf("with a snapshot that reads the other disk: origin %t, %s, %q", origin, state, held)
	}
	ok(t, c, "snapshot", "delete", "new@early")
	must(t, cluster.Wait("the origin to be forgotten", patience, func() bool {
		origin, _, _ := flat(t, c, "new")
		return !origin
	}))
	ok(t, c, "disk", "delete", "old", "--with-snapshots", "--force")
	owner = endpoints(t, c, "new").All[0].Host
	kill(t, c, owner)
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", image, otherThan(t, endpoints(t, c, "new"), owner))
	revive(t, c, owner)
	must(t, c.WaitUp(patience))
	ok(t, c, "disk", "delete", "new", "--force")
	ok(t, c, "disk", "create", "old", "--size", "1MiB") // for the end of the test
}
