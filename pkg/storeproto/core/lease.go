package core

import (
	"fmt"
	"sort"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// holder is the newest life of a host that this store has heard of.
type holder struct {
	host   id.Host
	number uint64
	expiry time.Duration // of its last grant, by the store's clock
	acked  uint64
	held   *storeproto.Lease
	until  time.Duration // when the held request is answered
	// young: this life began after the store did, an earlier one was heard of
	// before. So the store knows all its grants.
	young bool
}

type namedEntry struct {
	naming uint64
	vol    *volume
}

// knownHolder is the highest number heard of the host, zero if none.
func (c *Core) knownHolder(h id.Holder) uint64 {
	if known := c.holders[h.Host]; known != nil {
		return known.number
	}
	return 0
}

// noteHolder takes note of a life of a host. A higher number than one known
// proves the known one dead, and with it every grant that it or an earlier life
// may have, also from before the store's own start. The first word of a host
// proves nothing: its grants from before may be its own.
func (c *Core) noteHolder(l id.Holder) *holder {
	h := c.holders[l.Host]
	if h == nil {
		h = &holder{host: l.Host, number: l.Number}
		c.holders[l.Host] = h
		c.order = append(c.order, h)
		return h
	}
	if l.Number <= h.number {
		return h
	}
	if h.held != nil {
		h.held.Err = fmt.Errorf("lease of %s#%d, a later life has number %d: %w", l.Host, h.number, l.Number, errs.ErrStaleEpoch)
		c.replies = append(c.replies, Reply{Lease: h.held})
	}
	*h = holder{host: l.Host, number: l.Number, young: true}
	for _, f := range c.fences {
		delete(f.waits, l.Host)
	}
	c.answerFences()
	return h
}

// Lease decides about a request for a grant: answered at once when a volume
// must be named or Wait is zero, else held. A second request of a holder lets
// the first be answered.
func (c *Core) Lease(now time.Duration, l *storeproto.Lease) {
	l.Err, l.Term, l.Naming, l.Named = nil, 0, 0, nil
	if c.dead != nil {
		l.Err = c.dead
	} else if l.Holder.Host == "" || len(l.Holder.Host) > id.HostMax {
		l.Err = fmt.Errorf("lease of %q: %w", l.Holder.Host, errs.ErrInvalid)
	} else if known := c.knownHolder(l.Holder); l.Holder.Number < known {
		l.Err = fmt.Errorf("lease of %s, a later life has number %d: %w", l.Holder, known, errs.ErrStaleEpoch)
	}
	if l.Err != nil {
		c.replies = append(c.replies, Reply{Lease: l})
		return
	}
	c.timerChanged = true
	h := c.noteHolder(l.Holder)
	if h.held != nil {
		c.answerLease(now, h)
	}
	// Namings of a store that lost its memory are not ours: name everything.
	if l.Acked > c.naming {
		l.Acked = 0
	}
	h.acked = max(h.acked, l.Acked)
	for _, f := range c.fences {
		if h.acked >= f.Naming {
			delete(f.waits, l.Holder.Host)
		}
	}
	c.answerFences()
	h.held, h.until = l, now+l.Wait
	if l.Wait <= 0 || c.mustName(l) {
		c.answerLease(now, h)
	}
}

// nameVolume puts the volume at the end of the list of names.
func (c *Core) nameVolume(vol *volume) {
	c.named = append(c.named, namedEntry{vol.naming, vol})
	if len(c.named) < 64 || len(c.named) < 2*len(c.volumes) {
		return
	}
	kept := c.named[:0]
	for _, e := range c.named {
		if e.vol.naming == e.naming {
			kept = append(kept, e)
		}
	}
	clear(c.named[len(kept):])
	c.named = kept
}

// namesSince calls f for every volume fenced for another host since acked, in
// order, until f says stop.
func (c *Core) namesSince(host id.Host, acked uint64, f func(namedEntry) bool) {
	i := sort.Search(len(c.named), func(i int) bool { return c.named[i].naming > acked })
	for _, e := range c.named[i:] {
		if e.vol.naming == e.naming && e.vol.by.Host != host && !f(e) {
			return
		}
	}
}

func (c *Core) mustName(l *storeproto.Lease) (must bool) {
	c.namesSince(l.Holder.Host, l.Acked, func(namedEntry) bool { must = true; return false })
	return must
}

// answerHeld answers the requests that the fence of another host must not leave held.
func (c *Core) answerHeld(now time.Duration, by id.Host) {
	for _, h := range c.order {
		if h.held != nil && h.host != by {
			c.answerLease(now, h)
		}
	}
}

// answerLease grants. If more volumes must be named than fit in one answer there
// is no grant yet: the holder cannot know yet what it may serve.
func (c *Core) answerLease(now time.Duration, h *holder) {
	l := h.held
	h.held = nil
	l.Naming, l.Term = c.naming, c.cfg.LeaseTerm
	last := uint64(0)
	c.namesSince(l.Holder.Host, l.Acked, func(e namedEntry) bool {
		if len(l.Named) == NamedMax {
			l.Naming, l.Term = last, 0
			return false
		}
		last = e.naming
		l.Named = append(l.Named, storeproto.NamedFence{Volume: e.vol.id, Epoch: e.vol.fence})
		return true
	})
	if l.Term > 0 {
		h.expiry = max(h.expiry, now+l.Term)
	}
	c.replies = append(c.replies, Reply{Lease: l})
}

// Tick lets time pass: grants run out, held requests are answered.
func (c *Core) Tick(now time.Duration) {
	c.timerChanged = true
	if c.dead != nil {
		return
	}
	for _, h := range c.order {
		if h.held != nil && h.until <= now {
			c.answerLease(now, h)
		}
	}
	for _, f := range c.fences {
		for host, until := range f.waits {
			if until <= now {
				delete(f.waits, host)
			}
		}
	}
	c.answerFences()
}

// NextTick is when Tick has something to do; ok is false while nothing is due.
func (c *Core) NextTick() (due time.Duration, ok bool) {
	note := func(t time.Duration) {
		if !ok || t < due {
			due, ok = t, true
		}
	}
	for _, h := range c.order {
		if h.held != nil {
			note(h.until)
		}
	}
	for _, f := range c.fences {
		for _, until := range f.waits {
			note(until)
		}
	}
	return due, ok
}

// TimerChanged tells whether NextTick may have moved since it was last asked.
func (c *Core) TimerChanged() bool {
	was := c.timerChanged
	c.timerChanged = false
	return was
}
