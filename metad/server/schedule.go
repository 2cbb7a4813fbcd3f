package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
)

// BackupSchedule is the backup section of metad's file.
type BackupSchedule struct {
	// Folder for backups of the cluster's state, best on another disk or machine; empty: none are made. They hold no keys.
	Folder string `yaml:"folder"`
	// How often. Default 6h.
	Every config.Duration `yaml:"every"`
	// How many are kept; older ones that this member has made are deleted. Default 28.
	Keep int `yaml:"keep"`
}

const (
	backupEvery = 6 * time.Hour
	backupKeep  = 28
	// backupEveryMin keeps a typing error from writing all the time.
	backupEveryMin = time.Minute
	backupLook     = 10 * time.Second
	backupSuffix   = ".ashlar-backup"
	backupTime     = "20060102T150405Z"
)

// EnsureDefaults fills what is not set.
func (b *BackupSchedule) EnsureDefaults() {
	if b.Every == 0 {
		b.Every = config.Duration(backupEvery)
	}
	if b.Keep == 0 {
		b.Keep = backupKeep
	}
}

// Validate refuses what cannot work.
func (b *BackupSchedule) Validate() error {
	if b.Every.Std() < backupEveryMin {
		return fmt.Errorf("every %s: want at least %s: %w", b.Every.Std(), backupEveryMin, errs.ErrInvalid)
	}
	if b.Keep < 1 {
		return fmt.Errorf("keep %d: want 1 at least: %w", b.Keep, errs.ErrInvalid)
	}
	return nil
}

// backups are the files that one member writes into a folder which others may share.
type backups struct {
	BackupSchedule
	clock  clock.Clock
	member string
}

func (b *backups) prefix() string { return "metad-" + b.member + "-" }

// mine are the names of this member's backups, the oldest first.
func (b *backups) mine() ([]string, error) {
	entries, err := os.ReadDir(b.Folder)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at backups: %w", err)
	}
	var out []string
	for _, e := range entries {
		if _, ok := b.taken(e.Name()); ok && !e.IsDir() {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out) // by time: that is how they are named
	return out, nil
}

// taken is when a backup was, by its name.
func (b *backups) taken(name string) (time.Time, bool) {
	at, mine := strings.CutPrefix(name, b.prefix())
	at, backup := strings.CutSuffix(at, backupSuffix)
	t, err := time.Parse(backupTime, at)
	return t, mine && backup && err == nil
}

// due tells whether the last one is old enough. One from the future was made under a clock
// that was wrong: it does not hold the next one up.
func (b *backups) due() (bool, error) {
	names, err := b.mine()
	if err != nil {
		return false, err
	}
	now := b.clock.Wall()
	for _, name := range slices.Backward(names) {
		if t, _ := b.taken(name); !t.After(now) {
			return now.Sub(t) >= b.Every.Std(), nil
		}
	}
	return true, nil
}

// write keeps a backup, whole or not at all, and deletes those that are too many: only
// after the new one is durable, and only files that this member made.
func (b *backups) write(file []byte) (name string, err error) {
	if err := os.MkdirAll(b.Folder, 0o700); err != nil {
		return "", fmt.Errorf("make folder of backups: %w", err)
	}
	name = b.prefix() + b.clock.Wall().UTC().Format(backupTime) + backupSuffix
	if err := config.WriteFile(filepath.Join(b.Folder, name), file, 0o600); err != nil {
		return "", err
	}
	names, err := b.mine()
	for _, old := range names[:max(0, len(names)-b.Keep)] {
		if old != name {
			err = errors.Join(err, os.Remove(filepath.Join(b.Folder, old)))
		}
	}
	return name, err
}

// keepBackups writes this member's state now and then until ctx ends. It needs no leader:
// every member has the state, and a backup that is some commands behind is one all the same.
func (s *Server) keepBackups(ctx context.Context, schedule BackupSchedule) error {
	b := &backups{BackupSchedule: schedule, clock: s.clock, member: s.node.ID()}
	t := s.clock.NewTicker(backupLook)
	defer t.Stop()
	trouble := ""
	for {
		name, err := s.backUp(b)
		switch {
		case err == nil && name != "":
			trouble = ""
			s.metrics.backedUp(s.clock.Wall())
			s.log.Info("backup written", "file", filepath.Join(b.Folder, name))
		case err != nil && err.Error() != trouble:
			trouble = err.Error()
			s.log.Warn("backup not written, will try again", "err", err)
			s.note(state.Warning, "backup_failed", aboutCluster, s.node.ID(), "", "backup of metad %s not written: %v", s.node.ID(), err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		}
	}
}

// backUp writes one if it is due and there is a state worth it; name is empty if not.
func (s *Server) backUp(b *backups) (name string, err error) {
	due, err := b.due()
	if err != nil || !due {
		return "", err
	}
	x := &cluster.Backup{Cluster: s.creds.Self().Cluster, Taken: s.clock.Wall(), Member: s.node.ID(), Term: s.node.Term()}
	ready := false
	s.node.View(func(m *state.Machine) {
		if ready = m.ClusterID() != [16]byte{} && !m.Rebuilding(); ready {
			x.State = m.Snapshot()
		}
	})
	if !ready || s.node.Joining() || !s.node.HasLeader() {
		return "", nil
	}
	return b.write(x.Encode())
}
