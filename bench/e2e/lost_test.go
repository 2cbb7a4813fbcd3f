//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
)

type lostOf struct {
	Name                              string
	LostBytes, AwayBytes, RangesTotal uint64
	Problem                           string
	Ranges                            []struct {
		Offset, Length uint64
		State          string
	}
}

// lostRanges asks for what of the disk cannot be read; the exit code must fit.
func lostRanges(t *testing.T, c *cluster.Cluster) lostOf {
	t.Helper()
	var out []lostOf
	r, err := c.CLI("-o", "json", "disk", "lost", "healed")
	must(t, err)
	if err := json.Unmarshal([]byte(r.Stdout), &out); err != nil {
		t.Fatalf("%v: %+v", err, r)
	}
	if len(out) != 1 || out[0].Problem != "" || (out[0].LostBytes > 0) != (r.Code == 1) {
		t.Fatalf("%+v", r)
	}
	return out[0]
}

// Without this nobody could tell what is lost when more is lost than the code covers. One
// host is given up with both its disks, and a third store's files are cut off: of 4+2 that is one too
// many. What is listed is what cannot be read, block for block; the rest is served; and
// written again it is whole.
func TestLostRangesAreListedAndHealed(t *testing.T) {
	needTools(t, "nbdcopy", "qemu-io")
	c, err := cluster.Start(cluster.Options{Args: []string{"--no-restart", "--store-size", "2GiB", "--blockd-config", "testdata/small-buffers.yaml"}, Allowed: append([]cluster.Allowance{
		{Pattern: `level=WARN msg="store declared lost"`, Reason: "the test gives stores up"}}, mends...)})
	must(t, err)
	t.Cleanup(func() {
		if err := c.Stop(t.Failed()); err != nil {
			t.Error(err)
		}
	})
	must(t, c.WaitHealthy(patience))
	const blocks = 12 << 8 // 12 MiB
	in := scratch(t, "in")
	must(t, os.WriteFile(in, pattern(1, blocks>>8), 0o600))
	_, err = c.Create("healed", "12MiB")
	must(t, err)
	run(t, "nbdcopy", "--flush", in, at(t, c, "b2"))
	packed(t, c)
	if l := lostRanges(t, c); l.RangesTotal != 0 {
		t.Fatalf("nothing is lost: %+v", l)
	}
	loseTooMuch(t, c)
	must(t, cluster.Wait("the owner to know that b1 is back", patience, func() bool { return lostRanges(t, c).AwayBytes == 0 }))
	failing := unreadable(t, at(t, c, "b2"), blocks) // and the stores know what is wrong
	healthNames(t, c, "disk_lost")

	l := lostRanges(t, c)
	if l.LostBytes == 0 || l.AwayBytes != 0 {
		t.Fatalf("%+v", l)
	}
	t.Logf("%d bytes lost in %d ranges", l.LostBytes, l.RangesTotal)
	listed := make(map[int]bool)
	for _, r := range l.Ranges {
		for b := r.Offset / 4096; b < (r.Offset+r.Length)/4096; b++ {
			listed[int(b)] = true
		}
	}
	for b := range blocks {
		if listed[b] != failing[b] {
			t.Fatalf("block %d: listed %v, a read fails %v", b, listed[b], failing[b])
		}
	}
	run(t, "nbdcopy", "--flush", in, at(t, c, "b2"))
	if l := lostRanges(t, c); l.RangesTotal != 0 {
		t.Fatalf("all is written again: %+v", l)
	}
	out := scratch(t, "out")
	run(t, "nbdcopy", at(t, c, "b2"), out)
	sameFiles(t, in, out)
}

// loseTooMuch gives b3 up with its stores, and cuts a store of b1 off.
func loseTooMuch(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for _, b := range []string{"b3", "b1"} {
		_, err := c.Kill(b)
		must(t, err)
	}
	files, err := filepath.Glob(filepath.Join(c.Dir, "data", "b1", "s1", "extents", "*.ext"))
	must(t, err)
	for _, f := range files {
		must(t, os.Truncate(f, 4096))
	}
	must(t, os.RemoveAll(filepath.Join(c.Dir, "data", "b3")))
	must(t, c.StartDaemon("b1"))
	must(t, cluster.Wait("b1 to be back", patience, func() bool {
		st, err := c.Status()
		return err == nil && st.Counts.StoresUp == 4
	}))
	for _, s := range storesOf(t, c, "b3") {
		r, err := c.CLI("store", "remove", s.StoreID, "--sure", "--accept-loss")
		must(t, err)
		if r.Code != 0 {
			t.Fatalf("%+v", r)
		}
	}
}

// unreadable reads block by block.
func unreadable(t *testing.T, uri string, blocks int) map[int]bool {
	t.Helper()
	args := []string{"-f", "raw", "-r"}
	for b := range blocks {
		args = append(args, "-c", "read "+strconv.Itoa(b*4096)+" 4096")
	}
	out := make(map[int]bool)
	said, _ := exec.Command("qemu-io", append(args, uri)...).CombinedOutput() // it fails where reads do
	b := 0
	for line := range strings.Lines(string(said)) {
		switch {
		case strings.HasPrefix(line, "read failed"):
			out[b] = true
			b++
		case strings.HasPrefix(line, "read 4096/4096"):
			b++
		}
	}
	if b != blocks {
		t.Fatalf("qemu-io answered %d of %d reads: %.500s", b, blocks, said)
	}
	return out
}
