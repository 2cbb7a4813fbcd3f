//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
)

// changedRange is a line of ashlar snapshot diff.
type changedRange struct {
	Offset, Length int64
	Zero           bool
}

// diff asks the command line what differs.
func diff(t *testing.T, c *cluster.Cluster, args ...string) []changedRange {
	t.Helper()
	var v struct {
		ChangedBytes int64
		Extents      []changedRange
	}
	must(t, c.JSON(&v, append([]string{"snapshot", "diff"}, args...)...))
	sum := int64(0)
	for _, x := range v.Extents {
		sum += x.Length
	}
	if sum != v.ChangedBytes {
		t.Errorf("%d bytes of ranges, %d changed", sum, v.ChangedBytes)
	}
	return v.Extents
}

// Without this an incremental backup, ours or another tool's, could miss a block: whoever has an old copy and
// copies what is said to have changed must have the new one, through every host, and while the disk is written to.
func TestChangesMakeAnOldCopyNew(t *testing.T) {
	needTools(t, "fio", "nbdcopy", "nbdinfo", "qemu-io")
	c := mortal(t)
	disk(t, c, "differs", "64MiB")
	e := endpoints(t, c, "differs")
	id := filepath.Base(strings.SplitN(e.Unix, "?", 2)[0])
	image, older, newer := scratch(t, "image"), scratch(t, "older"), scratch(t, "newer")
	must(t, os.WriteFile(image, []byte(strings.Repeat("before", 4<<20)), 0o600)) // 24 MiB; the rest is a hole
	must(t, os.Truncate(image, 64<<20))
	run(t, "nbdcopy", image, e.Unix)
	snapshot(t, c, "differs", "old")
	want := []changedRange{{8192, 4096, false}, {1 << 20, 1 << 20, true}, {30 << 20, 12288, false}}
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 7 8k 4k", "-c", "discard 1M 1M", "-c", "discard 40M 1M", "-c", "write -P 9 30M 12k", e.Unix)
	if got := diff(t, c, "differs@old"); !slices.Equal(got, want) {
		t.Errorf("the disk differs in %v, want %v", got, want)
	}
	snapshot(t, c, "differs", "exact")

	w := write(t, e.Unix, 4, "--size=32M")
	snapshot(t, c, "differs", "new") // in the midst of it
	w.finish()
	kill(t, c, endpoints(t, c, "differs").All[0].Host)
	var at string // a host that is up, not the owner's
	for _, x := range endpoints(t, c, "differs").All {
		if x.Up {
			at = x.Unix
		}
	}
	if got := diff(t, c, "differs@old", "exact"); !slices.Equal(got, want) {
		t.Errorf("the snapshot differs in %v, want %v", got, want)
	}
	run(t, "nbdcopy", exported(at, id, "differs@old"), older)
	run(t, "nbdcopy", exported(at, id, "differs@new"), newer)
	after, err := os.ReadFile(newer)
	must(t, err)
	b, err := os.ReadFile(older)
	must(t, err)
	changed := diff(t, c, "differs@old", "new")
	for _, x := range changed {
		copy(b[x.Offset:], after[x.Offset:x.Offset+x.Length])
	}
	if !slices.Equal(b, after) {
		t.Error("an old copy with all changes is not the new one")
	}
	if got := mapOf(t, exported(at, id, "differs@new"), "ashlar:changed:old"); !slices.Equal(got, changed) {
		t.Errorf("nbdinfo says %v, the command line %v", got, changed)
	}
	revive(t, c, endpointDown(t, c, "differs"))
	must(t, c.WaitUp(patience))
	dropSnapshots(t, c, "differs")
	if r, err := c.CLI("snapshot", "diff", "differs@old"); err != nil || r.Code == 0 || !strings.Contains(r.Stderr, "snapshot list") {
		t.Errorf("a comparison with a snapshot that is not there: %v %+v", err, r)
	}
}

// endpointDown is the host that is down.
func endpointDown(t *testing.T, c *cluster.Cluster, disk string) string {
	t.Helper()
	for _, x := range endpoints(t, c, disk).All {
		if !x.Up {
			return x.Host
		}
	}
	t.Fatal("every host is up")
	return ""
}

// mapOf reads a meta context with another tool than ours.
func mapOf(t *testing.T, uri, context string) (out []changedRange) {
	t.Helper()
	var extents []struct{ Offset, Length, Type int64 }
	must(t, json.Unmarshal([]byte(run(t, "nbdinfo", "--json", "--map="+context, uri)), &extents))
	for _, x := range extents {
		r := changedRange{x.Offset, x.Length, x.Type&2 != 0}
		if n := len(out); x.Type&1 != 0 && n > 0 && out[n-1].Offset+out[n-1].Length == r.Offset && out[n-1].Zero == r.Zero {
			out[n-1].Length += r.Length
		} else if x.Type&1 != 0 {
			out = append(out, r)
		}
	}
	if len(extents) == 0 {
		t.Error(fmt.Errorf("nbdinfo has nothing of %s", context))
	}
	return out
}
