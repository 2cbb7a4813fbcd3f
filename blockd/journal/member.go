package journal

import (
	"errors"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

var (
	errDown    = errors.New("metad says that the store is down")
	errSilent  = errors.New("the store owes an answer for too long")
	errLagging = errors.New("the store is too many bytes behind")
)

// ensemble is an entry of the list at work. The last of Core.ensembles is the
// newest: it alone counts for what is not acknowledged yet. Those before it are
// retired at the position where the next one begins, then closed, then removed.
type ensemble struct {
	id      id.Ensemble
	from    [storeproto.Kinds]uint64 // position of the first batch that counts here
	to      [storeproto.Kinds]uint64 // retired: position after the last that counts
	fromLSN [storeproto.Kinds]id.LSN
	toLSN   [storeproto.Kinds]id.LSN // retired: LSN of the last that counts
	retired bool
	closed  bool
	members []*member
	extras  []*member // stores of a later ensemble that are given copies
	holders []Member  // closed: as the list names them
}

// member is one store at work for one ensemble.
type member struct {
	Member
	ensemble *ensemble
	copy     bool // an extra
	cursors  [storeproto.Kinds]cursor
	bad      bool // owes or errs too long: to be replaced
	lost     bool // cannot follow any more: its tail is not what it told
	problem  error

	confirmed  uint64 // reads up to it are confirmed by this store
	confirming bool
	confirmAt  time.Duration // not before
	pause      time.Duration
}

// cursor is how far one stream of a member is.
type cursor struct {
	start    uint64 // position of the stream's base
	durable  uint64 // batches below are durable there
	sent     uint64 // batches below were sent
	inflight int
	bytes    uint64 // in flight
	based    bool   // the stream is known to exist
	mayExist bool   // a base was refused: one sent before, at a lower LSN, may have got through
	progress time.Duration
	told     uint64 // released bytes that the store knows of

	failing bool
	upto    uint64 // failing: batches below failed, or were sent again
	since   time.Duration
	retryAt time.Duration
	pause   time.Duration
}

func newMember(m Member, e *ensemble, from [storeproto.Kinds]uint64, copy bool) *member {
	w := &member{Member: m, ensemble: e, copy: copy}
	for k := range from {
		w.cursors[k] = cursor{start: from[k], durable: from[k], sent: from[k]}
	}
	return w
}

// ok tells whether the store does what it is asked.
func (m *member) ok() bool {
	if m.bad || m.lost {
		return false
	}
	for k := range m.cursors {
		if m.cursors[k].failing {
			return false
		}
	}
	return true
}

// durableOnQuorum is the position up to which batches are durable on two members.
func (e *ensemble) durableOnQuorum(k storeproto.Kind) uint64 {
	var first, second uint64
	for _, m := range e.members {
		if m.lost {
			continue // what it told is void
		}
		d := m.cursors[k].durable
		if d > first {
			first, second = d, first
		} else if d > second {
			second = d
		}
	}
	return max(second, e.from[k])
}

// confirmedByQuorum is the highest token that two members have confirmed.
func (e *ensemble) confirmedByQuorum() uint64 {
	var first, second uint64
	for _, m := range e.members {
		if m.lost {
			continue
		}
		if d := m.confirmed; d > first {
			first, second = d, first
		} else if d > second {
			second = d
		}
	}
	return second
}

// all are the members, then the stores that are given copies.
func (e *ensemble) all() []*member {
	if len(e.extras) == 0 {
		return e.members
	}
	return append(e.members[:len(e.members):len(e.members)], e.extras...)
}

func (e *ensemble) of(s id.Store) *member {
	for _, m := range e.members {
		if m.Store == s {
			return m
		}
	}
	return nil
}

// pump sends a member what it lacks of a stream, within its window. After a
// failure it waits until nothing is in flight, then sends one batch from the
// known tail: a batch that the store had already is answered as durable.
func (c *Core) pump(now time.Duration, m *member, k storeproto.Kind, fx *Effects) {
	if c.fenced || m.lost || m.ensemble.closed {
		return
	}
	s, cur := &c.streams[k], &m.cursors[k]
	end := s.tail
	if m.ensemble.retired {
		end = m.ensemble.to[k]
		if s.releasedAt >= end || !c.helpful(m) {
			return
		}
	}
	window := c.limits.WindowBatches
	if cur.failing {
		if cur.inflight > 0 || now < cur.retryAt {
			return
		}
		cur.sent, cur.upto = cur.durable, cur.durable+1
		window = 1
	}
	cur.skip(s.releasedAt)
	for cur.sent < end && cur.inflight < window && (cur.bytes < uint64(c.limits.WindowBytes) || cur.inflight == 0) {
		c.send(now, m, k, fx)
	}
}

// skip passes over what is released: nobody will ask for it, and a store moves its
// tail up to the released LSN.
func (cur *cursor) skip(releasedAt uint64) {
	if cur.sent >= releasedAt {
		return
	}
	cur.sent = releasedAt
	cur.durable = max(cur.durable, releasedAt)
	if !cur.based {
		cur.start = releasedAt
	}
}

func (c *Core) send(now time.Duration, m *member, k storeproto.Kind, fx *Effects) {
	s, cur := &c.streams[k], &m.cursors[k]
	b := s.at(cur.sent).batch
	b.Retain()
	d := c.takeSend()
	d.Member, d.to, d.index, d.mark, d.told, d.probe = m.Member, m, cur.sent, c.readSeq, s.releasedBytes, cur.failing
	a := &d.Append
	a.Stream = storeproto.Stream{Volume: c.volume, Ensemble: m.ensemble.id, Kind: k}
	// Released never reaches into the batch, or the store's tail would.
	a.Epoch, a.Batch, a.Released = c.epoch, b, min(s.released, b.First-1)
	a.Base, a.Copy = !cur.based && !cur.mayExist && cur.sent == cur.start, m.copy
	a.Err, a.Tail = nil, 0
	if cur.inflight == 0 {
		cur.progress = now
	}
	cur.sent++
	cur.inflight++
	cur.bytes += cost(b)
	fx.Appends = append(fx.Appends, d)
}

// Done takes back a send that its store finished.
func (c *Core) Done(now time.Duration, d *Send, fx *Effects) {
	m, k, b, err := d.to, d.Append.Stream.Kind, d.Append.Batch, d.Append.Err
	index, mark, told, probe := d.index, d.mark, d.told, d.probe
	cur := &m.cursors[k]
	cur.inflight--
	cur.bytes -= cost(b)
	c.giveSend(d)
	b.Release()
	if c.fenced || m.ensemble.closed {
		return
	}
	switch {
	case err == nil:
		cur.told = max(cur.told, told)
		c.succeeded(now, m, k, index, mark, fx)
	case errors.Is(err, errs.ErrStaleEpoch):
		c.Fence(fx)
	default:
		c.failed(now, m, k, index, probe, err, fx)
	}
}

// succeeded: a success means that everything before it in the stream is durable too.
func (c *Core) succeeded(now time.Duration, m *member, k storeproto.Kind, index, mark uint64, fx *Effects) {
	s, cur := &c.streams[k], &m.cursors[k]
	cur.durable = max(cur.durable, index+1)
	cur.sent = max(cur.sent, cur.durable)
	cur.based, cur.progress = true, now
	if cur.durable >= cur.upto {
		cur.failing, cur.pause = false, 0 // answers may overtake each other when a link breaks
	}
	if m.bad && !c.down[m.Store] && !c.lags(m) {
		m.bad = false
	}
	if m.ensemble.retired {
		c.pump(now, m, k, fx)
		c.advance(now, fx)
		return
	}
	if s.ack(m.ensemble.durableOnQuorum(k)) {
		c.acknowledged(now, k, fx)
	}
	if mark > m.confirmed {
		m.confirmed = mark
		c.confirmedReads(fx)
	}
	if cur.sent < s.tail {
		c.pump(now, m, k, fx)
	}
}

func (c *Core) failed(now time.Duration, m *member, k storeproto.Kind, index uint64, probe bool, err error, fx *Effects) {
	cur := &m.cursors[k]
	if index < cur.durable || m.lost {
		return // a later batch's success has overtaken it
	}
	m.problem = err
	if !cur.failing {
		cur.failing, cur.since, cur.upto = true, now, 0
	}
	cur.upto = max(cur.upto, index+1)
	cur.pause = c.backoff(cur.pause, c.limits.RetryAfter)
	cur.retryAt = now + cur.pause
	switch {
	case probe && (errors.Is(err, errs.ErrConflict) || errors.Is(err, errs.ErrInvalid) || errors.Is(err, errs.ErrNotFound)):
		if !cur.based && !cur.mayExist {
			cur.mayExist = true
			break
		}
		// It has not what it told us it has, or is not the store that we were given.
		c.lose(m, err, fx)
	case errors.Is(err, errs.ErrNoSpace):
		c.condemn(m, err, fx)
	}
	c.advance(now, fx)
}

// judge finds members that are to be replaced.
func (c *Core) judge(now time.Duration, m *member, fx *Effects) {
	if m.bad || m.lost {
		return
	}
	if c.down[m.Store] {
		c.condemn(m, errDown, fx)
		return
	}
	for k := range m.cursors {
		cur := &m.cursors[k]
		switch {
		case cur.failing && now-cur.since >= c.limits.ReplaceAfter:
			c.condemn(m, m.problem, fx)
			return
		case cur.inflight > 0 && now-cur.progress >= c.limits.ReplaceAfter:
			c.condemn(m, errSilent, fx)
			return
		}
	}
	if c.lags(m) {
		c.condemn(m, errLagging, fx)
	}
}

// lags tells whether a member of the newest ensemble is behind the acknowledged end by more than the limit.
func (c *Core) lags(m *member) bool {
	if m.ensemble.retired {
		return false
	}
	for k := range m.cursors {
		s, d := &c.streams[k], m.cursors[k].durable
		if d < s.ackedAt && s.startOf(s.ackedAt)-s.startOf(d) > uint64(c.limits.LagBytes) {
			return true
		}
	}
	return false
}

func (c *Core) condemn(m *member, why error, fx *Effects) {
	if m.bad || m.lost {
		return
	}
	m.bad, m.problem = true, why
	fx.Reports = append(fx.Reports, Report{Store: m.Store, Problem: why})
}

func (c *Core) lose(m *member, why error, fx *Effects) {
	if m.lost {
		return
	}
	if !m.bad {
		fx.Reports = append(fx.Reports, Report{Store: m.Store, Problem: why})
	}
	m.lost, m.problem = true, why
	if m.ensemble == c.newest() {
		c.publishReads()
	}
}

// backoff doubles a pause from first up to ten times first.
func (c *Core) backoff(pause, first time.Duration) time.Duration {
	return min(max(2*pause, first), 10*first)
}

func (c *Core) takeSend() *Send {
	d := c.sends
	if d == nil {
		d = &Send{}
		d.Append.Done = func(*storeproto.Append) { c.completed(d) }
		return d
	}
	c.sends, d.next = d.next, nil
	return d
}

func (c *Core) giveSend(d *Send) {
	d.to, d.Append.Batch = nil, nil
	d.next, c.sends = c.sends, d
}
