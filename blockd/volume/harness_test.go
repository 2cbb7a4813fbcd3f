package volume_test

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
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/memstore"
)

// testTerm is the lease term of the stores in these tests; short, for some wait it out.
const testTerm = 300 * time.Millisecond

// rig is a cluster in memory: stores, a metad that keeps its rules and no quorum,
// and the rooms that a volume shares with its process.
type rig struct {
	t       *testing.T
	metad   *coretest.Metad
	stores  []*memstore.Store
	limits  core.Limits
	cache   *reader.Cache
	memory  *core.Memory
	archive *restore.Archive
	life    uint64
}

// newRig makes hosts × perHost stores and groups of profile k+m over them.
func newRig(t *testing.T, hosts, perHost int, k, m uint8) *rig {
	t.Helper()
	r := &rig{t: t, metad: coretest.NewMetad()}
	for h := range hosts {
		for s := range perHost {
			ref := cluster.StoreRef{Store: id.Store{15: byte(h*perHost + s + 1)}, Incarnation: id.Incarnation{1, byte(h*perHost + s)}}
			r.stores = append(r.stores, memstore.New(memstore.Options{
				ID: ref.Store, Incarnation: ref.Incarnation, Clock: clock.System, LeaseTerm: testTerm,
			}))
			r.metad.AddStore(cluster.Store{StoreRef: ref, Host: id.Host(fmt.Sprintf("b%d", h+1)), State: cluster.StoreUp})
		}
	}
	r.metad.Profile(k, m)
	r.limits = core.Limits{
		UnpackedBytesMax: 1 << 20, SealBlocks: 64, SealBytes: 512 << 10, CheckpointBytes: 2 << 20, CheckpointDead: 256 << 10, LongBlocksMin: 32,
		CleanPercent: 3, CleanSlack: 1, PagesPercent: 1, CleanRate: 1 << 40, MergeBelow: 16,
	}
	return r
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

// engine is one process that can open volumes.
type engine struct {
	r      *rig
	holder id.Holder
	leases *volume.Leases
	packer *packer.Packer
	reader *reader.Reader
	group  *lifecycle.Group
	cancel context.CancelFunc
}

func (r *rig) engine(host id.Host) *engine {
	r.life++
	ctx, cancel := context.WithCancel(context.Background())
	e := &engine{r: r, holder: id.Holder{Host: host, Number: r.life}, cancel: cancel}
	e.leases = volume.NewLeases(ctx, e.holder, 50*time.Millisecond, r, clock.System)
	e.packer = packer.New(ctx, packer.Config{Stores: r, Topology: r.metad.Topology, PutTimeout: 300 * time.Millisecond})
	e.reader = reader.New(reader.Config{Stores: r, Topology: r.metad.Topology, Clock: clock.System, Cache: r.cache})
	e.group = lifecycle.NewGroup(ctx)
	e.group.Go("hedge", func(ctx context.Context) error {
		for clock.System.Sleep(ctx, 5*time.Millisecond) == nil {
			e.reader.Tick(clock.System.Now())
		}
		return nil
	})
	r.t.Cleanup(e.kill)
	return e
}

// kill ends the process: nothing of it goes on.
func (e *engine) kill() {
	e.cancel()
	_ = e.leases.Close()
	_ = e.packer.Close()
	_ = e.group.Close()
}

// open acquires the volume from metad and opens it.
func (e *engine) open(v id.Volume) (*volume.Volume, error) { return e.openWithin(v, 20*time.Second) }

func (e *engine) openWithin(v id.Volume, d time.Duration) (*volume.Volume, error) {
	rec, err := e.r.metad.Acquire(v, e.holder)
	if err != nil {
		return nil, err
	}
	for _, a := range rec.Origin.Chain() { // as metad's leader does
		if p := e.r.metad.Record(a.Volume).Restored; p != nil {
			rec.Lent = append(rec.Lent, *p)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return volume.Open(ctx, volume.Config{
		Record: rec, Holder: e.holder, Metad: e.r.metad, Stores: e.r, Reader: e.reader, Packer: e.packer, Leases: e.leases,
		Budget: blockmap.NewBudget(64), Memory: e.r.memory, Archive: e.r.archive, Clock: clock.System, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Limits: e.r.limits, Journal: journal.Limits{ReplaceAfter: 200 * time.Millisecond},
		Ended: func(v *volume.Volume, _ error) { v.Abandon() },
	})
}

func (e *engine) mustOpen(v id.Volume) *volume.Volume {
	e.r.t.Helper()
	vol, err := e.open(v)
	if err != nil {
		e.r.t.Fatal(err)
	}
	e.r.t.Cleanup(vol.Abandon)
	return vol
}

// do runs one request to its end.
func do(v *volume.Volume, op nbd.Op, off, n uint64, data []byte) (*nbd.Request, error) {
	ch := make(chan error, 1)
	r := nbd.NewRequest(op, 0, off, n, data, nbd.CompleterFunc(func(_ *nbd.Request, err error) { ch <- err }))
	v.Submit(r)
	return r, <-ch
}

func write(v *volume.Volume, off uint64, data []byte) error {
	r, err := do(v, nbd.OpWrite, off, uint64(len(data)), data)
	r.Recycle()
	return err
}

func readBack(v *volume.Volume, off uint64, n int) ([]byte, error) {
	b := make([]byte, n)
	r, err := do(v, nbd.OpRead, off, uint64(n), b)
	r.FillHoles()
	r.Recycle()
	return b, err
}
