package core

import (
	"math"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
)

// A page of the map that changes goes into a new segment with the next checkpoint, and its old place is
// dead. Where writes are spread thin, every block that is written changes a page of its own: as many
// pages as blocks are written, and each segment of them keeps a few living ones for ever so long. What
// lives of such a segment is moved by the next checkpoint, as if it had changed (blockmap.Renew). So
// nothing is judged here that could be lost: the segment dies when the tree that has it elsewhere is
// durable, and goes, like any other, with metad's checkpoint.

const (
	// pagesPercent is the default of Limits.PagesPercent. It is more than for data: pages are few, and the longer
	// one waits, the fewer live in a segment and are to be written again.
	pagesPercent = 200
	// pagesShare: of a victim's pages one in so many lives at most.
	pagesShare = 2
)

// pagesAllowed is how many dead pages may lie beside living ones; the less the fuller the stores are.
func (c *Core) pagesAllowed() uint64 {
	percent := uint64(c.cfg.Limits.PagesPercent)
	switch {
	case c.groups.fill >= 85:
		percent /= 8
	case c.groups.fill >= 70:
		percent /= 2
	}
	return c.usage.PagesLive*percent/100 + uint64(c.cfg.Limits.CleanSlack/block.Size)
}

// pagesDue tells whether segments of pages are to be emptied. Not where no checkpoint would follow: a disk that
// nobody writes to leaves no more of them behind. Nor where the next one has enough to write: until it
// is cut, and while stores are full none is, the pages that it is to move stay in memory.
func (c *Core) pagesDue() bool {
	u, k := &c.usage, &c.check
	if k.metaApplied == k.last && len(c.apply)+len(c.sealed) == 0 || c.cfg.Limits.PagesPercent < 0 {
		return false
	}
	return u.PagesStored > u.PagesLive+c.clean.renewed+c.pagesAllowed() && c.m.Stats().Dirty <= 2*c.cfg.Limits.CheckpointDirty
}

// pickPages chooses the segment of pages of which the smallest part lives. Not what a snapshot may have
// something in: it would not die of it.
func (c *Core) pickPages(now time.Duration) *CleanJob {
	var best candidate
	c.table.Range(0, func(s id.Segment, e blockmap.Entry) bool {
		if e.Live == 0 || e.Flags&blockmap.Pages == 0 || e.Flags&blockmap.Foreign != 0 || c.shared(s) || c.deletes[s] || c.clean.shy[s] > now ||
			int(e.Live)*pagesShare > int(e.Stored()) {
			return true
		}
		x := candidate{segment: s, entry: e}
		if x.score = uint64(math.MaxUint16 * x.dead() / int(e.Stored())); best.entry.Live == 0 || x.score > best.score {
			best = x
		}
		return true
	})
	if best.entry.Live == 0 {
		return nil
	}
	return &CleanJob{pages: true, Victims: []*Victim{victimOf(&best)}}
}

// renewPages has all pages of the victim that live written again by the next checkpoint. Those that are not in
// memory are read first, many at once.
func (c *Core) renewPages(now time.Duration, j *CleanJob, fx *Effects) {
	if len(j.Victims) == 0 {
		c.endClean(now, cleanRetry)
		return
	}
	v := j.Victims[0]
	if c.state != stateServing || c.pageRetryAt != 0 || c.shared(v.Segment) { // a page cannot be read, or a snapshot came
		c.leaveAlone(now, v.Segment)
		c.endClean(now, cleanRetry)
		return
	}
	if c.pageBusy[j.wanted] {
		return // its kind come together
	}
	missing := 0
	for at := j.slot; at < len(v.Entries) && missing < prefetchMax; at++ {
		if e := segment.Entry(v.Entries[at]); e.Kind() == segment.MapPage {
			renewed, miss := c.m.Renew(blockmap.Page{Level: e.Level(), Index: e.Index()}, id.MakeLocation(v.Segment, uint16(at)))
			if !miss.None() {
				c.wantPage(pageOwner{}, miss, fx)
				j.wanted = pageKey{Miss: miss}
				missing++
				continue
			}
			if renewed {
				v.live++
			}
		}
		if missing == 0 {
			j.slot = at + 1
		}
	}
	if missing == 0 && j.slot == len(v.Entries) {
		c.renewedPages(now, v, fx)
	}
}

// renewedPages: the victim dies of the next checkpoint.
func (c *Core) renewedPages(now time.Duration, v *Victim, fx *Effects) {
	if e, ok := c.table.Get(v.Segment); ok {
		c.clean.renewed += uint64(e.Stored() - e.Live)
	}
	c.leaveAlone(now, v.Segment) // it would be chosen until then
	c.stats.PagesRenewed += uint64(v.live)
	_, _, rate := c.cleanPace()
	c.endClean(now, time.Duration(v.live)*block.Size*time.Second/time.Duration(max(rate, 1)))
}
