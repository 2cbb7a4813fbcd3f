package sim

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/blockd/packer"
	"ashlar.dev/blockd/reader"
	"ashlar.dev/blockd/repair"
	"ashlar.dev/blockd/restore"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/metad/reconcile"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	score "ashlar.dev/pkg/storeproto/core"
)

// host is one blockd: its stores, and the engines of the disks that it owns or believes
// to. A life ends with a crash; what is on its stores' disks stays.
type host struct {
	w      *World
	name   id.Host
	number uint64 // of its life
	up     bool
	paused bool
	parked []func()
	skew   time.Duration // of its clock; jumps forward only
	stores []*store

	// Of one life.
	top        *cluster.Topology
	known      uint64 // of the topology, for the engines
	registered bool
	leases     *journal.Leases
	packer     *packer.Packer
	reader     *reader.Reader
	archive    *restore.Archive
	rooting    []*disk // whose trees' roots are being looked for
	memory     *core.Memory
	budget     *blockmap.Budget
	engines    []*engine
	fillers    []*filler
	links      map[linkKey]*link
	requests   []*request
	end        context.CancelFunc
	ctx        context.Context
}

// filler is the repair of one store.
type filler struct {
	st        *store
	worker    *repair.Worker
	running   bool
	caring    bool
	scrubbing bool
}

// scrubEvery is how often a store looks at all its shards.
const scrubEvery = 5 * time.Second

func newHost(w *World, name id.Host, stores int) *host {
	h := &host{w: w, name: name, skew: time.Duration(w.rng.IntN(1000)) * time.Second}
	for range stores {
		st := newStore(h)
		st.skew = h.skew
		h.stores = append(h.stores, st)
	}
	return h
}

func (h *host) now() time.Duration { return h.w.now() + h.skew }

func (h *host) holder() id.Holder { return id.Holder{Host: h.name, Number: h.number} }

// park keeps f until a paused host goes on; false: it is not paused.
func (h *host) park(f func()) bool {
	if h.paused {
		h.parked = append(h.parked, f)
	}
	return h.paused
}

// later runs f on the host: now, or when it goes on.
func (h *host) later(f func()) {
	if !h.park(f) {
		f()
	}
}

func (h *host) pause() { h.paused = true }

func (h *host) resume() {
	if !h.paused {
		return
	}
	h.paused = false
	parked := h.parked
	h.parked = nil
	for _, f := range parked {
		h.later(f)
	}
}

func (h *host) link(s id.Store, c class) *link {
	k := linkKey{s, c}
	if h.links[k] == nil {
		h.links[k] = &link{}
	}
	return h.links[k]
}

func (h *host) open(r *request) {
	if len(h.requests) > 256 {
		h.requests = slices.DeleteFunc(h.requests, func(x *request) bool { return x.done })
	}
	h.requests = append(h.requests, r)
}

// boot begins a life.
func (h *host) boot() {
	if h.up || h.w.err != nil {
		return
	}
	w := h.w
	h.number++
	h.up, h.paused, h.registered, h.top, h.known = true, false, false, nil, 0
	h.links, h.requests, h.engines, h.fillers = make(map[linkKey]*link), nil, nil, nil
	h.ctx, h.end = context.WithCancel(context.Background())
	w.log("%s boots, life %d", h.name, h.number)
	h.leases = journal.NewLeases(journal.LeaseConfig{Holder: h.holder(), Wait: 60 * time.Millisecond, Retry: 20 * time.Millisecond,
		Answered: func(s *journal.LeaseSend) { h.lease(func(fx *journal.LeaseEffects) { h.leases.Done(h.now(), s, fx) }) }})
	topology := func() *cluster.Topology { return h.top }
	w.touch(func() {
		h.packer = packer.New(h.ctx, packer.Config{Stores: bodies{h, h.number, "packer"}, Topology: topology, Clock: outsideClock{w.clock, w}, PutTimeout: 700 * time.Millisecond})
	})
	h.reader = reader.New(reader.Config{Stores: bodies{h, h.number, "reader"}, Topology: topology, Clock: outsideClock{w.clock, w}, HedgeAfter: 15 * time.Millisecond})
	h.archive, h.rooting = restore.New(restore.Config{Store: &door{w.bucket, fmt.Sprintf("%s#%d", h.name, h.number)}, CacheBytes: 1 << 20}), nil
	h.memory, h.budget = core.NewMemory(memoryBytes), blockmap.NewBudget(64)
	for _, st := range h.stores {
		st.start()
		w.touch(func() { h.fill(st) })
	}
	h.register()
	h.tick(h.number)
	h.beats(h.number)
	h.repairs(h.number)
}

func (h *host) fill(st *store) {
	b := bodies{h, h.number, "repair of " + st.name}
	h.fillers = append(h.fillers, &filler{st: st, worker: repair.New(repair.Config{
		Self: st.ref, Local: &body{b, st.ref}, Stores: b, Topology: func() *cluster.Topology { return h.top }, Clock: outsideClock{h.w.clock, h.w},
		Log: slog.New(slog.DiscardHandler), Every: 60 * time.Millisecond, Jobs: 1, ScrubEvery: scrubEvery,
	})})
}

// back boots it after a while, if nobody does before.
func (h *host) back(away time.Duration) {
	ended := h.number
	h.w.after(away, string(h.name)+" is back", func() {
		if h.number == ended {
			h.boot()
		}
	})
}

// crash ends a life; power: what was not synced is in danger.
func (h *host) crash(power bool) {
	if !h.up {
		return
	}
	w := h.w
	w.log("%s crashes, power %t", h.name, power)
	h.up = false
	h.paused = false
	for _, st := range h.stores {
		st.stop(power)
	}
	for _, e := range slices.Clone(h.engines) {
		e.kill()
	}
	w.touch(h.end)
	parked := h.parked
	h.parked = nil
	for _, f := range parked {
		f()
	}
	for _, r := range h.requests {
		r.fail(errBroken)
	}
	h.requests = nil
	w.settle()
	for _, r := range h.requests { // what entered meanwhile
		r.fail(errBroken)
	}
	if err := h.packer.Close(); err != nil {
		w.fail(CheckWorld, "the packer of %s ends with %v", h.name, err)
	}
	w.settle()
	h.engines = nil
}

// register makes the host known, again and again until metad says so.
func (h *host) register() {
	var refs []cluster.StoreRef
	for _, st := range h.stores {
		if st.died == "" {
			refs = append(refs, st.ref)
		}
	}
	m := h.w.metad
	h.w.net.ask(h, "to register", func() error {
		_, err := m.register(h.holder(), refs)
		return err
	}, func(err error) {
		if err != nil {
			h.w.after(20*time.Millisecond, string(h.name)+" registers again", func() { h.ifAlive(h.number, h.register) })
			return
		}
		h.registered = true
	})
}

// ifAlive runs f in the life that it was meant for.
func (h *host) ifAlive(life uint64, f func()) {
	if h.up && h.number == life {
		h.later(func() {
			if h.up && h.number == life {
				f()
			}
		})
	}
}

// tick drives all limits of time of the host.
func (h *host) tick(life uint64) {
	if !h.up || h.number != life {
		return
	}
	h.w.after(h.w.between(8*time.Millisecond, 16*time.Millisecond), string(h.name)+" ticks", func() {
		h.ifAlive(life, func() {
			h.lease(func(fx *journal.LeaseEffects) { h.leases.Tick(h.now(), fx) })
			h.w.touch(func() { h.reader.Tick(h.w.now()) })
			for _, e := range slices.Clone(h.engines) {
				e.tick()
			}
		})
		h.tick(life)
	})
}

// beats sends heartbeats. Their answers bring the topology.
func (h *host) beats(life uint64) {
	if !h.up || h.number != life {
		return
	}
	h.w.after(heartbeatInterval, string(h.name)+" beats", func() {
		h.ifAlive(life, h.beat)
		h.beats(life)
	})
}

func (h *host) beat() {
	if !h.registered {
		return
	}
	m, w := h.w.metad, h.w
	b := h.heartbeat()
	var rescues []reconcile.Rescue
	var top *cluster.Topology
	var news []volumeNews
	var leftovers []leftover
	var purges []purge
	streams := h.streams()
	w.net.ask(h, "heartbeat", func() (err error) {
		rescues, err = m.beat(b)
		if err == nil {
			top, news, leftovers, purges = m.lately(), m.news(b), m.leftovers(streams), m.purges(b)
		}
		return err
	}, func(err error) {
		if err != nil {
			if isNotFound(err) {
				h.registered = false
				h.register()
			}
			return
		}
		if h.top == nil || top.Version > h.top.Version {
			h.top = top
		}
		for _, n := range news {
			h.told(n)
		}
		for _, l := range leftovers {
			h.forget(l)
		}
		for _, p := range purges {
			h.purge(p)
		}
		for _, r := range rescues {
			w.cover.add(Rescue)
			h.acquire(w.disk(r.Volume), toRescue)
		}
	})
}

// streams names the streams of the host's stores.
func (h *host) streams() (out []leftover) {
	for _, st := range h.stores {
		if st.core == nil || st.died != "" {
			continue
		}
		st.streams(func(s *score.Stream) {
			n := s.Row().Stream
			out = append(out, leftover{store: st.ref.Store, drop: storeproto.Drop{Volume: n.Volume, Keep: []id.Ensemble{n.Ensemble}}})
		})
	}
	return out
}

// leftover asks a store to forget streams that are in no list any more.
type leftover struct {
	store id.Store
	drop  storeproto.Drop
}

// leftovers judges streams as metad's server does: only those of epochs below the present.
func (m *metad) leftovers(streams []leftover) (out []leftover) {
	for _, x := range streams {
		v, ok := m.m.Volume(x.drop.Volume)
		e := x.drop.Keep[0]
		if !ok || v.Deleted || e.Epoch >= v.Epoch {
			continue
		}
		if _, listed := v.Ensemble(e); listed {
			continue
		}
		d := storeproto.Drop{Volume: v.ID, Epoch: v.Epoch - 1}
		for _, l := range v.List {
			d.Keep = append(d.Keep, l.ID)
		}
		d.Keep = append(d.Keep, id.Ensemble{Epoch: v.Epoch - 1, N: math.MaxUint32})
		out = append(out, leftover{x.store, d})
	}
	return out
}

func (h *host) forget(l leftover) {
	for _, st := range h.stores {
		if st.ref.Store == l.store {
			st.do(func() { st.core.Forget(l.drop, st.control(func(error) {})) }, func(error) {})
		}
	}
}

// volumeNews says that a volume has another owner, or what its owner is to do with its snapshots.
type volumeNews struct {
	volume id.Volume
	epoch  id.Epoch
	owned  bool
	orders []cluster.Snapshot
	roll   *cluster.Rollback
	empty  bool // it is deleted, and what only it had is to be given back
	flat   *cluster.Flatten
}

func (m *metad) news(b reconcile.Beat) (out []volumeNews) {
	for _, x := range b.Volumes {
		v, ok := m.m.Volume(x.Volume)
		switch {
		case !ok: // its deletion is complete
			out = append(out, volumeNews{volume: x.Volume, epoch: x.Epoch + 1})
		case v.Epoch >= x.Epoch:
			out = append(out, volumeNews{x.Volume, v.Epoch, v.Owner == b.Holder && v.Epoch == x.Epoch, order(v), v.Rollback, v.Kept != nil && !v.Trashed() && !v.Kept.Emptied, v.Flatten})
		}
	}
	return out
}

func (h *host) told(n volumeNews) {
	for _, e := range h.engines {
		if e.disk.id == n.volume && !n.owned && n.epoch > e.epoch && e.opened {
			e.kill()
		} else if e.disk.id == n.volume && n.owned && n.epoch == e.epoch {
			e.orders, e.roll, e.empty = n.orders, n.roll, n.empty
			e.setFlatten(n.flat)
			if n.roll == nil {
				e.thaw()
			}
		}
	}
}

func (h *host) heartbeat() reconcile.Beat {
	b := reconcile.Beat{Holder: h.holder()}
	for _, f := range h.fillers {
		s := reconcile.StoreBeat{StoreRef: f.st.ref, Capacity: shardBytes, Used: uint64(f.st.img.bytes), Full: f.st.full, Dead: f.st.died}
		for _, p := range f.worker.Progress() {
			s.Repairs = append(s.Repairs, reconcile.RepairBeat{PG: p.PG, Version: p.Version, Whole: p.Whole, Done: p.Done, Left: p.Left, Stuck: p.Stuck, Problem: p.Problem})
		}
		s.Remains = f.worker.Remains()
		s.Groups = f.st.img.groupUses()
		b.Stores = append(b.Stores, s)
	}
	for _, e := range h.engines {
		if e.dead || e.ended {
			continue
		}
		v := reconcile.VolumeBeat{Volume: e.disk.id, Epoch: e.epoch, State: reconcile.Opening}
		if e.opened {
			v.State = reconcile.Serving
		}
		b.Volumes = append(b.Volumes, v)
	}
	return b
}

// repairs lets each store's worker look round.
func (h *host) repairs(life uint64) {
	if !h.up || h.number != life {
		return
	}
	h.w.after(h.w.between(50*time.Millisecond, 80*time.Millisecond), string(h.name)+" repairs", func() {
		h.ifAlive(life, func() {
			for _, f := range h.fillers {
				h.round(f)
				h.care(f)
			}
		})
		h.repairs(life)
	})
}

func (h *host) round(f *filler) {
	if f.running || h.top == nil || f.st.died != "" || !h.anyMoved() {
		return
	}
	f.running = true
	ctx := h.ctx
	h.goes(func() { f.worker.Round(ctx) }, "repair round of "+f.st.name, func() { f.running = false })
}

// anyMoved tells whether some group has or had other versions: else no store has anything to fill in, to count or to
// reap, not even one that only an older version names.
func (h *host) anyMoved() bool {
	return slices.ContainsFunc(h.top.PGs, func(p cluster.PG) bool { return p.Current().Version > 1 })
}

// lease steps the process's leases and carries out what comes of it.
func (h *host) lease(f func(*journal.LeaseEffects)) {
	if !h.up {
		return
	}
	var fx journal.LeaseEffects
	f(&fx)
	for _, c := range fx.Fenced {
		for _, e := range slices.Clone(h.engines) {
			if e.disk.id == c.Volume && e.epoch == c.Epoch {
				e.fenced()
			}
		}
	}
	for _, s := range fx.Sends {
		h.askLease(s)
	}
}

func (h *host) askLease(s *journal.LeaseSend) {
	asked := s.Lease
	finish := func(x storeproto.Lease) {
		s.Lease.Err, s.Lease.Term, s.Lease.Naming, s.Lease.Named = x.Err, x.Term, x.Naming, x.Named
		s.Lease.Done(&s.Lease)
	}
	h.w.net.send(&request{from: h, life: h.number, to: s.Member, class: classLog, name: "lease for " + string(h.name),
		serve: func(st *store, reply func(func())) {
			wire := asked
			wire.Done = func(x *storeproto.Lease) {
				got := *x
				reply(func() { finish(got) })
			}
			st.core.Lease(st.now(), &wire)
		}, refuse: func(err error) { finish(storeproto.Lease{Err: err}) }})
}
