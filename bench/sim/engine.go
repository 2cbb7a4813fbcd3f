package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/blockd/restore"
	"ashlar.dev/blockd/volume"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// memoryBytes is what all engines of a host may buffer.
const memoryBytes = 3 << 20

// engineLimits make everything happen often: a memtable is some blocks, a checkpoint some segments.
var engineLimits = core.Limits{
	UnpackedBytesMax: 1 << 20, SealBlocks: 48, SealBytes: 400 << 10, SealIdle: 300 * time.Millisecond, LongBlocksMin: 24,
	CheckpointBytes: 1 << 20, CheckpointDead: 512 << 10, CheckpointMeta: 64 << 10, CheckpointDirty: 64, CheckpointDeadMin: 256 << 10,
	CleanPercent: 3, CleanSlack: 1, PagesPercent: 1, CleanRate: 1 << 40, MergeBelow: 12, ReadPatience: 4 * time.Second, ReapRetry: time.Second,
}

var journalLimits = journal.Limits{ReplaceAfter: 150 * time.Millisecond, RetryAfter: 4 * time.Millisecond, AskAfter: 10 * time.Millisecond,
	NudgeAfter: 200 * time.Millisecond, RecoverWait: 2 * time.Second, LagBytes: 512 << 10, FetchBytes: 256 << 10}

// engine is the shell of one core: one host's ownership of a disk at one epoch. What
// blockd/volume does with goroutines, it does with events.
type engine struct {
	h      *host
	w      *World
	disk   *disk
	life   uint64
	name   string
	epoch  id.Epoch
	core   *core.Core
	opener *journal.Opener
	topo   uint64
	spread journal.Spread
	what   why

	opened, drained, ended bool
	dead                   bool   // nothing of it goes on
	acked                  id.LSN // as far as the ledger has looked
	counted                bool   // the ledger knows where it began
	leaving                bool   // it drains
	named                  bool   // it was given names for its segments
	packs, longs           int
	ops                    map[*core.Op]*operation
	reads                  map[*core.Op]*fill
	doomed                 []*doomed
	orders                 []cluster.Snapshot
	frozen                 bool              // opened to be rolled back
	roll                   *cluster.Rollback // ordered
	safe, rolled           bool              // the safety snapshot's mark is durable; the rollback is done
	empty, telling         bool              // ordered: make all zeros; metad is being told that it is done
	emptying               *operation
	marking                map[id.Snapshot]bool // marks on their way
	archive                *restore.Disk        // nil: nothing was read there yet
	lent                   []lender
	snapshots              *volume.Snapshots // as the archive reads them
	jobs                   uint64            // numbers what is given to the packer and the reader
}

// start begins an engine, of a record that metad granted.
func (h *host) start(d *disk, rec *cluster.Volume, r *core.Restored, what why) {
	w := h.w
	e := &engine{h: h, w: w, disk: d, what: what, frozen: rec.Rollback != nil, life: h.number, epoch: rec.Epoch, name: fmt.Sprintf("%s/%s %s", d.name, rec.Epoch, h.name),
		ops: make(map[*core.Op]*operation), reads: make(map[*core.Op]*fill), marking: make(map[id.Snapshot]bool)}
	var opaque []byte
	if rec.Checkpoint != nil {
		opaque = rec.Checkpoint.Opaque
	}
	var err error
	e.core, err = core.New(core.Config{Volume: d.id, Epoch: rec.Epoch, Blocks: block.Bytes(rec.Size).Blocks(), Budget: h.budget,
		Memory: h.memory, Limits: engineLimits, Origin: rec.Origin, Frozen: rec.Rollback != nil, Restored: r,
		Leftovers: slices.ContainsFunc(rec.Spans, func(s cluster.Span) bool { return s.Epoch < rec.Epoch })}, opaque)
	if err != nil {
		w.fail(CheckWorld, "%s: %v", e.name, err)
		return
	}
	e.lent, e.snapshots = h.lenders(rec), e.readSnapshots()
	if x := rec.Restored; x != nil {
		e.core.SetHydrateRate(int64(x.Rate))
	}
	cfg := journal.OpenConfig{Volume: d.id, Epoch: e.epoch, Holder: h.holder(), List: volume.ListOf(rec), Prior: rec.Prior, MetaFrom: e.core.MetaFrom(),
		Leases: h.leases, Limits: journalLimits, Completed: e.sent, Confirmed: e.confirmed}
	if h.top != nil {
		for _, s := range h.top.Stores {
			switch s.State {
			case cluster.StoreDown, cluster.StoreOut:
				cfg.Down = append(cfg.Down, s.Store)
			case cluster.StoreLost:
				cfg.Lost = append(cfg.Lost, s.Store)
			}
		}
	}
	h.engines = append(h.engines, e)
	w.log("%s opens, list %d with %d ensembles", e.name, rec.ListVersion, len(rec.List))
	e.step(func(now time.Duration, fx *core.Effects) {
		if e.opener, err = journal.NewOpener(now, cfg, &fx.Journal); err != nil {
			return
		}
		if h.top != nil {
			e.core.Topology(now, h.top, fx)
		}
	})
	if err != nil {
		e.end(err)
	}
}

// step steps the core and carries out what comes of it.
func (e *engine) step(f func(now time.Duration, fx *core.Effects)) {
	if !e.dead {
		e.force(f)
	}
}

// force is step for what even an engine that has ended must hear of.
func (e *engine) force(f func(now time.Duration, fx *core.Effects)) {
	var fx core.Effects
	f(e.h.now(), &fx)
	if e.opener != nil && !e.dead {
		e.opening(&fx)
	}
	e.w.led.stepped(e)
	e.carry(&fx)
}

func (e *engine) opening(fx *core.Effects) {
	now, j := e.h.now(), &fx.Journal
	if m := j.Meta; m != nil {
		j.Meta = nil
		covered, err := e.core.LoadMeta(m)
		if err != nil {
			e.end(err)
			return
		}
		e.opener.Covered(now, covered, j)
	}
	if j.Failed != nil {
		e.end(j.Failed)
		return
	}
	if o := j.Opened; o != nil {
		j.Opened, e.opener = nil, nil
		e.w.cover.Opened++
		e.w.led.opened(e, o)
		if err := e.core.Start(now, o, fx); err != nil {
			e.end(err)
		}
	}
}

// end notes that the engine stopped by itself.
func (e *engine) end(err error) {
	if e.ended {
		return
	}
	e.ended = true
	e.w.log("%s ends: %v", e.name, errClass(err))
	e.w.led.ended(e, err)
	e.w.after(0, e.name+" closes", e.kill)
}

// errClass is what of an error belongs into a trace: texts may have an order of their own.
func errClass(err error) string {
	if err == nil {
		return "ok"
	}
	return fmt.Sprint(errs.CodeOf(err))
}

func isNotFound(err error) bool { return errors.Is(err, errs.ErrNotFound) }

// kill ends the engine at once.
func (e *engine) kill() {
	if e.dead {
		return
	}
	e.w.log("%s is over", e.name)
	e.w.menu.cleaned(e.core.Stats())
	var fx core.Effects
	e.core.Fence(&fx)
	e.dead, e.ended = true, true
	if e.opener != nil {
		e.opener.Close()
	}
	e.core.Close()
	for _, op := range fx.Done {
		e.finished(op)
	}
	e.h.engines = slices.DeleteFunc(slices.Clone(e.h.engines), func(x *engine) bool { return x == e })
}

// fenced: a store named the disk in a grant.
func (e *engine) fenced() {
	if e.opener != nil {
		e.end(errs.ErrStaleEpoch)
		return
	}
	e.step(func(now time.Duration, fx *core.Effects) {
		e.core.Journal(now, fx, func(c *journal.Core, jfx *journal.Effects) { c.Fence(jfx) })
	})
}

// tick lets the engine see time and topology.
func (e *engine) tick() {
	e.step(func(now time.Duration, fx *core.Effects) {
		if t := e.h.top; t != nil && t.Version > e.topo {
			e.topo = t.Version
			e.core.Topology(now, t, fx)
			e.hints(now, t, fx)
		}
		if e.opener == nil {
			e.core.Journal(now, fx, func(c *journal.Core, _ *journal.Effects) { e.spread.Look(now, e.h.top, c) })
		}
		if e.opener != nil {
			e.opener.Tick(now, &fx.Journal)
			return
		}
		e.core.Tick(now, fx)
	})
	e.deleteRound()
	e.obey()
}

func (e *engine) hints(now time.Duration, t *cluster.Topology, fx *core.Effects) {
	for i := range t.Stores {
		s := &t.Stores[i]
		if o := e.opener; o != nil {
			switch s.State {
			case cluster.StoreUp, cluster.StoreDraining:
				o.StoreUp(now, s.Store, &fx.Journal)
			case cluster.StoreDown, cluster.StoreOut:
				o.StoreDown(now, s.Store, &fx.Journal)
			case cluster.StoreLost:
				o.StoreLost(now, s.Store, &fx.Journal)
			}
			continue
		}
		e.core.Journal(now, fx, func(c *journal.Core, jfx *journal.Effects) {
			if s.State == cluster.StoreUp {
				c.StoreUp(now, s.Store, jfx)
			} else {
				c.StoreDown(now, s.Store, jfx)
			}
		})
	}
}

// drain ends the engine in peace.
func (e *engine) drain() {
	e.w.log("%s drains", e.name)
	e.leaving = true
	e.step(func(now time.Duration, fx *core.Effects) { e.core.Drain(now, fx) })
}

func (e *engine) carry(fx *core.Effects) {
	e.carryJournal(&fx.Journal)
	for _, op := range fx.Done {
		e.finished(op)
	}
	for _, op := range fx.Reads {
		e.read(op)
	}
	for _, p := range fx.Pages {
		e.page(p)
	}
	for _, j := range fx.Packs {
		e.pack(j)
	}
	e.carryClean(fx)
	e.carryReap(fx)
	e.carryHydrate(fx)
	for _, j := range fx.FlattenRead {
		e.flattenRead(j)
	}
	if fx.Flat {
		e.tellFlat()
	}
	for _, d := range fx.Deletes {
		e.doomed = append(e.doomed, &doomed{Delete: d})
	}
	e.carryAsks(fx)
	if fx.Again {
		e.w.after(50*time.Microsecond, e.name+" goes on", func() {
			e.h.later(func() { e.step(func(now time.Duration, fx *core.Effects) { e.core.Continue(now, fx) }) })
		})
	}
	if fx.Opened {
		e.opened = true
		e.w.log("%s serves", e.name)
		e.disk.serves(e)
		e.checkSnaps()
		if e.what == toRescue {
			e.letGo()
		}
	}
	for _, x := range fx.Gone {
		e.left(x)
	}
	if fx.RolledBack && !e.rolled {
		e.rolled = true
		e.tellRolled()
	}
	if fx.Drained {
		e.drained = true
		e.release()
	}
	switch {
	case fx.Broken != nil && !e.disk.gone: // what is deleted may be found gone while it is being opened
		e.w.fail(CheckReads, "%s: %v", e.name, fx.Broken)
	case fx.Fenced && !e.dead:
		e.end(errs.ErrStaleEpoch)
	}
}

// letGo drains an engine that was to rescue its disk, when nothing of it is to be coded anew.
func (e *engine) letGo() {
	if e.dead || e.ended || e.drained {
		return
	}
	if _, on := e.core.Recoding(); !on {
		e.drain()
		return
	}
	e.w.after(200*time.Millisecond, e.name+" is coded anew", func() { e.h.later(e.letGo) })
}

// request sends one request of the engine to a store.
func (e *engine) request(to cluster.StoreRef, c class, what string, serve func(*store, func(func())), refuse func(error)) {
	e.w.net.send(&request{from: e.h, life: e.life, to: to, class: c, name: what + " of " + e.name, serve: serve, refuse: refuse})
}

func (e *engine) carryJournal(fx *journal.Effects) {
	var last *storeproto.Batch
	var wire *storeproto.Batch // one copy for all stores: none of them changes it
	for _, s := range fx.Appends {
		if last != s.Append.Batch {
			last = s.Append.Batch
			wire = copyBatch(last) // as the wire does
		}
		e.append(s, wire)
	}
	for _, s := range fx.Confirms {
		e.confirm(s)
	}
	for _, a := range fx.Asks {
		e.ask(a)
	}
	for _, s := range fx.Fences {
		finish := func(r storeproto.FenceReply, err error) {
			e.step(func(now time.Duration, fx *core.Effects) {
				if e.opener != nil {
					e.opener.FenceDone(now, s, r, err, &fx.Journal)
				}
			})
		}
		e.request(cluster.StoreRef{Store: s.Store}, classLog, "fence", func(st *store, reply func(func())) {
			st.fence(s.Fence, func(r storeproto.FenceReply, err error) { reply(func() { finish(r, err) }) })
		}, func(err error) { finish(storeproto.FenceReply{}, err) })
	}
	for _, s := range fx.Fetches {
		finish := func(r storeproto.FetchReply, err error) {
			e.step(func(now time.Duration, fx *core.Effects) {
				if e.opener != nil {
					e.opener.FetchDone(now, s, r, err, &fx.Journal)
				}
			})
		}
		e.request(cluster.StoreRef{Store: s.Store}, classRead, "fetch", func(st *store, reply func(func())) {
			r, err := st.fetch(s.Fetch)
			reply(func() { finish(r, err) })
		}, func(err error) { finish(storeproto.FetchReply{}, err) })
	}
	for _, s := range fx.Drops {
		finish := func(err error) {
			e.step(func(now time.Duration, fx *core.Effects) {
				if e.opener == nil {
					e.core.Journal(now, fx, func(c *journal.Core, jfx *journal.Effects) { c.Dropped(now, s, err, jfx) })
				}
			})
		}
		e.request(cluster.StoreRef{Store: s.Store}, classLog, "drop", func(st *store, reply func(func())) {
			st.core.Drop(s.Drop, st.control(func(err error) { reply(func() { finish(err) }) }))
		}, finish)
	}
	for _, r := range fx.Reports {
		e.report(r)
	}
}

func (e *engine) report(r journal.Report) {
	ref := cluster.StoreRef{Store: r.Store}
	if e.h.top != nil {
		if s, ok := e.h.top.Store(r.Store); ok {
			ref = s.StoreRef
		}
	}
	m := e.w.metad
	e.w.net.ask(e.h, "report", func() error { return m.ReportStore(nil, e.h.name, ref, "slow") }, func(error) {}) //lint:ignore SA1012 metad here waits for nothing
}

func (e *engine) append(s *journal.Send, wire *storeproto.Batch) {
	a := s.Append
	a.Batch = wire
	if a.Batch.Sum != s.Append.Batch.Sum {
		e.w.fail(CheckWire, "%s: batch at %d changed before it was sent", e.name, a.Batch.First)
	}
	finish := func(err error, tail id.LSN) {
		s.Append.Err, s.Append.Tail = err, tail
		s.Append.Done(&s.Append)
	}
	e.w.led.sent(e, &a)
	e.request(s.Member, classLog, "append", func(st *store, reply func(func())) {
		wire := a
		wire.Done = func(x *storeproto.Append) {
			err, tail := x.Err, x.Tail
			reply(func() { finish(err, tail) })
		}
		st.append(&wire)
	}, func(err error) { finish(err, 0) })
}

// sent brings a finished append to the core.
func (e *engine) sent(s *journal.Send) {
	e.force(func(now time.Duration, fx *core.Effects) {
		if e.opener != nil {
			e.opener.Done(now, s, &fx.Journal)
		} else {
			e.core.AppendDone(now, s, fx)
		}
	})
}

func (e *engine) confirm(s *journal.ConfirmSend) {
	v, epoch := s.Confirm.Volume, s.Confirm.Epoch
	finish := func(err error) {
		s.Confirm.Err = err
		s.Confirm.Done(&s.Confirm)
	}
	e.request(s.Member, classLog, "confirm", func(st *store, reply func(func())) {
		err := st.core.Confirm(v, epoch)
		reply(func() { finish(err) })
	}, finish)
}

func (e *engine) confirmed(s *journal.ConfirmSend) {
	e.step(func(now time.Duration, fx *core.Effects) {
		if e.opener == nil {
			e.core.Journal(now, fx, func(c *journal.Core, jfx *journal.Effects) { c.Confirmed(now, s, jfx) })
		}
	})
}

func (e *engine) ask(a journal.Ask) {
	m := e.w.metad
	var rec *cluster.Volume
	e.w.net.ask(e.h, a.Kind.String()+" of "+e.name, func() (err error) {
		rec, err = volume.AskList(e.h.ctx, m, a)
		return err
	}, func(err error) {
		r := journal.AskResult{Ask: a, Err: err}
		if err == nil {
			r.List = volume.ListOf(rec)
		}
		e.step(func(now time.Duration, fx *core.Effects) {
			if e.opener != nil {
				e.opener.Answer(now, r, &fx.Journal)
				return
			}
			e.core.Journal(now, fx, func(c *journal.Core, jfx *journal.Effects) { c.Answer(now, r, jfx) })
		})
	})
}

// carryAsks brings the core's own questions to metad.
func (e *engine) carryAsks(fx *core.Effects) {
	m, net := e.w.metad, &e.w.net
	if fx.Range {
		var first id.Sequence
		var count uint64
		net.ask(e.h, "range of "+e.name, func() error {
			r, err := m.AllocRange(e.h.ctx, e.disk.id, e.epoch)
			first, count = r.First, uint64(r.Count)
			return err
		}, func(err error) {
			e.named = e.named || err == nil
			e.step(func(now time.Duration, fx *core.Effects) { e.core.RangeDone(now, first, count, err, fx) })
		})
	}
	if fx.AskPlace {
		exclude := slices.Clone(fx.Placement)
		var t *cluster.Topology
		net.ask(e.h, "placement of "+e.name, func() (err error) {
			t, err = m.EnsurePlacement(e.h.ctx, exclude)
			return err
		}, func(err error) {
			e.step(func(now time.Duration, fx *core.Effects) {
				if err == nil {
					if e.h.top == nil || t.Version > e.h.top.Version {
						e.h.top = t
					}
					e.core.Topology(now, t, fx)
				}
				e.core.PlacementDone(now, err, fx)
			})
		})
	}
	if k := fx.Checkpoint; k != nil {
		net.ask(e.h, "checkpoint of "+e.name, func() error {
			return m.CommitCheckpoint(e.h.ctx, e.disk.id, e.epoch, cluster.Checkpoint{Epoch: k.Epoch, Meta: k.Position, Covered: k.Covered, Opaque: k.Record})
		}, func(err error) {
			e.step(func(now time.Duration, fx *core.Effects) { e.core.CheckpointDone(now, k.Position, err, fx) })
		})
	}
}

// release tells stores and metad that a drained disk is not served here any more.
func (e *engine) release() {
	if e.dead {
		return
	}
	e.w.led.drained(e)
	if t := e.h.top; t != nil {
		for i := range t.Stores {
			if t.Stores[i].State.Serves() {
				by := e.h.holder()
				e.request(cluster.StoreRef{Store: t.Stores[i].Store}, classLog, "release", func(st *store, reply func(func())) {
					st.core.Release(storeproto.Release{Volume: e.disk.id, Epoch: e.epoch, By: by}, st.control(func(error) { reply(func() {}) }))
				}, func(error) {})
			}
		}
	}
	e.kill()
	e.tellRelease(3)
}

func (e *engine) tellRelease(tries int) {
	m, by := e.w.metad, e.h.holder()
	e.w.net.ask(e.h, "release of "+e.name, func() error { return m.release(e.disk.id, e.epoch, by) }, func(err error) {
		if err != nil && tries > 0 {
			e.tellRelease(tries - 1)
		}
	})
}
