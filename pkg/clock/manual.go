package clock

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// Manual is a Clock that moves only when told to. Events due at the same instant
// happen in the order they were asked for, so a run repeats exactly.
type Manual struct {
	mu struct {
		sync.Mutex
		now     time.Duration
		wall    time.Time
		nextSeq uint64
		events  eventHeap
		changed chan struct{} // closed and replaced whenever the set of events changes
	}
}

var _ Clock = (*Manual)(nil)

// NewManual starts at one hour after boot, at a fixed time of day.
func NewManual() *Manual {
	m := &Manual{}
	m.mu.now = time.Hour
	m.mu.wall = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	m.mu.changed = make(chan struct{})
	return m
}

// Now is the time since boot as it was set.
func (m *Manual) Now() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.now
}

// Wall is the time of day as it was set.
func (m *Manual) Wall() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.wall
}

// SetWall moves the time of day alone, as an operator or NTP does.
func (m *Manual) SetWall(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.wall = t
}

// Advance moves both times by d and lets everything due happen, in order of its time.
// AfterFunc callbacks run on the caller's goroutine and may use the clock, but not Advance.
func (m *Manual) Advance(d time.Duration) {
	m.mu.Lock()
	end := m.mu.now + d
	for {
		e := m.firstDueLocked(end)
		if e == nil {
			break
		}
		m.stepLocked(max(e.due, m.mu.now))
		if e.every > 0 {
			e.due += e.every
			m.mu.nextSeq++
			e.seq = m.mu.nextSeq
			heap.Fix(&m.mu.events, e.at)
		} else {
			m.removeLocked(e)
		}
		if e.f != nil {
			m.mu.Unlock()
			e.f()
			m.mu.Lock()
			continue
		}
		select {
		case e.c <- m.mu.wall:
		default:
		}
	}
	m.stepLocked(max(end, m.mu.now))
	m.mu.Unlock()
}

// Pending is how many timers, tickers and sleepers wait.
func (m *Manual) Pending() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.mu.events)
}

// AwaitPending returns once at least n timers, tickers or sleepers wait. A test uses
// it before Advance to be sure that the code under test has come to its wait.
func (m *Manual) AwaitPending(ctx context.Context, n int) error {
	for {
		m.mu.Lock()
		got, changed := len(m.mu.events), m.mu.changed
		m.mu.Unlock()
		if got >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Next is when the earliest event is due; ok is false when nothing waits.
func (m *Manual) Next() (due time.Duration, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.mu.events) == 0 {
		return 0, false
	}
	return m.mu.events[0].due, true
}

// NewTimer is part of Clock.
func (m *Manual) NewTimer(d time.Duration) Timer {
	return manualTimer{m.add(&manualEvent{m: m, at: -1, c: make(chan time.Time, 1)}, d)}
}

// NewTicker is part of Clock.
func (m *Manual) NewTicker(d time.Duration) Ticker {
	if d <= 0 {
		panic("clock: ticker interval must be above zero")
	}
	return manualTicker{m.add(&manualEvent{m: m, at: -1, c: make(chan time.Time, 1), every: d}, d)}
}

// AfterFunc is part of Clock; f runs inside Advance, or, when d is not above zero, in the next one.
func (m *Manual) AfterFunc(d time.Duration, f func()) Timer {
	return manualTimer{m.add(&manualEvent{m: m, at: -1, f: f}, d)}
}

// Sleep is part of Clock.
func (m *Manual) Sleep(ctx context.Context, d time.Duration) error { return sleep(ctx, m, d) }

type manualEvent struct {
	m     *Manual
	due   time.Duration
	seq   uint64
	at    int // in the heap; below 0: not there
	every time.Duration
	c     chan time.Time
	f     func()
}

func (m *Manual) add(e *manualEvent, d time.Duration) *manualEvent {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.addLocked(e, d)
	return e
}

func (m *Manual) addLocked(e *manualEvent, d time.Duration) {
	m.mu.nextSeq++
	e.seq, e.due = m.mu.nextSeq, m.mu.now+max(d, 0)
	if e.f == nil && e.every == 0 && d <= 0 {
		e.c <- m.mu.wall // the buffer is empty: new, or drained by stop
		return
	}
	heap.Push(&m.mu.events, e)
	m.signalLocked()
}

func (m *Manual) removeLocked(e *manualEvent) bool {
	if e.at < 0 {
		return false
	}
	heap.Remove(&m.mu.events, e.at)
	m.signalLocked()
	return true
}

func (m *Manual) signalLocked() {
	close(m.mu.changed)
	m.mu.changed = make(chan struct{})
}

func (m *Manual) stepLocked(to time.Duration) {
	m.mu.wall = m.mu.wall.Add(to - m.mu.now)
	m.mu.now = to
}

func (m *Manual) firstDueLocked(end time.Duration) *manualEvent {
	if len(m.mu.events) == 0 || m.mu.events[0].due > end {
		return nil
	}
	return m.mu.events[0]
}

// eventHeap is what waits, the first due on top.
type eventHeap []*manualEvent

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].due < h[j].due || h[i].due == h[j].due && h[i].seq < h[j].seq
}

func (h eventHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push is part of heap.Interface.
func (h *eventHeap) Push(x any) {
	e := x.(*manualEvent)
	e.at = len(*h)
	*h = append(*h, e)
}

// Pop is part of heap.Interface.
func (h *eventHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	e.at = -1
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}

// stop takes the event back, and what it may already have sent.
func (e *manualEvent) stop() bool {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	return e.stopLocked()
}

func (e *manualEvent) stopLocked() bool {
	was := e.m.removeLocked(e)
	if e.c != nil {
		select {
		case <-e.c:
			was = true // as with time.Timer since Go 1.23: an unreceived event counts as prevented
		default:
		}
	}
	return was
}

func (e *manualEvent) reset(d time.Duration) bool {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	was := e.stopLocked()
	if e.every > 0 {
		e.every = d
	}
	e.m.addLocked(e, d)
	return was
}

type manualTimer struct{ e *manualEvent }

func (t manualTimer) C() <-chan time.Time        { return t.e.c }
func (t manualTimer) Stop() bool                 { return t.e.stop() }
func (t manualTimer) Reset(d time.Duration) bool { return t.e.reset(d) }

type manualTicker struct{ e *manualEvent }

func (t manualTicker) C() <-chan time.Time { return t.e.c }
func (t manualTicker) Stop()               { t.e.stop() }
func (t manualTicker) Reset(d time.Duration) {
	if d <= 0 {
		panic("clock: ticker interval must be above zero")
	}
	t.e.reset(d)
}
