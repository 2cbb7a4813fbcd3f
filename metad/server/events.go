package server

import (
	"context"
	"fmt"
	"sync"
	"time"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Limits of events on their way.
const (
	eventsQueuedMax = 1024
	eventsPause     = 100 * time.Millisecond // for others to come along
	eventsListMax   = 1000
	eventsWaitMax   = 10 * time.Second
	eventsFlushMax  = time.Second
)

// What events are about.
const (
	aboutStore    = "store"
	aboutDisk     = "disk"
	aboutImage    = "image"
	aboutRepair   = "repair"
	aboutHost     = "host"
	aboutMember   = "member"
	aboutCluster  = "cluster"
	aboutIdentity = "identity"
)

var abouts = []string{aboutStore, aboutDisk, aboutImage, aboutRepair, aboutHost, aboutMember, aboutCluster, aboutIdentity}

// teller has the events that are not committed yet. They are committed apart from what
// they tell of and a little later: a leader that dies takes the last tenth of a second with it.
type teller struct {
	writing sync.Mutex // by who commits, over the commit: no event is committed twice

	mu      sync.Mutex
	queue   []state.Event
	left    int // out, because the queue was full
	wake    chan struct{}
	changed chan struct{} // closed when some were committed
}

func (t *teller) init() {
	t.wake, t.changed = make(chan struct{}, 1), make(chan struct{})
}

// note keeps that something happened, if this member leads: another leader sees and
// decides for itself.
func (s *Server) note(severity state.Severity, kind, about, subject, by, format string, args ...any) {
	s.noteEvent(state.Event{AtMS: s.clock.Wall().UnixMilli(), Severity: severity, Kind: kind, About: about, Subject: subject, By: by, Text: fmt.Sprintf(format, args...)})
}

func (s *Server) noteEvent(e state.Event) {
	if s.reign.Load() == nil {
		return
	}
	t := &s.events
	t.mu.Lock()
	if len(t.queue) < eventsQueuedMax {
		t.queue = append(t.queue, e.Fit())
	} else {
		t.left++
	}
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// take gives the next batch, and puts in what had to be left out.
func (t *teller) take(nowMS int64) []state.Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left > 0 {
		t.queue = append(t.queue, state.Event{AtMS: nowMS, Severity: state.Warning, Kind: "events_left_out", About: aboutCluster,
			Text: fmt.Sprintf("%d events came too fast and were left out", t.left)})
		t.left = 0
	}
	return t.queue[:min(len(t.queue), state.EventsAtOnceMax)]
}

// taken drops n events from the front and wakes who waits for news.
func (t *teller) taken(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = append([]state.Event(nil), t.queue[n:]...)
	close(t.changed)
	t.changed = make(chan struct{})
}

// news is closed when events were committed.
func (t *teller) news() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// writeEvents commits what was noted until ctx ends.
func (s *Server) writeEvents(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.events.wake:
		}
		if s.clock.Sleep(ctx, eventsPause) != nil {
			return nil
		}
		s.flushEvents(ctx)
	}
}

// flushEvents commits all that is queued. What a member has that leads no more is dropped:
// the next leader tells what it finds.
func (s *Server) flushEvents(ctx context.Context) {
	s.events.writing.Lock()
	defer s.events.writing.Unlock()
	for {
		batch := s.events.take(s.clock.Wall().UnixMilli())
		if len(batch) == 0 {
			return
		}
		if s.reign.Load() == nil {
			s.events.taken(len(batch))
			continue
		}
		level := uint16(0)
		s.node.View(func(m *state.Machine) { level = m.Level() })
		if level < state.LevelEvents {
			if s.raising() { // soon
				select {
				case s.events.wake <- struct{}{}:
				default:
				}
				return
			}
			s.events.taken(len(batch))
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, commitTimeout)
		_, err := s.node.Apply(ctx, &state.AddEvents{Events: batch})
		cancel()
		if err != nil {
			s.log.Debug("events not kept yet", "err", err)
			select {
			case s.events.wake <- struct{}{}:
			default:
			}
			return
		}
		s.events.taken(len(batch))
	}
}

// hostEvents takes what a host tells. The answer of a later heartbeat says what is kept.
func (s *Server) hostEvents(holder id.Holder, events []*api.HostEvent) error {
	if len(events) > hostEventsMax {
		return fmt.Errorf("heartbeat of %s: %d events, at most %d: %w", holder, len(events), hostEventsMax, errs.ErrInvalid)
	}
	for _, x := range events {
		e := state.Event{AtMS: x.AtUnixMs, Severity: state.Severity(x.Severity), Kind: x.Kind, About: x.About, Subject: x.Subject, Text: x.Text, By: string(holder.Host),
			Origin: state.EventOrigin{Holder: holder, N: x.N}}
		if !known(abouts, e.About) || !state.PlainName(e.Kind, state.NameMax) || e.Severity < state.Info || e.Severity > state.Trouble {
			e.About, e.Kind, e.Severity = aboutHost, "told", state.Info // of a later version, perhaps
		}
		s.noteEvent(e)
	}
	return nil
}

// hostEventsMax bounds what one heartbeat tells.
const hostEventsMax = 32

func known(list []string, x string) bool {
	for _, y := range list {
		if x == y {
			return true
		}
	}
	return false
}

// ListEvents lists what is kept, and waits for news if asked to.
func (c *clusterService) ListEvents(ctx context.Context, q *api.ListEventsRequest) (*api.ListEventsReply, error) {
	if err := c.s.fresh(ctx); err != nil {
		return nil, c.s.fail(err)
	}
	r, err := c.s.ruling()
	if err != nil {
		return nil, c.s.fail(err)
	}
	late := c.s.clock.NewTimer(min(time.Duration(q.GetWaitMs())*time.Millisecond, eventsWaitMax))
	defer late.Stop()
	for {
		news := c.s.events.news()
		rep := c.list(q)
		if len(rep.Events) > 0 || q.GetWaitMs() == 0 {
			return rep, nil
		}
		select {
		case <-news:
		case <-late.C():
			return rep, nil
		case <-ctx.Done():
			return nil, c.s.fail(ctx.Err())
		case <-r.ctx.Done():
			return nil, c.s.fail(c.s.node.NotLeader())
		}
	}
}

func (c *clusterService) list(q *api.ListEventsRequest) *api.ListEventsReply {
	limit := int(q.GetLimit())
	if limit == 0 || limit > eventsListMax {
		limit = eventsListMax
	}
	rep := &api.ListEventsReply{}
	c.s.node.View(func(m *state.Machine) {
		rep.Last = m.LastEvent()
		for _, e := range m.Events(q.GetAfter(), state.EventsInfoMax+state.EventsWorseMax) {
			if e.AtMS >= q.GetSinceUnixMs() && len(rep.Events) < limit {
				rep.Events = append(rep.Events, &api.Event{Seq: e.Seq, AtUnixMs: e.AtMS, Severity: api.Severity(e.Severity), Kind: e.Kind, About: e.About,
					Subject: e.Subject, Text: e.Text, By: e.By})
			}
		}
	})
	return rep
}
