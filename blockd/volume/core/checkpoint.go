package core

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

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
	metaApplied id.LSN           // meta records at or below are in map and table
	covered     id.LSN           // journal records at or below are
	last        id.LSN           // metaApplied of the last cut
	committed   id.LSN           // and of the last one that metad has
	bytes       int64            // applied since the last cut
	deadBytes   int64            // became dead since the last cut
	watermark   id.Sequence
}

// checkpointState is one checkpoint on its way: cut, written, durable in the meta
// stream, committed in metad.
type checkpointState struct {
	mu      sync.Mutex // the frozen trees serve one encoder at a time
	pages   *blockmap.Frozen
	table   *blockmap.FrozenTable
	covered id.LSN
	meta    id.LSN
	// What is dead at the cut may go once metad has this checkpoint: no tree in force refers to it then.
	dead []id.Segment

	jobs    []*PackJob
	unready int
	failed  bool
	parked  bool // waits for ids or groups
	rec     *record.Checkpoint
}

// pageSegment is a segment that holds pages, and how many of them some tree in force refers to.
type pageSegment struct {
	entry blockmap.Entry
}

// wantCheckpoint tells whether one is due.
func (c *Core) wantCheckpoint() bool {
	l, k := &c.cfg.Limits, &c.check
	if k.running != nil || k.asking != nil || k.metaApplied == k.last {
		return false
	}
	if c.state == stateDraining {
		return c.quiet()
	}
	return k.bytes >= l.CheckpointBytes || c.meta.bytes >= l.CheckpointMeta || k.deadBytes >= l.CheckpointDead ||
		c.m.Stats().Dirty >= l.CheckpointDirty
}

// maybeCheckpoint cuts one if it is due. It is called between commits only: a
// commit that is applied in part has segments whose live counts are not yet true.
func (c *Core) maybeCheckpoint(now time.Duration, fx *Effects) {
	if c.state != stateServing && c.state != stateDraining || !c.wantCheckpoint() || len(c.apply) > 0 && c.apply[0].begun {
		return
	}
	k := &c.check
	st := &checkpointState{pages: c.m.Freeze(), table: c.table.Freeze(), covered: k.covered, meta: k.metaApplied, dead: c.deadNow()}
	k.running = st
	k.last, k.bytes, k.deadBytes = k.metaApplied, 0, 0
	c.meta.bytes = 0
	c.packPages(now, fx)
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
	for s, p := range c.pageSegs {
		if p.entry.Live == 0 && !c.deletes[s] {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

// packPages gives the frozen pages their places and sends their segments on the
// way. All ids are taken before any page is encoded, for pages name each other's
// places; when one segment fails all are given up and made anew.
func (c *Core) packPages(now time.Duration, fx *Effects) {
	st := c.check.running
	if st == nil || st.unready > 0 || st.rec != nil || now < c.retryAt {
		return
	}
	st.failed, st.jobs = false, st.jobs[:0]
	mapPages, tablePages := st.pages.Pages(), st.table.Pages()
	total := len(mapPages) + len(tablePages)
	need := (total + id.SlotsMax - 1) / id.SlotsMax
	if c.ids.left() < need {
		c.wantRange(fx)
		return
	}
	for at := 0; at < total; at += id.SlotsMax {
		n := min(id.SlotsMax, total-at)
		j := &PackJob{Lane: LaneCheckpoint, pages: st, Blocks: make([]PackBlock, n)}
		j.Encode = func(i int, dst []byte) {
			st.mu.Lock()
			defer st.mu.Unlock()
			if p := at + i; p < len(mapPages) {
				st.pages.Encode(p, dst)
			} else {
				st.table.Encode(p-len(mapPages), dst)
			}
		}
		if !c.prepare(now, j, fx) {
			st.jobs = st.jobs[:0]
			return // metad is asked for a group; Topology comes back here
		}
		for i := range n {
			loc := id.MakeLocation(j.Segment, uint16(i))
			if p := at + i; p < len(mapPages) {
				j.Blocks[i].Entry = uint64(segment.MakePage(segment.MapPage, mapPages[p].Level, mapPages[p].Index))
				st.pages.Assign(p, loc)
			} else {
				p -= len(mapPages)
				j.Blocks[i].Entry = uint64(segment.MakePage(segment.TablePage, tablePages[p].Level, tablePages[p].Index))
				st.table.Assign(p, loc)
			}
		}
		j.Entry.Flags = blockmap.Pages
		st.jobs = append(st.jobs, j)
	}
	st.unready = len(st.jobs)
	c.packs += len(st.jobs)
	fx.Packs = append(fx.Packs, st.jobs...)
	if st.unready == 0 {
		c.pagesDurable(now, st, fx)
	}
}

// pagesPacked: one segment of pages is done.
func (c *Core) pagesPacked(now time.Duration, j *PackJob, fx *Effects) {
	st := j.pages
	if st.unready--; st.unready > 0 {
		return
	}
	if st.failed {
		for _, j := range st.jobs {
			if !j.gone {
				fx.Deletes = append(fx.Deletes, Delete{Segment: j.Segment, Where: whereOf(j.Entry), abandoned: true})
			}
		}
		c.packPages(now, fx)
		return
	}
	c.pagesDurable(now, st, fx)
}

// pagesDurable: all pages are in segments; the record that makes them count goes
// to the meta stream. The list of page segments is as the new tree wants it.
func (c *Core) pagesDurable(now time.Duration, st *checkpointState, fx *Effects) {
	root, table := st.pages.Root(), st.table.Root()
	gone := func(l id.Location) {
		p, ok := c.pageSegs[l.Segment()]
		if !ok || p.entry.Live == 0 {
			panic(fmt.Sprintf("volume %s: page at %v is counted twice", c.cfg.Volume, l))
		}
		p.entry.Live--
		if p.entry.Live == 0 {
			c.check.deadBytes += int64(p.entry.Slots) * storeproto.BlockSize
		}
	}
	c.m.Commit(st.pages, gone)
	c.table.Commit(st.table, gone)
	for _, j := range st.jobs {
		e := j.Entry
		e.Live = e.Slots
		c.pageSegs[j.Segment] = &pageSegment{entry: e}
	}
	st.rec = &record.Checkpoint{
		Volume: c.cfg.Volume, Epoch: c.cfg.Epoch, Map: root, Table: table, Covered: st.covered, Meta: st.meta,
		Watermark: c.check.watermark, Blocks: c.blocks,
	}
	for s, p := range c.pageSegs {
		st.rec.Pages = append(st.rec.Pages, record.PageSegment{Segment: s, Entry: p.entry})
	}
	slices.SortFunc(st.rec.Pages, func(a, b record.PageSegment) int { return cmp.Compare(a.Segment, b.Segment) })
	c.appendMeta(now, record.AppendCheckpoint(nil, st.rec), metaEntry{check: st}, fx)
}

// checkpointDurable: the checkpoint stands in the meta stream; metad follows.
func (c *Core) checkpointDurable(st *checkpointState, fx *Effects) {
	c.check.running = nil
	c.check.asking = st
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
	st := c.check.asking
	if st == nil || st.rec.Meta != position || c.state == stateFenced {
		return
	}
	if err != nil {
		c.check.askAt = now + retryAfter
		return
	}
	c.check.asking = nil
	c.check.committed = position
	for _, s := range st.dead {
		c.delete(s, fx)
	}
	if position > 0 {
		c.journal.CheckpointCommitted(now, position, &fx.Journal)
		c.journal.Release(now, storeproto.Meta, position, &fx.Journal)
	}
	c.absorb(now, fx)
	c.continueApply(now, fx)
	c.drained(now, fx)
}

// delete asks for the shards of a dead segment to be deleted by name.
func (c *Core) delete(s id.Segment, fx *Effects) {
	e, ok := c.table.Get(s)
	if !ok {
		p, isPage := c.pageSegs[s]
		if !isPage {
			return
		}
		e = p.entry
	}
	c.deletes[s] = true
	fx.Deletes = append(fx.Deletes, Delete{Segment: s, Where: whereOf(e)})
}

// DeleteDone: every store of the segment that still lives has confirmed. Until
// then its space counts as used, and the shell goes on trying.
func (c *Core) DeleteDone(d Delete) {
	if d.abandoned || c.state == stateFenced {
		return
	}
	delete(c.deletes, d.Segment)
	c.stats.SegmentsDeleted++
	if _, ok := c.pageSegs[d.Segment]; ok {
		delete(c.pageSegs, d.Segment)
		return
	}
	c.table.Delete(d.Segment)
}
