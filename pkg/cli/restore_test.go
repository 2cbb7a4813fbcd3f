package cli

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
)

// RestoreDisk makes a disk of which everything lies in the archive.
func (f *fake) RestoreDisk(ctx context.Context, x client.Restore) (*api.Disk, error) {
	if x.Manifest != "manifests/m" {
		return nil, fmt.Errorf("host b1: manifest %s: %w", x.Manifest, errs.ErrNotFound)
	}
	d, err := f.CreateLimitedDisk(ctx, x.Name, max(x.SizeBytes, 1<<30), x.QoS)
	if err == nil {
		d.Hydration = &api.Hydration{Manifest: x.Manifest, Segments: 200, Left: 200, BytesPerSecond: x.Rate}
	}
	return d, err
}

// SetHydrate changes the rate.
func (f *fake) SetHydrate(_ context.Context, disk string, rate uint64) (*api.Disk, error) {
	d, err := f.find(disk)
	if err == nil && d.Hydration == nil {
		err = fmt.Errorf("nothing of disk %s lies in an archive: %w", disk, errs.ErrConflict)
	}
	if err == nil {
		d.Hydration.BytesPerSecond = rate
	}
	return d, err
}

// Without this nobody would see how far a restored disk is, or what keeps it.
func TestRestoredDiskShowsHowFarItIs(t *testing.T) {
	x := newTerminal(t)
	if out := x.must("disk create back --from-archive manifests/m --hydrate 50MiB"); !strings.Contains(out, "as archived") {
		t.Error(out)
	}
	d := x.fake.disks[0]
	if d.Hydration.BytesPerSecond != 50<<20 {
		t.Errorf("%+v", d.Hydration)
	}
	d.Hydration.Left, d.Hydration.Problem = 1, "object data/1: corrupt"
	if out := x.must("disk list"); !strings.Contains(out, "99 % brought in") || !strings.Contains(out, "data/1") {
		t.Error(out)
	}
	out := x.must("disk show back")
	for _, want := range []string{"99 %; 1 of 200 segments", "at most 50 MiB/s", "manifests/m", "data/1"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if out := x.must("disk show back -o json"); !strings.Contains(out, `"percent": 99`) {
		t.Error(out)
	}
	if out := x.must("disk set back --hydrate default"); !strings.Contains(out, "by default") || d.Hydration.BytesPerSecond != 0 {
		t.Error(out)
	}
	d.Origin, d.Hydration = &api.DiskOrigin{Disk: "p", Snapshot: "s", Depth: 1, Hydration: d.Hydration, HydratedDisk: "p"}, nil // a clone of one
	for cmd, want := range map[string]string{"show back": "1 of 200 segments of disk p still lie", "show back -o json": `"hydratedDisk": "p"`, "list": "reads what lies in the archive; object data/1"} {
		if out := x.must("disk " + cmd); !strings.Contains(out, want) {
			t.Errorf("%s: no %q in\n%s", cmd, want, out)
		}
	}
	if code := x.run("disk set back --hydrate 10MiB"); code == 0 {
		t.Error("a rate for a disk that is whole")
	}
	for line, want := range map[string]int{
		"disk create b --from-archive manifests/none":              codeNotFound,
		"disk create b --from-archive m --from-snapshot a@b":       codeUsage,
		"disk create b --size 1GiB --hydrate 10MiB":                codeUsage,
		"disk create b --from-archive manifests/m --hydrate 10KiB": codeUsage,
	} {
		if code := x.run(line); code != want {
			t.Errorf("%s: exit code %d, want %d", line, code, want)
		}
	}
}
