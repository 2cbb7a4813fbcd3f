package sim

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/blockd/volume"
	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Settings of the cluster, short enough that schedules meet them often.
const (
	leaseTerm         = 300 * time.Millisecond
	heartbeatInterval = 60 * time.Millisecond
	heartbeatTimeout  = 400 * time.Millisecond
	outAfter          = 1500 * time.Millisecond
	rangeCount        = 4096
)

// metad is the truth: the real state machine, applied in order, and a leader's view of
// the living (metad/reconcile). Raft is not here: that every member applies the same log
// is tried by restoring snapshots at each change of leader.
type metad struct {
	w        *World
	m        *state.Machine
	index    uint64
	away     bool
	backup   []byte // of the state; nil: none yet
	restore  *restoring
	restored bool
	left     map[ensembleName]bool // of lists that are older than what stores have dropped
	skew     time.Duration         // of the leader's clock

	workers map[string]time.Duration // lives of those that ask for uploads, and when each did last
	reigns  time.Duration            // the leader, since then

	group   *grouping     // of snapshots, that this leader has begun
	trashAt time.Duration // the state knows what passed until then

	term     uint64
	live     *reconcile.Liveness
	mender   reconcile.Mender
	balancer reconcile.Balancer
	rescuer  reconcile.Rescuer
	rescues  map[id.Host][]reconcile.Rescue
	top      *cluster.Topology
	counter  uint64
	seen     uint64 // index of the commands that top knows
	healthy  []cluster.StoreRef
	settleAt time.Duration
}

var _ volume.Metad = (*metad)(nil)

func newMetad(w *World) *metad {
	m := &metad{w: w, m: state.New(), left: make(map[ensembleName]bool)}
	init := &state.Init{Settings: cluster.Settings{LeaseTerm: leaseTerm, HeartbeatInterval: heartbeatInterval,
		HeartbeatTimeout: heartbeatTimeout, RangeCount: rangeCount}}
	init.ClusterID[0] = 1
	m.must(init)
	m.must(&state.SetLevel{Level: state.LevelNewest})
	m.must(&state.SetTrash{Keep: trashKeep})
	m.reign()
	return m
}

func (m *metad) now() time.Duration { return m.w.now() + m.skew }

// apply commits one command, by way of its bytes.
func (m *metad) apply(c state.Command) state.Result {
	m.index++
	c, err := state.Decode(state.Encode(c))
	if err != nil {
		m.w.fail(CheckMetad, "command %T is not read back: %v", c, err)
		return state.Result{Err: err}
	}
	return m.m.Apply(m.index, c)
}

func (m *metad) must(c state.Command) state.Result {
	r := m.apply(c)
	if r.Err != nil {
		m.w.fail(CheckWorld, "%T: %v", c, r.Err)
	}
	return r
}

// reign begins another leader's term: it knows what was committed and nobody living. Its
// machine is restored from a snapshot.
func (m *metad) reign() {
	snap := m.m.Snapshot()
	restored, err := state.Restore(snap)
	if err != nil || !bytes.Equal(restored.Snapshot(), snap) {
		m.w.fail(CheckMetad, "snapshot at %d is not restored as it was: %v", m.index, err)
		return
	}
	m.m = restored
	m.term++
	m.workers, m.reigns, m.trashAt, m.group = nil, m.now(), m.now(), nil
	m.live = reconcile.NewLiveness(m.now(), m.m.Settings())
	m.mender = reconcile.Mender{OutAfter: outAfter}
	m.balancer = reconcile.Balancer{}
	m.rescuer = reconcile.Rescuer{}
	m.healthy, m.settleAt = nil, m.now()+heartbeatTimeout/4
	m.top = nil
	m.refresh()
}

// tick is what a leader does by itself.
func (m *metad) tick() {
	m.w.after(30*time.Millisecond, "metad ticks", m.tick)
	if m.silent() {
		return
	}
	m.passTrash()
	m.forgetGroups()
	m.refresh()
	healthy := reconcile.Healthy(m.top, nil)
	if !slices.Equal(healthy, m.healthy) {
		m.healthy, m.settleAt = healthy, m.now()+heartbeatTimeout/4
	}
	if m.now() < m.settleAt {
		return
	}
	if m.m.PlacementNeeded(healthy) {
		m.apply(&state.EnsurePlacement{Healthy: healthy, Seed: m.w.rng.Uint64()})
	}
	plan := m.mender.Plan(m.now(), m.m, m.live, m.top, m.w.rng.Uint64())
	if len(plan) == 0 {
		if c := m.balancer.Plan(m.now(), m.m, m.live, m.top); c != nil {
			plan = append(plan, c)
			m.w.cover.Balanced++
		}
	}
	for _, c := range plan {
		if r := m.apply(c); r.Err != nil {
			break
		}
		if _, whole := c.(*state.ForgetVersions); whole {
			m.w.cover.Repaired++
		}
		if _, done := c.(*state.ForgetCodes); done {
			m.w.cover.Recoded++
		}
		m.w.log("metad: %T%+v", c, c)
	}
}

// lately is refresh for those who need not know what the last tick's few milliseconds have changed
// by mere passing.
func (m *metad) lately() *cluster.Topology {
	if m.seen == m.index && m.top != nil {
		return m.top
	}
	return m.refresh()
}

func (m *metad) refresh() *cluster.Topology {
	m.seen = m.index
	next := reconcile.Topology(m.m, m.live, m.now())
	if all, due := m.rescuer.Plan(m.now(), m.m, m.live, next); due {
		m.rescues = all
	}
	if m.top != nil && reconcile.Same(m.top, next) {
		return m.top
	}
	m.counter++
	next.Version = m.term<<32 | m.counter
	m.top = next
	return next
}

// register makes a host and its stores known.
func (m *metad) register(h id.Holder, stores []cluster.StoreRef) (refused map[id.Store]string, err error) {
	c := &state.RegisterHost{Holder: h, Exports: true}
	for _, r := range stores {
		s := state.RegisterStore{StoreRef: r, Capacity: shardBytes}
		if have, ok := m.m.Store(r.Store); ok && have.Host != h.Host {
			up, _ := m.live.StoreUp(m.now(), have.StoreRef, have.Host)
			s.MayMove = !up
		}
		c.Stores = append(c.Stores, s)
	}
	r := m.apply(c)
	if r.Err == nil {
		m.live.Registered(m.now(), h)
	}
	return r.Refused, r.Err
}

// beat takes a heartbeat; the answer is an error for a host that must register first.
func (m *metad) beat(b reconcile.Beat) (rescues []reconcile.Rescue, err error) {
	have, ok := m.m.Host(b.Holder.Host)
	switch {
	case !ok || have.HolderNumber < b.Holder.Number:
		return nil, errs.ErrNotFound
	case have.HolderNumber > b.Holder.Number:
		return nil, errs.ErrStaleEpoch
	}
	b.Stores = slices.DeleteFunc(slices.Clone(b.Stores), func(x reconcile.StoreBeat) bool {
		s, ok := m.m.Store(x.Store)
		return !ok || s.Host != b.Holder.Host || s.Incarnation != x.Incarnation || s.Lost
	})
	m.live.Beat(m.now(), b)
	for _, x := range m.rescues[b.Holder.Host] {
		if v, ok := m.m.Volume(x.Volume); ok && v.Epoch == x.Epoch {
			rescues = append(rescues, x)
		}
	}
	return rescues, nil
}

// acquire gives a volume to by, unless somebody who lives has it.
func (m *metad) acquire(v id.Volume, by id.Holder) (*cluster.Volume, error) {
	var gone id.Holder
	if x, ok := m.m.Volume(v); ok && x.Owner != (id.Holder{}) && m.live.OwnerGone(m.now(), x.Owner, v, x.Epoch) {
		gone = x.Owner
	}
	r := m.apply(&state.Acquire{Volume: v, By: by, Gone: gone})
	switch {
	case r.Err != nil:
		return nil, r.Err
	case r.Owner != id.Holder{}:
		return nil, fmt.Errorf("owned by %s: %w", r.Owner, errs.ErrExists)
	}
	m.live.Granted(m.now(), v, r.Volume.Epoch)
	m.w.log("metad: %s at %s to %s", v, r.Volume.Epoch, by)
	return reconcile.Lent(m.m, r.Volume.Volume.Clone()), nil
}

func (m *metad) record(c state.Command) (*cluster.Volume, error) {
	r := m.apply(c)
	if r.Err != nil {
		return nil, r.Err
	}
	return r.Volume.Volume.Clone(), nil
}

func at(a client.ListVersion) state.At {
	return state.At{Volume: a.Volume, Epoch: a.Epoch, Version: a.Version}
}

// Topology is part of volume.Metad.
func (m *metad) Topology() *cluster.Topology { return m.top }

// Volume is part of volume.Metad.
func (m *metad) Volume(_ context.Context, v id.Volume) (*cluster.Volume, error) {
	x, ok := m.m.Volume(v)
	if !ok {
		return nil, errs.ErrNotFound
	}
	return x.Volume.Clone(), nil
}

// AddEnsemble is part of volume.Metad.
func (m *metad) AddEnsemble(_ context.Context, q client.AddEnsemble) (*cluster.Volume, error) {
	return m.record(&state.AddEnsemble{At: at(q.At), Want: 3, Fallback: 2, Better: q.Better, Seed: m.w.rng.Uint64(),
		Candidates: reconcile.EnsembleCandidates(m.refresh(), q.Exclude)})
}

// CloseEnsemble is part of volume.Metad.
func (m *metad) CloseEnsemble(_ context.Context, q client.CloseEnsemble) (*cluster.Volume, error) {
	return m.record(&state.CloseEnsemble{At: at(q.At), Ensemble: q.Ensemble, From: q.From, To: q.To, MetaFrom: q.MetaFrom, MetaTo: q.MetaTo, Holders: q.Holders})
}

// RemoveEnsembles is part of volume.Metad.
func (m *metad) RemoveEnsembles(_ context.Context, q client.RemoveEnsembles) (*cluster.Volume, error) {
	return m.record(&state.RemoveEnsembles{At: at(q.At), Ensembles: q.Ensembles, Released: q.Released})
}

// ReplaceList is part of volume.Metad.
func (m *metad) ReplaceList(_ context.Context, q client.ListVersion, keep id.Ensemble) (*cluster.Volume, error) {
	return m.record(&state.ReplaceList{At: at(q), Keep: keep})
}

// AllocRange is part of volume.Metad.
func (m *metad) AllocRange(_ context.Context, v id.Volume, e id.Epoch) (client.Range, error) {
	r := m.apply(&state.AllocRange{Volume: v, Epoch: e})
	if r.Err != nil {
		return client.Range{}, r.Err
	}
	m.w.led.allotted(v, e, r.First, r.Count)
	return client.Range{First: r.First, Count: r.Count}, nil
}

// ForgetSpans is part of volume.Metad.
func (m *metad) ForgetSpans(_ context.Context, v id.Volume, e, below id.Epoch) error {
	return m.apply(&state.ForgetSpans{Volume: v, Epoch: e, Below: below}).Err
}

// CommitCheckpoint is part of volume.Metad.
func (m *metad) CommitCheckpoint(_ context.Context, v id.Volume, e id.Epoch, c cluster.Checkpoint) error {
	if len(c.Opaque) > cluster.CheckpointBytesMax {
		return errs.ErrInvalid
	}
	return m.apply(&state.CommitCheckpoint{Volume: v, Epoch: e, Checkpoint: c}).Err
}

// EnsurePlacement is part of volume.Metad.
func (m *metad) EnsurePlacement(_ context.Context, exclude []id.Store) (*cluster.Topology, error) {
	healthy := reconcile.Healthy(m.refresh(), exclude)
	if len(healthy) < 2 {
		return nil, errs.ErrUnavailable
	}
	if m.m.PlacementNeeded(healthy) {
		if r := m.apply(&state.EnsurePlacement{Healthy: healthy, Seed: m.w.rng.Uint64()}); r.Err != nil {
			return nil, r.Err
		}
	}
	return m.refresh(), nil
}

// ReportStore is part of volume.Metad.
func (m *metad) ReportStore(_ context.Context, by id.Host, s cluster.StoreRef, problem string) error {
	if m.m.Alive(s) {
		m.live.Report(m.now(), by, s, problem)
	}
	return nil
}

// release gives a volume up.
func (m *metad) release(v id.Volume, e id.Epoch, by id.Holder) error {
	return m.apply(&state.Release{Volume: v, Epoch: e, By: by}).Err
}

// VolumeFlattened is part of volume.Metad.
func (m *metad) VolumeFlattened(_ context.Context, v id.Volume, e id.Epoch) error {
	return m.apply(&state.VolumeFlattened{Volume: v, Epoch: e}).Err
}

// RestoreWhole is part of volume.Metad.
func (m *metad) RestoreWhole(_ context.Context, v id.Volume, e id.Epoch) error {
	return m.apply(&state.RestoreWhole{Volume: v, Epoch: e}).Err
}
