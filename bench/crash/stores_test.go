package crash

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"ashlar.dev/blockd/chunk"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/blockd/volume/coretest"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/vfs"
)

// leaseTerm is short, for every store that was opened again waits it out before it answers a fence.
const leaseTerm = 40 * time.Millisecond

// slot is one store: a disk, and the process on it while there is one.
type slot struct {
	ref   cluster.StoreRef
	fs    *vfs.Crash
	next  *vfs.Crash // what a cut left of fs
	store *chunk.Store
}

// world is a cluster with one disk.
type world struct {
	t      *testing.T
	metad  *coretest.Metad
	slots  []*slot
	disk   id.Volume
	limits core.Limits
	ledger *ledger
	power  power
	lives  uint64 // engines so far
	done   sums
	run    *engine // nil: none
}

// sums of what all engines did.
type sums struct {
	core.Stats
	opens, taken, dropped int
	logged                int64 // bytes, in all journal logs
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, metad: coretest.NewMetad(), disk: id.Volume{1}, ledger: newLedger()}
	for i := range 6 {
		ref := cluster.StoreRef{Store: id.Store{15: byte(i + 1)}, Incarnation: id.Incarnation{1, byte(i)}}
		s := &slot{ref: ref, fs: vfs.NewCrash()}
		// Small log files are used again every few megabytes: that is where bytes get lost.
		if _, err := chunk.Format("/store", chunk.FormatOptions{ID: ref.Store, Incarnation: ref.Incarnation, FS: s.fs,
			LogFileBytes: 5 << 18, LogFilesMax: 12, ExtentBytes: 4 << 20}); err != nil {
			t.Fatal(err)
		}
		w.slots = append(w.slots, s)
		w.metad.AddStore(cluster.Store{StoreRef: ref, Host: id.Host(fmt.Sprintf("b%d", i/2+1)), State: cluster.StoreUp})
	}
	w.metad.Profile(4, 2)
	w.metad.Create(w.disk, diskBytes)
	w.limits = core.Limits{
		UnpackedBytesMax: 512 << 10, SealBlocks: 64, SealBytes: 256 << 10, CheckpointBytes: 1 << 20, CheckpointDead: 256 << 10, LongBlocksMin: 32,
		CleanPercent: 3, CleanSlack: 1, PagesPercent: 1, CleanRate: 1 << 40, MergeBelow: 16, CheckpointIdle: time.Millisecond,
	}
	w.power.init(w, seed)
	for i := range w.slots {
		w.watch(i)
	}
	t.Cleanup(w.end)
	return w
}

// watch lets the power hear of every sync of a store. One takes up to two milliseconds before it
// is carried out, as on disks: a store that answers without waiting for it is believed meanwhile.
func (w *world) watch(i int) {
	w.slots[i].fs.OnSync(func(n int) {
		_ = system.Sleep(context.Background(), time.Duration(uint64(n)*0x9e3779b97f4a7c15>>53)*time.Microsecond)
		w.power.synced()
	})
}

// boot opens the stores that are not open. It fails only if the power is cut meanwhile.
func (w *world) boot() error {
	for _, s := range w.slots {
		if s.store != nil {
			continue
		}
		store, err := chunk.Open("/store", chunk.Options{FS: s.fs, LeaseTerm: leaseTerm, Readers: 2, Putters: 2})
		if err != nil {
			return fmt.Errorf("store %s: %w", s.ref.Store, err)
		}
		s.store = store
	}
	return nil
}

// fall ends the processes of stores whose power was cut, and gives them what is left.
func (w *world) fall() {
	for i, s := range w.slots {
		if s.next == nil {
			continue
		}
		if s.store != nil {
			w.done.logged += s.store.Stats().Log.Bytes
			_ = s.store.Close() // it died of the cut, or never hears of it
			s.store = nil
		}
		if err := s.fs.Scrap(); err != nil { // goroutines of a dead store's index may keep it for ever
			w.t.Errorf("scrap a disk: %v", err)
		}
		s.fs, s.next = s.next, nil
		w.watch(i)
	}
}

func (w *world) end() {
	w.halt()
	for _, s := range w.slots {
		if s.store != nil {
			w.done.logged += s.store.Stats().Log.Bytes
			_ = s.store.Close()
			s.store = nil
		}
	}
}

// door is how one engine reaches stores; it is shut for good when that engine's hosts lose power.
type door struct {
	mu   sync.Mutex
	shut bool
	open map[id.Store]*chunk.Store
}

// Store makes door the volumes' Stores.
func (d *door) Store(s id.Store) (storeproto.Store, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	x := d.open[s]
	if d.shut || x == nil {
		return nil, false
	}
	return x, true
}

func (d *door) set(s id.Store, x *chunk.Store) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open[s] = x
}

func (d *door) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = true
}

// system is the clock of all engines.
var system = clock.System
