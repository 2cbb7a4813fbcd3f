package server

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/config"
)

// Without this a folder of backups would fill its disk, lose the last good one to a new one
// that is not whole yet, or lose somebody else's.
func TestBackupsOnASchedule(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "backups")
	c := clock.NewManual()
	b := &backups{BackupSchedule: BackupSchedule{Folder: dir, Every: config.Duration(time.Hour), Keep: 3}, clock: c, member: "m1"}
	due := func(want bool) {
		t.Helper()
		if got, err := b.due(); err != nil || got != want {
			t.Fatalf("due %v, %v", got, err)
		}
	}
	due(true)
	must(t, os.MkdirAll(dir, 0o700))
	foreign := []string{"metad-m2-20200101T000000Z" + backupSuffix, "metad-m1-notes.txt", "metad-m1-2-20200101T000000Z" + backupSuffix}
	for _, f := range foreign {
		must(t, os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o600))
	}
	var names []string
	for range 5 {
		due(true)
		name, err := b.write([]byte("state"))
		must(t, err)
		names = append(names, name)
		due(false)
		c.Advance(59 * time.Minute)
		due(false)
		c.Advance(time.Minute)
	}
	have, err := b.mine()
	must(t, err)
	if !slices.Equal(have, names[2:]) {
		t.Errorf("kept %v, want %v", have, names[2:])
	}
	for _, f := range foreign {
		if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
			t.Error(err)
		}
	}
	if fi, err := os.Stat(filepath.Join(dir, names[4])); err != nil || fi.Mode().Perm() != 0o600 {
		t.Error(err, fi.Mode())
	}
	c.SetWall(c.Wall().Add(-24 * time.Hour)) // the clock was wrong
	due(true)
}

// The file is one that metad --restore takes.
func TestScheduledBackupIsABackup(t *testing.T) {
	dir := t.TempDir()
	g := newGroup(t, 1)
	g.leader()
	_, err := g.operator().CreateDisk(g.ctx(), "d", 8<<20)
	must(t, err)
	s := g.running["m1"]
	name, err := s.backUp(&backups{BackupSchedule: BackupSchedule{Folder: dir, Every: config.Duration(time.Hour), Keep: 1}, clock: clock.System, member: "m1"})
	must(t, err)
	file, err := os.ReadFile(filepath.Join(dir, name))
	must(t, err)
	b, err := cluster.DecodeBackup(file)
	if err != nil || b.Member != "m1" || b.Cluster != "test" || !strings.Contains(string(b.State), "d") {
		t.Fatalf("%+v %v", b, err)
	}
}
