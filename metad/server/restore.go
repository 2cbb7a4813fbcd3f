package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"ashlar.dev/metad/consensus"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// Restore fills this member's empty data folder from a backup. The member then leads a
// group of itself, whose state is rebuilt from what the stores have before it grants
// anything; the others join it with empty folders.
func Restore(ctx context.Context, cfg Config, file string, log *slog.Logger) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("open backup: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, cluster.BackupBytesMax+1))
	if err != nil {
		return fmt.Errorf("read backup: %w", err)
	}
	b, err := cluster.DecodeBackup(raw)
	if err != nil {
		return fmt.Errorf("read backup %s: %w", file, err)
	}
	m, err := state.Restore(b.State)
	if err != nil {
		return fmt.Errorf("read backup %s: %w", file, err)
	}
	creds, err := pki.Load(clock.System, cfg.TLS)
	if err != nil {
		return err
	}
	if mine := creds.Self().Cluster; b.Cluster != mine {
		return fmt.Errorf("the backup is of cluster %s, this metad of %s: %w", b.Cluster, mine, errs.ErrInvalid)
	}
	if err := alone(ctx, cfg, creds, m); err != nil {
		return err
	}
	return begin(cfg, m, b.Term, log)
}

// RecoverAlone makes this member, of a group that lost its majority for good, begin a group
// of itself with the state it has. What a majority without it committed it lacks, so that
// state is rebuilt like one from a backup. The data it had is kept beside.
func RecoverAlone(ctx context.Context, cfg Config, log *slog.Logger) error {
	m, term, err := consensus.ReadState(cfg.Data, log)
	if err != nil {
		return err
	}
	creds, err := pki.Load(clock.System, cfg.TLS)
	if err != nil {
		return err
	}
	if err := alone(ctx, cfg, creds, m); err != nil {
		return err
	}
	return beginAnew(cfg, m, term, log)
}

// beginAnew keeps the data that is there beside.
func beginAnew(cfg Config, m *state.Machine, term uint64, log *slog.Logger) error {
	old := filepath.Join(cfg.Data, fmt.Sprintf("before-term-%d", term))
	if err := os.Mkdir(old, 0o700); err != nil {
		return fmt.Errorf("keep the data: %w", err)
	}
	for _, part := range []string{"raft", "snapshots"} {
		if err := os.Rename(filepath.Join(cfg.Data, part), filepath.Join(old, part)); err != nil {
			return fmt.Errorf("keep the data: %w", err)
		}
	}
	return begin(cfg, m, term, log)
}

// begin installs m, marked as behind its cluster, in the member's folder.
func begin(cfg Config, m *state.Machine, term uint64, log *slog.Logger) error {
	var rebuild [16]byte
	if _, err := rand.Read(rebuild[:]); err != nil {
		return fmt.Errorf("draw name of the rebuilding: %w", err)
	}
	m.Reopen(rebuild)
	var self consensus.Peer
	for _, p := range cfg.Peers {
		if p.ID == cfg.ID {
			self = consensus.Peer(p)
		}
	}
	if err := consensus.Install(cfg.Data, self, term, m, log); err != nil {
		return err
	}
	log.Info("state installed; start this member, see ashlar metad rebuild, and let the others join with empty folders", "disks", len(m.Volumes()), "stores", len(m.Stores()))
	return nil
}

// alone refuses while any other member that is known answers and has data: two groups would
// speak for one cluster.
func alone(ctx context.Context, cfg Config, creds *pki.Credentials, m *state.Machine) error {
	var others []consensus.Peer
	for _, p := range cfg.Peers {
		others = append(others, consensus.Peer(p))
	}
	for _, p := range m.Members() {
		others = append(others, consensus.Peer(p))
	}
	for _, p := range others {
		if p.ID == cfg.ID {
			continue
		}
		if d, err := describeMember(ctx, creds, p); err == nil && d.GetLastIndex() >= electedIndex {
			return fmt.Errorf("metad %s answers at %s and has data: while a majority lives replace what is lost (ashlar metad add); else stop it and empty its data folder first: %w", p.ID, p.API, errs.ErrConflict)
		}
	}
	return nil
}
