package core

import (
	"slices"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// A store keeps room for what is in the journals (blockd/chunk), and says that it is full by refusing
// segments that do not ask for that room. Whoever packs hears of it at once, from the store itself, and
// takes no new bytes from then on; what he has taken goes into the room that was kept. Who does not pack
// has taken no more than the journals hold. So what is acknowledged always fits, with no account of
// it anywhere, and metad need not be there.

// A store that refused a segment is taken for full for refusedFor, even where metad says that it
// is not: it may not have heard yet. Twice as long each time it refuses again, up to refusedMax:
// while metad is away nobody says when there is room, and each try lets some writes in. Once metad
// has said that it is full it is believed when it says that there is room.
const (
	refusedFor = 5 * time.Second
	refusedMax = 5 * time.Minute
)

// refusal is a store's that called itself full; over when until has passed.
type refusal struct {
	until, pause time.Duration
	told         bool // metad has said so, too
}

// hear takes what metad says of a store that refused.
func (g *groupView) hear(s *cluster.Store) {
	r, ok := g.refused[s.Store]
	switch {
	case !ok:
	case s.Full:
		r.told = true
		g.refused[s.Store] = r
	case r.told:
		delete(g.refused, s.Store)
	}
}

// refuse notes stores that call themselves full.
func (g *groupView) refuse(now time.Duration, stores []id.Store) {
	for _, s := range stores {
		r := g.refused[s]
		if r.until <= now {
			r.pause = min(max(2*r.pause, refusedFor), refusedMax)
		}
		r.until, r.told = now+r.pause, false
		if g.refused == nil {
			g.refused = make(map[id.Store]refusal)
		}
		g.refused[s] = r
	}
	g.take(now, g.last)
}

// relent forgets refusals that are over.
func (g *groupView) relent(now time.Duration) {
	if g.relentAt != 0 && now >= g.relentAt {
		g.take(now, g.last)
	}
}

// took: these stores took a segment of new bytes, so the next refusal is the first again.
func (g *groupView) took(now time.Duration, pg id.PG) {
	for _, s := range g.lively[pg].stores {
		if r, ok := g.refused[s]; ok && r.until <= now {
			delete(g.refused, s)
		}
	}
}

// refusing tells whether a store of the group called itself full lately.
func (g *groupView) refusing(now time.Duration, stores []cluster.StoreRef) bool {
	refusing := false
	for _, s := range stores {
		if r, ok := g.refused[s.Store]; ok && r.until > now {
			refusing = true
			if g.relentAt == 0 || r.until < g.relentAt {
				g.relentAt = r.until
			}
		}
	}
	return refusing
}

// roomOf says how far a job may fill the stores.
func (c *Core) roomOf(j *PackJob) storeproto.Room {
	switch {
	case j.Lane == LaneCheckpoint:
		return storeproto.RoomPages
	case j.clean != nil && !j.clean.recode:
		return storeproto.RoomReserve
	case j.table == nil || !j.refused && !c.groups.full():
		return storeproto.RoomFresh
	case c.givesBack(j.table):
		return storeproto.RoomReserve
	}
	return storeproto.RoomPack
}

// givesBack tells that m was recovered, or that trims wait for it: commits are in order.
func (c *Core) givesBack(m *memtable) bool {
	if m.recovered {
		return true
	}
	freed := block.LBA(0)
	c.since(m, func(x *memtable) bool {
		for _, r := range x.zeros.runs {
			freed += r.end - r.start
		}
		return freed < freeBlocksMin
	})
	return freed >= freeBlocksMin
}

// since calls f for m and the memtables after it, in their order, until it says stop.
func (c *Core) since(m *memtable, f func(*memtable) bool) {
	i := slices.Index(c.sealed, m)
	if i < 0 {
		return
	}
	for _, x := range c.sealed[i:] {
		if !f(x) {
			return
		}
	}
	f(c.active)
}

// slim drops the blocks of a job that have been overwritten or trimmed since, up to the next mark of
// a snapshot: they need no room. What killed them is in the journal of two stores, and stays there
// until its own commit, so whoever recovers the volume does not miss them.
func (c *Core) slim(j *PackJob) {
	m := j.table
	if m.mark != nil {
		return // it is the last record of m: what comes after is not the snapshot's
	}
	c.since(m, func(x *memtable) bool {
		if x == m {
			return true
		}
		dead := func(b PackBlock) bool {
			_, found, zero := x.find(dataLBA(b))
			return found || zero
		}
		if slices.ContainsFunc(j.Blocks, dead) { // a store may still read the old list
			j.Blocks = slices.DeleteFunc(slices.Clone(j.Blocks), dead)
		}
		return x.mark == nil && len(j.Blocks) > 0
	})
}

// retryPack sends a job that failed on its way again, without what died meanwhile if stores have no
// room; false: no id or group to be had now.
func (c *Core) retryPack(now time.Duration, j *PackJob, fx *Effects) bool {
	if j.table != nil && (j.refused || c.groups.full()) {
		if c.slim(j); len(j.Blocks) == 0 {
			m := j.table
			m.jobs = slices.DeleteFunc(m.jobs, func(x *PackJob) bool { return x == j })
			m.unready--
			c.packs--
			c.commitReady(now, fx)
			return true
		}
	}
	return c.issue(now, j, fx)
}

// noRoom hears of stores that have no room for a job.
func (c *Core) noRoom(now time.Duration, j *PackJob, r PackResult, fx *Effects) {
	if len(r.Full) == 0 && errs.CodeOf(r.Err) != errs.NoSpace {
		return
	}
	j.refused = true
	if j.Room != storeproto.RoomFresh {
		c.groups.suspect(now, r.Full) // another group may have room
	}
	c.groups.refuse(now, r.Full)
	if c.groups.full() {
		c.refuseRoom(fx)
	}
}
