//go:build e2e

package e2e

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
)

// thrown is what ashlar trash list says of one.
type thrown struct {
	Kind, Name, ID string
	HeldBytes      *uint64
	Snapshots      int
}

// Without this a deleted disk could be used, lose what was written to it or to a snapshot of it when it is
// brought back, with a metad dead that knew of the deletion; or stay for ever when its time is over.
func TestDeletedDiskComesBackFromTheTrash(t *testing.T) {
	needTools(t, "nbdcopy", "nbdinfo", "qemu-io")
	c := mortal(t)
	ok(t, c, "cluster", "set", "--trash", "1h")
	t.Cleanup(func() {
		ok(t, c, "cluster", "set", "--trash", "0")
		ok(t, c, "trash", "empty", "--all")
	})
	d, err := c.Create("thrown", "64MiB")
	must(t, err)
	e := endpoints(t, c, "thrown")
	image := scratch(t, "image")
	b := make([]byte, 64<<20)
	_, err = rand.Read(b[:16<<20])
	must(t, err)
	must(t, os.WriteFile(image, b, 0o600))
	run(t, "nbdcopy", image, e.Unix)
	snapshot(t, c, "thrown", "gold")
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 7 8M 16M", e.Unix)
	gold := fmt.Sprintf("%d bytes %x", len(b), sha256.Sum256(b))
	for i := 8 << 20; i < 24<<20; i++ {
		b[i] = 7
	}
	head := fmt.Sprintf("%d bytes %x", len(b), sha256.Sum256(b))

	ok(t, c, "disk", "delete", "thrown", "--with-snapshots")
	for _, what := range []string{d.DiskID, d.DiskID + "@gold"} {
		if exec.Command("nbdinfo", "--size", exported(e.Unix, exportOf(e), what)).Run() == nil {
			t.Errorf("%s is served while it is in the trash", what)
		}
	}
	st, err := c.Status()
	must(t, err)
	kill(t, c, st.Leader())
	var all []thrown
	must(t, cluster.Wait("the next leader to know what is in the trash", patience, func() bool {
		return c.JSON(&all, "trash", "list") == nil && len(all) == 1 && all[0].ID == d.DiskID && all[0].HeldBytes != nil && *all[0].HeldBytes >= 16<<20
	}))
	disk(t, c, "thrown", "1MiB") // its name is free
	if r, err := c.CLI("trash", "restore", "thrown"); err != nil || r.Code != 5 {
		t.Errorf("two disks of one name: %v %+v", err, r)
	}
	ok(t, c, "trash", "restore", "thrown", "--name", "back")
	back := endpoints(t, c, "back")
	for what, want := range map[string]string{back.Unix: head, exported(back.Unix, exportOf(back), d.DiskID+"@gold"): gold} {
		if got := sumOf(t, what); got != want {
			t.Errorf("%s is %s, was %s", what, got, want)
		}
	}
	used := usedBytes(t, c)
	ok(t, c, "cluster", "set", "--trash", "2s")
	ok(t, c, "disk", "delete", "back", "--with-snapshots", "--force")
	must(t, cluster.Wait("what is due to be gone, and its space to be back", patience, func() bool {
		st, err := c.Status()
		return err == nil && st.Counts.DisksDeleted == 0 && c.JSON(&all, "trash", "list") == nil && len(all) == 0 && usedBytes(t, c)+16<<20 < used
	}))
}

// usedBytes are those of all stores.
func usedBytes(t *testing.T, c *cluster.Cluster) uint64 {
	t.Helper()
	st, err := c.Status()
	must(t, err)
	return st.UsedBytes
}
