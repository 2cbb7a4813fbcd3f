package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	jlog "ashlar.dev/blockd/chunk/log"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// Sizes of a store's log: a file holds the largest batch four times, and all files
// together are small enough to be used over and over.
const (
	logFileBytes = 4608 << 10
	logFilesMax  = 6
	shardBytes   = 64 << 20 // the capacity that a store tells
)

// store is one chunk store: the real rules (storeproto/core) and the real journal log
// over a simulated disk.
type store struct {
	w    *World
	h    *host
	ref  cluster.StoreRef
	name string // in traces
	fs   *blockFS
	img  *image

	core     *core.Core
	log      *jlog.Log
	up       bool
	died     string // why it serves no more, until the next start of its host
	out      *core.Group
	marks    uint64        // the log's number when out was written
	keeping  bool          // the log is being kept in order
	slow     time.Duration // added to each sync
	full     bool
	tickAt   time.Duration
	skew     time.Duration // of its clock, against all others
	suspects []storeproto.ShardName
	crashIn  int // that many I/Os from now; 0: not
}

func newStore(h *host) *store {
	w := h.w
	w.stores++
	n := w.stores
	st := &store{w: w, h: h, name: fmt.Sprintf("s%d", n), img: newImage(w.clock.Wall())}
	st.ref.Store = id.Store{0: 1, 15: byte(n)}
	for i := range st.ref.Incarnation {
		st.ref.Incarnation[i] = byte(w.rng.Uint32())
	}
	st.fs = newBlockFS(w, st)
	if err := jlog.Format(st.logOptions()); err != nil {
		w.fail(CheckWorld, "format %s: %v", st.name, err)
	}
	st.fs.done()
	return st
}

func (st *store) logOptions() jlog.Options {
	return jlog.Options{FS: st.fs, Dir: "log", Incarnation: st.ref.Incarnation, FileBytes: logFileBytes, FilesMax: logFilesMax,
		Table: st.table, Carry: st.liveIn, Moved: func(n storeproto.Stream, b core.Batch, to core.Position) bool {
			return st.core.Moved(n, b.First, b.Pos, to)
		}}
}

// now is the store's own clock.
func (st *store) now() time.Duration { return st.w.now() + st.skew }

// io counts one I/O; a crash may be waiting for it.
func (st *store) io(string) {
	st.w.ios++
	if st.crashIn > 0 {
		if st.crashIn--; st.crashIn == 0 {
			st.w.after(0, st.name+" loses power at an I/O", func() {
				if st.h.up {
					st.h.crash(true)
					st.h.back(st.w.menu.away())
				}
			})
		}
	}
}

func (st *store) streams(f func(*core.Stream)) {
	var all []*core.Stream
	st.core.Streams(func(s *core.Stream) { all = append(all, s) })
	slices.SortFunc(all, func(a, b *core.Stream) int { return compareStreams(a.Row().Stream, b.Row().Stream) })
	for _, s := range all {
		f(s)
	}
}

func (st *store) table() (rows []jlog.StreamRow) {
	if st.core == nil {
		return nil
	}
	st.streams(func(s *core.Stream) {
		if row := s.Row(); row.Stream.Kind == storeproto.Journal {
			rows = append(rows, jlog.StreamRow{Stream: row.Stream, Released: row.Released, Tail: s.Durable()})
		}
	})
	return rows
}

func (st *store) liveIn(slot uint32, f func(storeproto.Stream, core.Batch)) {
	st.streams(func(s *core.Stream) {
		if name := s.Row().Stream; name.Kind == storeproto.Journal {
			s.Batches(0, func(b core.Batch) bool {
				if b.Pos.File == slot {
					f(name, b)
				}
				return true
			})
		}
	})
}

// start opens the store on what its disk has.
func (st *store) start() {
	w := st.w
	st.died, st.out, st.keeping, st.tickAt, st.crashIn, st.suspects = "", nil, false, 0, 0, nil
	st.img.life++
	st.core = core.New(core.Config{
		Store: st.ref.Store, Incarnation: st.ref.Incarnation, Life: st.img.life, Started: st.now(), LeaseTerm: leaseTerm,
		JournalBytesMax: jlog.LiveBytesMax(logFileBytes, logFilesMax), BatchBytesMax: jlog.BatchBytesMax(logFileBytes),
	})
	if err := st.recover(); err != nil {
		st.up = true
		st.die(fmt.Errorf("open: %w", err))
		return
	}
	st.core.SetFull(false, st.full)
	if w.metad.restore != nil {
		st.core.Seal(nil) // until its host registers, which the restored metad lets it
	} else {
		st.core.Unseal(w.metad.floors())
	}
	st.up = true
	w.log("%s starts, life %d", st.name, st.img.life)
	st.pump()
}

// recover restores the core, in the order in which chunk.Store does.
func (st *store) recover() error {
	m, c := st.img, st.core
	for _, f := range m.fences {
		c.RestoreFence(f)
	}
	for n, at := range m.dropped {
		c.RestoreDropped(n, at)
	}
	for _, t := range m.tombs {
		c.RestoreTombstone(t)
	}
	for g, v := range m.pgs {
		c.RestorePG(core.PGVersion{PG: g, Version: v})
	}
	journals := make(map[storeproto.Stream]jlog.Origin)
	for n, row := range m.rows {
		if n.Kind == storeproto.Journal {
			journals[n] = jlog.Origin{Base: row.Base, Since: row.Mark}
		}
	}
	l, scan, err := jlog.Open(st.logOptions(), journals)
	if err != nil {
		return err
	}
	st.log = l
	for _, hole := range scan.Holes {
		st.w.log("%s finds a hole: %s", st.name, hole)
	}
	for _, n := range m.streams() {
		r := core.Recovered{Row: m.rows[n]}
		for _, b := range m.metas[n] {
			r.Batches = append(r.Batches, core.BatchOf(b))
		}
		if got := scan.Streams[n]; got != nil {
			r.Batches, r.Tail, r.TailLost = got.Batches, got.Tail, got.TailLost
			r.Row.Released = max(r.Row.Released, got.Released)
		}
		if c.RestoreStream(r) {
			mark := m.rows[n].Mark
			row := c.Stream(n).Row()
			row.Mark = mark
			m.rows[n] = row
			st.w.log("%s knows that it lost records of %s %s", st.name, n.Ensemble, n.Kind)
		}
	}
	c.Restored()
	st.forgetMoot()
	err = l.Start(func(f func(core.Batch)) {
		st.streams(func(s *core.Stream) {
			if s.Row().Stream.Kind == storeproto.Journal {
				s.Batches(0, func(b core.Batch) bool { f(b); return true })
			}
		})
	})
	st.fs.done() // an open that is cut off is tried again from the same disk
	return err
}

// forgetMoot drops what a fence has made moot, and released meta batches.
func (st *store) forgetMoot() {
	m := st.img
	for n, at := range m.dropped {
		if at < m.fences[n.Volume].Epoch {
			delete(m.dropped, n)
		}
	}
	for k, t := range m.tombs {
		if t.Moot(m.fences[t.Volume].Epoch) {
			delete(m.tombs, k)
		}
	}
	for n, batches := range m.metas {
		for first, b := range batches {
			if s := st.core.Stream(n); s == nil || b.Last() <= s.Row().Released {
				delete(batches, first)
			}
		}
	}
}

var errDown = fmt.Errorf("store is down: %w", errs.ErrUnavailable)

// do hands a request to the store; down it is refused.
func (st *store) do(f func(), refuse func(error)) {
	if !st.up || st.died != "" {
		refuse(errDown)
		return
	}
	f()
	st.pump()
}

// pump delivers answers and starts the next group.
func (st *store) pump() {
	if st.core == nil || !st.up {
		return
	}
	for {
		replies := st.core.Replies(nil)
		for _, r := range replies {
			st.answered(r)
			r.Deliver()
		}
		if st.out == nil && !st.keeping && st.died == "" {
			if g := st.core.Take(64, 1<<20); g != nil {
				st.begin(g)
				continue
			}
		}
		if len(replies) == 0 {
			break
		}
	}
	st.schedule()
}

// begin writes a group; it is durable when the sync that follows is over.
func (st *store) begin(g *core.Group) {
	st.out, st.marks = g, st.log.Seq()
	if g.Journal > 0 {
		st.log.Begin(jlog.Appends)
		for op := g.First(); op != nil; op = op.Next() {
			if op.Kind == core.OpAppend && op.Append.Stream.Kind == storeproto.Journal {
				st.log.Add(op.Append)
			}
		}
		if err := st.log.Flush(); err != nil {
			st.die(err)
			return
		}
		i := 0
		for op := g.First(); op != nil; op = op.Next() {
			if op.Kind == core.OpAppend && op.Append.Stream.Kind == storeproto.Journal {
				op.Pos = st.log.Position(i)
				i++
			}
		}
	}
	if g.Index > 0 {
		st.io("index")
		if err := st.fs.err; err != nil {
			st.die(fmt.Errorf("sync index: %w", err))
			return
		}
	}
	life := st.img.life
	st.w.after(st.syncTime(), st.name+" synced", func() { st.synced(g, life) })
}

func (st *store) syncTime() time.Duration {
	return st.w.between(100*time.Microsecond, time.Millisecond) + st.slow
}

// synced: the group is durable.
func (st *store) synced(g *core.Group, life uint32) {
	if !st.up || st.img.life != life || st.out == nil || st.h.park(func() { st.synced(g, life) }) {
		return
	}
	st.fs.done()
	for op := g.First(); op != nil; op = op.Next() {
		st.img.write(op, st.marks)
		st.w.led.durable(st, op)
	}
	st.out = nil
	st.core.Durable(g)
	st.settle()
	st.keep()
	st.pump()
}

// settle gives back the room of batches that the core let go.
func (st *store) settle() {
	for _, f := range st.core.Freed(nil) {
		if f.Stream.Kind == storeproto.Journal {
			st.log.Free(f.Batch.Pos, f.Batch.Bytes)
		} else if m := st.img.metas[f.Stream]; m != nil {
			delete(m, f.Batch.First)
		}
	}
}

// keep keeps a log file in hand; no group is written meanwhile.
func (st *store) keep() {
	wanted, err := st.log.Reserve()
	if wanted && err == nil {
		if err = st.log.Prepare(); errors.Is(err, errs.ErrNoSpace) {
			err = nil
		}
	}
	if err != nil {
		st.die(err)
		return
	}
	if st.fs.syncs == 0 {
		return
	}
	st.keeping = true
	life := st.img.life
	st.w.after(st.syncTime(), st.name+" log kept", func() {
		if st.up && st.img.life == life {
			st.fs.done()
			st.keeping = false
			st.pump()
		}
	})
}

// schedule sees to it that the core's clock ticks when it wants to.
func (st *store) schedule() {
	due, ok := st.core.NextTick()
	if !ok || st.tickAt > st.now() && due >= st.tickAt {
		return
	}
	st.tickAt = max(due, st.now()+100*time.Microsecond)
	life, at := st.img.life, st.tickAt
	st.w.after(st.tickAt-st.now(), st.name+" tick", func() {
		if !st.up || st.img.life != life || st.tickAt != at {
			return
		}
		st.tickAt = 0
		st.tick()
	})
}

func (st *store) tick() {
	if st.h.park(st.tick) || !st.up {
		return
	}
	st.core.Tick(st.now())
	st.pump()
}

// die ends the store: its disk failed. Its host goes on without it.
func (st *store) die(err error) {
	if st.died != "" || !st.up {
		return
	}
	st.w.log("%s dies: %v", st.name, err)
	st.died = err.Error()
	st.w.menu.died(st)
	st.core.Kill(err)
	if st.out != nil {
		st.core.Abandon(st.out)
		st.out = nil
	}
	st.fs.cut(true)
	for _, r := range st.core.Replies(nil) {
		r.Deliver()
	}
}

// stop ends the store with its host. What a sync under way would have made durable is
// so in part.
func (st *store) stop(power bool) {
	if !st.up {
		return
	}
	st.up = false
	if g := st.out; g != nil && (!power || st.w.rng.IntN(2) == 0) { // the index's batch got through
		for op := g.First(); op != nil; op = op.Next() {
			if op.Kind != core.OpAnswer {
				st.img.write(op, st.marks)
			}
		}
	}
	if st.fs.cut(power) {
		st.w.cover.add(TornWrite)
	}
	if st.core.Dead() == nil {
		st.core.Kill(nil)
	}
	if st.out != nil {
		st.core.Abandon(st.out)
		st.out = nil
	}
	for _, r := range st.core.Replies(nil) {
		r.Deliver()
	}
	st.tickAt, st.keeping = 0, false
}

// setFull makes the store refuse shards, or take them again.
func (st *store) setFull(full bool) {
	st.full = full
	if st.core != nil {
		st.core.SetFull(false, full)
	}
}
