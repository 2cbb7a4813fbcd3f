package consensus

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"ashlar.dev/metad/state"
)

// snapshotBytesMax bounds what a member reads from another.
const snapshotBytesMax = 1 << 30

// fsm is the machine under raft. Raft calls Apply, Snapshot and Restore one at a time;
// the lock is for readers.
type fsm struct {
	mu      sync.RWMutex
	machine *state.Machine
	applied func() // after each command, without the lock; never nil
	// restored is told of each state that came as a snapshot; nil: nobody is.
	restored func(*state.Machine)
	bytes    atomic.Int64 // of the last snapshot, made or taken
}

// Apply is part of raft.FSM. A committed command that this program cannot read means
// that it is older than the member that wrote it; going on would fork the truth.
func (f *fsm) Apply(l *raft.Log) any {
	c, err := state.Decode(l.Data)
	if err != nil {
		panic(fmt.Sprintf("consensus: entry %d is committed and cannot be read by this version: %v", l.Index, err))
	}
	f.mu.Lock()
	r := f.machine.Apply(l.Index, c)
	f.mu.Unlock()
	f.applied()
	return r
}

// Snapshot encodes at once: commands wait meanwhile, for some milliseconds per ten
// thousand disks, and what is written afterwards is a value nobody changes.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	b := f.machine.Snapshot()
	f.bytes.Store(int64(len(b)))
	return snapshot(b), readable(b)
}

// Restore is part of raft.FSM.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, snapshotBytesMax))
	if err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	m, err := state.Restore(b)
	if err != nil {
		return err
	}
	if f.restored != nil {
		f.restored(m)
	}
	f.bytes.Store(int64(len(b)))
	f.mu.Lock()
	f.machine = m
	f.mu.Unlock()
	f.applied()
	return nil
}

type snapshot []byte

// Persist is part of raft.FSMSnapshot. The sink syncs file and folder in Close.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s); err != nil {
		sink.Cancel() // the write's error is the one to tell
		return fmt.Errorf("write snapshot: %w", err)
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("sync snapshot: %w", err)
	}
	return nil
}

// Release is part of raft.FSMSnapshot.
func (snapshot) Release() {}
