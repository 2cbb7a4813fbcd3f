package journal

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// shunFor is how many times ReplaceAfter a replaced store is not asked for again.
const shunFor = 10

// asker keeps one ask under way at a time, and after an unknown outcome reads the list first.
type asker struct {
	busy    bool
	unknown bool
	at      time.Duration // not before
	pause   time.Duration
	addAt   time.Duration // no further ensemble before
	// After an unknown outcome the list is read once more when the ask can no longer
	// be on its way: it may land after the first look. 0: no need.
	again time.Duration
}

// advance takes every ensemble change one step further where it can.
func (c *Core) advance(now time.Duration, fx *Effects) {
	if c.fenced {
		return
	}
	for _, e := range c.ensembles {
		if e.retired && !e.closed {
			c.copyOut(now, e, fx)
		}
	}
	if c.asker.busy || now < c.asker.at {
		return
	}
	a := c.nextAsk(now)
	if a.Kind == 0 {
		return
	}
	a.Volume, a.Epoch, a.Version = c.volume, c.epoch, c.version
	c.asker.busy = true
	fx.Asks = append(fx.Asks, a)
}

// nextAsk is the most urgent thing to ask of metad.
func (c *Core) nextAsk(now time.Duration) Ask {
	switch {
	case c.asker.unknown:
		return Ask{Kind: AskReread}
	case c.opening != nil:
		return c.nextOpeningAsk(now)
	case now >= c.asker.addAt && c.wantsSuccessor() && (len(c.ensembles) < c.limits.Ensembles || c.usable() < quorum):
		return Ask{Kind: AskAdd, Exclude: c.exclude(now), Better: !c.damaged()}
	}
	for _, e := range c.ensembles {
		if e.closed {
			continue
		}
		// Oldest first, so that From always follows from the To before.
		if h := c.holders(e); e.retired && len(h) >= quorum {
			return Ask{Kind: AskClose, Ensemble: e.id, From: e.fromLSN, To: e.toLSN, Holders: h[:quorum]}
		}
		break
	}
	if c.asker.again != 0 && now >= c.asker.again {
		c.asker.again = 0
		return Ask{Kind: AskReread}
	}
	if ids := c.removable(); len(ids) > 0 {
		return Ask{Kind: AskRemove, Ensembles: ids, Released: c.streams[storeproto.Journal].released}
	}
	return Ask{}
}

// nextOpeningAsk asks for a fresh ensemble as long as there is none with two
// stores that do their part, and for the replacement of the list when it holds
// the runs.
func (c *Core) nextOpeningAsk(now time.Duration) Ask {
	o := c.opening
	e := c.newest()
	if o.problem != nil || o.replaced || !o.ready {
		return Ask{}
	}
	if c.filled() {
		return Ask{Kind: AskReplace, Ensembles: []id.Ensemble{e.id}}
	}
	if c.usable() < quorum && now >= c.asker.addAt {
		return Ask{Kind: AskAdd, Exclude: c.exclude(now)}
	}
	return Ask{}
}

// usable counts the stores of the newest ensemble that are not given up.
func (c *Core) usable() (n int) {
	if e := c.newest(); e != nil {
		for _, m := range e.members {
			if !m.bad && !m.lost {
				n++
			}
		}
	}
	return n
}

// filled tells whether both runs are complete and durable on two stores of the fresh ensemble.
func (c *Core) filled() bool {
	for k := range c.streams {
		if s := &c.streams[k]; s.ackedAt < s.tail {
			return false
		}
	}
	return c.opening.filled && len(c.ensembles) > 0
}

func (c *Core) wantsSuccessor() bool { return c.damaged() || c.grow }

// damaged tells whether a store of the newest ensemble is given up.
func (c *Core) damaged() bool {
	return slices.ContainsFunc(c.newest().members, func(m *member) bool { return m.bad || m.lost })
}

// exclude gives the stores that the successor must not have, and remembers them
// for a while so that it does not go to and fro between two that fail.
func (c *Core) exclude(now time.Duration) []id.Store {
	if e := c.newest(); e != nil {
		for _, m := range e.members {
			if m.lost && c.scarce {
				continue // it cannot follow here, but may begin anew elsewhere
			}
			if m.bad || m.lost {
				c.shunned[m.Store] = now + shunFor*c.limits.ReplaceAfter
			}
		}
	}
	var out []id.Store
	for s, until := range c.shunned {
		if until <= now {
			delete(c.shunned, s)
			continue
		}
		out = append(out, s)
	}
	for s := range c.down {
		if _, ok := c.shunned[s]; !ok {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b id.Store) int { return slices.Compare(a[:], b[:]) })
	return out
}

// Answer takes metad's answer to an ask.
func (c *Core) Answer(now time.Duration, r AskResult, fx *Effects) {
	if !c.asker.busy || c.fenced || r.Ask.Epoch != c.epoch {
		return
	}
	c.asker.busy = false
	switch {
	case r.Err == nil:
		c.asker.unknown = false
		if r.Ask.Kind != AskReread {
			c.asker.pause, c.asker.at = 0, now
		}
		if r.Ask.Kind == AskAdd {
			c.grow, c.scarce = false, false
			c.asker.addAt = now + c.limits.AskAfter
		}
		c.adopt(now, r.List, fx)
	case errors.Is(r.Err, errs.ErrStaleEpoch):
		c.Fence(fx)
		return
	default:
		refused := errors.Is(r.Err, errs.ErrNoSpace) || errors.Is(r.Err, errs.ErrUnavailable)
		switch {
		case refused && r.Ask.Better:
			c.grow, c.narrow = false, false
		case refused:
			// Better a store that failed lately than none.
			clear(c.shunned)
			c.grow, c.scarce = false, true
		}
		c.asker.unknown = true
		if r.Ask.Kind != AskReread {
			c.asker.again = now + shunFor*c.limits.ReplaceAfter
		}
		c.asker.pause = c.backoff(c.asker.pause, c.limits.AskAfter)
		c.asker.at = now + c.asker.pause
	}
	c.advance(now, fx)
}

// adopt takes over metad's list: what landed of the asks whose outcome was unknown
// is seen here and nowhere else.
func (c *Core) adopt(now time.Duration, l List, fx *Effects) {
	c.version = l.Version
	if c.opening != nil {
		c.adoptOpening(now, l, fx)
		return
	}
	if e := c.newest(); l.find(e.id) == nil {
		// Somebody else replaced the list. Only an operator or a newer epoch can.
		c.Fence(fx)
		return
	}
	var removed []*ensemble
	c.ensembles = slices.DeleteFunc(c.ensembles, func(e *ensemble) bool {
		if l.find(e.id) != nil {
			return false
		}
		e.closed = true
		removed = append(removed, e)
		return true
	})
	for i := range l.Ensembles {
		n := &l.Ensembles[i]
		j := slices.IndexFunc(c.ensembles, func(e *ensemble) bool { return e.id == n.ID })
		switch {
		case j < 0:
			c.succeed(now, n, fx)
		case n.Closed && !c.ensembles[j].closed:
			e := c.ensembles[j]
			e.closed, e.holders = true, slices.Clone(n.Holders)
		}
	}
	for _, e := range removed {
		c.owe(now, e, l, fx)
	}
}

// succeed makes n the newest ensemble. The switch points are picked now, on
// metad's answer: everything after what is acknowledged goes to n and counts
// there alone, grants and confirms too.
func (c *Core) succeed(now time.Duration, n *Ensemble, fx *Effects) {
	old := c.newest()
	var from [storeproto.Kinds]uint64
	old.retired = true
	c.narrow = false // it was said of the one before: see Spread
	for k := range c.streams {
		from[k] = c.streams[k].ackedAt
		old.to[k], old.toLSN[k] = from[k], c.streams[k].acked
	}
	c.join(now, n, from, fx)
}

// join appends n to the ensembles at work and sends it everything from its start.
func (c *Core) join(now time.Duration, n *Ensemble, from [storeproto.Kinds]uint64, fx *Effects) {
	e := &ensemble{id: n.ID, from: from}
	for k := range e.fromLSN {
		e.fromLSN[k] = c.streams[k].acked + 1
	}
	for _, m := range n.Members {
		e.members = append(e.members, newMember(m, e, from, false))
	}
	c.ensembles = append(c.ensembles, e)
	c.publishReads()
	for _, m := range e.members {
		c.tend(now, m, fx)
	}
	c.askConfirms(now, fx)
}

// adoptOpening: the list may have changed by our own asks only.
func (c *Core) adoptOpening(now time.Duration, l List, fx *Effects) {
	o, f := c.opening, c.newest()
	if l.Complete && len(l.Ensembles) == 1 && c.filled() && l.Ensembles[0].ID == f.id {
		o.replaced = true
		return
	}
	for i, e := range o.before {
		if i >= len(l.Ensembles) || l.Ensembles[i].ID != e {
			o.problem = fmt.Errorf("open %s under %s: the list of ensembles changed meanwhile: %w", c.volume, c.epoch, errs.ErrConflict)
			return
		}
	}
	if len(l.Ensembles) == len(o.before) {
		return
	}
	n := &l.Ensembles[len(l.Ensembles)-1]
	if f != nil && f.id == n.ID {
		return
	}
	// Nothing was acknowledged in the one before: begin again.
	if f != nil {
		f.closed = true
	}
	c.ensembles = c.ensembles[:0]
	for k := range c.streams {
		s := &c.streams[k]
		s.ackedAt = 0
		s.acked = s.released
	}
	c.join(now, n, [storeproto.Kinds]uint64{}, fx)
}

// needs tells whether e has records that count there and are unreleased.
func (c *Core) needs(e *ensemble, k storeproto.Kind) bool {
	return e.to[k] > max(e.from[k], c.streams[k].releasedAt)
}

// whole tells whether a store holds everything unreleased that counts in e.
func (c *Core) whole(e *ensemble, m *member) bool {
	for k := range m.cursors {
		if c.needs(e, storeproto.Kind(k)) && m.cursors[k].durable < e.to[k] {
			return false
		}
	}
	return true
}

// judgedBy is the member whose health tells of the store: that of the newest
// ensemble if the store is there too, because it alone is still being written to.
func (c *Core) judgedBy(m *member) *member {
	if n := c.newest().of(m.Store); n != nil && n.Member == m.Member {
		return n
	}
	return m
}

// helpful tells whether a store of a retired ensemble may still become a holder.
func (c *Core) helpful(m *member) bool {
	j := c.judgedBy(m)
	return !m.lost && !c.down[m.Store] && !j.bad && !j.lost
}

func (c *Core) live(m *member) bool { return c.helpful(m) && c.judgedBy(m).ok() }

// holders are the live stores that hold e whole, its own first. Where nothing of e
// is needed any more every store does; those of the newest are the surest.
func (c *Core) holders(e *ensemble) []Member {
	var out []Member
	if !c.needs(e, storeproto.Journal) && !c.needs(e, storeproto.Meta) {
		for _, m := range c.newest().members {
			if c.live(m) {
				out = append(out, m.Member)
			}
		}
		return out
	}
	for _, m := range e.all() {
		if c.live(m) && c.whole(e, m) {
			out = append(out, m.Member)
		}
	}
	return out
}

// copyOut sees to it that two live stores come to hold a retired ensemble whole:
// its own where they can, else stores of the newest, which are given copies.
func (c *Core) copyOut(now time.Duration, e *ensemble, fx *Effects) {
	if !c.needs(e, storeproto.Journal) && !c.needs(e, storeproto.Meta) {
		return
	}
	n := 0
	for _, m := range e.all() {
		if c.helpful(m) {
			n++
		}
	}
	for _, m := range c.newest().members {
		if n >= quorum {
			break
		}
		if !c.live(m) || slices.ContainsFunc(e.all(), func(o *member) bool { return o.Store == m.Store }) {
			continue
		}
		e.extras = append(e.extras, newMember(m.Member, e, c.copyFrom(e), true))
		n++
	}
	for _, m := range e.all() {
		c.pumpBoth(now, m, fx)
	}
}

func (c *Core) pumpBoth(now time.Duration, m *member, fx *Effects) {
	for k := range m.cursors {
		c.pump(now, m, storeproto.Kind(k), fx)
	}
}

// copyFrom is where copies of a retired ensemble begin: at what is unreleased.
func (c *Core) copyFrom(e *ensemble) (from [storeproto.Kinds]uint64) {
	for k := range from {
		from[k] = min(max(e.from[k], c.streams[k].releasedAt), e.to[k])
	}
	return from
}

// removable are the oldest ensembles, closed, wholly released and behind a
// checkpoint that metad has.
func (c *Core) removable() (ids []id.Ensemble) {
	for _, e := range c.ensembles {
		if !e.closed || e.to[storeproto.Meta] > e.from[storeproto.Meta] && c.checkpoint < e.toLSN[storeproto.Meta] {
			return ids
		}
		for k := range c.streams {
			if c.needs(e, storeproto.Kind(k)) {
				return ids
			}
		}
		ids = append(ids, e.id)
	}
	return ids
}
