package core

import (
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

// Hydration brings the segments of a volume that lie in an archive into stores, one after
// the other: the shell says what the slots of one hold, every slot with data is judged by
// the map, what lives is read and put as the segment's first generation, and a record
// makes it count. Id and slots do not change, so no map does. What lives of it is counted
// when that record is applied, by the maps as they are then: before, nothing of it was
// counted, and what was dropped meanwhile is in no map. Nothing else is counted in between: a
// record that is applied in part allows no checkpoint, and no deletion of a snapshot to end.
//
// A crash before the record is durable leaves the segment in the archive, and in the
// stores a generation that the next one, or the search for leftovers, takes away.

// HydrateJob is one segment on its way. The shell fills in what the effect asked for and gives it back.
type HydrateJob struct {
	Segment id.Segment
	Index   uint32 // in the manifest
	// Slots are the header entries of all slots of the segment, zero for those that the archive has nothing of.
	Slots []uint64
	// Blocks is what is to be written, in the order of slots. The shell reads each into its Data,
	// pages translated, and notes the CRC-32C of that.
	Blocks []HydrateBlock // those that are Stale are left out

	phase hydratePhase
	slot  int // judged so far
	waits pageKey
	buf   *buf.Buffer
	pack  *PackJob
}

// HydrateBlock is one slot to be written.
type HydrateBlock struct {
	Slot  uint16
	Entry uint64
	Sum   uint32
	Data  []byte
	Stale bool // a page that the archive has, though what is archived does not hold it any more: it cannot be read
}

type hydratePhase uint8

const (
	hydrateListing hydratePhase = iota // the shell says what the slots hold
	hydrateJudging
	hydrateReading // the shell reads blocks
	hydratePacking
	hydrateDurable // all shards are; the record waits for its turn
	hydrateCommitted
)

const (
	// hydratesInFlight of a volume: one is read while another is written.
	hydratesInFlight = 2
	// hydratesMax of all volumes of a process: each may hold a segment in memory.
	hydratesMax = 4
	// hydrateLooks bounds the segments looked at for the next job.
	hydrateLooks = 256
	// hydrateFill is how full, in percent, stores may be for anything to be brought in.
	hydrateFill = 85
	// hydrateShyFor is how long a segment that is damaged, or stores that are full, are left alone, and
	// hydrateRetry how long one that could not be brought in for a reason that may pass.
	hydrateShyFor = 30 * time.Second
	hydrateRetry  = 2 * time.Second
)

// slotEntry is what a slot holds: a block of the volume or a page of the map.
type slotEntry struct {
	page bool
	lba  block.LBA
	name blockmap.Page
}

func slotOf(e segment.Entry) slotEntry {
	if e.Kind() == segment.MapPage {
		return slotEntry{page: true, name: blockmap.Page{Level: e.Level(), Index: e.Index()}}
	}
	return slotEntry{lba: e.LBA()}
}

// SetHydrateRate says how many bytes a second are brought in at most; 0: the default. A higher rate than before
// counts at once: the pause after a segment was that of the lower one.
func (c *Core) SetHydrateRate(rate int64) {
	if rate <= 0 {
		rate = hydrateRate
	}
	if rate > c.cfg.Limits.HydrateRate {
		c.archive.next = 0
	}
	c.cfg.Limits.HydrateRate = rate
}

// startHydrate goes on with the jobs under way, and begins another if it is time.
func (c *Core) startHydrate(now time.Duration, fx *Effects) {
	c.hydrateOn(now, fx)
	f := &c.archive
	if f.Archive == nil || c.state != stateServing || c.snaps.roll != nil || now < f.next || len(f.jobs) >= hydratesInFlight {
		return
	}
	if c.groups.fill >= hydrateFill {
		f.problem = fmt.Sprintf("a store is %d %% full, nothing is brought in from %d %% on", c.groups.fill, hydrateFill)
		f.next = now + hydrateShyFor
		return
	}
	i, ok := c.pickHydrate(now)
	if !ok || !c.cfg.Memory.takeHydrate() {
		f.next = now + cleanRetry
		return
	}
	j := &HydrateJob{Segment: f.Segment(i), Index: i}
	f.jobs = append(f.jobs, j)
	f.from = i + 1
	fx.HydrateList = append(fx.HydrateList, j)
}

// pickHydrate finds the next segment to bring in. When so much lies apart that a checkpoint
// can hardly list it, only the first of a run will do, and one at a time.
func (c *Core) pickHydrate(now time.Duration) (uint32, bool) {
	f := &c.archive
	apart := len(f.Left) > record.ArchiveRunsMax-2*hydratesInFlight
	if apart && len(f.jobs) > 0 {
		return 0, false
	}
	looks := hydrateLooks
	for pass := range 2 {
		from := f.from
		if pass == 1 {
			from = 0
		}
		for _, r := range f.Left {
			for i := max(r.From, from); i < r.From+r.Count && looks > 0; i++ {
				looks--
				if f.shy[i] <= now && c.groups.rewritable(now, f.Segment(i).PG()) && !f.underWay(i) {
					return i, true
				}
				if apart {
					break
				}
			}
		}
	}
	return 0, false
}

func (f *foreignState) underWay(i uint32) bool {
	return slices.ContainsFunc(f.jobs, func(j *HydrateJob) bool { return j.Index == i })
}

// endHydrate ends a job, whatever became of it; with a problem, the segment is left alone for a while.
func (c *Core) endHydrate(now time.Duration, j *HydrateJob, err error) {
	f := &c.archive
	n := len(f.jobs)
	f.jobs = slices.DeleteFunc(f.jobs, func(x *HydrateJob) bool { return x == j })
	if len(f.jobs) == n {
		return
	}
	c.cfg.Memory.leaveHydrate()
	if err == nil {
		return
	}
	f.problem = fmt.Sprintf("segment %d of %d is not brought in: %v", j.Index+1, f.Segments, err)
	if f.shy == nil || len(f.shy) >= shyMax {
		f.shy = make(map[uint32]time.Duration)
	}
	pause := hydrateShyFor
	if passing(err) {
		pause = hydrateRetry
	}
	f.shy[j.Index] = now + pause
}

// hydrating tells whether a job is still wanted.
func (c *Core) hydrating(j *HydrateJob, p hydratePhase) bool {
	return j.phase == p && slices.Contains(c.archive.jobs, j)
}

// HydrateListed: the shell has said what the slots of a segment hold, or failed.
func (c *Core) HydrateListed(now time.Duration, j *HydrateJob, err error, fx *Effects) {
	if !c.hydrating(j, hydrateListing) {
		return
	}
	if err == nil && (len(j.Slots) == 0 || len(j.Slots) > id.SlotsMax) {
		err = fmt.Errorf("segment of %d slots: %w", len(j.Slots), errs.ErrCorrupt)
	}
	if err != nil {
		c.endHydrate(now, j, err)
		return
	}
	j.phase = hydrateJudging
	c.startHydrate(now, fx)
	c.absorb(now, fx)
}

// hydrateOn goes on with the jobs that wait for nobody else.
func (c *Core) hydrateOn(now time.Duration, fx *Effects) {
	if c.state != stateServing && c.state != stateDraining {
		return
	}
	for _, j := range slices.Clone(c.archive.jobs) {
		switch {
		case j.phase == hydrateJudging && c.state == stateServing && now >= c.pageRetryAt && !c.writingOff():
			c.hydrateJudge(now, j, fx)
		case j.phase == hydrateDurable:
			c.hydrateCommit(now, j, fx)
		}
	}
}

// hydrateJudge leaves out data that nothing has any more: what is dead stays dead. Pages
// are taken as they come.
func (c *Core) hydrateJudge(now time.Duration, j *HydrateJob, fx *Effects) {
	for budget := judgeStepMax; j.slot < len(j.Slots); j.slot++ {
		if budget--; budget < 0 {
			fx.Again = true
			return
		}
		e := segment.Entry(j.Slots[j.slot])
		if e.Kind() == segment.Empty {
			continue
		}
		if e.Kind() == segment.Data {
			ok, of, miss := c.held(now, slotOf(e), id.MakeLocation(j.Segment, uint16(j.slot)))
			if !miss.None() {
				j.waits = pageKey{of, miss}
				wantAhead(c, of, miss, j.Slots[j.slot:], fx)
				return
			}
			if !ok {
				continue
			}
		} else if e.Kind() != segment.MapPage {
			c.endHydrate(now, j, fmt.Errorf("slot %d holds a %s: %w", j.slot, e.Kind(), errs.ErrCorrupt))
			return
		}
		j.Blocks = append(j.Blocks, HydrateBlock{Slot: uint16(j.slot), Entry: uint64(e)})
	}
	j.waits = pageKey{}
	c.hydrateRead(now, j, fx)
}

// wantAhead asks for a page that slots are judged by, and for those needed next.
func wantAhead[E ~uint64](c *Core, of pageOwner, miss blockmap.Miss, slots []E, fx *Effects) {
	c.wantPage(of, miss, fx)
	tree := c.m
	if of.watermark != 0 {
		if s := c.standsAt(of.watermark); s != nil && s.tree != nil {
			tree = s.tree
		}
	}
	var ahead []block.Extent
	for _, e := range slots {
		if e := segment.Entry(e); e.Kind() == segment.Data && e.LBA() < tree.Blocks() {
			ahead = append(ahead, block.Extent{Start: e.LBA(), Count: 1})
		}
	}
	var more [prefetchMax]blockmap.Miss
	for _, x := range tree.Missing(ahead, more[:0]) {
		c.wantPage(of, x, fx)
	}
}

// hydratePageFailed: a page by which slots are judged cannot be read.
func (c *Core) hydratePageFailed(now time.Duration, k pageKey, err error) {
	for _, j := range slices.Clone(c.archive.jobs) {
		if j.phase == hydrateJudging && j.waits == k {
			c.endHydrate(now, j, err)
		}
	}
}

// hydrateRead has the shell read what lives; a segment of which nothing does is only noted.
func (c *Core) hydrateRead(now time.Duration, j *HydrateJob, fx *Effects) {
	if len(j.Blocks) == 0 {
		j.phase = hydrateDurable
		c.hydrateCommit(now, j, fx)
		return
	}
	j.buf = buf.Get(len(j.Blocks) * block.Size)
	for i := range j.Blocks {
		j.Blocks[i].Data = j.buf.Bytes()[i*block.Size:][:block.Size]
	}
	rate := max(c.cfg.Limits.HydrateRate, 1)
	c.archive.next = now + time.Duration(len(j.Blocks))*block.Size*time.Second/time.Duration(rate)
	j.phase = hydrateReading
	fx.HydrateRead = append(fx.HydrateRead, j)
}

// HydrateRead: the shell has read the blocks of the job, or failed.
func (c *Core) HydrateRead(now time.Duration, j *HydrateJob, err error, fx *Effects) {
	wanted := c.hydrating(j, hydrateReading)
	if wanted && err == nil {
		err = c.hydrateFilled(now, j, fx)
	}
	if j.phase == hydrateReading || err != nil {
		j.buf.Release()
		j.buf = nil
	}
	if wanted && err != nil {
		c.endHydrate(now, j, err)
	}
	c.absorb(now, fx)
}

// hydrateFilled sends the blocks that were read on their way.
func (c *Core) hydrateFilled(now time.Duration, j *HydrateJob, fx *Effects) error {
	if c.state != stateServing {
		return errNoSegment
	}
	if err := c.dropStale(now, j, fx); err != nil {
		return err
	}
	if len(j.Blocks) == 0 {
		j.buf.Release()
		j.buf = nil
		j.phase = hydrateDurable
		c.hydrateCommit(now, j, fx)
		return nil
	}
	if !c.hydratePack(now, j, fx) {
		return errNoSegment
	}
	return nil
}

// errStaleUnknown: whether a page is needed cannot be told now.
var errStaleUnknown = fmt.Errorf("a page that the archive cannot give is looked for in the map first: %w", errs.ErrUnavailable)

// dropStale leaves out pages that the archive cannot give, when the map says that nothing has them.
func (c *Core) dropStale(now time.Duration, j *HydrateJob, fx *Effects) error {
	for i := range j.Blocks {
		b := &j.Blocks[i]
		if !b.Stale {
			continue
		}
		if c.check.running != nil || c.writingOff() {
			return errStaleUnknown
		}
		lives, of, miss := c.held(now, slotOf(segment.Entry(b.Entry)), id.MakeLocation(j.Segment, b.Slot))
		switch {
		case !miss.None():
			c.wantPage(of, miss, fx)
			return errStaleUnknown
		case lives:
			return fmt.Errorf("slot %d, %s, leads to segments that are not in the archive: %w", b.Slot, segment.Entry(b.Entry), errs.ErrCorrupt)
		}
	}
	j.Blocks = slices.DeleteFunc(j.Blocks, func(b HydrateBlock) bool { return b.Stale })
	return nil
}

// hydratePack sends the blocks on their way, into the group that was allotted, under its present version.
func (c *Core) hydratePack(now time.Duration, j *HydrateJob, fx *Effects) bool {
	if !c.groups.rewritable(now, j.Segment.PG()) {
		return false
	}
	g := c.groups.lively[j.Segment.PG()]
	c.clean.number = max(c.clean.number, 1) + 1 // what an attempt before left is never overwritten
	p := &PackJob{Lane: LaneHydrate, Segment: j.Segment, hydrate: j, Blocks: make([]PackBlock, len(j.Blocks)), marks: c.snaps.taken}
	p.Entry = g.entry(id.Generation{Epoch: c.cfg.Epoch, N: c.clean.number}, len(j.Slots))
	for i := range j.Blocks {
		b := &j.Blocks[i]
		p.Blocks[i] = PackBlock{Entry: b.Entry, Sum: b.Sum, Data: b.Data}
	}
	if len(j.Blocks) < len(j.Slots) {
		p.Entry.Kept = uint16(len(j.Blocks))
		p.Slots = make([]uint64, len(j.Slots))
		for i := range j.Blocks {
			p.Slots[j.Blocks[i].Slot] = j.Blocks[i].Entry
		}
	}
	p.Room = c.roomOf(p)
	j.pack, j.phase = p, hydratePacking
	fx.Packs = append(fx.Packs, p)
	return true
}

// hydratePacked: every shard of the job is durable, or not.
func (c *Core) hydratePacked(now time.Duration, j *HydrateJob, err error, fx *Effects) {
	if !c.hydrating(j, hydratePacking) {
		panic("volume: a segment from the archive that nobody asked for")
	}
	if err != nil {
		c.endHydrate(now, j, err)
		c.drained(now, fx)
		return
	}
	j.phase = hydrateDurable
	c.hydrateCommit(now, j, fx)
}

// hydrateCommit writes the record that makes the segment count.
func (c *Core) hydrateCommit(now time.Duration, j *HydrateJob, fx *Effects) {
	if !c.journal.Room(storeproto.Meta) {
		return
	}
	h := &record.Hydrated{}
	h.Segment = j.Segment
	if j.pack != nil {
		if c.groups.changed(j.pack) {
			c.abandon(j.pack, fx)
			c.endHydrate(now, j, errNoSegment)
			c.drained(now, fx)
			return
		}
		h.Entry = j.pack.Entry
		h.Slots = make([]segment.Entry, len(j.Slots))
		for i := range j.Blocks {
			h.Slots[j.Blocks[i].Slot] = segment.Entry(j.Blocks[i].Entry)
		}
	}
	j.phase = hydrateCommitted
	a := &commitState{hydrated: h, hydrate: j, rec: new(record.Commit)}
	a.position = c.appendMeta(now, record.AppendHydrated(nil, h), metaEntry{commit: a}, fx)
}

// applyHydrated counts what lives of the segment, and makes it one of ours.
func (c *Core) applyHydrated(now time.Duration, a *commitState, budget *int) (done bool, miss blockmap.Miss) {
	h := a.hydrated
	for ; a.at < len(h.Slots); a.at++ {
		if *budget <= 0 {
			return false, blockmap.Miss{}
		}
		e := h.Slots[a.at]
		if e.Kind() == segment.Empty {
			continue
		}
		ok, of, miss := c.held(now, slotOf(e), id.MakeLocation(h.Segment, uint16(a.at)))
		if !miss.None() {
			a.of = of
			return false, miss
		}
		*budget--
		a.pages = a.pages || e.Kind() == segment.MapPage
		if ok {
			a.live++
		}
	}
	i, ok := c.archive.Index(h.Segment)
	if !ok || !takeAway(c.archive.Archive, i) {
		panic(fmt.Sprintf("volume %s: segment %s came from an archive that does not have it", c.cfg.Volume, h.Segment))
	}
	if h.Entry.Slots > 0 {
		c.takeIn(a)
	}
	c.archive.segments++
	c.usage.known = false
	if len(c.archive.Left) == 0 {
		c.archive.Archive, c.archive.shy, c.check.force = nil, nil, true
	}
	return true, blockmap.Miss{}
}

// takeIn puts the segment into the table.
func (c *Core) takeIn(a *commitState) {
	h := a.hydrated
	e := h.Entry
	e.Live = uint16(a.live)
	e.Flags = blockmap.Older // an attempt that failed may have left something
	if a.pages {
		e.Flags |= blockmap.Pages
	}
	c.table.Put(h.Segment, e)
	stored := int64(e.Stored())
	c.check.bytes += stored * block.Size
	if a.live == 0 {
		c.check.deadBytes += stored * block.Size
	}
	c.archive.blocks += uint64(stored)
	c.clean.older = append(c.clean.older, older{segment: h.Segment, upto: before(e.Generation), now: e.Generation, position: a.position})
}

// hydrated: the record of a job is applied.
func (c *Core) hydrated(now time.Duration, j *HydrateJob, fx *Effects) {
	if c.hydrating(j, hydrateCommitted) {
		c.endHydrate(now, j, nil)
		if len(c.archive.jobs) == 0 && len(c.archive.shy) == 0 {
			c.archive.problem = ""
		}
	}
	fx.Again = fx.Again || c.archive.Archive != nil
}

// dropHydrates ends the jobs of which nothing is in stores yet, or all.
func (c *Core) dropHydrates(all bool) {
	for _, j := range slices.Clone(c.archive.jobs) {
		if all || j.phase < hydratePacking {
			c.endHydrate(0, j, nil)
		}
	}
}
