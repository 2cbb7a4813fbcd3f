package core

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// commitState is one commit: built, sent to the meta stream, durable there, and
// then applied to map and table, perhaps over several steps.
type commitState struct {
	rec      *record.Commit
	position id.LSN
	table    *memtable // nil when replayed
	placed   []block.LBA

	// How far it is applied: part counts zeros, then segments, then placed runs; at
	// is the progress within the part, in blocks or slots.
	part, at int
	begun    bool

	from      []id.Location // of a move: where the slots' blocks came from
	rewritten *record.Rewritten
	clean     *CleanJob // whose record it is; nil when replayed

	hydrated *record.Hydrated
	hydrate  *HydrateJob // whose record it is; nil when replayed
	flatten  *FlattenJob // likewise
	live     int         // of the slots judged so far
	pages    bool        // some hold pages
	of       pageOwner   // of the page that the next slot is judged by
}

// commitReady sends the commits of memtables whose segments are all durable, in
// the order of their LSNs: a commit never overtakes an older one.
func (c *Core) commitReady(now time.Duration, fx *Effects) {
	for _, m := range c.sealed {
		if m.sent {
			continue
		}
		if !m.packing || m.unready > 0 || !c.journal.Room(storeproto.Meta) {
			return
		}
		m.sent = true
		m.commit.rec = m.commitRecord(m.commit.placed)
		m.commit.position = c.appendMeta(now, record.AppendCommit(nil, m.commit.rec), metaEntry{commit: m.commit}, fx)
		if c.state == stateFenced {
			return
		}
	}
}

// commitRecord says where the blocks of a packed memtable lie. Each block is in one part.
func (m *memtable) commitRecord(placed []block.LBA) *record.Commit {
	r := &record.Commit{Covered: m.last}
	if m.mark != nil {
		r.Marks = []record.SnapshotMark{m.mark.SnapshotMark}
	}
	for _, j := range m.jobs {
		s := record.CommitSegment{Segment: j.Segment, Entry: j.Entry, Slots: make([]segment.Entry, len(j.Blocks))}
		for i, b := range j.Blocks {
			s.Slots[i] = segment.Entry(b.Entry)
		}
		r.Segments = append(r.Segments, s)
	}
	for _, l := range placed {
		loc := m.blocks[l].loc
		if n := len(r.Placed); n > 0 {
			p := &r.Placed[n-1]
			if p.Extent.End() == l && p.Segment == loc.Segment() && p.FirstSlot+uint16(p.Extent.Count) == loc.Slot() {
				p.Extent.Count++
				continue
			}
		}
		r.Placed = append(r.Placed, record.Placed{
			Extent: block.Extent{Start: l, Count: 1}, Segment: loc.Segment(), FirstSlot: loc.Slot(),
			Entry: m.direct[loc.Segment()].entry,
		})
	}
	m.listDead(r)
	r.Zeros = m.zerosLeft()
	return r
}

// listDead names the segments of long writes of which the commit has no block left:
// they were overwritten before they were committed. They are to be in the table, so
// that they are deleted, also by an engine that knows them only from the commit.
func (m *memtable) listDead(r *record.Commit) {
	named := make(map[id.Segment]bool, len(m.direct))
	for i := range r.Placed {
		named[r.Placed[i].Segment] = true
	}
	for _, s := range slices.Sorted(maps.Keys(m.direct)) {
		if e := m.direct[s].entry; !named[s] {
			r.Segments = append(r.Segments, record.CommitSegment{Segment: s, Entry: e, Slots: make([]segment.Entry, e.Slots)})
		}
	}
}

// zerosLeft are the zeroed runs less the blocks written into them since.
func (m *memtable) zerosLeft() []block.Extent {
	if len(m.zeros.runs) == 0 {
		return nil
	}
	var out []block.Extent
	emit := func(start, end block.LBA) {
		for start < end {
			n := min(end-start, 1<<31)
			out = append(out, block.Extent{Start: start, Count: uint32(n)})
			start += n
		}
	}
	data, placed := m.sorted()
	next := mergeSorted(data, placed)
	for _, r := range m.zeros.runs {
		at := r.start
		for len(next) > 0 && next[0] < r.end {
			if next[0] >= at {
				emit(at, next[0])
				at = next[0] + 1
			}
			next = next[1:]
		}
		emit(at, r.end)
	}
	return out
}

// mergeSorted merges two sorted lists.
func mergeSorted(a, b []block.LBA) []block.LBA {
	if len(b) == 0 {
		return a
	}
	out := make([]block.LBA, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0] < b[0] {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// metaAcked: meta records up to position are durable on two stores. Only now may
// a commit change the map, and a checkpoint stand.
func (c *Core) metaAcked(now time.Duration, position id.LSN, fx *Effects) {
	c.meta.acked = position
	n := 0
	for n < len(c.meta.inflight) && c.meta.inflight[n].position <= position {
		e := c.meta.inflight[n]
		n++
		switch {
		case e.commit != nil:
			c.apply = append(c.apply, e.commit)
		case e.check != nil:
			c.checkpointDurable(now, e.check, fx)
		}
	}
	c.meta.inflight = append(c.meta.inflight[:0], c.meta.inflight[n:]...)
	c.commitReady(now, fx)
	c.continueApply(now, fx)
	c.startPacks(now, fx) // a snapshot may stand now
}

// applyStepMax bounds the blocks applied in one step, so that reads and writes get
// their turn at the mutex in between.
const applyStepMax = 512

// continueApply changes map and table by the durable commits, in order, until a
// page is missing or the step is long enough.
func (c *Core) continueApply(now time.Duration, fx *Effects) {
	if c.table == nil || c.pageRetryAt > now {
		return
	}
	budget := applyStepMax
	for len(c.apply) > 0 && (c.snaps.passing == nil || c.state == stateLoading) {
		if budget <= 0 {
			fx.Again = true
			return
		}
		if c.check.running != nil && c.m.Stats().Dirty > 2*c.cfg.Limits.CheckpointDirty {
			return // the checkpoint under way must end first; it comes back here
		}
		a := c.apply[0]
		if a.hydrated != nil && c.check.running != nil {
			return // likewise: it is not told yet which pages the head has dropped
		}
		done, miss := c.applySome(now, a, &budget)
		if !miss.None() {
			c.prefetch(a, miss, fx)
			return
		}
		if done {
			c.apply = slices.Delete(c.apply, 0, 1)
			c.stats.Problem = ""
			c.applied(now, a, fx)
			c.maybeCheckpoint(now, fx)
			if c.clean.job == nil {
				c.startClean(now, fx) // where commit follows upon commit the counts are true only here
			}
		}
	}
	if c.state == stateLoading {
		c.loaded(now, fx)
	}
	c.maybeCheckpoint(now, fx)
	c.drained(now, fx)
}

// applySome does the next part of a commit; done tells that it was the last.
func (c *Core) applySome(now time.Duration, a *commitState, budget *int) (done bool, miss blockmap.Miss) {
	r := a.rec
	if !a.begun {
		a.begun = true
		c.introduce(a)
	}
	if a.rewritten != nil {
		c.applyRewritten(a)
		return true, blockmap.Miss{}
	}
	if a.hydrated != nil {
		return c.applyHydrated(now, a, budget)
	}
	i := a.part
	if i < len(r.Zeros) {
		return false, c.applyZero(a, r.Zeros[i], budget)
	}
	if i -= len(r.Zeros); i < len(r.Segments) {
		if a.from != nil {
			return false, c.applyMoved(a, &r.Segments[i], budget)
		}
		return false, c.applySegment(a, &r.Segments[i], budget)
	}
	if i -= len(r.Segments); i < len(r.Placed) {
		return false, c.applyPlaced(a, &r.Placed[i], budget)
	}
	return true, blockmap.Miss{}
}

// introduce puts the commit's segments into the table, with nothing live yet.
func (c *Core) introduce(a *commitState) {
	put := func(s id.Segment, e blockmap.Entry) {
		if _, ok := c.table.Get(s); !ok {
			e.Live = 0
			c.table.Put(s, e)
		}
	}
	for i := range a.rec.Segments {
		put(a.rec.Segments[i].Segment, a.rec.Segments[i].Entry)
	}
	for i := range a.rec.Placed {
		put(a.rec.Placed[i].Segment, a.rec.Placed[i].Entry)
	}
}

// displaced: the map no longer has a location.
func (c *Core) displaced(l block.LBA, old id.Location) {
	if c.origin.Has(old.Segment()) {
		c.flatten.leftAncestor(l)
	}
	c.dropped(old)
}

func (c *Core) addLive(s id.Segment, n int) {
	live, ok := c.table.AddLive(s, n)
	if !ok {
		panic(fmt.Sprintf("volume %s: segment %s has locations in the map and is not in the table", c.cfg.Volume, s))
	}
	if live == 0 {
		e, _ := c.table.Get(s)
		c.check.deadBytes += int64(e.Slots) * block.Size
	}
}

func (a *commitState) advance(n, of int) {
	if a.at += n; a.at >= of {
		a.part, a.at = a.part+1, 0
	}
}

func (c *Core) applyZero(a *commitState, e block.Extent, budget *int) blockmap.Miss {
	rest := block.Extent{Start: e.Start + block.LBA(a.at), Count: e.Count - uint32(a.at)}
	run, allocated, miss := c.m.NextRun(rest)
	if run.Count > 0 && !allocated { // holes already, perhaps very many
		*budget -= 1 + min(int(run.Count)/blockmap.Fanout, applyStepMax)/8
		a.advance(int(run.Count), int(e.Count))
		return blockmap.Miss{}
	}
	if !miss.None() {
		return miss
	}
	rest.Count = min(run.Count, applyStepMax)
	n, miss := c.m.Clear(rest, c.displaced)
	*budget -= max(n, 1)
	a.advance(n, int(e.Count))
	return miss
}

func (c *Core) applySegment(a *commitState, s *record.CommitSegment, budget *int) blockmap.Miss {
	var locs [locateMax]id.Location
	for a.at < len(s.Slots) {
		if *budget <= 0 {
			return blockmap.Miss{}
		}
		first := s.Slots[a.at]
		if first.Kind() != segment.Data { // nothing
			a.at++
			continue
		}
		start := first.LBA()
		n := 0
		for n < len(locs) && a.at+n < len(s.Slots) && s.Slots[a.at+n] == first+segment.Entry(n) {
			locs[n] = id.MakeLocation(s.Segment, uint16(a.at+n))
			n++
		}
		if miss := c.insert(s.Segment, start, locs[:n], &a.at, budget); !miss.None() {
			return miss
		}
	}
	a.part, a.at = a.part+1, 0
	return blockmap.Miss{}
}

func (c *Core) applyPlaced(a *commitState, p *record.Placed, budget *int) blockmap.Miss {
	var locs [locateMax]id.Location
	for a.at < int(p.Extent.Count) {
		if *budget <= 0 {
			return blockmap.Miss{}
		}
		n := min(len(locs), int(p.Extent.Count)-a.at)
		for i := range n {
			locs[i] = id.MakeLocation(p.Segment, p.FirstSlot+uint16(a.at+i))
		}
		if miss := c.insert(p.Segment, p.Extent.Start+block.LBA(a.at), locs[:n], &a.at, budget); !miss.None() {
			return miss
		}
	}
	a.part, a.at = a.part+1, 0
	return blockmap.Miss{}
}

// insert sets locations of one segment and counts them live.
func (c *Core) insert(s id.Segment, start block.LBA, locs []id.Location, at, budget *int) blockmap.Miss {
	n, miss := c.m.Insert(start, locs, c.displaced)
	if n > 0 {
		c.addLive(s, n)
	}
	*at += n
	*budget -= max(n, 1)
	return miss
}

// prefetch asks for the page that stopped a commit, and for those its next blocks will need.
func (c *Core) prefetch(a *commitState, miss blockmap.Miss, fx *Effects) {
	if a.hydrated != nil {
		wantAhead(c, a.of, miss, a.hydrated.Slots[a.at:], fx)
		return
	}
	c.wantPage(pageOwner{}, miss, fx)
	var ahead []block.Extent
	if i := a.part - len(a.rec.Zeros); i < 0 {
		z := a.rec.Zeros[a.part]
		ahead = append(ahead, block.Extent{Start: z.Start + block.LBA(a.at), Count: z.Count - uint32(a.at)})
	} else if i < len(a.rec.Segments) {
		for _, e := range a.rec.Segments[i].Slots[a.at:] {
			if e.Kind() == segment.Data {
				ahead = append(ahead, block.Extent{Start: e.LBA(), Count: 1})
			}
		}
	}
	var more [prefetchMax]blockmap.Miss
	for _, x := range c.m.Missing(ahead, more[:0]) {
		c.wantPage(pageOwner{}, x, fx)
	}
}

// prefetchMax bounds the map pages read at once for a commit.
const prefetchMax = 64

// applied ends a commit: the map has it, so its memtable and journal may go.
func (c *Core) applied(now time.Duration, a *commitState, fx *Effects) {
	c.check.metaApplied = a.position
	c.check.covered = max(c.check.covered, a.rec.Covered)
	for i := range a.rec.Segments {
		c.check.bytes += int64(len(a.rec.Segments[i].Slots)) * block.Size
	}
	for i := range a.rec.Placed {
		c.check.bytes += int64(a.rec.Placed[i].Extent.Count) * block.Size
	}
	for _, m := range a.rec.Marks {
		c.reachMark(m)
	}
	if a.clean != nil {
		c.cleaned(now, a.clean, fx)
	}
	if a.hydrate != nil {
		c.hydrated(now, a.hydrate, fx)
	}
	if a.flatten != nil {
		c.flattenApplied(now, a.flatten, fx)
	}
	m := a.table
	if m == nil {
		return
	}
	for s, d := range m.direct {
		c.forget(s, d.records)
	}
	if c.sealed[0] != m {
		panic("volume: commits applied out of order")
	}
	c.sealed = slices.Delete(c.sealed, 0, 1)
	bytes := m.journalled
	last := m.last
	if blocks := m.retire(); len(c.spare) < spareMaps {
		clear(blocks)
		c.spare = append(c.spare, blocks)
	}
	c.journal.Release(now, storeproto.Journal, last, &fx.Journal)
	c.roomFreed(now, bytes, fx)
}

// applyBlocked: a page that a commit may need cannot be read now. Nothing is lost,
// the memtables stay; it is tried again. While the volume is opened a page that is
// gone for good is the end of it.
func (c *Core) applyBlocked(now time.Duration, err error, fx *Effects) {
	c.stats.Problem = fmt.Sprintf("a page of the block map cannot be read: %v", err)
	c.pageRetryAt = now + pageRetryAfter
	if c.state == stateLoading && !passing(err) {
		fx.Broken = fmt.Errorf("open the map of %s: %w", c.cfg.Volume, err)
	}
}

// passing tells an error that waiting may cure.
func passing(err error) bool {
	return errors.Is(err, errs.ErrUnavailable) || errors.Is(err, errs.ErrTimeout)
}

// pageRetryAfter is the pause before an unreadable page is asked for again.
const pageRetryAfter = time.Second
