package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/devcluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

var update = flag.Bool("update", false, "rewrite testdata")

var _ Cluster = (*client.Cluster)(nil)

// fake is a cluster in memory: enough of metad's rules for the commands to show what they do.
type fake struct {
	disks    []*api.Disk
	stores   []*api.Store
	status   *api.StatusReply
	err      error // if set, every call fails with it
	closed   int
	drained  []string
	drainErr error
	lost     []string
	loss     id.Ensemble
	events   []*api.Event
	clock    clock.Clock
	trash    []*api.TrashEntry
	keep     uint64            // seconds
	scrubs   []*api.ScrubReply // answers, in order
	scrubbed []string          // what was asked
	losts    []*api.LostRangesReply
	archive  *api.ArchiveStatus
	tasks    int
	taskErr  error // what they end with
	looked   []cluster.Look

	snapshots []*api.Snapshot
	diffs     []client.Change
	diffed    []string
	policies  []*api.Policy
	images    []*api.Image
}

func (f *fake) find(name string) (*api.Disk, error) {
	if f.err != nil {
		return nil, f.err
	}
	for _, d := range f.disks {
		if d.Name == name || d.DiskId == name {
			return d, nil
		}
	}
	return nil, fmt.Errorf("disk %s: %w", name, errs.ErrNotFound)
}

func (f *fake) Status(context.Context, bool) (*api.StatusReply, error) { return f.status, f.err }
func (f *fake) Stores(context.Context) ([]*api.Store, error)           { return f.stores, f.err }
func (f *fake) Disks(context.Context) ([]*api.Disk, error)             { return f.disks, f.err }
func (f *fake) Disk(_ context.Context, n string) (*api.Disk, error)    { return f.find(n) }
func (f *fake) Close() error                                           { f.closed++; return nil }

func (f *fake) SetDiskQoS(_ context.Context, name string, x cluster.QoSChange) (*api.Disk, error) {
	d, err := f.find(name)
	if err != nil {
		return nil, err
	}
	q := x.Apply(d.Qos.Value())
	if err := q.Validate(); err != nil {
		return nil, err
	}
	d.Qos = api.FromQoS(q)
	return d, nil
}

func (f *fake) SetPolicy(_ context.Context, name string, rules *api.PolicyRules, change bool) (*api.Policy, error) {
	for _, p := range f.policies {
		if p.Name == name {
			if !change {
				return nil, fmt.Errorf("policy %s: %w", name, errs.ErrExists)
			}
			p.Rules = rules
			return p, nil
		}
	}
	p := &api.Policy{Name: name, Rules: rules, NextUnixMs: 1700000000000}
	f.policies = append(f.policies, p)
	return p, nil
}

func (f *fake) DeletePolicy(_ context.Context, name string) (*api.Policy, error) {
	p, err := f.ApplyPolicy(context.Background(), name, nil, false)
	f.policies = slices.DeleteFunc(f.policies, func(x *api.Policy) bool { return x == p })
	return p, err
}

func (f *fake) ApplyPolicy(_ context.Context, name string, disks []string, off bool) (*api.Policy, error) {
	for _, p := range f.policies {
		if p.Name == name {
			if off {
				p.Disks = slices.DeleteFunc(p.Disks, func(d string) bool { return slices.Contains(disks, d) })
			} else {
				p.Disks = append(p.Disks, disks...)
			}
			return p, nil
		}
	}
	return nil, fmt.Errorf("policy %s: %w", name, errs.ErrNotFound)
}

func (f *fake) Policies(context.Context) ([]*api.Policy, error) { return f.policies, f.err }

func (f *fake) CreateSnapshots(ctx context.Context, disks []string, name string) (all []*api.Snapshot, err error) {
	for _, d := range disks {
		x, err := f.CreateSnapshot(ctx, d, name)
		if err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	return all, nil
}

func (f *fake) CreateSnapshot(_ context.Context, disk, name string) (*api.Snapshot, error) {
	d, err := f.find(disk)
	if err != nil {
		return nil, err
	}
	x := &api.Snapshot{SnapshotId: "s-1", Name: name, Disk: d.Name, DiskId: d.DiskId, SizeBytes: d.SizeBytes, State: "ready"}
	f.snapshots = append(f.snapshots, x)
	return x, f.err
}

func (f *fake) Snapshots(_ context.Context, disk string) ([]*api.Snapshot, bool, error) {
	if _, err := f.find(disk); disk != "" && err != nil {
		return nil, false, err
	}
	return f.snapshots, false, f.err
}

func (f *fake) DeleteSnapshot(_ context.Context, disk, snapshot string, _ bool) (*api.Snapshot, error) {
	for i, x := range f.snapshots {
		if x.Disk == disk && x.Name == snapshot {
			f.snapshots = slices.Delete(f.snapshots, i, i+1)
			return x, nil
		}
	}
	return nil, errs.ErrNotFound
}

func (f *fake) CreateLimitedDisk(_ context.Context, name string, size uint64, q cluster.QoS) (*api.Disk, error) {
	if _, err := f.find(name); err == nil {
		return nil, fmt.Errorf("create disk %s: %w", name, errs.ErrExists)
	}
	if f.err != nil {
		return nil, f.err
	}
	d := &api.Disk{DiskId: fmt.Sprintf("d-%026d", len(f.disks)+1), Name: name, SizeBytes: size, State: "available", CreatedUnixMs: f.clock.Wall().UnixMilli(), Qos: api.FromQoS(q)}
	f.disks = append(f.disks, d)
	return d, nil
}

func (f *fake) RollbackDisk(_ context.Context, disk, snapshot string) (*api.Snapshot, error) {
	d, err := f.find(disk)
	if err != nil {
		return nil, err
	}
	return &api.Snapshot{SnapshotId: "s-9", Name: "before-rollback", Disk: d.Name, DiskId: d.DiskId, State: "ready"}, f.err
}

func (f *fake) CloneDisk(ctx context.Context, x client.Clone) (*api.Disk, error) {
	if _, err := f.find(x.Disk); err != nil {
		return nil, err
	}
	d, err := f.CreateLimitedDisk(ctx, x.Name, max(x.SizeBytes, 4096), x.QoS)
	if err == nil {
		d.Origin = &api.DiskOrigin{DiskId: "d-1", Disk: x.Disk, SnapshotId: "s-1", Snapshot: x.Snapshot, Depth: 1}
	}
	return d, err
}

func (f *fake) ArchiveSnapshot(_ context.Context, disk, snapshot string, cancel bool) (*api.ArchiveStatus, error) {
	f.archive = &api.ArchiveStatus{Disk: disk, Snapshot: snapshot, SnapshotId: "s-1", State: "queued", Workers: 1}
	if cancel {
		f.archive.State = ""
	}
	return f.archive, nil
}

func (f *fake) Archive(context.Context, string, string) (*api.ArchiveStatus, error) {
	x := f.archive
	switch x.State {
	case "queued":
		x.State, x.TotalBytes = "uploading", 100<<20
	case "uploading":
		if x.DoneBytes += 50 << 20; x.DoneBytes == x.TotalBytes {
			x.State, x.StoredBytes, x.Manifest, x.Reason = "archived", 20<<20, "manifests/d-1/s-1", ""
			if x.Snapshot == "bad" {
				x.State, x.Reason = "failed", "the bucket is gone"
			}
		}
	}
	return x, nil
}

func (f *fake) ArchiveTask(_ context.Context, q *api.ArchiveTaskRequest) (*api.ArchiveTaskReply, error) {
	r := &api.ArchiveTaskReply{TaskId: q.GetTaskId(), Place: "file:///archive", DoneObjects: 3, TotalObjects: 2, FoundObjects: 1, DoneBytes: 5 << 20, TotalBytes: 8 << 20}
	if f.tasks++; f.tasks == 1 {
		return r, nil
	}
	r.Done = true
	if f.taskErr != nil {
		return r, f.taskErr
	}
	if q.GetKind() == api.ArchiveTaskKind_ARCHIVE_TASK_KIND_LIST {
		r.Entries = []*api.ArchiveEntry{{DiskId: "d-9", Disk: "gone", SnapshotId: "s-9", Snapshot: "monday", SizeBytes: 1 << 30, StoredBytes: 5 << 20, NeedsBytes: 9 << 20, Base: "s-8",
			Manifest: "manifests/d-9/s-9", CreatedUnixMs: 1_700_000_000_000}}
	}
	return r, nil
}

func (f *fake) ResizeDisk(_ context.Context, name string, size uint64) (*api.Disk, error) {
	d, err := f.find(name)
	if err != nil {
		return nil, err
	}
	if size < d.SizeBytes {
		return nil, fmt.Errorf("resize disk %s: shrinking: %w", name, errs.ErrInvalid)
	}
	d.SizeBytes = size
	return d, nil
}

func (f *fake) SetProtection(_ context.Context, name string, on bool) (*api.Disk, error) {
	d, err := f.find(name)
	if err != nil {
		return nil, err
	}
	d.IsProtected = on
	return d, nil
}

func (f *fake) DeleteDisk(_ context.Context, name string, x client.Deletion) (client.Deleted, error) {
	d, err := f.find(name)
	if err != nil {
		return client.Deleted{}, err
	}
	if d.IsProtected {
		return client.Deleted{}, fmt.Errorf("delete disk %s: it is protected: %w", name, errs.ErrConflict)
	}
	if d.Sessions > 0 && !x.Force {
		return client.Deleted{}, fmt.Errorf("delete disk %s: %d clients are attached: %w", name, d.Sessions, errs.ErrConflict)
	}
	f.disks = slices.DeleteFunc(f.disks, func(x *api.Disk) bool { return x == d })
	return f.thrown(d, x.Purge), nil
}

func (f *fake) DiskEndpoints(_ context.Context, name string) (*api.DiskEndpointsReply, error) {
	d, err := f.find(name)
	if err != nil {
		return nil, err
	}
	r := &api.DiskEndpointsReply{DiskId: d.DiskId, Name: d.Name, SizeBytes: d.SizeBytes}
	for i, host := range []string{"b2", "b1", "b3"} {
		r.Endpoints = append(r.Endpoints, &api.Endpoint{Host: host, Owner: i == 0, Up: host != "b3",
			UnixUri: "nbd+unix:///" + d.Name + "?socket=/run/x/" + host + ".sock", TcpUri: "nbd://127.0.0.1:1000" + host[1:] + "/" + d.Name})
	}
	return r, nil
}

func (f *fake) MoveDisk(_ context.Context, name, host string) (*api.Disk, error) {
	d, err := f.find(name)
	if err == nil {
		d.OwnerHost = host
	}
	return d, err
}

func (f *fake) Events(_ context.Context, after uint64, since time.Time, limit int, wait time.Duration) ([]*api.Event, uint64, error) {
	var out []*api.Event
	for _, e := range f.events {
		if e.Seq > after && e.AtUnixMs >= since.UnixMilli() && len(out) < limit {
			out = append(out, e)
		}
	}
	return out, uint64(len(f.events)), f.err
}

func (f *fake) DrainStore(_ context.Context, store string, stop bool) (*api.DrainStoreReply, error) {
	f.drained = append(f.drained, fmt.Sprint(store, " ", stop))
	return &api.DrainStoreReply{}, f.drainErr
}

func (f *fake) DeclareStoreLost(_ context.Context, store, incarnation string, _ bool) error {
	f.lost = append(f.lost, store+" "+incarnation)
	return f.err
}

func (f *fake) AcceptLoss(_ context.Context, name string, e id.Ensemble) (*api.Disk, error) {
	f.loss = e
	return f.find(name)
}

// terminal runs commands against a fake cluster.
type terminal struct {
	t        *testing.T
	fake     *fake
	out, err bytes.Buffer
	dev      *devcluster.Options
	executed []string
	tool     *fakeTool
}

func newTerminal(t *testing.T) *terminal {
	t.Setenv("ASHLAR_DATA", "/x")
	m := clock.NewManual()
	return &terminal{t: t, fake: &fake{clock: m}}
}

func (x *terminal) run(line string) int { return x.runUntil(context.Background(), line) }

// runUntil is run that is interrupted when ctx ends.
func (x *terminal) runUntil(ctx context.Context, line string) int {
	x.out.Reset()
	x.err.Reset()
	return Run(ctx, strings.Fields(line), Surroundings{
		Out: &x.out, Err: &x.err, Clock: x.fake.clock,
		Connect:   func(string) (Cluster, error) { return x.fake, nil },
		DiskFiles: func() (DiskFiles, error) { return x.tool, nil },
		Dev:       func(_ context.Context, o devcluster.Options) error { x.dev = &o; return nil },
		Changes: func(_ context.Context, uri, since string, each func(client.Change) error) error {
			return x.fake.changes(uri, since, each)
		},
		Exec: func(_ context.Context, program string, args ...string) error {
			x.executed = append([]string{program}, args...)
			return &verdict{9}
		},
	})
}

func (x *terminal) must(line string) string {
	x.t.Helper()
	if code := x.run(line); code != 0 {
		x.t.Fatalf("ashlar %s: exit code %d: %s", line, code, x.err.String())
	}
	return x.out.String()
}

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("not JSON: %v\n%s", err, text)
	}
	return v
}

// Scripts stand on these keys: without this a rename would break them unseen.
func TestKeysThatScriptsUse(t *testing.T) {
	x := newTerminal(t)
	d := decode[map[string]any](t, x.must("disk create data --size 4GiB -o json"))
	diskID, ok := d["diskId"].(string)
	if !ok || d["name"] != "data" || d["sizeBytes"] != float64(4<<30) {
		t.Errorf("create printed %v", d)
	}
	for _, name := range []string{"data", diskID} {
		n := decode[map[string]any](t, x.must("disk nbd "+name+" -o json"))
		if n["unix"] != "nbd+unix:///data?socket=/run/x/b2.sock" || n["tcp"] != "nbd://127.0.0.1:10002/data" {
			t.Errorf("nbd printed %v", n)
		}
		all, ok := n["all"].([]any)
		if !ok || len(all) != 3 || all[0].(map[string]any)["owner"] != true {
			t.Errorf("nbd printed %v", n["all"])
		}
	}
	x.fake.status = sampleStatus()
	s := decode[map[string]any](t, x.must("status -o json"))
	if s["health"] != "AT_RISK" || len(s["reasons"].([]any)) != 2 || s["counts"].(map[string]any)["storesUp"] != float64(4) {
		t.Errorf("status printed %v", s)
	}
	if list := decode[[]map[string]any](t, x.must("disk list -o json")); len(list) != 1 || list[0]["diskId"] != diskID {
		t.Errorf("list printed %v", list)
	}
	x.must("disk set data --iops 700 --bandwidth 2MiB -o json")
	if l, _ := decode[map[string]any](t, x.must("disk show data -o json"))["limits"].(map[string]any); l["iops"] != 700.0 || l["bytesPerSecond"] != float64(2<<20) {
		t.Errorf("limits printed %v", l)
	}
	if gone := decode[map[string]any](t, x.must("disk delete data -o json")); gone["diskId"] != diskID {
		t.Errorf("delete printed %v", gone)
	}
	if text := x.must("disk list -o json"); strings.TrimSpace(text) != "[]" {
		t.Errorf("an empty list must be [], got %s", text)
	}
}

// Scripts stand on the exit codes, people on the second line.
func TestErrorsSayWhatToDo(t *testing.T) {
	x := newTerminal(t)
	x.must("disk create data --size 1GiB")
	x.fake.disks[0].Sessions = 2
	for _, tc := range []struct {
		line, want string
		code       int
	}{
		{"disk create data --size 2GiB", "choose another name, or use the disk that has it: ashlar disk show data", codeConflict},
		{"disk create x --size 2Gulp", "write it like 4GiB", codeUsage},
		{"disk create x --size 1000", "multiple of 4 KiB", codeUsage},
		{"disk create x", "see ashlar disk create --help", codeUsage},
		{"disk create x --size 1G --iops 5", "want 100 to", codeUsage},
		{"disk create x --size 1G --iops-burst 5000", "needs a limit of I/Os", codeUsage},
		{"disk create x --size 1G --bandwidth 1000", "want 1048576 to", codeUsage},
		{"disk set data --bandwidth-burst 1TiB --bandwidth 1MiB", "would gather for more than 1h", codeUsage},
		{"disk set data --iops many", "want a number, such as 5000, or none", codeUsage},
		{"disk set nope --iops 500", "ashlar disk list", codeNotFound},
		{"disk show nope", `no disk has the name or id "nope"; ashlar disk list shows them all`, codeNotFound},
		{"disk nbd nope", "ashlar disk list", codeNotFound},
		{"disk delete nope", "ashlar disk list", codeNotFound},
		{"disk resize nope --size 1G", "ashlar disk list", codeNotFound},
		{"disk resize data --size 4096", "disks only grow", codeUsage},
		{"disk delete data", "--force", codeConflict},
		{"disk accept-loss data --ensemble seventeen", "write it like e17.2", codeUsage},
		{"store lost st-1", "ashlar store list shows them all", codeNotFound},
		{"store remove st-1", "ashlar store list shows them all", codeNotFound},
		{"store drain st-1", "ashlar store list shows them all", codeNotFound},
		{"store replace st-1", "ashlar store list shows them all", codeNotFound},
		{"store lost st-1 --sure", "ashlar store list shows them all", codeNotFound},
		{"frobnicate", "see ashlar --help", codeUsage},
		{"disk list -o xml", "see ashlar disk list --help", codeUsage},
	} {
		code := x.run(tc.line)
		if code != tc.code || !strings.Contains(x.err.String(), tc.want) {
			t.Errorf("ashlar %s: code %d, want %d; said:\n%swant %q", tc.line, code, tc.code, x.err.String(), tc.want)
		}
		if x.out.Len() > 0 {
			t.Errorf("ashlar %s: an error went to stdout: %s", tc.line, x.out.String())
		}
	}
	for class, code := range map[error]int{errs.ErrUnavailable: codeUnavailable, errs.ErrTimeout: codeUnavailable, errs.ErrDenied: codeDenied,
		errs.ErrNoSpace: codeNoSpace, context.DeadlineExceeded: codeUnavailable, errors.New("odd"): codeFailed, errs.ErrCorrupt: codeFailed} {
		x.fake.err = fmt.Errorf("ask metad: %w", class)
		if got := x.run("disk list"); got != code {
			t.Errorf("%v: code %d, want %d", class, got, code)
		}
	}
	if x.fake.closed == 0 {
		t.Error("connections were left open")
	}
}

// Without this a script could not tell a cluster that is gone from one that is well.
func TestStatusOfASilentCluster(t *testing.T) {
	x := newTerminal(t)
	x.fake.err = fmt.Errorf("no member answers: %w", errs.ErrUnavailable)
	if code := x.run("status -o json"); code != codeUnavailable {
		t.Errorf("code %d", code)
	}
	s := decode[map[string]any](t, x.out.String())
	if s["health"] != "UNAVAILABLE" || s["reasons"].([]any)[0].(map[string]any)["code"] != "metad_unreachable" {
		t.Errorf("printed %v", s)
	}
	if code := x.run("status"); code != codeUnavailable || x.out.Len() > 0 || !strings.Contains(x.err.String(), "ashlar dev") {
		t.Errorf("code %d, %s", code, x.err.String())
	}
	x.fake.err, x.fake.status = nil, sampleStatus()
	for health, code := range map[api.Health]int{api.Health_HEALTH_OK: 0, api.Health_HEALTH_DEGRADED: 1, api.Health_HEALTH_AT_RISK: 1, api.Health_HEALTH_UNAVAILABLE: 4} {
		x.fake.status.Health = health
		if got := x.run("status --check"); got != code {
			t.Errorf("%v: code %d, want %d", health, got, code)
		}
	}
	if healthWord(api.Health(77)) == "OK" {
		t.Error("an unknown health must not look well")
	}
}

func sampleStatus() *api.StatusReply {
	return &api.StatusReply{
		Health: api.Health_HEALTH_AT_RISK, ReasonsTotal: 3,
		Repair: &api.Repair{Groups: 3, SegmentsLeft: 120, BytesLeft: 480 << 20, BytesPerSecond: 48 << 20, SecondsLeft: 10, Stuck: 1},
		Reasons: []*api.Reason{
			{Code: "pg_no_margin", Health: api.Health_HEALTH_AT_RISK, Subject: "pg 3", Text: "12 placement groups have no margin left: the next store costs data"},
			{Code: "host_down", Health: api.Health_HEALTH_DEGRADED, Subject: "b3", Text: "blockd b3 is down"},
		},
		Counts: &api.Counts{Metads: 3, MetadsUp: 3, Hosts: 3, HostsUp: 2, Stores: 6, StoresUp: 4, Pgs: 16, PgsNoMargin: 12, PgsFullMargin: 4, Disks: 2, DisksAttached: 1, DisksStuck: 1},
		Metads: []*api.MetadMember{{Id: "m1", ApiAddress: "127.0.0.1:1", Up: true}, {Id: "m2", ApiAddress: "127.0.0.1:2", Up: true, Leader: true}},
		Hosts: []*api.Host{
			{Host: "b1", Up: true, LastSeenMs: 312, DisksOwned: 1, ResidentBytes: 300 << 20, CpuMs: 61234,
				Memory: []*api.Memory{{Name: "write buffer", LimitBytes: 512 << 20, UsedBytes: 128 << 20}}},
			{Host: "b3", LastSeenMs: -1},
		},
		Processes: []*api.ProcessMemory{
			{Daemon: "metad", Node: "m1", ResidentBytes: 90 << 20, LimitBytes: 1 << 30, HeapBytes: 70 << 20, Uses: []*api.MemoryUse{{Name: "state", LimitBytes: 1 << 30, UsedBytes: 2 << 20}}},
			{Daemon: "blockd", Node: "b1", LimitBytes: 2 << 30, HeapLimitBytes: 2304 << 20, HeapBytes: 576 << 20, Uses: []*api.MemoryUse{
				{Name: "payload buffers", LimitBytes: 1792 << 20, UsedBytes: 144 << 20},
				{Name: "write buffer", LimitBytes: 512 << 20, UsedBytes: 128 << 20, Within: "payload buffers"},
				{Name: "map pages", LimitBytes: 256 << 20, UsedBytes: 64 << 20}}},
		},
		Profiles:      []*api.ProfileCount{{K: 4, M: 2, Pgs: 12, NoMargin: 12, Preferred: true}, {K: 2, M: 1, Pgs: 4, FullMargin: 4}},
		CapacityBytes: 60 << 30, UsedBytes: 1288490188, UnpackedBytes: 12 << 20,
		Summary: "1 GiB may be lost with the next store", Risk: &api.Risk{NoMarginBytes: 1 << 30},
		Room: &api.Room{CapacityBytes: 60 << 30, UsedBytes: 1288490188, FreeBytes: 52 << 30, ReclaimableBytes: 128 << 20, UsableBytes: 36 << 30,
			ProvisionedBytes: 90 << 30, OvercommitPercent: 250},
		Cleaning: &api.Cleaning{Active: true, LeftBytes: 96 << 20, BytesPerSecond: 8 << 20, SecondsLeft: 12},
	}
}

// What people see, as a page to read: without this tables would rot unseen.
func TestTablesForPeople(t *testing.T) {
	x := newTerminal(t)
	var page strings.Builder
	show := func(line string) {
		code := x.run(line)
		fmt.Fprintf(&page, "$ ashlar %s\n%s%s", line, x.out.String(), x.err.String())
		if code != 0 {
			fmt.Fprintf(&page, "exit code %d\n", code)
		}
		page.WriteString("\n")
	}
	show("disk list")
	show("disk create data --size 4GiB")
	show("disk create scratch --size 1.5T")
	x.fake.disks[0].State, x.fake.disks[0].OwnerHost, x.fake.disks[0].Sessions, x.fake.disks[0].Epoch = "attached", "b2", 2, 17
	x.fake.clock.(*clock.Manual).Advance(3 * time.Hour)
	show("disk list")
	show("disk show data")
	show("disk set data --iops 5000 --iops-burst 20000 --bandwidth 100MiB/s")
	show("disk show data")
	show("disk set data --bandwidth none")
	show("disk create slow --size 1GiB --bandwidth 50MiB --bandwidth-burst 1GiB")
	show("disk set data")
	show("disk set data --iops 5")
	show("disk nbd data")
	show("disk nbd data --qemu")
	show("disk resize data --size 8GiB")
	show("disk resize data --size 1GiB")
	show("disk set data --protect on")
	show("disk delete data --force")
	show("disk set data --protect off")
	show("disk delete data")
	show("disk delete data --force")
	x.fake.stores = []*api.Store{
		{StoreId: "st-1", Incarnation: "i-1", Host: "b1", State: "up", UsedBytes: 2 << 30, CapacityBytes: 10 << 30, LogUsedBytes: 1 << 20, LogCapacityBytes: 256 << 20, Pgs: 16},
		{StoreId: "st-2", Incarnation: "i-2", Host: "b3", State: "down", CapacityBytes: 10 << 30, Full: true, Problem: "fdatasync failed"},
	}
	show("store list")
	show("store lost st-2")
	show("store remove st-2")
	show("store remove st-2 --sure")
	show("store drain st-1")
	show("store list")
	show("store drain st-1 --stop")
	show("store replace st-1")
	show("store replace st-2 --sure")
	x.fake.drainErr = fmt.Errorf("store st-1 cannot be emptied: 6 placement groups of 4+2 need 6 stores and no other is free to take its place; add a store first: %w", errs.ErrConflict)
	show("store drain st-1")
	x.fake.status = sampleStatus()
	show("status --verbose")
	golden := filepath.Join("testdata", "tables.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if page.String() != string(want) {
		t.Errorf("the pages differ; look at them and run with -update:\n%s", page.String())
	}
	if !slices.Equal(x.fake.lost, []string{"st-2 i-2", "st-2 i-2"}) || !slices.Equal(x.fake.drained, []string{"st-1 false", "st-1 true", "st-1 false", "st-1 false"}) {
		t.Errorf("declared lost: %v, drained: %v", x.fake.lost, x.fake.drained)
	}
}

// Without this flags would be parsed and go nowhere.
func TestFlagsReachTheirPlace(t *testing.T) {
	x := newTerminal(t)
	over := filepath.Join(t.TempDir(), "o.yaml")
	if err := os.WriteFile(over, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	x.must("dev --data /y --metad 1 --blockd 4 --stores 1 --store-size 2GiB --no-restart --sync-delay 1ms --blockd-config " + over)
	want := devcluster.Options{Dir: "/y", Metads: 1, Blockds: 4, Stores: 1, StoreSize: 2 * config.GiB, NoRestart: true,
		SyncDelay: config.Duration(time.Millisecond), BlockdOverlay: over, Out: &x.out}
	if !reflect.DeepEqual(*x.dev, want) {
		t.Errorf("dev got %+v", *x.dev)
	}
	if code := x.run("blockd store format /disk --size 100GiB"); code != 9 {
		t.Errorf("the program's exit code was lost: %d", code)
	}
	if !slices.Equal(x.executed, []string{"blockd", "store", "format", "--size", "100GiB", "/disk"}) {
		t.Errorf("executed %v", x.executed)
	}
	x.must("disk create data --size 1G")
	x.must("disk accept-loss data --ensemble e17.2")
	if x.fake.loss.String() != "e17.2" {
		t.Errorf("ensemble %s", x.fake.loss)
	}
	if v := decode[map[string]any](t, x.must("version -o json")); v["version"] == "" {
		t.Errorf("version %v", v)
	}
	t.Setenv("ASHLAR_DATA", "")
	os.Unsetenv("ASHLAR_DATA")
	for _, line := range []string{"status", "dev"} {
		if code := x.run(line); code != codeUsage || !strings.Contains(x.err.String(), "ASHLAR_DATA") {
			t.Errorf("ashlar %s without a folder: %d %s", line, code, x.err.String())
		}
	}
	if code := x.run("--help"); code != 0 || !strings.Contains(x.out.String(), "Exit codes") {
		t.Errorf("help: %d", code)
	}
	if code := x.run(""); code != 0 || !strings.Contains(x.out.String(), "disk create") {
		t.Errorf("no command: %d", code)
	}
}

// Without this a folder without a cluster would give an error nobody can act on.
func TestFolderWithoutCluster(t *testing.T) {
	_, err := connect(t.TempDir())
	var h *hinted
	if !errors.Is(err, errs.ErrNotFound) || !errors.As(err, &h) || !strings.Contains(h.hint, "ashlar dev --data") {
		t.Errorf("got %v", err)
	}
}

// Without this a disk served over TLS only would get a command line that cannot connect.
func TestQEMUOverTCP(t *testing.T) {
	line, err := qemuCommand(nbdView{DiskID: "d-1", Name: "data", TCP: "nbd://10.0.0.7:10809/data"})
	if err != nil || !strings.Contains(line, `"type":"inet","host":"10.0.0.7","port":"10809"`) || strings.Contains(line, "tls") {
		t.Errorf("%s, %v", line, err)
	}
	line, err = qemuCommand(nbdView{DiskID: "d-1", Name: "data", TCP: "nbds://10.0.0.7:10809/data"})
	if err != nil || !strings.Contains(line, `"tls-creds":"tls0"`) || !strings.Contains(line, "-object tls-creds-x509,id=tls0") {
		t.Errorf("%s, %v", line, err)
	}
}
