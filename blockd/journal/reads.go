package journal

import (
	"errors"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/storeproto"
)

// readSet is what MayRead looks at: the sessions with the stores of the newest
// ensemble. It is replaced whole, never changed.
type readSet struct{ sessions []*session }

// publishReads lets grants count from the newest ensemble, and from it alone.
func (c *Core) publishReads() {
	if c.opening != nil || c.closed {
		return
	}
	r := &readSet{}
	for _, m := range c.newest().members {
		if !m.lost {
			r.sessions = append(r.sessions, c.leases.use(m.Member))
		}
	}
	if old := c.reads.Swap(r); old != nil {
		c.leases.unuse(old.sessions)
	}
}

// MayRead tells whether a read that arrived before now was taken may be served
// from the volume's state as it is after the call, without a round trip. It needs
// no lock and may be called from any goroutine.
func (c *Core) MayRead(now time.Duration) bool {
	r := c.reads.Load()
	if r == nil {
		return false
	}
	n := 0
	for _, s := range r.sessions {
		if s.valid(now) {
			n++
		}
	}
	// The claim is looked at last: a naming is applied before the grant that
	// acknowledges it can be seen above.
	return n >= quorum && !c.claim.Fenced()
}

// AskRead joins a read that has arrived to the next round of confirms and returns
// its token: it may be served when Effects.Readable reaches that.
//
// A round is nothing but a count: whatever is sent to a store after the call, a
// confirm or an append, carries the tokens given so far, and its success confirms
// them for this store.
func (c *Core) AskRead(now time.Duration, fx *Effects) uint64 {
	c.readSeq++
	c.askConfirms(now, fx)
	return c.readSeq
}

func (c *Core) askConfirms(now time.Duration, fx *Effects) {
	if c.fenced || c.opening != nil || c.readable == c.readSeq {
		return
	}
	for _, m := range c.newest().members {
		c.askConfirm(now, m, fx)
	}
}

func (c *Core) askConfirm(now time.Duration, m *member, fx *Effects) {
	if m.confirming || m.lost || m.confirmed >= c.readSeq || now < m.confirmAt {
		return
	}
	d := c.confirms
	if d == nil {
		d = &ConfirmSend{}
		d.Confirm.Done = func(*storeproto.Confirm) { c.confirmed(d) }
	} else {
		c.confirms, d.next = d.next, nil
	}
	d.Member, d.to, d.mark = m.Member, m, c.readSeq
	d.Confirm.Volume, d.Confirm.Epoch, d.Confirm.Err = c.volume, c.epoch, nil
	m.confirming = true
	fx.Confirms = append(fx.Confirms, d)
}

// Confirmed takes back a confirm that its store finished.
func (c *Core) Confirmed(now time.Duration, d *ConfirmSend, fx *Effects) {
	m, mark, err := d.to, d.mark, d.Confirm.Err
	d.to = nil
	d.next, c.confirms = c.confirms, d
	m.confirming = false
	if c.fenced || m.ensemble != c.newest() {
		return
	}
	switch {
	case err == nil:
		m.confirmed = max(m.confirmed, mark)
		m.pause = 0
		c.confirmedReads(fx)
	case errors.Is(err, errs.ErrStaleEpoch):
		c.Fence(fx)
		return
	default:
		m.pause = c.backoff(m.pause, c.limits.RetryAfter)
		m.confirmAt = now + m.pause
	}
	c.askConfirms(now, fx)
}

func (c *Core) confirmedReads(fx *Effects) {
	if c.opening != nil {
		return
	}
	if t := c.newest().confirmedByQuorum(); t > c.readable {
		c.readable = t
		fx.Readable = t
	}
}
