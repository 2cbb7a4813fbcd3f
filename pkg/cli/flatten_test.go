package cli

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

// FlattenDisk orders a clone to be flattened; when it is looked at next all is copied.
func (f *fake) FlattenDisk(_ context.Context, disk string, rate uint64, stop bool) (*api.Disk, error) {
	d, err := f.find(disk)
	switch {
	case err != nil:
		return nil, err
	case d.Origin == nil:
		return nil, fmt.Errorf("disk %s is no clone: %w", disk, errs.ErrConflict)
	case stop:
		d.Flattening = nil
	default:
		d.Flattening = &api.Flattening{Rate: rate, State: 2, DoneBytes: 1 << 20, LeftBytes: 3 << 20, BytesPerSecond: 1 << 20}
	}
	return d, nil
}

// Without this nobody would see how far a clone is, what keeps it, or that it is none any more.
func TestFlatteningIsShown(t *testing.T) {
	x := newTerminal(t)
	x.must("disk create c --size 1GiB")
	d := x.fake.disks[0]
	if x.run("disk flatten c"); !strings.Contains(x.err.String(), "no clone") || !strings.Contains(x.err.String(), "disk show c") {
		t.Error(x.err.String())
	}
	d.Origin = &api.DiskOrigin{Disk: "p", Snapshot: "s", Depth: 1}
	if out := x.must("disk flatten c --rate 5MiB"); !strings.Contains(out, "--wait follows") {
		t.Error(out)
	}
	if out := x.must("disk show c"); !strings.Contains(out, " 25%  1 MiB of 4 MiB  1 MiB/s  3s left, at most 5 MiB/s") {
		t.Error(out)
	}
	if out := x.must("disk list"); !strings.Contains(out, "flattening, 25 %") {
		t.Error(out)
	}
	d.Flattening = &api.Flattening{State: 3, Snapshots: 3, SnapshotNames: []string{"a", "b"}, Problem: "too bad"}
	for _, cmd := range []string{"disk show c", "disk flatten c --stop", "disk show c -o json"} {
		out := x.must(cmd)
		if want := map[string]string{"disk show c": "a, b and 1 more", "disk flatten c --stop": "stays", "disk show c -o json": "origin"}[cmd]; !strings.Contains(out, want) {
			t.Errorf("%s: no %q in\n%s", cmd, want, out)
		}
	}
	if x.run("disk flatten c --stop --wait"); !strings.Contains(x.err.String(), "no other flag") {
		t.Error(x.err.String())
	}
}
