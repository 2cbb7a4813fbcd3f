package volume

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/blockd/packer"
	"ashlar.dev/blockd/reader"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/memstore"
)

// testTerm is the lease term of the stores in these tests; short, for some wait it out.
const testTerm = 300 * time.Millisecond

// rig is a cluster in memory: stores, a metad that keeps its rules and no quorum,
// and the rooms that a volume shares with its process.
type rig struct {
	t      *testing.T
	metad  *fakeMetad
	stores []*memstore.Store
	limits core.Limits
	life   uint64
}

// newRig makes hosts × perHost stores and groups of profile k+m over them.
func newRig(t *testing.T, hosts, perHost int, k, m uint8) *rig {
	t.Helper()
	r := &rig{t: t, metad: newFakeMetad()}
	for h := range hosts {
		for s := range perHost {
			ref := cluster.StoreRef{Store: id.Store{15: byte(h*perHost + s + 1)}, Incarnation: id.Incarnation{1, byte(h*perHost + s)}}
			r.stores = append(r.stores, memstore.New(memstore.Options{
				ID: ref.Store, Incarnation: ref.Incarnation, Clock: clock.System, LeaseTerm: testTerm,
			}))
			r.metad.stores = append(r.metad.stores, cluster.Store{StoreRef: ref, Host: id.Host(fmt.Sprintf("b%d", h+1)), State: cluster.StoreUp})
		}
	}
	r.metad.profile(k, m)
	r.limits = core.Limits{
		UnpackedBytesMax: 1 << 20, SealBlocks: 64, SealBytes: 512 << 10, CheckpointBytes: 2 << 20, CheckpointDead: 256 << 10, LongBlocksMin: 32,
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
	leases *Leases
	packer *packer.Packer
	reader *reader.Reader
	cancel context.CancelFunc
}

func (r *rig) engine(host id.Host) *engine {
	r.life++
	ctx, cancel := context.WithCancel(context.Background())
	e := &engine{r: r, holder: id.Holder{Host: host, Number: r.life}, cancel: cancel}
	e.leases = NewLeases(ctx, e.holder, 50*time.Millisecond, r, clock.System)
	e.packer = packer.New(ctx, packer.Config{Stores: r, Topology: r.metad.Topology})
	e.reader = reader.New(reader.Config{Stores: r, Topology: r.metad.Topology, Clock: clock.System})
	r.t.Cleanup(e.kill)
	return e
}

// kill ends the process: nothing of it goes on.
func (e *engine) kill() {
	e.cancel()
	_ = e.leases.Close()
	_ = e.packer.Close()
}

// open acquires the volume from metad and opens it.
func (e *engine) open(v id.Volume) (*Volume, error) {
	rec, err := e.r.metad.acquire(v, e.holder)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return Open(ctx, Config{
		Record: rec, Holder: e.holder, Metad: e.r.metad, Stores: e.r, Reader: e.reader, Packer: e.packer, Leases: e.leases,
		Budget: blockmap.NewBudget(64), Clock: clock.System, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Limits: e.r.limits, Journal: journal.Limits{ReplaceAfter: 200 * time.Millisecond},
	})
}

func (e *engine) mustOpen(v id.Volume) *Volume {
	e.r.t.Helper()
	vol, err := e.open(v)
	if err != nil {
		e.r.t.Fatal(err)
	}
	e.r.t.Cleanup(vol.Abandon)
	return vol
}

// do runs one request to its end.
func do(v *Volume, op nbd.Op, off, n uint64, data []byte) (*nbd.Request, error) {
	ch := make(chan error, 1)
	r := nbd.NewRequest(op, 0, off, n, data, nbd.CompleterFunc(func(_ *nbd.Request, err error) { ch <- err }))
	v.Submit(r)
	return r, <-ch
}

func write(v *Volume, off uint64, data []byte) error {
	r, err := do(v, nbd.OpWrite, off, uint64(len(data)), data)
	r.Recycle()
	return err
}

func readBack(v *Volume, off uint64, n int) ([]byte, error) {
	b := make([]byte, n)
	r, err := do(v, nbd.OpRead, off, uint64(n), b)
	r.FillHoles()
	r.Recycle()
	return b, err
}

// fakeMetad keeps one version of the truth in memory, with metad's compare-and-sets.
type fakeMetad struct {
	mu      sync.Mutex
	volumes map[id.Volume]*cluster.Volume
	stores  []cluster.Store
	pgs     []cluster.PG
	version uint64
	topo    *cluster.Topology
	next    id.Sequence
	counter map[id.Volume]uint32
	away    bool
	k, m    uint8
}

func newFakeMetad() *fakeMetad {
	return &fakeMetad{volumes: make(map[id.Volume]*cluster.Volume), next: 1, counter: make(map[id.Volume]uint32)}
}

// profile makes one group over the first k+m stores and, where there are more, one over the last.
func (f *fakeMetad) profile(k, m uint8) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.k, f.m = k, m
	f.groupsLocked(nil)
}

func (f *fakeMetad) groupsLocked(exclude []id.Store) {
	var up []cluster.StoreRef
	for _, s := range f.stores {
		out := s.State != cluster.StoreUp
		for _, x := range exclude {
			out = out || x == s.Store
		}
		if !out {
			up = append(up, s.StoreRef)
		}
	}
	k, m := f.k, f.m
	if len(up) < int(k+m) {
		k, m = 1, 2
	}
	for i := range f.pgs {
		f.pgs[i].Preferred, f.pgs[i].Healthy = false, false
	}
	if len(up) >= int(k+m) {
		for start := range len(up) - int(k+m) + 1 {
			f.pgs = append(f.pgs, cluster.PG{
				Number: id.PG(len(f.pgs) + 1), Preferred: true, Healthy: true,
				Versions: []cluster.PGVersion{{Version: 1, K: k, M: m, Stores: append([]cluster.StoreRef(nil), up[start:start+int(k+m)]...)}},
			})
		}
	}
	f.publishLocked()
}

func (f *fakeMetad) publishLocked() {
	f.version++
	f.topo = (&cluster.Topology{
		Version: f.version, Stores: append([]cluster.Store(nil), f.stores...), PGs: append([]cluster.PG(nil), f.pgs...),
	}).Index()
}

// mark changes what metad believes of a store.
func (f *fakeMetad) mark(s id.Store, st cluster.StoreState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.stores {
		if f.stores[i].Store == s {
			f.stores[i].State = st
		}
	}
	f.groupsLocked(nil)
}

func (f *fakeMetad) create(v id.Volume, size uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.volumes[v] = &cluster.Volume{ID: v, Size: size}
}

func (f *fakeMetad) acquire(v id.Volume, by id.Holder) (*cluster.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.volumes[v]
	if r == nil {
		return nil, errs.ErrNotFound
	}
	if r.Owner.Host != "" {
		r.Prior = append(r.Prior, r.Owner.Host)
	}
	r.Epoch++
	r.Owner = by
	return r.Clone(), nil
}

func (f *fakeMetad) at(l client.ListVersion) (*cluster.Volume, error) {
	if f.away {
		return nil, errs.ErrUnavailable
	}
	r := f.volumes[l.Volume]
	switch {
	case r == nil:
		return nil, errs.ErrNotFound
	case r.Epoch != l.Epoch:
		return nil, errs.ErrStaleEpoch
	case r.ListVersion != l.Version:
		return nil, errs.ErrConflict
	}
	return r, nil
}

func (f *fakeMetad) Topology() *cluster.Topology {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.topo
}

func (f *fakeMetad) Volume(_ context.Context, v id.Volume) (*cluster.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.volumes[v]
	if r == nil || f.away {
		return nil, errs.ErrUnavailable
	}
	return r.Clone(), nil
}

func (f *fakeMetad) AddEnsemble(_ context.Context, a client.AddEnsemble) (*cluster.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.at(a.At)
	if err != nil {
		return nil, err
	}
	var members []cluster.StoreRef
	for pass := range 2 { // one store of each host first
		hosts := make(map[id.Host]bool)
		for _, s := range f.stores {
			skip := s.State != cluster.StoreUp || pass == 0 && hosts[s.Host]
			for _, x := range a.Exclude {
				skip = skip || x == s.Store
			}
			for _, m := range members {
				skip = skip || m == s.StoreRef
			}
			if !skip && len(members) < 3 {
				hosts[s.Host] = true
				members = append(members, s.StoreRef)
			}
		}
	}
	if len(members) < 2 {
		return nil, errs.ErrNoSpace
	}
	f.counter[r.ID]++
	r.List = append(r.List, cluster.Ensemble{ID: id.Ensemble{Epoch: r.Epoch, N: f.counter[r.ID]}, Stores: members})
	r.ListVersion++
	return r.Clone(), nil
}

func (f *fakeMetad) CloseEnsemble(_ context.Context, c client.CloseEnsemble) (*cluster.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.at(c.At)
	if err != nil {
		return nil, err
	}
	for i := range r.List {
		if e := &r.List[i]; e.ID == c.Ensemble {
			e.Closed, e.From, e.To, e.MetaFrom, e.MetaTo, e.Holders = true, c.From, c.To, c.MetaFrom, c.MetaTo, c.Holders
		}
	}
	r.ListVersion++
	return r.Clone(), nil
}

func (f *fakeMetad) RemoveEnsembles(_ context.Context, d client.RemoveEnsembles) (*cluster.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.at(d.At)
	if err != nil {
		return nil, err
	}
	kept := r.List[:0:0]
	for _, e := range r.List {
		gone := false
		for _, x := range d.Ensembles {
			gone = gone || x == e.ID
		}
		if !gone {
			kept = append(kept, e)
		}
	}
	r.List = kept
	r.ListVersion++
	return r.Clone(), nil
}

func (f *fakeMetad) ReplaceList(_ context.Context, at client.ListVersion, keep id.Ensemble) (*cluster.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.at(at)
	if err != nil {
		return nil, err
	}
	e, ok := r.Ensemble(keep)
	if !ok {
		return nil, errs.ErrNotFound
	}
	r.List, r.Prior = []cluster.Ensemble{e}, nil
	r.ListVersion++
	return r.Clone(), nil
}

func (f *fakeMetad) AllocRange(_ context.Context, v id.Volume, e id.Epoch) (client.Range, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.volumes[v]; f.away || r == nil || r.Epoch != e {
		return client.Range{}, errs.ErrStaleEpoch
	}
	f.next += 256
	return client.Range{Epoch: e, First: f.next - 256, Count: 256}, nil
}

func (f *fakeMetad) CommitCheckpoint(_ context.Context, v id.Volume, e id.Epoch, c cluster.Checkpoint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.volumes[v]
	switch {
	case f.away:
		return errs.ErrUnavailable
	case r == nil || r.Epoch != e:
		return errs.ErrStaleEpoch
	case r.Checkpoint != nil && !c.Above(*r.Checkpoint) && (c.Epoch != r.Checkpoint.Epoch || c.Meta != r.Checkpoint.Meta):
		return errs.ErrConflict
	}
	r.Checkpoint = &c
	return nil
}

func (f *fakeMetad) EnsurePlacement(_ context.Context, exclude []id.Store) (*cluster.Topology, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away {
		return nil, errs.ErrUnavailable
	}
	f.groupsLocked(exclude)
	return f.topo, nil
}

func (f *fakeMetad) ReportStore(context.Context, id.Host, cluster.StoreRef, string) error { return nil }
