package core

import (
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// sealIfFull ends the active memtable when it is worth a segment.
func (c *Core) sealIfFull(now time.Duration, fx *Effects) {
	l := &c.cfg.Limits
	if len(c.active.blocks) >= l.SealBlocks || c.active.journalled >= l.SealBytes || len(c.active.zeros.runs) >= sealRuns {
		c.seal(now, fx)
	}
}

// sealRuns bounds the zero runs of a memtable, and with them the size of a commit.
const sealRuns = 16384

// seal ends the active memtable; its segments are made as soon as ids and groups allow.
func (c *Core) seal(now time.Duration, fx *Effects) {
	if c.active.empty() {
		return
	}
	m := c.active
	c.sealed = append(c.sealed, m)
	c.active = newMemtable(m.last+1, c.spareMap())
	c.startPacks(now, fx)
}

// spareMaps bounds the maps kept for the next memtables.
const spareMaps = 2

func (c *Core) spareMap() map[block.LBA]entry {
	n := len(c.spare)
	if n == 0 {
		return nil
	}
	m := c.spare[n-1]
	c.spare = c.spare[:n-1]
	return m
}

// press seals early when writers wait for memory and nothing is on its way to free some.
func (c *Core) press(now time.Duration, fx *Effects) {
	if len(c.sealed) == 0 && len(c.inflight) == 0 && c.open == nil {
		c.seal(now, fx)
	}
}

// startPacks makes jobs of sealed memtables, cuts a checkpoint that is due, and
// retries what failed, as far as limits, ids and groups allow.
func (c *Core) startPacks(now time.Duration, fx *Effects) {
	if c.state != stateServing && c.state != stateDraining {
		return
	}
	c.wantRange(now, rangeLow, fx)
	c.startLongs(now, fx)
	c.maybeCheckpoint(now, fx)
	for len(c.retry) > 0 && now >= c.retryAt {
		j := c.retry[0]
		c.retry = slices.Delete(c.retry, 0, 1)
		if !c.retryPack(now, j, fx) {
			c.retry = slices.Insert(c.retry, 0, j)
			return
		}
	}
	for _, m := range c.sealed {
		if c.snaps.passing != nil || !m.packing && c.packs >= c.cfg.Limits.PacksInFlight {
			return
		}
		if !m.packing {
			c.packMemtable(now, m, fx)
		}
		if m.mark != nil {
			return // no id for what is after a mark until that is passed
		}
	}
}

// errNoSegment: no id or group was to be had, or the group changed meanwhile.
var errNoSegment = fmt.Errorf("no placement group for a segment: %w", errs.ErrUnavailable)

// packMemtable makes the segments of one sealed memtable. Slots are sorted by LBA.
func (c *Core) packMemtable(now time.Duration, m *memtable, fx *Effects) {
	m.packing = true
	data, placed := m.sorted()
	m.commit = &commitState{table: m, placed: placed}
	for len(data) > 0 {
		n := min(len(data), id.SlotsMax)
		j := &PackJob{Lane: LanePack, table: m, Blocks: make([]PackBlock, n)}
		for i, l := range data[:n] {
			e := m.blocks[l]
			j.Blocks[i] = PackBlock{
				Entry: uint64(segment.MakeData(l)), Sum: e.sum,
				Data: e.buf.Bytes()[e.off : e.off+block.Size],
			}
		}
		data = data[n:]
		m.jobs = append(m.jobs, j)
	}
	m.unready = len(m.jobs)
	if m.unready == 0 {
		c.commitReady(now, fx)
		return
	}
	for _, j := range m.jobs {
		c.packs++
		if len(c.retry) > 0 || !c.issue(now, j, fx) {
			c.retry = append(c.retry, j)
		}
	}
}

// issue prepares a job and sends it on its way; false: no id or group to be had now.
func (c *Core) issue(now time.Duration, j *PackJob, fx *Effects) bool {
	if !c.prepare(now, j, fx) {
		return false
	}
	fx.Packs = append(fx.Packs, j)
	return true
}

// prepare gives a job its id and group.
func (c *Core) prepare(now time.Duration, j *PackJob, fx *Effects) bool {
	c.wantRange(now, rangeLow, fx)
	if c.ids.left() == 0 {
		return false
	}
	g, ok := c.choose(now, fx)
	if !ok {
		return false
	}
	seq, _ := c.ids.take()
	j.Segment, j.marks = id.MakeSegment(seq, g.pg), c.snaps.taken
	j.Entry = g.entry(id.Generation{Epoch: c.cfg.Epoch, N: 1}, len(j.Blocks))
	j.Room = c.roomOf(j)
	if j.table != nil {
		j.table.holds++
	}
	return true
}

// dataLBA is the place of a block that a memtable had.
func dataLBA(b PackBlock) block.LBA { return segment.Entry(b.Entry).LBA() }

// PackFreed: no store reads the blocks any more of a job whose PackDone said Held, or
// is about to say it.
func (c *Core) PackFreed(j *PackJob) {
	if m := j.table; m != nil {
		m.holds--
		m.letGo()
	}
	if j.long != nil {
		for _, b := range j.long.bufs {
			b.Release()
		}
		j.long.bufs = nil
	}
	if j.clean != nil {
		j.clean.buf.Release()
		j.clean.buf = nil
	}
	if j.hydrate != nil {
		j.hydrate.buf.Release()
		j.hydrate.buf = nil
	}
	if j.flatten != nil {
		j.flatten.buf.Release()
		j.flatten.buf = nil
	}
}

// PackDone: every shard of j is durable, or the job failed: then the segment's
// name is given up for good, what of it was put is deleted by name, and its
// blocks go into another segment of another group.
func (c *Core) PackDone(now time.Duration, j *PackJob, r PackResult, fx *Effects) {
	if !r.Held {
		defer c.PackFreed(j)
	}
	if c.state == stateFenced || c.state == stateDrained {
		return
	}
	err := r.Err
	if err == nil && j.late(c) {
		err = errMarked
	}
	if err == nil && c.groups.changed(j) {
		err = fmt.Errorf("placement group %d has a newer version: %w", j.Segment.PG(), errs.ErrUnavailable)
	}
	if err != nil {
		c.stats.PackRetries++
		c.groups.suspect(now, r.Suspects)
		c.noRoom(now, j, r, fx)
		c.abandon(j, fx)
		c.packFailed(now, j, err, fx)
	} else {
		if j.Room == storeproto.RoomFresh {
			c.groups.took(now, j.Segment.PG())
		}
		c.packed(now, j, fx)
	}
	c.startPacks(now, fx)
	c.absorb(now, fx)
}

// abandon gives up a segment that no record names: it is deleted on all its stores. What
// there is of a generation that failed goes with the next one, or with the segment.
func (c *Core) abandon(j *PackJob, fx *Effects) {
	if j.clean != nil && j.clean.Rewrite {
		return // to delete its name were to delete the generation that it should have replaced
	}
	fx.Deletes = append(fx.Deletes, Delete{Segment: j.Segment, Where: whereOf(j.Entry), Upto: j.Entry.Generation, abandoned: true})
}

// packed: every shard of j is durable, in the group that it was made for.
func (c *Core) packed(now time.Duration, j *PackJob, fx *Effects) {
	switch {
	case j.clean != nil:
		c.cleanPacked(now, j.clean, nil, fx)
	case j.hydrate != nil:
		c.hydratePacked(now, j.hydrate, nil, fx)
	case j.flatten != nil:
		c.flattenPacked(now, j.flatten, nil, fx)
	case j.long != nil:
		c.longDone(now, j.long, nil, fx)
	case j.pages != nil:
		c.packs--
		c.pagesPacked(now, j, nil, fx)
	default:
		c.packs--
		c.stats.SegmentsPacked++
		c.stats.BlocksPacked += uint64(len(j.Blocks))
		j.table.unready--
		c.commitReady(now, fx)
	}
}

func (c *Core) packFailed(now time.Duration, j *PackJob, err error, fx *Effects) {
	if j.clean != nil {
		c.cleanPacked(now, j.clean, err, fx)
		return
	}
	if j.hydrate != nil {
		c.hydratePacked(now, j.hydrate, err, fx)
		return
	}
	if j.flatten != nil {
		c.flattenPacked(now, j.flatten, err, fx)
		return
	}
	if j.long != nil {
		c.longDone(now, j.long, err, fx)
		return
	}
	if j.pages != nil {
		c.packs--
		c.pagesPacked(now, j, err, fx)
		return
	}
	j.failed++
	if errs.CodeOf(err) == errs.NoSpace && j.Room != storeproto.RoomFresh || j.failed > 1 {
		c.retryAt = now + retryAfter // do not spin while the cluster is full or broken
	}
	if now < c.retryAt || len(c.retry) > 0 || !c.retryPack(now, j, fx) {
		c.retry = append(c.retry, j)
	}
}
