package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

const (
	refreshEvery = 100 * time.Millisecond
	// settlePart is the part of a heartbeat timeout for which the set of healthy stores must
	// stand still before groups are formed unasked, so that a starting cluster does not form
	// groups of its first two stores.
	settlePart   = 4
	placeTimeout = 5 * time.Second
)

// reign is one term of leadership: what this member believes of the living while it
// leads, and the topology it tells. It begins empty and ends with the term.
//
// Lock order: mu before the machine's lock.
type reign struct {
	s    *Server
	ctx  context.Context // ends with the term
	end  context.CancelFunc
	term uint64
	wake chan struct{}
	// settle is settlePart of the cluster's heartbeat timeout.
	settle time.Duration
	began  time.Duration

	hooks hookBoard
	mu    struct {
		sync.Mutex
		live      *reconcile.Liveness
		top       *cluster.Topology
		changed   chan struct{}             // closed when top is replaced
		snapped   chan struct{}             // closed when something about snapshots has changed
		reminded  map[id.Snapshot]id.Volume // that somebody waits for
		manifests map[string]*manifestAsked // of archives, that somebody waits for
		groups    map[id.Snapshot]*groupStep
		forgetAt  time.Duration
		policies  map[id.Raw]bool // on which something works
		policyAt  time.Duration
		trash     trashTime
		counter   uint64
		healthy   []cluster.StoreRef
		settleAt  time.Duration
		placing   bool

		promoting bool
		confused  string // the last complaint of placing, logged once
		rescuer   reconcile.Rescuer
		rescues   map[id.Host][]reconcile.Rescue
		scrubs    reconcile.Scrubs
		looks     reconcile.Looks
		mender    reconcile.Mender
		balancer  reconcile.Balancer
		mending   bool

		moves          map[id.Volume]move
		yields         map[id.Volume]int // disks to be given up by who owns them; how many ask
		raising        bool
		raiseAt, sayAt time.Duration
		told           told
		archives       *archives // nil until somebody asks
	}
}

// lead follows the leadership of this member until ctx ends.
func (s *Server) lead(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case leading := <-s.node.Leadership():
			for leading && ctx.Err() == nil {
				leading = s.rule(ctx)
			}
		}
	}
}

// rule leads for one term. It tells whether this member leads still, in another term.
func (s *Server) rule(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &reign{s: s, ctx: ctx, end: cancel, term: s.node.Term(), wake: make(chan struct{}, 1)}
	if err := r.begin(ctx); err != nil {
		s.log.Info("could not begin to lead", "term", r.term, "err", err)
		return s.stillLeads(ctx)
	}
	s.log.Info("leads", "term", r.term)
	s.reign.Store(r)
	s.note(state.Info, "leads", aboutMember, s.node.ID(), "", "metad %s leads", s.node.ID())
	s.metrics.leading(true)
	again := r.run()
	s.reign.Store(nil)
	s.metrics.leading(false)
	s.log.Info("leads no more", "term", r.term)
	return again
}

// stillLeads looks, without waiting, whether leadership was lost.
func (s *Server) stillLeads(ctx context.Context) bool {
	select {
	case leading := <-s.node.Leadership():
		return leading
	default:
	}
	return s.clock.Sleep(ctx, refreshEvery) == nil && s.node.Leads()
}

// begin catches up with everything committed before, and names a new cluster.
func (r *reign) begin(ctx context.Context) error {
	if err := r.s.node.Barrier(ctx); err != nil {
		return err
	}
	var named bool
	var settings cluster.Settings
	look := func(m *state.Machine) { named, settings = m.ClusterID() != [16]byte{}, m.Settings() }
	r.s.node.View(look)
	if !named {
		init := &state.Init{Settings: r.s.settings}
		if _, err := rand.Read(init.ClusterID[:]); err != nil {
			return fmt.Errorf("draw cluster id: %w", err)
		}
		res, err := r.s.node.Apply(ctx, init)
		if err = errors.Join(err, res.Err); err != nil && !errors.Is(err, errs.ErrExists) {
			return fmt.Errorf("name cluster: %w", err)
		}
		r.s.node.View(look)
	}
	if err := r.writeAddresses(ctx); err != nil {
		return err
	}
	r.settle, r.began = settings.HeartbeatTimeout/settlePart, r.s.clock.Now()
	r.s.node.View(func(m *state.Machine) { r.mu.told = readTold(m) })
	r.mu.live = reconcile.NewLiveness(r.s.clock.Now(), settings)
	r.mu.changed, r.mu.snapped = make(chan struct{}), make(chan struct{})
	r.mu.groups, r.mu.policies = make(map[id.Snapshot]*groupStep), make(map[id.Raw]bool)
	r.mu.mender.OutAfter = r.s.outAfter
	r.refresh()
	return nil
}

// run keeps the topology true until the term ends; it tells whether another follows.
func (r *reign) run() bool {
	t := r.s.clock.NewTicker(refreshEvery)
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return false
		case leading := <-r.s.node.Leadership():
			return leading
		case <-t.C():
			if r.s.node.Term() != r.term {
				return r.s.node.Leads()
			}
		case <-r.s.node.Applied():
		case <-r.wake:
		}
		r.refresh()
		r.place()
		r.promote()
		r.raise()
		r.mend()
		r.forgetGroups()
		r.runPolicies()
		r.passTrash()
	}
}

// poke makes run look again soon.
func (r *reign) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// refresh computes the topology and, if it differs, publishes it.
func (r *reign) refresh() *cluster.Topology {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.s.clock.Now()
	var next *cluster.Topology
	r.s.node.View(func(m *state.Machine) {
		next = reconcile.Topology(m, r.mu.live, now)
		if all, due := r.mu.rescuer.Plan(now, m, r.mu.live, next); due {
			r.mu.rescues = all
		}
	})
	if r.mu.top != nil && reconcile.Same(r.mu.top, next) {
		r.sayStates(now)
		return r.mu.top
	}
	r.mu.counter++
	next.Version = r.term<<32 | r.mu.counter
	r.tell(r.mu.top, next)
	r.mu.top = next
	close(r.mu.changed)
	r.mu.changed = make(chan struct{})
	return next
}

// tell logs who came and who went.
func (r *reign) tell(before, after *cluster.Topology) {
	for _, h := range after.Hosts {
		if before == nil {
			break
		}
		if old, known := before.Host(h.Host); !known || old.Up != h.Up {
			r.s.log.Info("host changed", "host", string(h.Host), "up", h.Up)
		}
	}
	for _, s := range after.Stores {
		if before == nil {
			break
		}
		if old, known := before.Store(s.Store); !known || old.State != s.State || old.Incarnation != s.Incarnation {
			_, why := r.mu.live.StoreUp(r.s.clock.Now(), s.StoreRef, s.Host)
			r.s.log.Info("store changed", "store", s.Store.String(), "host", string(s.Host), "state", s.State.String(), "why", why)
		}
	}
}

// topology is the present one, and what is closed when there is a newer.
func (r *reign) topology() (*cluster.Topology, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.top, r.mu.changed
}

// place forms placement groups when the healthy stores have settled and some are missing.
func (r *reign) place() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.s.clock.Now()
	healthy := reconcile.Healthy(r.mu.top, nil)
	if !slices.Equal(healthy, r.mu.healthy) {
		r.mu.healthy, r.mu.settleAt = healthy, now+r.settle
	}
	if r.mu.placing || now < r.mu.settleAt {
		return
	}
	needed, over := r.needed(r.mu.top, nil)
	if !needed {
		return
	}
	r.mu.placing = r.s.group.Go("placement", func(context.Context) error {
		err := r.ensure(r.ctx, over)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.mu.placing = false
		if err != nil && r.ctx.Err() == nil && r.mu.confused != err.Error() {
			r.mu.confused = err.Error()
			r.s.log.Warn("placement groups cannot be formed", "err", err)
			if f := new(final); errors.As(err, &f) { // not when leadership goes
				r.s.note(state.Warning, "groups_not_formed", aboutRepair, "", "", "placement groups cannot be formed: %v", err)
			}
		}
		return nil
	})
}

// needed tells whether groups are missing, and over which stores they are to be formed.
func (r *reign) needed(t *cluster.Topology, exclude []id.Store) (needed bool, over []cluster.StoreRef) {
	r.s.node.View(func(m *state.Machine) {
		needed, over = reconcile.FormingNeeded(m, t, exclude), reconcile.Formers(m, t, exclude)
	})
	return needed, over
}

// ensure commits the groups that are missing over the healthy stores.
func (r *reign) ensure(ctx context.Context, healthy []cluster.StoreRef) error {
	ctx, cancel := context.WithTimeout(ctx, placeTimeout)
	defer cancel()
	seed, err := r.s.seed()
	if err != nil {
		return err
	}
	res, err := r.s.node.Apply(ctx, &state.EnsurePlacement{Healthy: healthy, Seed: seed})
	if res.Err != nil {
		err = &final{res.Err}
	}
	if err != nil {
		return fmt.Errorf("form placement groups: %w", err)
	}
	if res.Added > 0 {
		r.s.log.Info("placement groups formed", "groups", res.Added, "stores", len(healthy))
		r.s.note(state.Info, "groups_formed", aboutRepair, "", "", "%d placement groups formed over %d stores", res.Added, len(healthy))
	}
	return nil
}

// with runs f with the leader's memory and the machine, both held still.
func (r *reign) with(f func(l *reconcile.Liveness, m *state.Machine, now time.Duration)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.s.clock.Now()
	r.s.node.View(func(m *state.Machine) { f(r.mu.live, m, now) })
}

// goneOwner is v's owner if it may be passed over.
func (r *reign) goneOwner(v id.Volume) (gone id.Holder) {
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		if x, ok := m.Volume(v); ok && x.Owner != (id.Holder{}) && l.OwnerGone(now, x.Owner, v, x.Epoch) {
			gone = x.Owner
		}
	})
	return gone
}
