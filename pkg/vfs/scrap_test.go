package vfs_test

import (
	"io"
	"testing"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"

	"ashlar.dev/pkg/vfs"
)

// Without this every loss of power in a long run would keep the disks of before, or Scrap would take bytes from the disks that stand
// in for them.
func TestScrapEmptiesWhatWasCutAndLeavesItsClone(t *testing.T) {
	c := vfs.NewCrash()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.MkdirAll("/d", 0o755))
	f, err := c.Create("/d/f", pvfs.WriteCategoryUnspecified)
	must(err)
	_, err = f.Write([]byte("synced"))
	must(err)
	must(f.Sync())
	must(f.Close())
	for _, name := range []string{"/d", "/"} {
		dir, err := c.OpenDir(name)
		must(err)
		must(dir.Sync())
		must(dir.Close())
	}
	c.Cut()
	clone, late := c.Clone(0, 1), (*vfs.Crash)(nil)
	must(c.Scrap())
	late = c.Clone(0, 1)
	if _, err := late.Stat("/d/f"); err == nil {
		t.Error("what was scrapped is there")
	}
	g, err := clone.Open("/d/f")
	must(err)
	if b, err := io.ReadAll(g); err != nil || string(b) != "synced" {
		t.Errorf("the clone has %q, %v", b, err)
	}
	must(g.Close())
}
