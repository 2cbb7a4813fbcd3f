package cli

import (
	"strings"
	"testing"

	"ashlar.dev/pkg/api"
)

// Without this a disk that changed hands would show a rate of billions, or a total that
// none of its disks has.
func TestTopShowsRates(t *testing.T) {
	at := func(ms int64, disks ...*api.Disk) *api.StatusReply {
		return &api.StatusReply{AtUnixMs: ms, Health: api.Health_HEALTH_OK, Disks: disks,
			Stores: []*api.Store{{StoreId: "st-1", Host: "b1", State: "up", Traffic: &api.StoreTraffic{Syncs: uint64(ms), WriteBytes: uint64(ms) << 10}}}}
	}
	before := at(1000, &api.Disk{DiskId: "d-1", Name: "a", Traffic: &api.Traffic{Reads: 100, ReadBytes: 1 << 20, TimedReads: 10, ReadUs: 5000, Writes: 7}},
		&api.Disk{DiskId: "d-2", Name: "b", Traffic: &api.Traffic{Writes: 1 << 40, WriteBytes: 1 << 50}})
	after := at(3000, &api.Disk{DiskId: "d-1", Name: "a", Traffic: &api.Traffic{Reads: 300, ReadBytes: 3 << 20, TimedReads: 30, ReadUs: 25000, Writes: 7}},
		&api.Disk{DiskId: "d-2", Name: "b", Traffic: &api.Traffic{Writes: 1000, WriteBytes: 4 << 20, TimedWrites: 2, WriteUs: 4000}}, // another owner
		&api.Disk{DiskId: "d-3", Name: "c", Traffic: &api.Traffic{Writes: 1 << 40}})                                                  // not seen before
	v := viewTop(before, after)
	a, b, c := v.Disks[0], v.Disks[1], v.Disks[2]
	if a.ReadIOPS != 100 || a.ReadBytesPerSecond != 1<<20 || a.ReadLatencyUs != 1000 || a.WriteIOPS != 0 || a.WriteLatencyUs != 0 {
		t.Errorf("disk a %+v", a)
	}
	if b.WriteIOPS != 500 || b.WriteBytesPerSecond != 2<<20 || b.WriteLatencyUs != 2000 {
		t.Errorf("disk b %+v", b)
	}
	if c.WriteIOPS != 0 {
		t.Errorf("disk c %+v", c)
	}
	if v.Total.ReadIOPS != 100 || v.Total.WriteIOPS != 500 || v.Total.ReadLatencyUs != 1000 || v.Total.WriteLatencyUs != 2000 {
		t.Errorf("total %+v", v.Total)
	}
	if s := v.Stores[0]; s.SyncsPerSecond != 1000 || s.WriteBytesPerSecond != 1000<<10 {
		t.Errorf("store %+v", s)
	}
	(&topCommand{Sort: "bandwidth"}).order(&v)
	if v.Disks[0].Name != "b" {
		t.Errorf("by bandwidth %s is first", v.Disks[0].Name)
	}
	if got := fit("1\n2\n3\n4\n", 3); got != "1\n2\n" {
		t.Errorf("cut to 3 rows: %q", got)
	}
	var page strings.Builder
	(&topCommand{}).print(&page, &v)
	for _, want := range []string{"health OK", "reads 100/s, 1 MiB/s, 1ms", "writes 500/s, 2 MiB/s, 2ms", "st-1"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %q in\n%s", want, page.String())
		}
	}
}
