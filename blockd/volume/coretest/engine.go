package coretest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/blockd/volume"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Engine is one life of a process that owns the volume, or believes so: the shell
// of one core.
type Engine struct {
	w      *World
	name   string
	holder id.Holder
	epoch  id.Epoch
	Core   *core.Core
	opener *journal.Opener
	leases *journal.Leases
	links  map[id.Store]*link
	topo   uint64

	Opened, Drained, Ended bool
	dead                   bool // killed: nothing of it goes on
	Err                    error
	packs, longs           int
	ops                    map[*core.Op]*Request
	suspects               []id.Store // of the next job, which fails
}

// link is the connection to one store: requests arrive in their order and so do the answers.
type link struct {
	requests, answers []task
}

// open starts the opening of the volume by a new engine.
func (w *World) open() *Engine {
	w.life++
	e := &Engine{
		w: w, name: fmt.Sprintf("engine %d", w.life), holder: id.Holder{Host: id.Host(fmt.Sprintf("b%d", w.volume[0])), Number: w.life},
		links: make(map[id.Store]*link), ops: make(map[*core.Op]*Request),
	}
	rec, err := w.Metad.Acquire(w.volume, e.holder)
	if err != nil {
		panic(err)
	}
	e.epoch = rec.Epoch
	e.leases = journal.NewLeases(journal.LeaseConfig{
		Holder: e.holder, Wait: 50 * time.Millisecond,
		Answered: func(s *journal.LeaseSend) {
			w.later(e.name+" lease answered", func() { e.lease(func(fx *journal.LeaseEffects) { e.leases.Done(w.now(), s, fx) }) })
		},
	})
	var opaque []byte
	if rec.Checkpoint != nil {
		opaque = rec.Checkpoint.Opaque
	}
	e.Core, err = core.New(core.Config{
		Volume: w.volume, Epoch: rec.Epoch, Blocks: block.Bytes(rec.Size).Blocks(), Budget: w.budget, Memory: w.cfg.Memory, Limits: w.cfg.Limits,
		Origin:    rec.Origin,
		Frozen:    w.roll != nil,
		Leftovers: slices.ContainsFunc(rec.Spans, func(s cluster.Span) bool { return s.Epoch < rec.Epoch }),
		Restored:  w.archive.allotment(),
	}, opaque)
	if err != nil {
		panic(err)
	}
	cfg := journal.OpenConfig{
		Volume: w.volume, Epoch: e.epoch, Holder: e.holder, List: volume.ListOf(rec), Prior: rec.Prior, MetaFrom: e.Core.MetaFrom(),
		Leases: e.leases, Limits: w.cfg.Journal, Completed: e.appended, Confirmed: e.confirmed,
	}
	w.Engines = append(w.Engines, e)
	w.log("%s opens at %s", e.name, e.epoch)
	e.step(func(now time.Duration, fx *core.Effects) {
		if e.opener, err = journal.NewOpener(now, cfg, &fx.Journal); err != nil {
			panic(err)
		}
		e.Core.Topology(now, w.Metad.Topology(), fx)
	})
	return e
}

// step steps the core and carries out what comes of it: all of it later.
func (e *Engine) step(f func(now time.Duration, fx *core.Effects)) {
	if e.dead {
		return
	}
	e.force(f)
}

// force is step for what even an engine that has ended must hear of.
func (e *Engine) force(f func(now time.Duration, fx *core.Effects)) {
	var fx core.Effects
	f(e.w.now(), &fx)
	if e.opener != nil && !e.dead {
		e.opening(&fx)
	}
	e.carry(&fx)
}

func (e *Engine) opening(fx *core.Effects) {
	now, j := e.w.now(), &fx.Journal
	if m := j.Meta; m != nil {
		j.Meta = nil
		covered, err := e.Core.LoadMeta(m)
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
		if err := e.Core.Start(now, o, fx); err != nil {
			e.end(err)
		}
	}
}

// end notes that the engine stopped by itself.
func (e *Engine) end(err error) {
	if !e.Ended {
		e.Ended, e.Err = true, err
		e.w.log("%s ends: %v", e.name, err)
		e.w.later(e.name+" closes", e.Kill)
	}
}

// Kill ends the engine at once: as Abandon does, and a crash.
func (e *Engine) Kill() {
	if e.dead {
		return
	}
	e.w.log("%s is killed", e.name)
	st := e.Core.Stats()
	e.w.rewritten += st.SegmentsRewritten
	e.w.merged += st.SegmentsMerged
	e.w.moved += st.BlocksCleaned
	var fx core.Effects
	e.Core.Fence(&fx)
	e.dead, e.Ended = true, true
	if e.opener != nil {
		e.opener.Close()
	}
	e.Core.Close()
	for _, op := range fx.Done {
		e.finished(op)
	}
	scribble()
}

// scribble writes over the memory that was released last, as its next user would.
func scribble() {
	var all []*buf.Buffer
	for pages := 1; pages <= 24; pages++ {
		for range 4 {
			b := buf.Get(pages * buf.Align)
			for i := 0; i < b.Len(); i += buf.Align {
				b.Bytes()[i] ^= 0x5a
			}
			all = append(all, b)
		}
	}
	for _, b := range all {
		b.Release()
	}
}

func (e *Engine) carry(fx *core.Effects) {
	w := e.w
	for _, s := range fx.Journal.Appends {
		e.send(s.Store, func() { w.append(s) })
	}
	for _, s := range fx.Journal.Confirms {
		w.later(e.name+" confirm", func() { w.body(s.Store).Confirm(&s.Confirm) })
	}
	for _, a := range fx.Journal.Asks {
		w.later(e.name+" ask "+a.Kind.String(), func() { e.ask(a) })
	}
	e.carryOpening(&fx.Journal)
	for _, op := range fx.Done {
		e.finished(op)
	}
	for _, op := range fx.Reads {
		w.later(e.name+" read", func() { e.read(op) })
	}
	for _, p := range fx.Pages {
		w.later(e.name+" page", func() { e.page(p) })
	}
	for _, j := range fx.Packs {
		e.pack(j)
	}
	e.carryClean(fx)
	e.carryHydrate(fx)
	e.carryFlatten(fx)
	for _, d := range fx.Deletes {
		w.later(e.name+" delete", func() { e.delete(d) })
	}
	e.carryAsks(fx)
	e.carryReap(fx)
	if fx.Again {
		w.later(e.name+" continue", func() { e.step(func(now time.Duration, fx *core.Effects) { e.Core.Continue(now, fx) }) })
	}
	e.Opened = e.Opened || fx.Opened
	e.Drained = e.Drained || fx.Drained
	if fx.Opened {
		w.log("%s serves", e.name)
		w.Model.Settle()
		w.checkSnaps(e)
	}
	for _, x := range fx.Gone {
		w.gone(e, x)
	}
	if fx.RolledBack {
		w.rolledBack(e)
	}
	switch {
	case fx.Broken != nil:
		e.end(fx.Broken)
	case fx.Fenced:
		e.end(errs.ErrStaleEpoch)
	}
}

func (e *Engine) carryOpening(fx *journal.Effects) {
	w := e.w
	for _, s := range fx.Fences {
		w.later(e.name+" fence", func() {
			if e.dead {
				return // a dead process raises no fence
			}
			r, err := w.body(s.Store).Fence(context.Background(), s.Fence)
			w.later(e.name+" fenced", func() {
				e.step(func(now time.Duration, fx *core.Effects) {
					if e.opener != nil {
						e.opener.FenceDone(now, s, r, err, &fx.Journal)
					}
				})
			})
		})
	}
	for _, s := range fx.Fetches {
		w.later(e.name+" fetch", func() {
			r, err := w.body(s.Store).Fetch(context.Background(), s.Fetch)
			e.step(func(now time.Duration, fx *core.Effects) {
				if e.opener != nil {
					e.opener.FetchDone(now, s, r, err, &fx.Journal)
				}
			})
		})
	}
	for _, d := range fx.Drops {
		w.later(e.name+" drop", func() {
			err := w.body(d.Store).Drop(context.Background(), d.Drop)
			e.step(func(now time.Duration, fx *core.Effects) {
				if e.opener == nil {
					e.Core.Journal(now, fx, func(c *journal.Core, jfx *journal.Effects) { c.Dropped(now, d, err, jfx) })
				}
			})
		})
	}
}

// send keeps the order of what goes to a store.
func (e *Engine) send(s id.Store, f func()) {
	l := e.links[s]
	if l == nil {
		l = &link{}
		e.links[s] = l
		e.w.links = append(e.w.links, l)
	}
	l.requests = append(l.requests, task{e.name + " append", f})
}

// append gives a store a copy of the batch, as a wire does: the bytes themselves stay the engine's.
func (w *World) append(s *journal.Send) {
	b := s.Append.Batch
	c := &storeproto.Batch{Epoch: b.Epoch, First: b.First, Count: b.Count, Meta: slices.Clone(b.Meta), Sums: slices.Clone(b.Sums)}
	if len(b.Payload) > 0 {
		c.Payload = [][]byte{slices.Concat(b.Payload...)}
	}
	c.Seal()
	if c.Sum != b.Sum {
		w.Fail(fmt.Errorf("batch at %d changed on its way", b.First))
	}
	w.sent[s] = b
	s.Append.Batch = c
	w.body(s.Store).Append(&s.Append)
	c.Release()
}

func (e *Engine) appended(s *journal.Send) {
	s.Append.Batch = e.w.sent[s]
	delete(e.w.sent, s)
	l := e.links[s.Store]
	l.answers = append(l.answers, task{e.name + " appended", func() {
		e.force(func(now time.Duration, fx *core.Effects) {
			if e.opener != nil {
				e.opener.Done(now, s, &fx.Journal)
			} else {
				e.Core.AppendDone(now, s, fx)
			}
		})
	}})
}

func (e *Engine) confirmed(s *journal.ConfirmSend) {
	e.w.later(e.name+" confirmed", func() {
		e.step(func(now time.Duration, fx *core.Effects) {
			if e.opener == nil {
				e.Core.Journal(now, fx, func(c *journal.Core, jfx *journal.Effects) { c.Confirmed(now, s, jfx) })
			}
		})
	})
}

func (e *Engine) lease(f func(*journal.LeaseEffects)) {
	if e.dead {
		return
	}
	var fx journal.LeaseEffects
	f(&fx)
	for range fx.Fenced {
		e.step(func(now time.Duration, fx *core.Effects) {
			if e.opener == nil {
				e.Core.Journal(now, fx, func(c *journal.Core, jfx *journal.Effects) { c.Fence(jfx) })
			}
		})
	}
	for _, s := range fx.Sends {
		e.w.later(e.name+" lease", func() { e.w.body(s.Store).Lease(&s.Lease) })
	}
}

// tick lets the engine see time and topology.
func (e *Engine) tick() {
	if e.w.cfg.Leases {
		e.lease(func(fx *journal.LeaseEffects) { e.leases.Tick(e.w.now(), fx) })
	}
	e.step(func(now time.Duration, fx *core.Effects) {
		if t := e.w.Metad.Topology(); t.Version > e.topo {
			e.topo = t.Version
			e.Core.Topology(now, t, fx)
		}
		if e.opener != nil {
			e.opener.Tick(now, &fx.Journal)
			return
		}
		e.Core.Tick(now, fx)
	})
	e.askDrops()
	e.askRoll()
	e.askEmpty()
	e.askFlatten()
}

// Drain ends the engine in peace.
func (e *Engine) Drain() {
	e.w.log("%s drains", e.name)
	e.step(func(now time.Duration, fx *core.Effects) { e.Core.Drain(now, fx) })
}

// carryAsks brings questions to metad; the answer may be lost.
func (e *Engine) carryAsks(fx *core.Effects) {
	w := e.w
	if fx.Range {
		w.later(e.name+" range", func() {
			r, err := w.Metad.AllocRange(context.Background(), w.volume, e.epoch)
			err = w.lose(err)
			e.step(func(now time.Duration, fx *core.Effects) { e.Core.RangeDone(now, r.First, uint64(r.Count), err, fx) })
		})
	}
	if fx.AskPlace {
		exclude := append([]id.Store(nil), fx.Placement...)
		w.later(e.name+" placement", func() {
			t, err := w.Metad.EnsurePlacement(context.Background(), exclude)
			err = w.lose(err)
			e.step(func(now time.Duration, fx *core.Effects) {
				if err == nil {
					e.Core.Topology(now, t, fx)
				}
				e.Core.PlacementDone(now, err, fx)
			})
		})
	}
	if k := fx.Checkpoint; k != nil {
		w.later(e.name+" checkpoint", func() {
			if e.dead {
				return
			}
			err := w.Metad.CommitCheckpoint(context.Background(), w.volume, e.epoch, cluster.Checkpoint{
				Epoch: k.Epoch, Meta: k.Position, Covered: k.Covered, Opaque: k.Record,
			})
			err = w.lose(err)
			w.later(e.name+" checkpointed", func() {
				e.step(func(now time.Duration, fx *core.Effects) { e.Core.CheckpointDone(now, k.Position, err, fx) })
			})
		})
	}
}

func (e *Engine) ask(a journal.Ask) {
	if e.dead {
		return
	}
	rec, err := volume.AskList(context.Background(), e.w.Metad, a)
	r := journal.AskResult{Ask: a, Err: err}
	if err == nil {
		r.List = volume.ListOf(rec)
	}
	if r.Err = e.w.lose(err); r.Err != nil {
		r.List = journal.List{}
	}
	e.w.later(e.name+" answered", func() {
		e.step(func(now time.Duration, fx *core.Effects) {
			if e.opener != nil {
				e.opener.Answer(now, r, &fx.Journal)
				return
			}
			e.Core.Journal(now, fx, func(c *journal.Core, jfx *journal.Effects) { c.Answer(now, r, jfx) })
		})
	})
}

var errAway = fmt.Errorf("too few shards answer: %w", errs.ErrUnavailable)

// read fills a read whose pieces are known, some time after the lookup.
func (e *Engine) read(op *core.Op) {
	w := e.w
	data := make([]byte, op.Extent.Count*block.Size)
	var err error
	if w.chance(w.cfg.ReadFails) {
		err = errAway
	}
	for i := range op.Pieces {
		p := &op.Pieces[i]
		to := data[p.At*block.Size : (p.At+p.Count)*block.Size]
		switch p.Kind {
		case core.PieceMemory:
			copy(to, p.Buf.Bytes()[p.Off:])
			p.Buf.Release()
			p.Buf = nil
		case core.PieceSlots:
			if e := w.slots(p.Location, int(p.Count), p.Where, to); e != nil {
				err = errors.Join(err, e)
			}
		}
	}
	inner := e.ops[op] == nil
	if err != nil {
		if e.dead {
			if !inner {
				op.Err = errs.ErrStaleEpoch
				e.finished(op)
			}
			return
		}
		e.force(func(now time.Duration, fx *core.Effects) { e.Core.Reread(now, op, err, fx) })
		return
	}
	if inner {
		e.step(func(now time.Duration, fx *core.Effects) { e.Core.EdgeRead(now, op, data, nil, fx) })
		return
	}
	e.ops[op].data = data
	e.finished(op)
}

func (e *Engine) page(p core.PageRead) {
	b := make([]byte, storeproto.BlockSize)
	err := e.w.slots(p.Miss.Location, 1, p.Where, b)
	if e.w.chance(e.w.cfg.PageFails) {
		err = errAway
	}
	e.step(func(now time.Duration, fx *core.Effects) { e.Core.PageDone(now, p, b, err, fx) })
}

// pack puts a segment, or fails to, and tells so later. When a store hangs the
// blocks are read again long after the core has heard of the failure.
func (e *Engine) pack(j *core.PackJob) {
	w := e.w
	count := func(n int) {
		if j.Lane == core.LaneLong {
			e.longs += n
		} else {
			e.packs += n
		}
	}
	count(1)
	if w.watch != nil {
		w.watch(j)
	}
	name, entry := j.Segment, j.Entry
	what := e.name
	if j.Lane == core.LaneClean {
		what += " clean"
	}
	if j.Lane == core.LaneHydrate {
		what += " hydrate"
	}
	if j.Lane == core.LaneFlatten {
		what += " flatten"
	}
	w.later(what+" pack", func() {
		var r core.PackResult
		hangs := w.chance(w.cfg.PackFails / 3)
		if w.chance(w.cfg.PackFails) || hangs {
			r.Err, r.Held = errAway, hangs
			if w.chance(0.3) && len(w.Stores) > 3 {
				r.Suspects = []id.Store{w.Stores[w.rng.IntN(len(w.Stores))].ID()}
			}
		}
		if len(e.suspects) > 0 {
			r.Err, r.Suspects, e.suspects = errAway, e.suspects, nil
		}
		if err := w.admit(j); err != nil {
			r.Err, r.Full = err, w.fullStores()
		} else if r.Err == nil || w.chance(0.5) {
			if err := w.segments.put(e.epoch, name, entry, j); err != nil && r.Err == nil {
				r.Err = err
			}
		}
		if hangs {
			e.hang(j)
		}
		w.later(what+" packed", func() {
			count(-1)
			e.force(func(now time.Duration, fx *core.Effects) { e.Core.PackDone(now, j, r, fx) })
		})
	})
}

// hang lets a store that does not answer read the blocks of a job much later.
func (e *Engine) hang(j *core.PackJob) {
	e.w.later(e.name+" hung put", func() {
		if e.w.chance(0.9) {
			e.hang(j)
			return
		}
		e.w.segments.verify(j)
		e.Core.PackFreed(j)
	})
}

func (e *Engine) delete(d core.Delete) {
	if e.dead {
		return
	}
	if e.w.chance(0.2) { // a store is away: again later
		e.w.later(e.name+" delete", func() { e.delete(d) })
		return
	}
	e.w.segments.delete(d.Segment, d.Upto)
	e.step(func(now time.Duration, fx *core.Effects) { e.Core.DeleteDone(now, d, fx) })
}

// inspector tells Check of the world.
func (e *Engine) inspector() core.Inspector {
	s := e.w.segments
	return core.Inspector{
		Page: func(l id.Location) ([]byte, bool) {
			b := make([]byte, storeproto.BlockSize)
			return b, s.page(l, b) || e.w.archive.page(l, b)
		},
		Exists: func(x id.Segment, g id.Generation) bool { return s.at[x][g] != nil },
		Has: func(l id.Location, g id.Generation) bool {
			if g == (id.Generation{}) {
				return s.page(l, make([]byte, block.Size))
			}
			k := s.at[l.Segment()][g]
			return k != nil && k.blocks[l.Slot()] != nil
		},
		Packs: e.packs, Longs: e.longs,
	}
}
