package server

import (
	"context"
	"fmt"
	"sync"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/snapshotd/archive"
)

// BackupConfig is the backup section of snapshotd's file.
type BackupConfig struct {
	// How often metad's state is put into the archive, under metad/. Snapshotds with the same archive take turns. Default 1h.
	Every config.Duration `yaml:"every"`
	// How many of this cluster's are kept there; the oldest go. Those that are locked (lock.for) stay for that long, too. Default 48.
	Keep int `yaml:"keep"`
	// None are made.
	Disabled bool `yaml:"disabled"`
}

const (
	backupEvery = time.Hour
	backupKeep  = 48
	// backupEveryMin keeps a typing error from writing all the time.
	backupEveryMin = time.Minute
	backupKeepMax  = 5000

	// A step reads the archive's list only when one is due: what it asks for costs money in S3.
	backupStepMax  = time.Minute // between looks at the clock, which may jump
	backupAgainMin = 2 * time.Second
	backupAgainMax = 5 * time.Minute
	backupTimeout  = 10 * time.Minute
	// reasonMax bounds the reason of a failure that is told.
	reasonMax = 500
)

// EnsureDefaults fills what is not set.
func (b *BackupConfig) EnsureDefaults() {
	if b.Every == 0 {
		b.Every = config.Duration(backupEvery)
	}
	if b.Keep == 0 {
		b.Keep = backupKeep
	}
}

// Validate refuses what cannot work.
func (b *BackupConfig) Validate() error {
	if b.Every.Std() < backupEveryMin {
		return fmt.Errorf("every %s: want at least %s: %w", b.Every.Std(), backupEveryMin, errs.ErrInvalid)
	}
	if b.Keep < 1 || b.Keep > backupKeepMax {
		return fmt.Errorf("keep %d: want 1 to %d: %w", b.Keep, backupKeepMax, errs.ErrInvalid)
	}
	return nil
}

// backupKeeper puts metad's state into the archive, and knows what is there.
type backupKeeper struct {
	s *server
	archive.Backups
	mu   sync.Mutex
	said api.BackupReport
	// newest is when the last one was taken, as far as is known.
	newest time.Time
}

func newBackupKeeper(s *server) *backupKeeper {
	c := s.cfg.Backup
	b := &backupKeeper{s: s, Backups: archive.Backups{Store: s.store, Secret: s.secret, Cluster: s.creds.Self().Cluster, Every: c.Every.Std(), Keep: c.Keep,
		Fetch: s.metad.TakeBackup, Wall: s.clock.Wall, Lock: s.locking()}}
	if !c.Disabled {
		b.said.EverySeconds, b.said.Keep = uint32(c.Every.Std()/time.Second), uint32(c.Keep)
		b.said.SinceUnixMs = s.clock.Wall().UnixMilli()
	}
	return b
}

// report is what metad is told.
func (b *backupKeeper) report() *api.BackupReport {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &b.said
	return &api.BackupReport{EverySeconds: r.EverySeconds, Keep: r.Keep, Count: r.Count, NewestUnixMs: r.NewestUnixMs, NewestKey: r.NewestKey,
		NewestBytes: r.NewestBytes, Failed: r.Failed, SinceUnixMs: r.SinceUnixMs}
}

// run takes backups until ctx ends.
func (b *backupKeeper) run(ctx context.Context) error {
	again := backupAgainMin
	for wait := time.Duration(0); ; {
		if wait > 0 && b.s.clock.Sleep(ctx, wait) != nil || ctx.Err() != nil {
			return nil
		}
		if wait = b.left(); wait > 0 {
			continue
		}
		if err := b.step(ctx); err != nil {
			wait, again = again, min(2*again, backupAgainMax)
			continue
		}
		wait, again = max(b.left(), backupAgainMin), backupAgainMin
	}
}

// left is how long to wait for the next look, by what is known here; a clock that was set back makes one due.
func (b *backupKeeper) left() time.Duration {
	now := b.s.clock.Wall()
	if b.newest.IsZero() || b.newest.After(now) {
		return 0
	}
	return min(b.newest.Add(b.Every).Sub(now), backupStepMax)
}

func (b *backupKeeper) step(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, backupTimeout)
	defer cancel()
	k, err := b.Step(ctx)
	if ctx.Err() != nil && err == nil {
		err = ctx.Err()
	}
	b.mu.Lock()
	was := b.said.Failed
	b.said.Failed = ""
	if err != nil {
		text := err.Error()
		b.said.Failed = text[:min(len(text), reasonMax)]
	}
	if k.Newest.Key != "" {
		b.said.NewestUnixMs, b.said.NewestKey, b.said.NewestBytes, b.said.Count = k.Newest.Taken.UnixMilli(), k.Newest.Key, k.Newest.Size, uint32(k.Count)
		b.newest = k.Newest.Taken
	}
	now := b.said.Failed
	b.mu.Unlock()
	if k.Wrote {
		b.s.metrics.backup.Set(float64(k.Newest.Taken.Unix()))
		b.s.log.Info("backup of metad written", "key", k.Newest.Key, "bytes", k.Newest.Size, "kept", k.Count)
	}
	if err != nil && now != was {
		b.s.log.Info("backup of metad not written, will try again", "err", err)
	}
	return err
}
