package coretest

import (
	"bytes"
	"context"
	"slices"
	"sync"

	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Metad keeps one version of the truth in memory, with metad's rules and no
// quorum. It is safe for concurrent use and serves as a volume's Metad: that it answers as the
// real one does is tested (blockd/volume/metadtest).
type Metad struct {
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

var _ volume.Metad = (*Metad)(nil)

// NewMetad makes one without stores.
func NewMetad() *Metad {
	return &Metad{volumes: make(map[id.Volume]*cluster.Volume), next: 1, counter: make(map[id.Volume]uint32)}
}

// AddStore makes a store known.
func (f *Metad) AddStore(s cluster.Store) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stores = append(f.stores, s)
}

// Profile forms groups of k+m over the stores that are up.
func (f *Metad) Profile(k, m uint8) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.k, f.m = k, m
	f.groupsLocked(nil)
}

// SetAway makes it answer nothing but the topology.
func (f *Metad) SetAway(away bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = away
}

func (f *Metad) groupsLocked(exclude []id.Store) {
	var up []cluster.StoreRef
	full := make(map[id.Store]bool)
	for _, s := range f.stores {
		full[s.Store] = s.Full
		if s.State == cluster.StoreUp && !s.Full && !slices.Contains(exclude, s.Store) {
			up = append(up, s.StoreRef)
		}
	}
	k, m := f.k, f.m
	for _, smaller := range [][2]uint8{{1, 2}, {1, 1}} {
		if len(up) < int(k+m) {
			k, m = smaller[0], smaller[1]
		}
	}
	for i := range f.pgs {
		f.pgs[i].Preferred, f.pgs[i].Healthy = false, false
	}
	if n := int(k + m); len(up) >= n {
		for start := range len(up) - n + 1 {
			f.groupLocked(k, m, up[start:start+n])
		}
	}
	f.publishLocked()
}

// groupLocked prefers the group of these stores, a new one if there is none.
func (f *Metad) groupLocked(k, m uint8, stores []cluster.StoreRef) {
	for i := range f.pgs {
		if v := f.pgs[i].Current(); v.K == k && v.M == m && slices.Equal(v.Stores, stores) {
			f.pgs[i].Preferred, f.pgs[i].Healthy = true, true
			return
		}
	}
	f.pgs = append(f.pgs, cluster.PG{
		Number: id.PG(len(f.pgs) + 1), Preferred: true, Healthy: true,
		Versions: []cluster.PGVersion{{Version: 1, K: k, M: m, Stores: slices.Clone(stores)}},
	})
}

func (f *Metad) publishLocked() {
	f.version++
	pgs := slices.Clone(f.pgs)
	for i := range pgs {
		pgs[i].Versions = slices.Clone(pgs[i].Versions)
	}
	f.topo = (&cluster.Topology{Version: f.version, Stores: slices.Clone(f.stores), PGs: pgs}).Index()
}

// Mark changes what metad believes of a store.
func (f *Metad) Mark(s id.Store, st cluster.StoreState) {
	f.change(s, func(x *cluster.Store) { x.State = st })
}

// MarkSlow says whether a store answers slowly.
func (f *Metad) MarkSlow(s id.Store, slow bool) {
	f.change(s, func(x *cluster.Store) { x.Slow = slow })
}

// MarkFull says whether a store has room.
func (f *Metad) MarkFull(s id.Store, full bool) {
	f.change(s, func(x *cluster.Store) { x.Full = full })
}

// MarkUsed says how much of a store is used.
func (f *Metad) MarkUsed(s id.Store, used, capacity uint64) {
	f.change(s, func(x *cluster.Store) { x.Used, x.Capacity = used, capacity })
}

func (f *Metad) change(s id.Store, what func(*cluster.Store)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.stores {
		if f.stores[i].Store == s {
			what(&f.stores[i])
		}
	}
	f.groupsLocked(nil)
}

// BumpPG gives a group a newer version, of the same stores.
func (f *Metad) BumpPG(n id.PG) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.pgs {
		if p := &f.pgs[i]; p.Number == n {
			v := p.Current()
			v.Version++
			p.Versions = append(slices.Clone(p.Versions), v)
		}
	}
	f.publishLocked()
}

// RecodePG gives a group a newer version of another code: 1+2 if it has a wider one, else k+m.
func (f *Metad) RecodePG(n id.PG, k, m uint8) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.pgs {
		if p := &f.pgs[i]; p.Number == n {
			v := p.Current()
			v.Version++
			if v.K > 1 {
				k, m = 1, 2
			}
			v.K, v.M, v.Stores = k, m, nil
			for s := range int(k + m) {
				v.Stores = append(v.Stores, f.stores[s%len(f.stores)].StoreRef)
			}
			p.Versions = append(slices.Clone(p.Versions), v)
		}
	}
	f.publishLocked()
}

// PGs gives the numbers of all groups.
func (f *Metad) PGs() (out []id.PG) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.pgs {
		out = append(out, f.pgs[i].Number)
	}
	return out
}

// Create makes a volume of size bytes.
func (f *Metad) Create(v id.Volume, size uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.volumes[v] = &cluster.Volume{ID: v, Size: size}
}

// Resize makes a volume larger.
func (f *Metad) Resize(v id.Volume, size uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.volumes[v].Size = size
}

// Record gives a copy of what it knows of a volume.
func (f *Metad) Record(v id.Volume) *cluster.Volume {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.volumes[v].Clone()
}

// Acquire raises the epoch of a volume and gives it to a holder.
func (f *Metad) Acquire(v id.Volume, by id.Holder) (*cluster.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.volumes[v]
	if r == nil {
		return nil, errs.ErrNotFound
	}
	if r.OpenComplete && !slices.Contains(r.Prior, r.Owner.Host) {
		r.Prior = append(r.Prior, r.Owner.Host)
		slices.Sort(r.Prior)
	}
	r.Epoch++
	r.OpenComplete, r.Owner = false, by
	f.counter[v] = 0
	if kept := cluster.InForce(r.List); len(kept) < len(r.List) { // targets of openings that broke off
		r.List = kept
		r.ListVersion++
	}
	return r.Clone(), nil
}

// owned finds the record on which the owner under epoch e may act.
func (f *Metad) owned(v id.Volume, e id.Epoch) (*cluster.Volume, error) {
	r := f.volumes[v]
	switch {
	case f.away:
		return nil, errs.ErrUnavailable
	case r == nil:
		return nil, errs.ErrNotFound
	case r.Epoch != e:
		return nil, errs.ErrStaleEpoch
	}
	return r, nil
}

func (f *Metad) at(l client.ListVersion) (*cluster.Volume, error) {
	r, err := f.owned(l.Volume, l.Epoch)
	if err == nil && r.ListVersion != l.Version {
		return nil, errs.ErrConflict
	}
	return r, err
}

// alive tells whether a store is known, and not lost for good.
func (f *Metad) alive(r cluster.StoreRef) bool {
	return slices.ContainsFunc(f.stores, func(s cluster.Store) bool { return s.StoreRef == r && s.State != cluster.StoreLost })
}

// Topology is the newest one.
func (f *Metad) Topology() *cluster.Topology {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.topo
}

// Volume reads a volume.
func (f *Metad) Volume(_ context.Context, v id.Volume) (*cluster.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.volumes[v]
	switch {
	case f.away:
		return nil, errs.ErrUnavailable
	case r == nil:
		return nil, errs.ErrNotFound
	}
	return r.Clone(), nil
}

// AllocRange gives 256 sequences.
func (f *Metad) AllocRange(_ context.Context, v id.Volume, e id.Epoch) (client.Range, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.owned(v, e)
	if err != nil {
		return client.Range{}, err
	}
	f.next += 256
	if n := len(r.Spans); n == 0 || r.Spans[n-1].Epoch != e {
		r.Spans = append(r.Spans, cluster.Span{Epoch: e, First: f.next - 256})
	}
	r.Spans[len(r.Spans)-1].End = f.next
	return client.Range{Epoch: e, First: f.next - 256, Count: 256}, nil
}

// ForgetSpans hears that nothing of older epochs is left.
func (f *Metad) ForgetSpans(_ context.Context, v id.Volume, e, below id.Epoch) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.owned(v, e)
	switch {
	case err != nil:
		return err
	case below > e || !r.OpenComplete:
		return errs.ErrConflict
	}
	r.Spans = slices.DeleteFunc(slices.Clone(r.Spans), func(s cluster.Span) bool { return s.Epoch < below })
	return nil
}

// Spans are those that a volume's record has.
func (f *Metad) Spans(v id.Volume) []cluster.Span {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.volumes[v].Spans)
}

// CommitCheckpoint takes a higher checkpoint, and the same one again, of an owner that is open.
func (f *Metad) CommitCheckpoint(_ context.Context, v id.Volume, e id.Epoch, c cluster.Checkpoint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.owned(v, e)
	if err != nil {
		return err
	}
	last := r.Checkpoint
	switch {
	case len(c.Opaque) > cluster.CheckpointBytesMax || c.Epoch == 0 || c.Epoch > e:
		return errs.ErrInvalid
	case !r.OpenComplete:
		return errs.ErrConflict
	case last != nil && last.Epoch == c.Epoch && last.Meta == c.Meta && last.Covered == c.Covered && bytes.Equal(last.Opaque, c.Opaque):
		return nil
	case last != nil && !c.Above(*last):
		return errs.ErrConflict
	}
	r.Checkpoint = &c
	return nil
}

// EnsurePlacement forms groups without some stores.
func (f *Metad) EnsurePlacement(_ context.Context, exclude []id.Store) (*cluster.Topology, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	healthy := 0
	for _, s := range f.stores {
		if s.State == cluster.StoreUp && !s.Full && !slices.Contains(exclude, s.Store) {
			healthy++
		}
	}
	if f.away || healthy < 2 {
		return nil, errs.ErrUnavailable
	}
	f.groupsLocked(exclude)
	return f.topo, nil
}

// ReportStore takes a complaint and does nothing about it.
func (f *Metad) ReportStore(context.Context, id.Host, cluster.StoreRef, string) error { return nil }

// RestoreWhole forgets that a volume was made from an archive.
func (f *Metad) RestoreWhole(_ context.Context, v id.Volume, e id.Epoch) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.owned(v, e)
	switch {
	case err != nil:
		return err
	case r.Restored != nil && r.Checkpoint == nil:
		return errs.ErrConflict
	}
	r.Restored = nil
	return nil
}

// CreateRestored makes a volume from an archive: its segments get sequences and groups.
func (f *Metad) CreateRestored(v id.Volume, size uint64, manifest string, segments uint32) cluster.Restored {
	f.Create(v, size)
	groups := f.PGs()
	f.mu.Lock()
	defer f.mu.Unlock()
	x := cluster.Restored{Manifest: manifest, Segments: segments, First: f.next, PGs: groups}
	f.next += id.Sequence(segments)
	f.volumes[v].Restored = &x
	return x
}

// SetHydrate says how fast a volume is brought in from an archive.
func (f *Metad) SetHydrate(v id.Volume, rate uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.volumes[v].Restored.Rate = rate
}
