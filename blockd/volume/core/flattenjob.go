package core

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// FlattenJob is a segment of blocks that are copied from ancestors. The shell reads each block into its
// Data and notes the CRC-32C of that, or why it cannot be read, and gives the job back.
type FlattenJob struct {
	Blocks []FlattenBlock // in order

	from, end block.LBA
	most      int
	phase     flattenPhase
	buf       *buf.Buffer
	pack      *PackJob
}

func (j *FlattenJob) full() bool { return j != nil && len(j.Blocks) >= j.most }

// FlattenBlock is one block that is copied.
type FlattenBlock struct {
	LBA      block.LBA
	Location id.Location // in a segment of an ancestor
	Sum      uint32
	Data     []byte
	Err      error
}

type flattenPhase uint8

const (
	flattenReading flattenPhase = iota // the shell reads blocks
	flattenPacking
	flattenDurable // all shards are; the record waits for its turn
	flattenCommitted
)

// mayCopy tells whether another segment may be filled now.
func (c *Core) mayCopy(now time.Duration) bool {
	f := &c.flatten
	switch {
	case f.gather != nil:
		return true // begun
	case now < f.next || len(f.jobs) >= hydratesInFlight || c.marking():
		return false
	case c.groups.fill >= hydrateFill:
		f.problem = fmt.Sprintf("a store is %d %% full, nothing is copied from %d %% on", c.groups.fill, hydrateFill)
		f.next = now + cleanRetry
		return false
	}
	return true
}

// take adds a block of an ancestor to the job that is being filled. What is on its way already is passed by.
func (f *flattenState) take(l block.LBA, loc id.Location) {
	for _, j := range f.jobs {
		if j.from <= l && l < j.end {
			return
		}
	}
	if f.gather == nil {
		f.gather = &FlattenJob{from: l, most: int(min(max(f.rate/block.Size, flattenJobMin), id.SlotsMax))}
	}
	f.gather.Blocks = append(f.gather.Blocks, FlattenBlock{LBA: l, Location: loc})
	f.gather.end = l + 1
}

// flattenRead has the shell read the blocks that were gathered.
func (c *Core) flattenRead(now time.Duration, fx *Effects) {
	f := &c.flatten
	if !c.cfg.Memory.takeHydrate() {
		return // a tick comes back here
	}
	j := f.gather
	f.gather = nil
	j.buf = buf.Get(len(j.Blocks) * block.Size)
	for i := range j.Blocks {
		j.Blocks[i].Data = j.buf.Bytes()[i*block.Size:][:block.Size]
	}
	f.next = now + time.Duration(len(j.Blocks))*block.Size*time.Second/time.Duration(max(f.rate, 1))
	f.jobs = append(f.jobs, j)
	fx.FlattenRead = append(fx.FlattenRead, j)
}

// copying tells whether a job is still wanted.
func (c *Core) copying(j *FlattenJob, p flattenPhase) bool {
	return j.phase == p && slices.Contains(c.flatten.jobs, j)
}

// endFlatten ends a job. One that failed is gone over again by the pass.
func (c *Core) endFlatten(now time.Duration, j *FlattenJob, err error) {
	f := &c.flatten
	n := len(f.jobs)
	f.jobs = slices.DeleteFunc(f.jobs, func(x *FlattenJob) bool { return x == j })
	if len(f.jobs) == n {
		return
	}
	c.cfg.Memory.leaveHydrate()
	if err == nil {
		return
	}
	if f.pass == flattenCopying {
		if g := f.gather; g != nil {
			f.at, f.gather = min(f.at, g.from), nil
		}
		f.at = min(f.at, j.from)
	}
	if !errors.Is(err, errMarked) {
		f.problem = fmt.Sprintf("nothing is copied now: %v", err)
		f.next = max(f.next, now+hydrateRetry)
	}
}

// FlattenRead: the shell has read the blocks of the job, or those of them that can be read.
func (c *Core) FlattenRead(now time.Duration, j *FlattenJob, fx *Effects) {
	f := &c.flatten
	wanted := c.copying(j, flattenReading)
	var again error // a reason to look at these blocks again soon
	for i := range j.Blocks {
		switch b := &j.Blocks[i]; {
		case b.Err == nil || !wanted:
		case passing(b.Err):
			again = b.Err
		default:
			f.lost++
			f.problem = fmt.Sprintf("block %d, an ancestor's, cannot be read and is not copied: %v", b.LBA, b.Err)
		}
	}
	j.Blocks = slices.DeleteFunc(j.Blocks, func(b FlattenBlock) bool { return b.Err != nil })
	if again == nil && len(j.Blocks) > 0 && !(c.flattening() && wanted && c.flattenPack(now, j, fx)) {
		again = errNoSegment
	}
	if j.phase == flattenReading {
		j.buf.Release()
		j.buf = nil
		c.endFlatten(now, j, again)
	}
	c.absorb(now, fx)
}

// flattenPack sends the blocks on their way; false: no id or group to be had. It draws on no reserve.
func (c *Core) flattenPack(now time.Duration, j *FlattenJob, fx *Effects) bool {
	c.wantRange(now, rangeLow, fx)
	g, ok := c.groups.pick(now, c.groups.groups, false)
	if !ok || c.ids.left() == 0 || c.marking() {
		return false
	}
	seq, _ := c.ids.take()
	p := &PackJob{Lane: LaneFlatten, flatten: j, Segment: id.MakeSegment(seq, g.pg), Blocks: make([]PackBlock, len(j.Blocks)), marks: c.snaps.taken}
	p.Entry = g.entry(id.Generation{Epoch: c.cfg.Epoch, N: 1}, len(p.Blocks))
	for i := range j.Blocks {
		b := &j.Blocks[i]
		p.Blocks[i] = PackBlock{Entry: uint64(segment.MakeData(b.LBA)), Sum: b.Sum, Data: b.Data}
	}
	j.pack, j.phase = p, flattenPacking
	fx.Packs = append(fx.Packs, p)
	return true
}

// flattenPacked: every shard of the job is durable, or not.
func (c *Core) flattenPacked(now time.Duration, j *FlattenJob, err error, fx *Effects) {
	if !c.copying(j, flattenPacking) {
		panic("volume: a segment of copied blocks that nobody asked for")
	}
	if err != nil {
		c.endFlatten(now, j, err)
		c.drained(now, fx)
		return
	}
	j.phase = flattenDurable
	c.flattenCommit(now, j, fx)
}

// flattenOn goes on with the jobs that wait for nobody else.
func (c *Core) flattenOn(now time.Duration, fx *Effects) {
	if c.state != stateServing && c.state != stateDraining {
		return
	}
	for _, j := range slices.Clone(c.flatten.jobs) {
		if j.phase == flattenDurable {
			c.flattenCommit(now, j, fx)
		}
	}
}

// flattenCommit writes the record that makes the copies count where nobody wrote since.
func (c *Core) flattenCommit(now time.Duration, j *FlattenJob, fx *Effects) {
	if !c.journal.Room(storeproto.Meta) {
		return
	}
	if j.pack.late(c) || c.groups.changed(j.pack) {
		c.abandon(j.pack, fx)
		c.endFlatten(now, j, errMarked)
		c.drained(now, fx)
		return
	}
	m := record.Moved{CommitSegment: record.CommitSegment{Segment: j.pack.Segment, Entry: j.pack.Entry}}
	for i := range j.Blocks {
		m.Slots = append(m.Slots, segment.MakeData(j.Blocks[i].LBA))
		m.From = append(m.From, j.Blocks[i].Location)
	}
	a := &commitState{flatten: j}
	a.take(&m)
	j.phase = flattenCommitted
	a.position = c.appendMeta(now, record.AppendMoved(nil, &m), metaEntry{commit: a}, fx)
}

// flattenApplied: the record of a job is applied.
func (c *Core) flattenApplied(now time.Duration, j *FlattenJob, fx *Effects) {
	if c.copying(j, flattenCommitted) {
		f := &c.flatten
		if f.copied += uint64(len(j.Blocks)); f.lost == 0 && !f.holes {
			f.problem = ""
		}
		c.usage.known = false
		c.endFlatten(now, j, nil)
		fx.Again = true
	}
}

// dropFlattens ends the jobs of which nothing is in stores yet, or all.
func (c *Core) dropFlattens(all bool) {
	c.flatten.gather = nil
	for _, j := range slices.Clone(c.flatten.jobs) {
		if all || j.phase < flattenPacking {
			c.endFlatten(0, j, nil)
		}
	}
}
