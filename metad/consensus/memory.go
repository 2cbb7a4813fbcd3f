package consensus

import (
	"fmt"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
)

// Bounds of what a log store keeps in memory: blocks read lately, and entries not in tables yet.
const (
	logCacheBytes    = 8 << 20
	memTableBytes    = 8 << 20
	memTablesWaiting = 4 // at so many that wait to be written, appends wait
)

// memory is what the log store takes, and may.
func (s *LogStore) memory() []cluster.Memory {
	m := s.db.Metrics()
	return []cluster.Memory{
		{Name: "log cache", Limit: logCacheBytes, Used: uint64(max(m.BlockCache.Size, 0))},
		{Name: "log memtables", Limit: (memTablesWaiting + 1) * memTableBytes, Used: m.MemTable.Size + m.MemTable.ZombieSize},
	}
}

// Memory lists what this member bounds in memory and how much of it is used. The state counts
// as many bytes as its last snapshot has.
func (n *Node) Memory() []cluster.Memory {
	return append([]cluster.Memory{{Name: "state", Limit: snapshotBytesMax, Used: uint64(n.fsm.bytes.Load())}}, n.store.memory()...)
}

// readable refuses a snapshot that no other member would read.
func readable(b []byte) error {
	if len(b) > snapshotBytesMax {
		return fmt.Errorf("the state has %d bytes, at most %d can be sent to a member: %w", len(b), snapshotBytesMax, errs.ErrNoSpace)
	}
	return nil
}
