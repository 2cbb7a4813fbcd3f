package volproto

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
)

// attachmentsMax bounds the attachments that one Gate remembers.
const attachmentsMax = 4096

// Gate lets the sessions of one volume in: local connections and proxied ones alike
// go through it. Of each attachment only the highest number is served; before
// Attach lets a higher one in, everything of the lower ones has completed.
//
// It forgets an attachment's number only to make room, the longest unused first.
// The zero Gate is ready. Safe for concurrent use.
type Gate struct {
	mu   sync.Mutex
	all  map[id.Raw]*attachment
	used uint64 // counts attaches
}

// attachment is guarded by its Gate's mu.
type attachment struct {
	number   uint64
	sessions map[uint64]*admitted // those with open handles, by number
	used     uint64
}

// admitted is one session. A request counts itself in before it looks at stale, and
// whoever sets stale looks at the count after: one of them sees the other.
type admitted struct {
	handles  int // under the Gate's mu
	inFlight atomic.Int64
	stale    atomic.Bool
	once     sync.Once
	drained  chan struct{} // closed when stale and nothing is in flight
}

func (s *admitted) leave() {
	if s.inFlight.Add(-1) == 0 && s.stale.Load() {
		s.once.Do(func() { close(s.drained) })
	}
}

// Attach puts session in front of device. It returns when the requests of all lower
// numbers of the attachment have completed and no new one of them can begin; a lower number
// than one seen is refused with ErrStaleSession. After an error of ctx the lower numbers stay
// refused. The requests of a handle that was replaced end with ErrStaleSession and nbd.ErrHangup.
// Closing the handle closes device.
func (g *Gate) Attach(ctx context.Context, session Session, device nbd.Handle) (nbd.Handle, error) {
	if session.Number == 0 {
		return nil, fmt.Errorf("attach session %s: number is zero: %w", session, errs.ErrInvalid)
	}
	g.mu.Lock()
	a, err := g.attachment(session.Attachment)
	if err == nil && session.Number < a.number {
		err = fmt.Errorf("attach session %s after #%d: %w", session, a.number, ErrStaleSession)
	}
	if err != nil {
		g.mu.Unlock()
		return nil, err
	}
	a.number = session.Number
	var older []*admitted
	for number, s := range a.sessions {
		if number < session.Number {
			s.inFlight.Add(1)
			s.stale.Store(true)
			s.leave()
			older = append(older, s)
		}
	}
	s := a.sessions[session.Number]
	if s == nil {
		s = &admitted{drained: make(chan struct{})}
		a.sessions[session.Number] = s
	}
	s.handles++
	g.mu.Unlock()

	h := &gated{gate: g, session: session, admitted: s, device: device}
	for _, o := range older {
		select {
		case <-o.drained:
		case <-ctx.Done():
			h.forget()
			return nil, fmt.Errorf("attach session %s: drain older ones: %w", session, ctx.Err())
		}
	}
	return h, nil
}

// attachment finds or makes a. Under mu.
func (g *Gate) attachment(name id.Raw) (*attachment, error) {
	g.used++
	a := g.all[name]
	if a == nil {
		if len(g.all) >= attachmentsMax && !g.evict() {
			return nil, fmt.Errorf("%d attachments are open: %w", len(g.all), errs.ErrUnavailable)
		}
		if g.all == nil {
			g.all = make(map[id.Raw]*attachment)
		}
		a = &attachment{sessions: make(map[uint64]*admitted)}
		g.all[name] = a
	}
	a.used = g.used
	return a, nil
}

// evict forgets the attachment that nobody has used for longest. Under mu.
func (g *Gate) evict() bool {
	var oldest id.Raw
	found := false
	for name, a := range g.all {
		if len(a.sessions) == 0 && (!found || a.used < g.all[oldest].used) {
			oldest, found = name, true
		}
	}
	if found {
		delete(g.all, oldest)
	}
	return found
}

// gated is a session's handle.
type gated struct {
	gate     *Gate
	session  Session
	admitted *admitted
	device   nbd.Handle
}

// Submit is part of nbd.Device.
func (h *gated) Submit(r *nbd.Request) {
	s := h.admitted
	s.inFlight.Add(1)
	if s.stale.Load() {
		s.leave()
		r.Complete(fmt.Errorf("%w: %w", nbd.ErrHangup, ErrStaleSession))
		return
	}
	r.Hook(h)
	h.device.Submit(r)
}

// Completed is part of nbd.Completer.
func (h *gated) Completed(r *nbd.Request, err error) {
	h.admitted.leave()
	r.Complete(err)
}

// Cork is part of nbd.Corker.
func (h *gated) Cork() {
	if c, ok := h.device.(nbd.Corker); ok {
		c.Cork()
	}
}

// Uncork is part of nbd.Corker.
func (h *gated) Uncork() {
	if c, ok := h.device.(nbd.Corker); ok {
		c.Uncork()
	}
}

func (h *gated) Size() uint64   { return h.device.Size() }
func (h *gated) Info() nbd.Info { return h.device.Info() }

// Close is part of nbd.Handle.
func (h *gated) Close() error {
	h.forget()
	return h.device.Close()
}

func (h *gated) forget() {
	g := h.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if h.admitted.handles--; h.admitted.handles == 0 {
		delete(g.all[h.session.Attachment].sessions, h.session.Number)
	}
}
