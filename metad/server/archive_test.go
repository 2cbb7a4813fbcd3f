package server

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// archiver is a snapshotd as metad sees it.
func (g *group) archiver(name string, role pki.Role) *client.Archiver {
	g.t.Helper()
	a, err := client.NewArchiver(client.Options{Addresses: g.addresses(), TLS: g.creds(role, name).Client(pki.Expect{Roles: []pki.Role{pki.RoleMetad}})})
	must(g.t, err)
	g.t.Cleanup(func() { _ = a.Close() })
	return a
}

// snapped is a group with a disk "d" that host h1 has, and a snapshot "one" of it.
func snapped(t *testing.T) (*group, *client.Cluster) {
	g := newGroup(t, 1)
	g.leader()
	ops, h := g.operator(), g.host("h1", 2)
	d, err := ops.CreateDisk(g.ctx(), "d", 8<<20)
	must(t, err)
	got, err := h.Acquire(g.ctx(), volumeID(t, d.DiskId), h.holder, client.AcquireOpen)
	must(t, err)
	open(t, g, h, got.Volume)
	ctx, cancel := context.WithCancel(g.ctx())
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(cancel)
	wg.Go(func() {
		h.WatchSnapshots(ctx, h.holder, func(o client.SnapshotOrder) {
			_ = h.TellSnapshot(ctx, h.holder, got.Volume.Epoch, o, "") // asked again until it is
		}, func(string) {})
	})
	g.until("the snapshot", func() bool {
		x, err := ops.CreateSnapshot(g.ctx(), "d", "one")
		return errors.Is(err, errs.ErrExists) || err == nil && x.State == "ready"
	})
	return g, ops
}

// Without this nobody would upload what was asked for, two would finish it, or a restarted worker would wait for itself.
func TestUploadsAreHandedOut(t *testing.T) {
	g, ops := snapped(t)
	s1, s2 := g.archiver("s1", pki.RoleSnapshotd), g.archiver("s2", pki.RoleSnapshotd)
	ask := func(a *client.Archiver, name, life string) []*api.Upload {
		t.Helper()
		rep, err := a.Work(g.ctx(), &api.ArchiveWorkRequest{Worker: name, Life: life, UploadsMax: 1, Place: "here"})
		must(t, err)
		return rep.GetUploads()
	}
	if got := ask(s1, "s1", "a"); len(got) != 0 {
		t.Fatalf("work that nobody asked for: %v", got)
	}
	_, err := ops.ArchiveSnapshot(g.ctx(), "d", "one", false)
	must(t, err)
	mine := ask(s1, "s1", "a")
	if len(mine) != 1 || mine[0].GetEpoch() != 1 || mine[0].GetOwner() != "h1" || mine[0].GetOwnerAddress() == "" {
		t.Fatalf("%v", mine)
	}
	if got := ask(s2, "s2", "b"); len(got) != 0 {
		t.Fatalf("another has it, too: %v", got)
	}
	if again := ask(s1, "s1", "a"); len(again) != 1 || again[0].GetEpoch() != 1 {
		t.Fatalf("it was taken from who has it: %v", again)
	}
	if _, err := ops.DeleteSnapshot(g.ctx(), "d", "one", true); !errors.Is(err, errs.ErrConflict) {
		t.Fatalf("a snapshot on its way was deleted: %v", err)
	}
	h, err := s1.Holds(g.ctx())
	if err != nil || len(h.GetUploads()) != 1 {
		t.Fatalf("the upload is not held: %v %v", h, err)
	}
	next := ask(s1, "s1", "c") // it was restarted
	if len(next) != 1 || next[0].GetEpoch() != 2 || string(next[0].GetUpload()) != string(mine[0].GetUpload()) {
		t.Fatalf("%v", next)
	}
	end := func(epoch uint64) error {
		return s1.EndUpload(g.ctx(), &api.EndUploadRequest{Worker: "s1", Volume: mine[0].GetVolume(), Snapshot: mine[0].GetSnapshot(), Epoch: epoch, Manifest: "m", StoredBytes: 7})
	}
	if err := end(1); !errors.Is(err, errs.ErrStaleEpoch) {
		t.Fatalf("the word of an older lease counts: %v", err)
	}
	must(t, end(2))
	x, err := ops.Archive(g.ctx(), "d", "one")
	if err != nil || x.GetState() != "archived" || x.GetStoredBytes() != 7 {
		t.Fatalf("%v %v", x, err)
	}
}

// Without this any certificate could give work, or take it in another's name.
func TestWorkIsForSnapshotds(t *testing.T) {
	g, _ := snapped(t)
	for name, a := range map[string]*client.Archiver{"another": g.archiver("s1", pki.RoleSnapshotd), "b1": g.archiver("b1", pki.RoleBlockd)} {
		if _, err := a.Work(g.ctx(), &api.ArchiveWorkRequest{Worker: name, Life: "x"}); !errors.Is(err, errs.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Without this an upload of a dead worker would wait for ever, or be taken from a living one.
func TestSilentWorkersLoseTheirUploads(t *testing.T) {
	a := &archives{workers: map[string]*worker{"s1": {life: "a", heard: 5 * time.Second}}, began: 0}
	for _, c := range []struct {
		holder, by string
		now        time.Duration
		want       bool
	}{
		{"s1#a", "s2", 6 * time.Second, false},
		{"s1#a", "s2", 5*time.Second + workerSilent, false},
		{"s1#a", "s2", 6*time.Second + workerSilent, true},
		{"s1#old", "s1", 6 * time.Second, true},              // an earlier life of who asks
		{"s10#a", "s1", 6 * time.Second, false},              // another one with a name that begins alike
		{"s9#z", "s2", 6 * time.Second, false},               // this leader has not heard it yet
		{"s9#z", "s2", time.Second + workerSilent, true},     // and never will
		{"s1#old", "s2", 6 * time.Second, false},             // its own next life takes it
		{"s1#old", "s2", 2*time.Second + workerSilent, true}, // or does not
	} {
		if got := a.silent(c.holder, c.by, c.now); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// Without this whoever waits for a task whose worker was killed would wait ten seconds more than its next life needs to come back.
func TestNextLifeOfAWorkerTakesItsTasksAtOnce(t *testing.T) {
	a := &archives{tasks: map[string]*archiveTask{"gc": {req: &api.ArchiveTaskRequest{TaskId: "gc"}, reply: &api.ArchiveTaskReply{}}}}
	given := func(worker, life string, now time.Duration) int {
		return len(a.tasksFor(&api.ArchiveWorkRequest{Worker: worker, Life: life}, now))
	}
	for i, c := range []struct {
		worker, life string
		now          time.Duration
		want         int
	}{
		{"s1", "a", time.Second, 1},
		{"s2", "x", 2 * time.Second, 0},
		{"s10", "x", 2 * time.Second, 0},
		{"s", "x", 2 * time.Second, 0},
		{"s1", "b", 3 * time.Second, 1},
		{"s2", "x", 4*time.Second + workerSilent, 1},
		{"s1", "b", 5*time.Second + workerSilent, 0},
	} {
		if got := given(c.worker, c.life, c.now); got != c.want {
			t.Errorf("%d: %+v was given %d", i, c, got)
		}
	}
}
