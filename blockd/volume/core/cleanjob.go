package core

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// CleanJob is one piece of cleaning: the victims' headers are read, every slot is
// judged by the map, what lives is read, put as a segment or a generation, and
// committed. The shell fills in what the effect asked for and gives it back.
type CleanJob struct {
	Rewrite bool
	recode  bool // what it writes is coded otherwise than before
	whole   bool // all that there is is kept, nobody is asked
	pages   bool // the victim's pages are renewed (cleanpages.go)
	wanted  pageKey
	Victims []*Victim
	// Blocks is what lives, in the order in which it is put. The shell reads each into
	// its Data and notes the CRC-32C of that.
	Blocks []CleanBlock

	phase  cleanPhase
	victim int // judged so far
	slot   int
	buf    *buf.Buffer
	pack   *PackJob
}

// Victim is a segment to be cleaned. The shell fills in the header entries of all its
// slots, zero for those its generation has dropped, or Err.
type Victim struct {
	Segment id.Segment
	Where   Where
	Entries []uint64
	Err     error

	live int // slots found alive
}

// CleanBlock is one live slot of a victim.
type CleanBlock struct {
	Location id.Location
	Victim   *Victim
	Entry    uint64
	Sum      uint32
	Data     []byte
}

type cleanPhase uint8

const (
	cleanListing cleanPhase = iota // the shell reads headers
	cleanJudging
	cleanReading // the shell reads blocks
	cleanPacking
	cleanDurable // all shards are; the record waits for its turn
	cleanCommitted
)

// judgeStepMax bounds the slots judged in one step.
const judgeStepMax = 1024

// CleanListed: the shell has read the headers of the job's victims.
func (c *Core) CleanListed(now time.Duration, j *CleanJob, fx *Effects) {
	if c.clean.job != j {
		return
	}
	j.Victims = slices.DeleteFunc(j.Victims, func(v *Victim) bool {
		if v.Err != nil || len(v.Entries) != int(v.Where.Slots) {
			c.leaveAlone(now, v.Segment)
			return true
		}
		return false
	})
	j.phase = cleanJudging
	if j.whole {
		c.judgeWhole(j)
		j.victim = len(j.Victims)
	}
	c.cleanOn(now, fx)
	c.absorb(now, fx)
}

// cleanOn goes on with the job under way, if it waits for nobody else.
func (c *Core) cleanOn(now time.Duration, fx *Effects) {
	j := c.clean.job
	switch {
	case j == nil || c.state != stateServing && c.state != stateDraining:
	case j.phase == cleanJudging && j.pages:
		c.renewPages(now, j, fx)
	case j.phase == cleanJudging && now >= c.pageRetryAt:
		c.judge(now, j, fx)
	case j.phase == cleanDurable:
		c.cleanCommit(now, j, fx)
	}
}

// inHead tells whether the block at l of the head is what lies at loc.
func (c *Core) inHead(l block.LBA, loc id.Location) (bool, blockmap.Miss) {
	var at [1]id.Location
	_, miss := c.m.Lookup(l, at[:])
	return at[0] == loc, miss
}

// judge asks the map about every slot of the victims.
func (c *Core) judge(now time.Duration, j *CleanJob, fx *Effects) {
	for budget := judgeStepMax; j.victim < len(j.Victims); {
		v := j.Victims[j.victim]
		if j.slot == len(v.Entries) {
			j.victim, j.slot = j.victim+1, 0
			continue
		}
		e := segment.Entry(v.Entries[j.slot])
		if e.Kind() == segment.Data && e.LBA() < c.blocks {
			loc := id.MakeLocation(v.Segment, uint16(j.slot))
			ok, of, miss := c.owned(now, e.LBA(), loc)
			if !miss.None() {
				c.judgeMisses(now, v, j.slot, of, miss, fx)
				return
			}
			if ok {
				v.live++
				j.Blocks = append(j.Blocks, CleanBlock{Location: loc, Victim: v, Entry: uint64(e)})
			}
		}
		j.slot++
		if budget--; budget == 0 {
			fx.Again = true
			return
		}
	}
	c.judged(now, j, fx)
}

// judgeMisses asks for the page that stopped the judge, and those it will need next.
func (c *Core) judgeMisses(now time.Duration, v *Victim, slot int, of pageOwner, miss blockmap.Miss, fx *Effects) {
	c.wantPage(of, miss, fx)
	tree := c.m
	if s := c.standsAt(of.watermark); s != nil {
		tree = c.treeOf(now, s)
	}
	var ahead []block.Extent
	for _, e := range v.Entries[slot:] {
		if e := segment.Entry(e); e.Kind() == segment.Data && e.LBA() < tree.Blocks() {
			ahead = append(ahead, block.Extent{Start: e.LBA(), Count: 1})
		}
	}
	var more [prefetchMax]blockmap.Miss
	for _, x := range tree.Missing(ahead, more[:0]) {
		c.wantPage(of, x, fx)
	}
}

// judged: it is known what lives. A victim whose headers do not name all that the
// map has of it is not understood, and left alone.
func (c *Core) judged(now time.Duration, j *CleanJob, fx *Effects) {
	for _, v := range j.Victims {
		e, ok := c.entryOf(v.Segment)
		switch {
		case !ok || e.Generation != v.Where.Generation:
			c.endClean(now, 0)
			return
		case v.live < int(e.Live):
			c.leaveAlone(now, v.Segment)
			c.stats.CleanProblem = fmt.Sprintf("the headers of segment %s name %d live slots of %d", v.Segment, v.live, e.Live)
			c.endClean(now, cleanRetry)
			return
		case j.Rewrite && !j.recode && v.live == int(e.Stored()):
			c.leaveAlone(now, v.Segment)
		}
	}
	if n := len(j.Blocks); n == 0 || n > id.SlotsMax || c.state != stateServing {
		c.endClean(now, 0) // all died meanwhile
		return
	}
	if !j.Rewrite {
		slices.SortFunc(j.Blocks, func(a, b CleanBlock) int { return cmp.Compare(a.Entry, b.Entry) })
	}
	j.buf = buf.Get(len(j.Blocks) * block.Size)
	for i := range j.Blocks {
		j.Blocks[i].Data = j.buf.Bytes()[i*block.Size:][:block.Size]
	}
	j.phase = cleanReading
	fx.CleanRead = j
}

// CleanRead: the shell has read the blocks of the job, or failed.
func (c *Core) CleanRead(now time.Duration, j *CleanJob, err error, fx *Effects) {
	if c.clean.job != j || err != nil || c.state != stateServing || !c.cleanPack(now, j, fx) {
		j.buf.Release()
		j.buf = nil
		if c.clean.job == j {
			for _, v := range j.Victims {
				if err != nil && v.Err != nil {
					c.leaveAlone(now, v.Segment)
				}
			}
			c.endClean(now, cleanRetry)
		}
	}
	c.absorb(now, fx)
}

// cleanPack sends the job's blocks on their way; false: no id or group to be had.
func (c *Core) cleanPack(now time.Duration, j *CleanJob, fx *Effects) bool {
	p := &PackJob{Lane: LaneClean, clean: j, Blocks: make([]PackBlock, len(j.Blocks))}
	for i := range j.Blocks {
		b := &j.Blocks[i]
		p.Blocks[i] = PackBlock{Entry: b.Entry, Sum: b.Sum, Data: b.Data}
	}
	if !c.cleanPlace(now, j, p, fx) {
		return false
	}
	p.Room = c.roomOf(p)
	j.pack, j.phase = p, cleanPacking
	fx.Packs = append(fx.Packs, p)
	return true
}

// cleanPlace gives the job's segment its name and group: only one whose stores all
// live. A rewritten segment stays in its group, under the group's present version.
func (c *Core) cleanPlace(now time.Duration, j *CleanJob, p *PackJob, fx *Effects) bool {
	if !j.Rewrite {
		c.wantRange(now, rangeLow, fx)
		g, ok := c.groups.forCleaning(now)
		if !ok || c.ids.left() == 0 || c.marking() || slices.ContainsFunc(j.Victims, func(v *Victim) bool { return c.shared(v.Segment) }) {
			return false
		}
		seq, _ := c.ids.take()
		p.Segment, p.marks = id.MakeSegment(seq, g.pg), c.snaps.taken
		p.Entry = g.entry(id.Generation{Epoch: c.cfg.Epoch, N: 1}, len(p.Blocks))
		return true
	}
	v := j.Victims[0]
	g := c.groups.lively[v.Segment.PG()]
	e, there := c.entryOf(v.Segment)
	if !there || c.deletes[v.Segment] || !c.groups.rewritable(now, v.Segment.PG()) {
		return false
	}
	c.clean.number = max(c.clean.number, 1) + 1 // the first generation of any segment of this epoch is 1
	p.Segment = v.Segment
	p.Entry = g.entry(id.Generation{Epoch: c.cfg.Epoch, N: c.clean.number}, int(e.Slots))
	if len(p.Blocks) == int(e.Slots) {
		return j.recode // else there is nothing to drop
	}
	p.Entry.Kept = uint16(len(p.Blocks))
	p.Slots = make([]uint64, e.Slots)
	for i := range j.Blocks {
		p.Slots[j.Blocks[i].Location.Slot()] = j.Blocks[i].Entry
	}
	return true
}

// cleanPacked: every shard of the job is durable, or not.
func (c *Core) cleanPacked(now time.Duration, j *CleanJob, err error, fx *Effects) {
	if c.clean.job != j {
		panic("volume: a cleaning job that nobody knows of")
	}
	if err != nil {
		pause := cleanRetry
		if errs.CodeOf(err) == errs.NoSpace {
			pause = shyFor
		}
		c.endClean(now, pause)
		c.drained(now, fx)
		return
	}
	j.phase = cleanDurable
	c.cleanCommit(now, j, fx)
}

// cleanCommit writes the record that makes the job count.
func (c *Core) cleanCommit(now time.Duration, j *CleanJob, fx *Effects) {
	if !c.journal.Room(storeproto.Meta) {
		return
	}
	if j.pack.late(c) {
		c.abandon(j.pack, fx)
		c.endClean(now, 0)
		c.drained(now, fx)
		return
	}
	a := &commitState{clean: j}
	var rec []byte
	if j.Rewrite {
		if e, ok := c.entryOf(j.pack.Segment); !ok || c.deletes[j.pack.Segment] || e.Generation != j.Victims[0].Where.Generation {
			c.endClean(now, 0) // it went meanwhile, and its shards of all generations go with it
			c.drained(now, fx)
			return
		}
		w := record.Rewritten{Segment: j.pack.Segment, Entry: j.pack.Entry}
		a.rewritten, a.rec = &w, new(record.Commit)
		rec = record.AppendRewritten(nil, &w)
	} else {
		m := record.Moved{CommitSegment: record.CommitSegment{Segment: j.pack.Segment, Entry: j.pack.Entry}}
		for i := range j.Blocks {
			m.Slots = append(m.Slots, segment.Entry(j.Blocks[i].Entry))
			m.From = append(m.From, j.Blocks[i].Location)
		}
		a.take(&m)
		rec = record.AppendMoved(nil, &m)
	}
	j.phase = cleanCommitted
	a.position = c.appendMeta(now, rec, metaEntry{commit: a}, fx)
}

// take makes a commit of a move.
func (a *commitState) take(m *record.Moved) {
	a.rec = &record.Commit{Segments: []record.CommitSegment{m.CommitSegment}}
	a.from = m.From
}

// cleaned: the record of the job is applied.
func (c *Core) cleaned(now time.Duration, j *CleanJob, fx *Effects) {
	if c.clean.job != j {
		return
	}
	st := &c.stats
	st.BlocksCleaned += uint64(len(j.Blocks))
	stored := 0
	for _, v := range j.Victims {
		stored += int(v.Where.stored())
	}
	st.BlocksReclaimed += uint64(max(stored-len(j.Blocks), 0))
	if j.Rewrite {
		st.SegmentsRewritten++
	} else {
		st.SegmentsMerged += uint64(len(j.Victims))
	}
	c.stats.CleanProblem = ""
	_, _, rate := c.cleanPace()
	if j.recode {
		st.SegmentsRecoded++
		rate = c.recodeRate()
	}
	pause := time.Duration(len(j.Blocks)) * block.Size * time.Second / time.Duration(max(rate, 1))
	if pause < cleanPauseMin { // no tick is as short
		pause, fx.Again = 0, true
	}
	c.endClean(now, pause)
}

// applyMoved changes the map where a block is still where it was moved from.
func (c *Core) applyMoved(a *commitState, s *record.CommitSegment, budget *int) blockmap.Miss {
	for a.at < len(s.Slots) {
		if *budget <= 0 {
			return blockmap.Miss{}
		}
		l := s.Slots[a.at].LBA()
		ok, miss := c.inHead(l, a.from[a.at])
		if !miss.None() {
			return miss
		}
		*budget--
		if !ok {
			a.at++ // a newer write has it, or a trim
			continue
		}
		loc := [1]id.Location{id.MakeLocation(s.Segment, uint16(a.at))}
		if miss := c.insert(s.Segment, l, loc[:], &a.at, budget); !miss.None() {
			return miss
		}
	}
	a.part, a.at = a.part+1, 0
	return blockmap.Miss{}
}

// applyRewritten gives a segment its new generation. It may be gone: it died after it was judged.
func (c *Core) applyRewritten(a *commitState) {
	w := a.rewritten
	was, ok := c.entryOf(w.Segment)
	if !ok || !was.Generation.Less(w.Entry.Generation) {
		return
	}
	e := w.Entry
	e.Live, e.Flags = was.Live, was.Flags|blockmap.Older
	if e.Live > e.Stored() || e.Slots != was.Slots {
		panic(fmt.Sprintf("volume %s: segment %s with %d live slots was rewritten with %d", c.cfg.Volume, w.Segment, e.Live, e.Stored()))
	}
	c.putEntry(w.Segment, e)
	c.check.deadBytes += int64(was.Stored()) * block.Size // all of the older one
	c.clean.older = append(c.clean.older, older{
		segment: w.Segment, where: whereOf(was), upto: before(e.Generation), now: e.Generation, position: a.position,
	})
}
