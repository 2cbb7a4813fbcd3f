package core

import (
	"fmt"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
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
	c.active = newMemtable(m.last + 1)
	c.startPacks(now, fx)
}

// press seals early when writers wait for memory and nothing is on its way to free some.
func (c *Core) press(now time.Duration, fx *Effects) {
	if len(c.sealed) == 0 && len(c.inflight) == 0 && c.open == nil {
		c.seal(now, fx)
	}
}

// startPacks makes jobs of sealed memtables and frozen pages, and retries failed
// ones, as far as limits, ids and groups allow.
func (c *Core) startPacks(now time.Duration, fx *Effects) {
	if c.state != stateServing && c.state != stateDraining {
		return
	}
	c.wantRange(fx)
	c.startLongs(now, fx)
	for len(c.retry) > 0 && now >= c.retryAt {
		if !c.issue(now, c.retry[0], fx) {
			return
		}
		c.retry[0] = nil
		c.retry = c.retry[1:]
	}
	for _, m := range c.sealed {
		if m.packing {
			continue
		}
		if c.packs >= c.cfg.Limits.PacksInFlight {
			return
		}
		c.packMemtable(now, m, fx)
	}
	c.packPages(now, fx)
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
		if !c.issue(now, j, fx) {
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
	c.wantRange(fx)
	if c.ids.left() == 0 {
		return false
	}
	g, ok := c.choose(now, fx)
	if !ok {
		return false
	}
	seq, _ := c.ids.take()
	j.Segment = id.MakeSegment(seq, g.pg)
	j.Entry = blockmap.Entry{
		Generation: id.Generation{Epoch: c.cfg.Epoch, N: 1},
		PGVersion:  g.version, Slots: uint16(len(j.Blocks)), PG: g.pg, K: g.k, M: g.m,
	}
	return true
}

// PackDone: every shard of j is durable, or the job failed: then the segment's
// name is given up for good, what of it was put is deleted by name, and its
// blocks go into another segment of another group.
func (c *Core) PackDone(now time.Duration, j *PackJob, r PackResult, fx *Effects) {
	if c.state == stateFenced || c.state == stateDrained {
		return
	}
	if r.Err != nil || c.staleGroup(j) {
		c.stats.PackRetries++
		c.groups.suspect(now, r.Suspects)
		fx.Deletes = append(fx.Deletes, Delete{Segment: j.Segment, Where: whereOf(j.Entry), abandoned: true})
		c.packFailed(now, j, r.Err, fx)
		c.absorb(now, fx)
		return
	}
	switch {
	case j.long != nil:
		c.longDone(now, j.long, nil, fx)
	case j.pages != nil:
		c.packs--
		c.pagesPacked(now, j, fx)
	default:
		c.packs--
		c.stats.SegmentsPacked++
		c.stats.BlocksPacked += uint64(len(j.Blocks))
		j.table.unready--
		c.commitReady(now, fx)
	}
	c.startPacks(now, fx)
	c.absorb(now, fx)
}

// staleGroup tells whether the group got a newer version since j was issued: then
// the shards may lie where nobody will look for them.
func (c *Core) staleGroup(j *PackJob) bool {
	for _, g := range c.groups.groups {
		if g.pg == j.Segment.PG() {
			return g.version != j.Entry.PGVersion
		}
	}
	return false // the group is not preferred any more; its versions are kept
}

func (c *Core) packFailed(now time.Duration, j *PackJob, err error, fx *Effects) {
	if err == nil {
		err = errNoSegment
	}
	if j.long != nil {
		c.longDone(now, j.long, err, fx)
		return
	}
	if j.pages != nil {
		j.gone, j.pages.failed = true, true
		c.packs--
		c.retryAt = now + retryAfter
		c.pagesPacked(now, j, fx)
		return
	}
	j.failed++
	if errs.CodeOf(err) == errs.NoSpace || j.failed > 1 {
		c.retryAt = now + retryAfter // do not spin while the cluster is full or broken
	}
	if c.retryAt > now || !c.issue(now, j, fx) {
		c.retry = append(c.retry, j)
	}
}
