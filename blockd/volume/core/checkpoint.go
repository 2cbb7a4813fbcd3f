package core

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// checkState is what is known about checkpoints.
type checkState struct {
	running     *checkpointState
	asking      *checkpointState // durable in the meta stream, being committed in metad
	askAt       time.Duration    // when metad is asked again after a failure
	pause       time.Duration
	retryAt     time.Duration // after a failure none is cut before
	metaApplied id.LSN        // meta records at or below are in map and table
	covered     id.LSN        // journal records at or below are
	last        id.LSN        // metaApplied of the last cut that did not fail
	committed   id.LSN        // and of the last one that metad has
	bytes       int64         // applied since the last cut
	deadBytes   int64         // became dead since the last cut
	cutAt       time.Duration // when that was
	force       bool          // one is wanted whatever the limits say
	root        blockmap.Root // of the tree that stands
}

// checkpointState is one checkpoint on its way: cut, written, durable in the meta
// stream, committed in metad.
type checkpointState struct {
	mu      sync.Mutex // the frozen trees serve one encoder at a time
	pages   *blockmap.Frozen
	table   *blockmap.FrozenTable
	covered id.LSN
	meta    id.LSN
	before  id.LSN // checkState.last before the cut
	blocks  block.LBA
	// The snapshot that it makes stand, if any, and its watermark: the highest id issued by the cut.
	mark      *mark
	watermark id.Sequence
	walk      *walk    // of a snapshot that is deleted, begun at this cut
	leaving   []id.Raw // snapshots that it does not list any more
	archive   *record.Archive
	// What is dead at the cut may go once metad has this checkpoint: no tree in force refers to it then.
	dead      []id.Segment
	displaced []id.Location // pages of the tree before that this one has not

	mapJobs   []*PackJob
	tableJobs []*PackJob
	unready   int
	failed    error
	lost      map[*PackJob]bool // their names are given up
	rec       *record.Checkpoint
}

// wantCheckpoint tells whether one is due.
func (c *Core) wantCheckpoint(now time.Duration) bool {
	l, k := &c.cfg.Limits, &c.check
	if k.running != nil || k.metaApplied == k.last {
		return false
	}
	if c.snaps.passing != nil {
		return true
	}
	if c.state == stateDraining {
		return c.quiet()
	}
	dirty := c.m.Stats().Dirty
	return k.force || k.bytes >= l.CheckpointBytes || c.meta.bytes >= l.CheckpointMeta || c.deadEnough() || c.worthFreeing(now) ||
		dirty >= l.CheckpointDirty || dirty >= dirtyShare && c.overdrawn()
}

// dirtyShare is how many dirty pages cause a checkpoint while the maps of the
// process together hold more than their budget: dirty pages cannot be evicted.
const dirtyShare = 512

func (c *Core) overdrawn() bool {
	b := c.cfg.Budget
	return b != nil && b.Used() > b.Limit()
}

// maybeCheckpoint cuts one if it is due. It is done between commits only: of a
// commit that is applied in part neither the map nor the live counts are true.
func (c *Core) maybeCheckpoint(now time.Duration, fx *Effects) {
	if c.state != stateServing && c.state != stateDraining || now < c.check.retryAt || !c.wantCheckpoint(now) || len(c.apply) > 0 && c.apply[0].begun {
		return
	}
	mapPages := c.m.Stats().Dirty
	mapSegments := segmentsFor(mapPages)
	tablePages := len(c.table.Freeze().Pages()) + 5*mapSegments + 5 // what their own entries may need
	need := mapSegments + segmentsFor(tablePages)
	c.wantRange(now, max(rangeLow, need), fx)
	if c.ids.left() < need {
		return
	}
	if _, ok := c.choose(now, fx); !ok {
		return // metad is asked; its topology comes back here
	}
	c.cut(now, fx)
}

func segmentsFor(pages int) int { return (pages + id.SlotsMax - 1) / id.SlotsMax }

// cut takes the map and the table as they are now. All pages get their places at
// once, for they name each other's. The table is frozen last: it already counts
// the segments of the map's new pages, and no longer the pages that these replace.
func (c *Core) cut(now time.Duration, fx *Effects) {
	k := &c.check
	st := &checkpointState{
		pages: c.m.Freeze(), covered: k.covered, meta: k.metaApplied, before: k.last, blocks: c.blocks, mark: c.snaps.passing,
		lost: make(map[*PackJob]bool), archive: c.archiveRecord(),
	}
	k.running = st
	k.last, k.bytes, k.cutAt, k.force = k.metaApplied, 0, now, false
	c.meta.bytes = 0
	st.mapJobs = c.pageJobs(now, st, segment.MapPage, st.pages, fx)
	st.pages.Displaced(func(l id.Location) {
		st.displaced = append(st.displaced, l)
		c.dropped(l)
	})
	c.cutForWalk(st)
	for _, j := range st.mapJobs {
		e := j.Entry
		e.Live = e.Slots
		c.table.Put(j.Segment, e)
	}
	st.dead = c.deadNow()
	c.clean.renewed, c.usage.known = 0, false
	k.deadBytes = 0 // of pages that died just now, too
	st.table = c.table.Freeze()
	st.tableJobs = c.pageJobs(now, st, segment.TablePage, st.table, fx)
	if len(st.mapJobs)+len(st.tableJobs) == 0 {
		c.ids.take() // watermarks rise, even of a disk without anything
	}
	st.watermark = c.ids.issued
	st.unready = len(st.mapJobs) + len(st.tableJobs)
	c.packs += st.unready
	fx.Packs = append(fx.Packs, st.mapJobs...)
	fx.Packs = append(fx.Packs, st.tableJobs...)
	if st.unready == 0 {
		c.pagesDurable(now, st, fx)
	}
}

// frozen is what pageJobs needs of a frozen tree.
type frozen interface {
	Pages() []blockmap.Page
	Assign(int, id.Location)
	Encode(int, []byte)
}

// pageJobs makes the jobs for the pages of one frozen tree. maybeCheckpoint has
// made sure of ids and a group.
func (c *Core) pageJobs(now time.Duration, st *checkpointState, kind segment.Kind, f frozen, fx *Effects) (jobs []*PackJob) {
	pages := f.Pages()
	for at := 0; at < len(pages); at += id.SlotsMax {
		n := min(id.SlotsMax, len(pages)-at)
		j := &PackJob{Lane: LaneCheckpoint, pages: st, Blocks: make([]PackBlock, n)}
		j.Encode = func(i int, dst []byte) {
			st.mu.Lock()
			defer st.mu.Unlock()
			f.Encode(at+i, dst)
		}
		if !c.prepare(now, j, fx) {
			panic(fmt.Sprintf("volume %s: no id or group for a page segment that was sure of one", c.cfg.Volume))
		}
		j.Entry.Flags = blockmap.Pages
		for i := range n {
			p := pages[at+i]
			j.Blocks[i].Entry = uint64(segment.MakePage(kind, p.Level, p.Index))
			f.Assign(at+i, id.MakeLocation(j.Segment, uint16(i)))
		}
		jobs = append(jobs, j)
	}
	return jobs
}

// deadNow lists the segments that nothing refers to: no location of the map, no
// record of a memtable, no page of the tree.
func (c *Core) deadNow() []id.Segment {
	var out []id.Segment
	c.table.Range(0, func(s id.Segment, e blockmap.Entry) bool {
		if e.Live == 0 && c.long.known[s] == nil && !c.deletes[s] {
			out = append(out, s)
		}
		return true
	})
	for s, e := range c.pageSegs {
		if e.Live == 0 && !c.deletes[s] {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

// pagesPacked: one segment of pages is durable, or given up.
func (c *Core) pagesPacked(now time.Duration, j *PackJob, err error, fx *Effects) {
	st := j.pages
	if err != nil {
		st.lost[j] = true
		st.failed = err
	}
	if st.unready--; st.unready > 0 {
		return
	}
	if st.failed != nil {
		c.uncut(now, st, fx)
		return
	}
	c.pagesDurable(now, st, fx)
}

// uncut takes a checkpoint back of which a segment failed: all its segments are
// given up, and what it displaced stands again. Another one is cut a little later.
func (c *Core) uncut(now time.Duration, st *checkpointState, fx *Effects) {
	for _, j := range slices.Concat(st.mapJobs, st.tableJobs) {
		if !st.lost[j] {
			c.abandon(j, fx)
		}
	}
	for _, j := range st.mapJobs {
		c.table.Delete(j.Segment)
	}
	if st.walk != nil {
		c.snaps.walk = nil
	}
	c.snaps.needCut = c.snaps.needCut || st.walk != nil || len(st.leaving) > 0
	for _, l := range st.displaced {
		c.undropped(l)
	}
	c.m.Abandon(st.pages)
	k := &c.check
	k.running, k.last, k.force = nil, st.before, true
	k.retryAt = now + retryAfter
}

// pagesDurable: all pages are in segments; the record that makes them count goes
// to the meta stream. It lists the segments of the table's own pages, without
// which the table cannot be read; those of the map's pages are in the table.
func (c *Core) pagesDurable(now time.Duration, st *checkpointState, fx *Effects) {
	root, table := st.pages.Root(), st.table.Root()
	c.m.Commit(st.pages, nil) // what it displaces was counted at the cut
	c.table.Commit(st.table, func(l id.Location) {
		e := c.pageSegs[l.Segment()]
		if e.Live == 0 {
			panic(fmt.Sprintf("volume %s: table page at %v is counted twice", c.cfg.Volume, l))
		}
		e.Live--
		c.pageSegs[l.Segment()] = e
	})
	for _, j := range st.tableJobs {
		e := j.Entry
		e.Live = e.Slots
		c.pageSegs[j.Segment] = e
	}
	c.check.root = root
	st.rec = &record.Checkpoint{
		Volume: c.cfg.Volume, Epoch: c.cfg.Epoch, Map: root, Table: table, Covered: st.covered, Meta: st.meta,
		Watermark: c.snaps.newest, Blocks: c.blocks, Origin: c.origin, Parent: c.snaps.parent, Archive: st.archive,
	}
	st.rec.Snapshots = c.snapshotRecords(st)
	if st.mark != nil {
		st.rec.Watermark, st.rec.Parent = st.watermark, st.mark.Snapshot
	}
	for s, e := range c.pageSegs {
		st.rec.Pages = append(st.rec.Pages, record.PageSegment{Segment: s, Entry: e})
	}
	slices.SortFunc(st.rec.Pages, func(a, b record.PageSegment) int { return cmp.Compare(a.Segment, b.Segment) })
	c.appendMeta(now, record.AppendCheckpoint(nil, st.rec), metaEntry{check: st}, fx)
}

// checkpointDurable: the checkpoint stands in the meta stream; metad follows. One
// that metad has not committed yet is passed over: what it found dead, this one found, too.
func (c *Core) checkpointDurable(now time.Duration, st *checkpointState, fx *Effects) {
	c.check.running = nil
	if st.mark != nil {
		c.passMark(now, st, fx)
	}
	if st.walk != nil {
		c.compare(st.walk, st.rec.Map)
		c.walkOn(now, fx)
	}
	c.flatDurable(st)
	c.check.asking, c.check.askAt, c.check.pause = st, 0, 0
	c.stats.Checkpoints++
	c.askCheckpoint(fx)
}

func (c *Core) askCheckpoint(fx *Effects) {
	st := c.check.asking
	fx.Checkpoint = &Checkpoint{
		Epoch: st.rec.Epoch, Position: st.rec.Meta, Covered: st.rec.Covered, Record: record.EncodeCheckpoint(st.rec),
	}
}

// CheckpointDone: metad has committed the checkpoint of that position, or failed.
// Only with metad's answer the meta records before it go, and what was dead at its cut.
func (c *Core) CheckpointDone(now time.Duration, position id.LSN, err error, fx *Effects) {
	k := &c.check
	st := k.asking
	if st == nil || st.rec.Meta != position || c.state == stateFenced {
		return
	}
	if err != nil {
		k.pause = backoff(k.pause)
		k.askAt = now + k.pause
		return
	}
	k.asking = nil
	k.committed = position
	c.founded(now, fx)
	c.reapReady(st.rec)
	c.tellWhole(st.rec, fx)
	c.tellFlat(st.rec.Origin != nil, fx)
	for _, s := range st.dead {
		if e, _ := c.table.Get(s); c.snaps.walk == nil || !c.snaps.walk.pinned || e.Flags&blockmap.Pages == 0 {
			c.delete(s, fx) // else the walk reads a tree that is replaced already; a later checkpoint finds it
		}
	}
	c.left(st.leaving, fx)
	c.deleteOlder(position, fx)
	if position > 0 {
		c.journal.CheckpointCommitted(now, position, &fx.Journal)
		c.journal.Release(now, storeproto.Meta, position, &fx.Journal)
	}
	c.absorb(now, fx)
	c.continueApply(now, fx)
	c.drained(now, fx)
	c.absorb(now, fx)
}

// delete asks for the shards of a dead segment to be deleted by name.
func (c *Core) delete(s id.Segment, fx *Effects) {
	e, ok := c.table.Get(s)
	if !ok {
		e, ok = c.pageSegs[s]
	}
	if !ok || c.deletes[s] {
		return
	}
	if e.Live != 0 || c.long.known[s] != nil {
		panic(fmt.Sprintf("volume %s: segment %s was dead and lives", c.cfg.Volume, s))
	}
	c.deletes[s] = true
	all := id.Generation{Epoch: c.cfg.Epoch, N: math.MaxUint32} // what a rewriting that failed left, too
	fx.Deletes = append(fx.Deletes, Delete{Segment: s, Where: whereOf(e), Upto: all})
}

// DeleteDone: every store of the segment that still lives has confirmed. Until
// then its space counts as used, and the shell goes on trying.
func (c *Core) DeleteDone(now time.Duration, d Delete, fx *Effects) {
	if d.leftover && c.state == stateServing {
		if c.reap.doomed[d.Segment] == d.Upto {
			delete(c.reap.doomed, d.Segment)
		}
		c.reaped(fx)
		return
	}
	if d.abandoned || c.state == stateFenced || c.state == stateDrained {
		return
	}
	if d.replaced != (id.Generation{}) {
		c.olderDeleted(d)
		return
	}
	delete(c.deletes, d.Segment)
	c.stats.SegmentsDeleted++
	if _, ok := c.pageSegs[d.Segment]; ok {
		delete(c.pageSegs, d.Segment)
	} else {
		c.table.Delete(d.Segment)
	}
	c.drained(now, fx)
	c.absorb(now, fx)
}

// Force asks for a checkpoint as soon as something has changed since the last one.
func (c *Core) Force() { c.check.force = true }
