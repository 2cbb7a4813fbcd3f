package consensus

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"ashlar.dev/pkg/errs"
)

// A snapshot beyond what a member reads would be made, the log cut behind it, and no member could catch up with it.
func TestSnapshotThatNobodyCouldReadIsRefused(t *testing.T) {
	if err := readable(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := readable(make([]byte, snapshotBytesMax+1)); !errors.Is(err, errs.ErrNoSpace) {
		t.Fatalf("a snapshot of %d bytes: %v", snapshotBytesMax+1, err)
	}
}

// The log's memory is what status says it is at most, however much is appended before anything is in tables.
func TestLogStoreKeepsWithinItsMemory(t *testing.T) {
	s, err := OpenLogStore(LogStoreOptions{FS: vfs.NewMem(), Log: slog.New(slog.DiscardHandler), Fatal: func(m string) { t.Error(m) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	peak := uint64(0)
	for i := uint64(1); i <= 160; i++ {
		if err := s.StoreLog(&raft.Log{Index: i, Term: 1, Data: make([]byte, 512<<10)}); err != nil {
			t.Fatal(err)
		}
		for _, u := range s.memory() {
			if u.Used > u.Limit {
				t.Fatalf("%s takes %d bytes, its limit is %d", u.Name, u.Used, u.Limit)
			}
			if u.Name == "log memtables" {
				peak = max(peak, u.Used)
			}
		}
	}
	if peak == 0 {
		t.Fatal("nothing was counted")
	}
}
