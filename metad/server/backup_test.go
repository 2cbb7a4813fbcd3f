package server

import (
	"errors"
	"strings"
	"testing"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
)

// Without this a snapshotd would put something into the archive that no metad can begin with, or anybody could read the state.
func TestStateIsGivenToSnapshotdsOnly(t *testing.T) {
	g := newGroup(t, 1)
	g.leader()
	_, err := g.operator().CreateDisk(g.ctx(), "d", 8<<20)
	must(t, err)
	file, entry, err := g.archiver("s1", pki.RoleSnapshotd).TakeBackup(g.ctx())
	must(t, err)
	b, err := cluster.DecodeBackup(file)
	must(t, err)
	m, err := state.Restore(b.State)
	must(t, err)
	if all := m.Volumes(); len(all) != 1 || all[0].Name != "d" || entry < 2 {
		t.Errorf("entry %d, disks %v", entry, all)
	}
	for _, r := range []pki.Role{pki.RoleBlockd, pki.RoleOperator, pki.RoleMetad} {
		if _, _, err := g.archiver("x1", r).TakeBackup(g.ctx()); !errors.Is(err, errs.ErrDenied) {
			t.Errorf("a %s was given the state: %v", r, err)
		}
	}
}

// Without this nobody would see that backups fail, or are not made any more.
func TestBackupsThatFailAreSaid(t *testing.T) {
	g := newGroup(t, 1)
	g.leader()
	ops, s1 := g.operator(), g.archiver("s1", pki.RoleSnapshotd)
	tell := func(r *api.BackupReport) *api.StatusReply {
		t.Helper()
		_, err := s1.Work(g.ctx(), &api.ArchiveWorkRequest{Worker: "s1", Life: "a", Place: "there", Backup: r})
		must(t, err)
		s, err := ops.Status(g.ctx(), false)
		must(t, err)
		return s
	}
	late := func(s *api.StatusReply) bool {
		for _, x := range s.Reasons {
			if x.Code == "backup_late" {
				return strings.Contains(x.Text, "the last is of ") || strings.Contains(x.Text, "there is none")
			}
		}
		return false
	}
	if s := tell(nil); s.GetBackup() != nil {
		t.Errorf("a snapshotd that makes none: %v", s.GetBackup())
	}
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).UnixMilli() }
	fine := &api.BackupReport{EverySeconds: 3600, Keep: 48, Count: 1, NewestUnixMs: ago(90 * time.Minute), NewestKey: "k1", SinceUnixMs: ago(0)}
	if s := tell(fine); late(s) || s.GetBackup().GetPlace() != "there" || s.GetBackup().GetReport().GetNewestKey() != "k1" {
		t.Errorf("%v", s)
	}
	fails := &api.BackupReport{EverySeconds: 3600, NewestUnixMs: ago(150 * time.Minute), NewestKey: "k1", SinceUnixMs: ago(0), Failed: "no room"}
	if s := tell(fails); !late(s) || s.Health != api.Health_HEALTH_DEGRADED && s.Health <= api.Health_HEALTH_OK {
		t.Errorf("%v", s)
	}
	if e := g.untilEvent("backup_failed", "s1"); !strings.Contains(e.Text, "no room") {
		t.Error(e)
	}
	if s := tell(&api.BackupReport{EverySeconds: 3600, SinceUnixMs: ago(3 * time.Hour), Failed: "no room"}); !late(s) {
		t.Errorf("there was never any: %v", s)
	}
	if s := tell(&api.BackupReport{EverySeconds: 3600, NewestUnixMs: ago(0), NewestKey: "k2"}); late(s) {
		t.Errorf("%v", s)
	}
	g.untilEvent("backup_written", "s1")
	if _, err := s1.Work(g.ctx(), &api.ArchiveWorkRequest{Worker: "s1", Life: "a", Backup: &api.BackupReport{Failed: strings.Repeat("x", 501)}}); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("a reason without bounds: %v", err)
	}
}

// Without this nobody sees that the only snapshotd is gone: it was the one who told of backups.
func TestNoSnapshotdIsSaidWhereSnapshotsAreArchived(t *testing.T) {
	a := &archives{workers: map[string]*worker{"s1": {heard: time.Minute}}, began: time.Second}
	if a.unheard(time.Minute+archiverSilent) || !a.unheard(time.Minute+archiverSilent+time.Second) {
		t.Error("of one that was heard")
	}
	if fresh := (&archives{began: time.Minute}); fresh.unheard(time.Minute+archiverSilent) || !fresh.unheard(time.Minute+archiverSilent+time.Second) {
		t.Error("of a leader that has heard of none")
	}
	m := state.New()
	said := func(unheard bool) bool {
		h := &reconcile.Report{}
		sayArchiver(h, m, unheard)
		return len(h.Reasons) == 1 && h.Reasons[0].Code == "no_snapshotd" && h.Level == reconcile.Degraded
	}
	if said(true) {
		t.Error("nothing is archived here")
	}
	for i, c := range []state.Command{
		&state.Init{ClusterID: [16]byte{1}, Settings: state.DefaultSettings}, &state.SetLevel{Level: state.LevelNewest},
		&state.RegisterHost{Holder: id.Holder{Host: "h1", Number: 1}}, &state.CreateVolume{ID: id.Volume{1}, Name: "d", Size: 1 << 20},
		&state.Acquire{Volume: id.Volume{1}, By: id.Holder{Host: "h1", Number: 1}},
		&state.CreateSnapshot{Volume: id.Volume{1}, ID: id.Snapshot{1}, Name: "s"},
		&state.SnapshotTaken{Volume: id.Volume{1}, ID: id.Snapshot{1}},
		&state.QueueArchive{Volume: id.Volume{1}, ID: id.Snapshot{1}, Upload: id.Raw{1}},
	} {
		if r := m.Apply(uint64(i+1), c); r.Err != nil {
			t.Fatalf("%T: %v", c, r.Err)
		}
	}
	if !said(true) || said(false) {
		t.Error("a snapshot is to be archived")
	}
}
