package volume_test

import (
	"slices"
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Without this a journal stays on a store that metad finds slow: two of three acknowledge, so with
// one more that hiccups every write of the disk waits for it.
func TestJournalLeavesASlowStore(t *testing.T) {
	r := newRig(t, 5, 1, 2, 1)
	vol, f, _ := r.disk(4 * mib)
	f.put(vol, 0, mib)
	newest := func() []cluster.StoreRef {
		list := r.metad.Record(id.Volume{1}).List
		return list[len(list)-1].Stores
	}
	slow := newest()[0]
	r.metad.MarkSlow(slow.Store, true)
	vol.TopologyChanged()
	until(t, "the journal to be elsewhere", func() bool {
		f.put(vol, mib, 4096)
		return len(newest()) == 3 && !slices.Contains(newest(), slow)
	})
	f.all(vol)
	closed(t, vol)
}
