package chunk

import (
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/storetest"
	"ashlar.dev/pkg/vfs"
)

// Without this the index of a store whose disk failed would try its flush again without an
// end and a pause, and cost the process of all its host's stores a core.
func TestDeadStoreDoesNotTryItsFlushAgain(t *testing.T) {
	fs := newFaulty(vfs.OpSync)
	s := testNew(t, fs, "/store", clock.NewManual())
	_, err := storetest.Next(s, storetest.Stream(3, 1, storeproto.Meta), storetest.Batch(3, 1, 1, 1, 0))
	want(t, "append before", err, nil)
	tables := ".sst"
	fs.path.Store(&tables)
	go func() { _ = s.index.db.Flush() }()
	<-s.Done()
	for s.index.parked.Load() == 0 {
		runtime.Gosched()
	}
	if n := fs.after.Load(); n > 2 {
		t.Errorf("%d syncs of tables failed", n)
	}
}

// Without this a directory that cannot be synced would end the process, and with it every store
// of the host: Pebble panics then.
func TestDirectoryThatDoesNotSyncIsTheDeathOfTheStore(t *testing.T) {
	var broken atomic.Bool
	fs := vfs.WithHooks(vfs.Wrap(pvfs.NewMem()), vfs.Hooks{Before: func(op vfs.Op) error {
		if broken.Load() && op.Kind == vfs.OpSync && strings.HasSuffix(op.Path, "/index") {
			return vfs.ErrNoSpace
		}
		return nil
	}})
	s := testNew(t, fs, "/store", clock.NewManual())
	broken.Store(true)
	go func() { _ = s.index.db.Set([]byte("x"), nil, nil); _ = s.index.db.Flush() }()
	<-s.Done()
	if _, err := storetest.Next(s, storetest.Stream(3, 1, storeproto.Meta), storetest.Batch(3, 1, 1, 1, 0)); err == nil {
		t.Error("a dead store took an append")
	}
}
