package chunk

import (
	"testing"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto/storetest"
	"ashlar.dev/pkg/vfs"
)

// Without this a repair would take its own work for clients that wait, and slow itself down.
func TestGroupTimeIsOfJournals(t *testing.T) {
	s := testNew(t, vfs.Wrap(pvfs.NewMem()), "/store", clock.System)
	if err := storetest.Put(s, storetest.Shard(id.MakeSegment(5, 2), id.Generation{Epoch: 3, N: 1}, 0, 8, 1)); err != nil {
		t.Fatal(err)
	}
	if n, _ := s.GroupTime(); n != 0 {
		t.Errorf("%d groups counted though nothing was appended", n)
	}
}
