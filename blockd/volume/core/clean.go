package core

import (
	"cmp"
	"math"
	"slices"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
)

// The cleaner gives back what is dead in segments that also hold live blocks. A
// victim of which much lives is rewritten: a new generation without the dead slots,
// whose commit changes the table and nothing of the map. Victims of which little
// lives are merged: their blocks move into one new segment, and a block that a newer
// write has meanwhile stays where that put it. One job at a time, in small steps;
// when to begin one is decided here, its way is in cleanjob.go.

// cleanState is what the cleaner keeps between jobs.
type cleanState struct {
	job    *CleanJob
	next   time.Duration // no job begins before
	number uint32        // of the newest generation made in this epoch by rewriting
	shy    map[id.Segment]time.Duration
	older  []older
	// renewed counts the dead slots of segments of pages that the next checkpoint will empty.
	renewed   uint64
	lastPages bool // the last job was one of these, or would have been if there were a victim
}

// older is a generation that another has replaced. Its shards go when metad has a
// checkpoint that knows of it: until then a tree in force says that they are there.
type older struct {
	segment  id.Segment
	where    Where
	upto     id.Generation // it and all before it
	now      id.Generation // what replaced it
	position id.LSN        // of the record that said so
}

const (
	// mergeMin victims are merged for the sake of their number alone, mergeMax at once.
	mergeMin = 8
	mergeMax = 64
	// cleanShare: what a job must give back that is not for the number of segments, as a part of MergeBelow.
	cleanShare = 32
	// shyFor is how long a victim that could not be read is left alone; shyMax are remembered.
	shyFor = 30 * time.Second
	shyMax = 1024
	// cleanPauseMin is the shortest pause between two jobs that is worth one.
	cleanPauseMin = 20 * time.Millisecond
	// cleanRetry is the pause after a job that failed.
	cleanRetry = time.Second
)

// candidate is a segment that might be cleaned.
type candidate struct {
	segment id.Segment
	entry   blockmap.Entry
	score   uint64
}

func (x *candidate) dead() int { return int(x.entry.Stored()) - int(x.entry.Live) }

// cleanPace says how many dead blocks may lie among live ones, of how many blocks one
// of a victim must be dead, and how fast the cleaner may write. The fuller the stores
// and the more is dead, the more it does: clients that write faster than the
// cleaner would otherwise fill the cluster with what nobody needs.
func (c *Core) cleanPace() (allowed uint64, share int, rate int64) {
	l, u := &c.cfg.Limits, &c.usage
	percent, share := uint64(l.CleanPercent), 8
	switch {
	case c.groups.fill >= 85:
		percent, share = percent/8, 16
	case c.groups.fill >= 70:
		percent = percent / 2
	}
	allowed = u.Live*percent/100 + uint64(l.CleanSlack/block.Size)
	rate = l.CleanRate
	if dead := u.Slots - u.Live; dead > allowed {
		rate <<= min((dead-allowed)*64/(u.Live+1), 6)
	}
	if c.groups.fill >= 85 {
		rate = l.CleanRate << 6
	}
	return allowed, share, rate
}

// startClean begins a job if one is due, or goes on with the one under way.
func (c *Core) startClean(now time.Duration, fx *Effects) {
	s := &c.clean
	if s.job != nil {
		c.cleanOn(now, fx)
		return
	}
	if c.state != stateServing || now < s.next || c.writingOff() || c.marking() || c.snaps.roll != nil || c.cfg.Limits.CleanPercent < 0 {
		return
	}
	// Of a commit that is applied in part the counts of data are not true. Those of pages change only at a cut.
	begun := len(c.apply) > 0 && c.apply[0].begun
	if !begun {
		c.measure(now)
	}
	allowed, share, _ := c.cleanPace()
	space := c.usage.Slots-c.usage.Live > allowed
	clean, recode := space || c.usage.Small >= mergeMin, c.recodeDue(now)
	others := clean || recode
	pages := c.usage.known && c.pagesDue() && !(others && s.lastPages) // in turn, and others wait for the end of the commit
	if !pages && (begun || !others) || !c.takeClean(now) {
		return
	}
	var job *CleanJob
	if pages {
		job = c.pickPages(now)
	}
	if s.lastPages = pages && (begun || job != nil); job == nil && !begun {
		if recode && (!clean || !c.recode.justDid) {
			job = c.pickRecode(now, fx)
		}
		if c.recode.justDid = job != nil; job == nil && clean {
			job = c.pick(now, space, share)
		}
	}
	if job == nil {
		c.leaveClean()
		if !begun || !others {
			s.next = now + cleanRetry
		}
		return
	}
	s.job, fx.CleanList = job, job
}

// writingOff tells that a snapshot has left the list and metad has no checkpoint yet that says so. Until
// then nothing is judged: whoever opens the volume may find the snapshot listed, with all that it had.
func (c *Core) writingOff() bool { return len(c.snaps.leaving) > 0 }

// leftList ends a job that has judged by the list as it was, or is about to: what it put is by no
// means less than lives, but it might ask the shorter list for the rest.
func (c *Core) leftList(now time.Duration) {
	if j := c.clean.job; j != nil && (j.phase == cleanListing || j.phase == cleanJudging) {
		c.endClean(now, 0)
	}
}

// pick chooses the victims of a job by cost and benefit, from hints: the live counts.
func (c *Core) pick(now time.Duration, space bool, share int) *CleanJob {
	best, small := c.candidates(now, share)
	least := max(c.cfg.Limits.MergeBelow/cleanShare, 1)
	if space && len(best) > 0 {
		if x := &best[0]; int(x.entry.Live) >= c.cfg.Limits.MergeBelow || c.shared(x.segment) || len(small) < 2 {
			if x.dead() >= least {
				return &CleanJob{Rewrite: true, Victims: []*Victim{victimOf(x)}}
			}
		}
	}
	if _, ok := c.groups.forCleaning(now); !ok {
		return nil
	}
	job := &CleanJob{}
	live, dead := 0, 0
	for i := range small {
		x := &small[i]
		if live+int(x.entry.Live) > id.SlotsMax || len(job.Victims) == mergeMax {
			break
		}
		live += int(x.entry.Live)
		dead += x.dead()
		job.Victims = append(job.Victims, victimOf(x))
	}
	if len(job.Victims) >= mergeMin || len(job.Victims) >= 2 && space && dead >= least {
		return job
	}
	return nil
}

func victimOf(x *candidate) *Victim { return &Victim{Segment: x.segment, Where: whereOf(x.entry)} }

// candidates gives segments with enough dead in them, the best first, and those of
// which little lives, the emptiest first. Not those that clients still have index
// records of, nor those that are being deleted, nor pages: these die by themselves.
func (c *Core) candidates(now time.Duration, share int) (best, small []candidate) {
	newest := c.usage.newest
	mergeBelow := uint16(c.cfg.Limits.MergeBelow)
	c.table.Range(0, func(s id.Segment, e blockmap.Entry) bool {
		if e.Live == 0 || e.Flags&(blockmap.Pages|blockmap.Foreign) != 0 || c.long.known[s] != nil || c.deletes[s] || c.clean.shy[s] > now {
			return true
		}
		x := candidate{segment: s, entry: e}
		merge := e.Live < mergeBelow && !c.shared(s) // a block that moves leaves its old place to the snapshots
		if merge {
			x.score = uint64(id.SlotsMax - e.Live)
			small = keepBest(small, x, mergeMax)
		}
		if x.dead()*share >= int(e.Stored()) && (merge || c.groups.rewritable(now, s.PG())) {
			x.score = worth(uint64(max(newest, s.Sequence())-s.Sequence()), int(e.Stored()), int(e.Live))
			best = keepBest(best, x, 1)
		}
		return true
	})
	return best, small
}

// worth weighs what cleaning a segment gives back, and for how long, against what it
// costs. What is old is less likely to die by itself soon (Rosenblum and Ousterhout, 1992),
// but age itself is too much: where all is overwritten alike the oldest segments are
// chosen though little of them is dead, and that costs a quarter more. The fourth root of
// it costs hardly anything there, and gains as much where some blocks are hotter.
func worth(age uint64, stored, live int) uint64 {
	old := math.Sqrt(math.Sqrt(float64(age + 16)))
	return uint64(old * float64(stored-live) / float64(stored+live) * (1 << 20))
}

// shared tells whether a snapshot may have something in the segment.
func (c *Core) shared(s id.Segment) bool { return s.Sequence() <= c.snaps.newest }

// keepBest puts x into a list of at most n, the highest score first.
func keepBest(list []candidate, x candidate, n int) []candidate {
	if len(list) == n && x.score <= list[n-1].score {
		return list
	}
	at, _ := slices.BinarySearchFunc(list, x, func(a, b candidate) int { return cmp.Compare(b.score, a.score) })
	list = slices.Insert(list, at, x)
	return list[:min(len(list), n)]
}

// leaveAlone keeps a segment out of the next jobs.
func (c *Core) leaveAlone(now time.Duration, s id.Segment) {
	if c.clean.shy == nil || len(c.clean.shy) >= shyMax {
		c.clean.shy = make(map[id.Segment]time.Duration)
	}
	c.clean.shy[s] = now + shyFor
}

// endClean ends the job under way, whatever became of it.
func (c *Core) endClean(now time.Duration, pause time.Duration) {
	if c.clean.job == nil {
		return
	}
	c.clean.job = nil
	c.clean.next = now + pause
	c.usage.known = false
	c.leaveClean()
}

// deleteOlder deletes the generations that the checkpoint at that position has not any more.
func (c *Core) deleteOlder(position id.LSN, fx *Effects) {
	c.clean.older = slices.DeleteFunc(c.clean.older, func(o older) bool {
		if o.position > position {
			return false
		}
		if _, ok := c.entryOf(o.segment); ok && !c.deletes[o.segment] { // else the segment goes, with all of them
			fx.Deletes = append(fx.Deletes, Delete{Segment: o.segment, Where: o.where, Upto: o.upto, replaced: o.now})
		}
		return true
	})
}

// olderDeleted: the shards that o was about are gone everywhere.
func (c *Core) olderDeleted(d Delete) {
	if e, ok := c.entryOf(d.Segment); ok && e.Generation == d.replaced {
		e.Flags &^= blockmap.Older
		c.putEntry(d.Segment, e)
	}
	c.stats.GenerationsDeleted++
}

// findOlder lists the segments of a loaded table of which an older generation may still be there.
func (c *Core) findOlder(position id.LSN) {
	look := func(s id.Segment, e blockmap.Entry) bool {
		if e.Flags&blockmap.Older != 0 {
			c.clean.older = append(c.clean.older, older{
				segment: s, where: whereOf(e), upto: before(e.Generation), now: e.Generation, position: position,
			})
		}
		return true
	}
	c.table.Range(0, look)
	for s, e := range c.pageSegs {
		look(s, e)
	}
}

// before names all generations that are older than g. Those of one epoch begin at 1.
func before(g id.Generation) id.Generation { return id.Generation{Epoch: g.Epoch, N: g.N - 1} }
