package history

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/blockd/packer"
	"ashlar.dev/blockd/reader"
	"ashlar.dev/blockd/restore"
	"ashlar.dev/blockd/volume"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/blockd/volume/coretest"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/objectstore/objectstoretest"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/memstore"
)

// patience bounds what would hang.
const patience = time.Minute

// rig is a cluster in memory: six stores on three hosts, a metad without a quorum, an archive.
type rig struct {
	t       *testing.T
	metad   *coretest.Metad
	stores  []*memstore.Store
	objects objectstore.Store
	life    uint64
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, metad: coretest.NewMetad(), objects: objectstoretest.NewMemory()}
	for n := range 6 {
		ref := cluster.StoreRef{Store: id.Store{15: byte(n + 1)}, Incarnation: id.Incarnation{1, byte(n)}}
		r.stores = append(r.stores, memstore.New(memstore.Options{ID: ref.Store, Incarnation: ref.Incarnation, Clock: clock.System, LeaseTerm: 300 * time.Millisecond}))
		r.metad.AddStore(cluster.Store{StoreRef: ref, Host: id.Host(fmt.Sprintf("b%d", n/2+1)), State: cluster.StoreUp})
	}
	r.metad.Profile(4, 2)
	return r
}

// limits are small, so that little is much.
func limits() core.Limits {
	return core.Limits{
		UnpackedBytesMax: 1 << 20, SealBlocks: 64, SealBytes: 512 << 10, CheckpointBytes: 2 << 20, CheckpointDead: 64 << 10, CheckpointIdle: time.Millisecond,
		LongBlocksMin: 32, CleanPercent: 3, CleanSlack: 1, PagesPercent: 1, CleanRate: 1 << 40, MergeBelow: 16,
	}
}

// Store makes rig the volumes' Stores.
func (r *rig) Store(s id.Store) (storeproto.Store, bool) {
	for _, x := range r.stores {
		if x.ID() == s {
			return x, true
		}
	}
	return nil, false
}

// owner is a process that has one volume open.
type owner struct {
	*volume.Volume
	leases *volume.Leases
	packer *packer.Packer
	group  *lifecycle.Group
	cancel context.CancelFunc
}

// kill ends the process: nothing of it goes on.
func (o *owner) kill() {
	o.cancel()
	_ = o.leases.Close() // it died
	_ = o.packer.Close()
	_ = o.group.Close()
	if o.Volume != nil {
		o.Abandon()
	}
}

// open has a new process take a volume; roll, if any, is committed with that, as metad does it.
func (r *rig) open(v id.Volume, roll *cluster.Rollback) *owner {
	r.t.Helper()
	r.life++
	holder := id.Holder{Host: id.Host(fmt.Sprintf("b%d", r.life%3+1)), Number: r.life}
	rec, err := r.metad.Acquire(v, holder)
	if err != nil {
		r.t.Fatal(err)
	}
	rec.Rollback = roll
	for _, a := range rec.Origin.Chain() {
		if p := r.metad.Record(a.Volume).Restored; p != nil {
			rec.Lent = append(rec.Lent, *p)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	o := &owner{cancel: cancel, leases: volume.NewLeases(ctx, holder, 50*time.Millisecond, r, clock.System), group: lifecycle.NewGroup(ctx),
		packer: packer.New(ctx, packer.Config{Stores: r, Topology: r.metad.Topology, PutTimeout: 300 * time.Millisecond})}
	r.t.Cleanup(o.kill)
	reads := reader.New(reader.Config{Stores: r, Topology: r.metad.Topology, Clock: clock.System})
	o.group.Go("hedge", func(ctx context.Context) error {
		for clock.System.Sleep(ctx, 5*time.Millisecond) == nil {
			reads.Tick(clock.System.Now())
		}
		return nil
	})
	opening, stop := context.WithTimeout(ctx, patience)
	defer stop()
	o.Volume, err = volume.Open(opening, volume.Config{
		Record: rec, Holder: holder, Metad: r.metad, Stores: r, Reader: reads, Packer: o.packer, Leases: o.leases, Budget: blockmap.NewBudget(64),
		Archive: restore.New(restore.Config{Store: r.objects, CacheBytes: 1 << 20}), Clock: clock.System, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Limits: limits(), Journal: journal.Limits{ReplaceAfter: 200 * time.Millisecond}, Ended: func(v *volume.Volume, _ error) { v.Abandon() },
	})
	if err != nil {
		r.t.Fatalf("open %s: %v", v, err)
	}
	return o
}

// await waits for a condition.
func (r *rig) await(what string, ok func() bool) {
	r.t.Helper()
	for end := clock.System.Now() + patience; !ok(); {
		if clock.System.Sleep(r.t.Context(), time.Millisecond) != nil || clock.System.Now() > end {
			r.t.Fatalf("waited for %s", what)
		}
	}
}
