package consensus

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/telemetry"
)

// termJump lifts a group that begins anew over every term of the one before: topologies
// are numbered by terms, and whoever knows one takes only a newer.
const termJump = 1 << 16

var currentTermKey = []byte("CurrentTerm")

// Install makes dir, which must have no data, the folder of a member that begins a group
// alone with the state m. It is durable when Install returns; after an error the folder
// is to be emptied.
func Install(dir string, self Peer, term uint64, m *state.Machine, log *slog.Logger) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	s, snaps, err := openFolder(dir, log)
	if err != nil {
		return err
	}
	return errors.Join(install(s, snaps, self, term+termJump, m), s.Close())
}

func openFolder(dir string, log *slog.Logger) (*LogStore, raft.SnapshotStore, error) {
	s, err := OpenLogStore(LogStoreOptions{Dir: filepath.Join(dir, "raft"), Log: log, Fatal: func(why string) { log.Error("raft log failed", "why", why) }})
	if err != nil {
		return nil, nil, err
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, telemetry.Hclog(slog.New(raftHandler{log.Handler()})))
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open snapshots: %w", err), s.Close())
	}
	return s, snaps, nil
}

// install: the term and the lineage are there before the snapshot is, which is what makes
// the folder a member's.
func install(s *LogStore, snaps raft.SnapshotStore, self Peer, term uint64, m *state.Machine) error {
	has, err := raft.HasExistingState(s, s, snaps)
	if err != nil {
		return fmt.Errorf("look for data: %w", err)
	}
	if has {
		return fmt.Errorf("the data folder is not empty; move what is there away: %w", errs.ErrExists)
	}
	if err := s.SetUint64(currentTermKey, term); err != nil {
		return err
	}
	if r := m.Rebuild(); r != nil {
		if err := s.Set(lineageKey, r.ID[:]); err != nil {
			return err
		}
	}
	_, trans := raft.NewInmemTransport("")
	alone := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(self.ID), Address: raft.ServerAddress(self.Raft)}}}
	sink, err := snaps.Create(raft.SnapshotVersionMax, max(m.Index(), 1), term, alone, 1, trans)
	if err != nil {
		return fmt.Errorf("create snapshot: %w", err)
	}
	return snapshot(m.Snapshot()).Persist(sink)
}

// ReadState gives the state of a member that does not run, with everything in its log, and
// its term. It changes nothing.
func ReadState(dir string, log *slog.Logger) (m *state.Machine, term uint64, err error) {
	if _, err := os.Stat(filepath.Join(dir, "raft")); err != nil {
		return nil, 0, fmt.Errorf("look for data: %w", err)
	}
	s, snaps, err := openFolder(dir, log)
	if err != nil {
		return nil, 0, err
	}
	m, err = replay(s, snaps)
	if err == nil {
		term, err = s.GetUint64(currentTermKey)
	}
	return m, term, errors.Join(err, s.Close())
}

func replay(s *LogStore, snaps raft.SnapshotStore) (*state.Machine, error) {
	f := &fsm{machine: state.New(), applied: func() {}}
	var from uint64
	list, err := snaps.List()
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	if len(list) > 0 {
		_, r, err := snaps.Open(list[0].ID)
		if err != nil {
			return nil, fmt.Errorf("open snapshot: %w", err)
		}
		if err := f.Restore(r); err != nil {
			return nil, err
		}
		from = list[0].Index
	}
	last, err := s.LastIndex()
	if err != nil {
		return nil, err
	}
	for i := from + 1; i <= last; i++ {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil {
			return nil, fmt.Errorf("read entry %d: %w", i, err)
		}
		if l.Type == raft.LogCommand {
			f.Apply(&l)
		}
	}
	if f.machine.ClusterID() == [16]byte{} {
		return nil, fmt.Errorf("there is no state of a cluster in the folder: %w", errs.ErrNotFound)
	}
	return f.machine, nil
}
