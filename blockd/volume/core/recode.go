package core

import (
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
)

// A group that was formed while few stores lived has a smaller code. When more live metad
// gives it a version with a better one: new segments are coded by that, and what the
// group has already is rewritten here, segment by segment, as the cleaner rewrites: a new
// generation under the newest version, then a record, then the older one goes with the
// next checkpoint. Ids and slots stay, so whatever refers to a segment, snapshots and clones
// too, is not touched. Pages are rewritten whole, for the maps that have them are not
// asked; of data what is dead is dropped. It takes turns with cleaning, at a rate of its own.

// recodeState is what is known of segments that are coded otherwise than their group is now.
type recodeState struct {
	next    time.Duration // no look before
	looked  bool          // since the groups were heard of last
	left    int64         // bytes of blocks, at that look
	justDid bool          // the last job was one of these
}

const (
	// recodeEvery is the pause after a look that found nothing to do.
	recodeEvery = 5 * time.Second
	// recodeShare of CleanRate is what may be written so; if a store is missing, recodeHaste as much:
	// what is in the older version is not repaired, but has its margin as soon as it is coded anew.
	recodeShare = 2
	recodeHaste = 8
)

func (c *Core) recodeRate() int64 {
	rate := c.cfg.Limits.CleanRate / recodeShare
	if c.groups.urgent {
		rate *= recodeHaste
	}
	return max(rate, 1)
}

// Recoding tells whether segments of this volume are, or may be, coded otherwise than their
// groups are now, and how many bytes of blocks that was at the last look.
func (c *Core) Recoding() (left int64, on bool) {
	r := &c.recode
	return r.left, len(c.groups.mixed) > 0 && (!r.looked || r.left > 0)
}

// recodeDue tells whether it is time to look for such segments.
func (c *Core) recodeDue(now time.Duration) bool {
	return len(c.groups.mixed) > 0 && now >= c.recode.next
}

// codedOtherwise tells whether a segment is to be coded anew. What is dead goes by itself.
func (c *Core) codedOtherwise(e blockmap.Entry) bool {
	g, ok := c.groups.lively[e.PG]
	return ok && c.groups.mixed[e.PG] && (e.K != g.k || e.M != g.m)
}

// pickRecode gives the next segment that is to be coded anew.
func (c *Core) pickRecode(now time.Duration, fx *Effects) *CleanJob {
	var job *CleanJob
	r := &c.recode
	r.left, r.looked = 0, true
	waits := len(c.clean.older) > 0 // for a checkpoint
	look := func(s id.Segment, e blockmap.Entry) bool {
		e.PG = s.PG()
		if !c.codedOtherwise(e) || e.Flags&blockmap.Foreign != 0 {
			return true
		}
		r.left += int64(e.Stored()) * block.Size
		pages := e.Flags&blockmap.Pages != 0
		switch {
		case e.Live == 0: // pages of the checkpoint before, as a rule
			waits = waits || !c.deletes[s]
		case job != nil, c.long.known[s] != nil, c.deletes[s], c.clean.shy[s] > now, !c.groups.rewritable(now, s.PG()):
		case pages && c.check.running != nil: // its own pages are not durable yet
		default:
			job = &CleanJob{Rewrite: true, recode: true, whole: pages, Victims: []*Victim{{Segment: s, Where: whereOf(e)}}}
		}
		return true
	}
	c.table.Range(0, look)
	for s, e := range c.pageSegs {
		look(s, e)
	}
	if job == nil {
		if r.next = now + recodeEvery; r.left > 0 {
			r.next = now + cleanRetry // something is in the way of it for now
		}
		if waits { // a small or idle volume makes none for so little, and its group would wait
			c.stir(now, fx)
		}
	}
	return job
}

// judgeWhole takes all that a victim has for alive.
func (c *Core) judgeWhole(j *CleanJob) {
	for _, v := range j.Victims {
		for i, e := range v.Entries {
			if e != 0 {
				v.live++
				j.Blocks = append(j.Blocks, CleanBlock{Location: id.MakeLocation(v.Segment, uint16(i)), Victim: v, Entry: e})
			}
		}
	}
}

// entryOf finds a segment of the volume's own, also one of its table's pages.
func (c *Core) entryOf(s id.Segment) (blockmap.Entry, bool) {
	if e, ok := c.table.Get(s); ok {
		return e, true
	}
	e, ok := c.pageSegs[s]
	e.PG = s.PG()
	return e, ok
}

// putEntry changes what entryOf finds.
func (c *Core) putEntry(s id.Segment, e blockmap.Entry) {
	if _, ok := c.pageSegs[s]; ok {
		c.pageSegs[s] = e
		return
	}
	c.table.Put(s, e)
}
