package journal

import (
	"sync"
	"sync/atomic"
	"time"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Leases counts the grants of one process: one session with every store that a
// core's newest ensemble names. Safe for concurrent use; its lock is a leaf and
// is never held while anything of the shell runs.
type Leases struct {
	cfg LeaseConfig
	mu  struct {
		sync.Mutex
		sessions map[Member]*session
		claims   map[id.Volume]*Claim
		order    []*session // of sessions, so that effects have one order
	}
}

// LeaseConfig configures Leases. Zero durations mean their defaults.
type LeaseConfig struct {
	Holder id.Holder
	Wait   time.Duration // how long a store may hold a request; a third of the stores' term or less. 1 s.
	Retry  time.Duration // the pause after a failed request. 100 ms.
	// Answered is called by a store with each finished request, on any goroutine; it
	// must bring it to Done.
	Answered func(*LeaseSend)
}

// LeaseEffects is what steps of Leases ask of the shell; reused after Reset.
type LeaseEffects struct {
	// Sends: call the store's Lease with &s.Lease.
	Sends []*LeaseSend
	// Fenced are claims that a store named: reads of them have ended already. Step
	// their cores with Fence.
	Fenced []*Claim
}

// Reset empties the effects and keeps their memory.
func (fx *LeaseEffects) Reset() {
	clear(fx.Sends)
	clear(fx.Fenced)
	fx.Sends, fx.Fenced = fx.Sends[:0], fx.Fenced[:0]
}

// LeaseSend is one lease request to one store.
type LeaseSend struct {
	Member
	Lease storeproto.Lease

	session *session
	at      time.Duration
}

// Claim is this process's ownership of a volume at an epoch, from the start of
// its opening on. A naming of a higher epoch fences it for good.
type Claim struct {
	Volume id.Volume
	Epoch  id.Epoch
	fenced atomic.Bool
}

// Fenced tells whether a newer epoch is known to be in force.
func (c *Claim) Fenced() bool { return c.fenced.Load() }

// session is the one with a store. Its grant is read without a lock.
type session struct {
	Member
	until atomic.Int64 // nanoseconds of CLOCK_BOOTTIME; grants count before it

	// Under Leases.mu.
	users   int
	busy    bool
	acked   uint64
	retryAt time.Duration
}

func (s *session) valid(now time.Duration) bool { return int64(now) < s.until.Load() }

// NewLeases makes the leases of one process.
func NewLeases(cfg LeaseConfig) *Leases {
	def(&cfg.Wait, time.Second)
	def(&cfg.Retry, 100*time.Millisecond)
	l := &Leases{cfg: cfg}
	l.mu.sessions = make(map[Member]*session)
	l.mu.claims = make(map[id.Volume]*Claim)
	return l
}

// use finds or makes the session with a store and counts a user.
func (l *Leases) use(m Member) *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.mu.sessions[m]
	if s == nil {
		s = &session{Member: m}
		l.mu.sessions[m] = s
		l.mu.order = append(l.mu.order, s)
	}
	s.users++
	return s
}

func (l *Leases) unuse(sessions []*session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range sessions {
		s.users--
	}
}

// Tick sends requests that are due; call it some ten times a second, and after an
// opening or an ensemble change, so that reads soon need no round.
func (l *Leases) Tick(now time.Duration, fx *LeaseEffects) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.mu.order[:0]
	for _, s := range l.mu.order {
		if s.users == 0 && !s.busy && !s.valid(now) {
			delete(l.mu.sessions, s.Member)
			continue
		}
		kept = append(kept, s)
		if s.users > 0 && !s.busy && now >= s.retryAt {
			l.request(now, s, fx)
		}
	}
	clear(l.mu.order[len(kept):])
	l.mu.order = kept
}

func (l *Leases) request(now time.Duration, s *session, fx *LeaseEffects) {
	s.busy = true
	d := &LeaseSend{Member: s.Member, session: s, at: now}
	d.Lease = storeproto.Lease{Holder: l.cfg.Holder, Acked: s.acked, Wait: l.cfg.Wait}
	d.Lease.Done = func(*storeproto.Lease) { l.cfg.Answered(d) }
	fx.Sends = append(fx.Sends, d)
}

// Done takes back a request that its store finished. Namings are applied before
// the grant counts, and the grant from the moment the request was made.
func (l *Leases) Done(now time.Duration, d *LeaseSend, fx *LeaseEffects) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := d.session
	s.busy = false
	if d.Lease.Err != nil {
		s.retryAt = now + l.cfg.Retry
		return
	}
	for _, n := range d.Lease.Named {
		c := l.mu.claims[n.Volume]
		if c != nil && c.Epoch < n.Epoch && !c.fenced.Swap(true) {
			fx.Fenced = append(fx.Fenced, c)
		}
	}
	s.acked = d.Lease.Naming // lower than before where the store lost its memory
	s.until.Store(max(s.until.Load(), int64(d.at+d.Lease.Term)))
	// A naming is acknowledged at once, because a fence waits for it; else a store
	// that answers without holding the request sets no pace.
	s.retryAt = d.at + l.cfg.Wait/2
	if s.users > 0 && (now >= s.retryAt || len(d.Lease.Named) > 0) {
		l.request(now, s, fx)
	}
}

// Claim finds or makes the claim on a volume at an epoch: before the opening
// begins, so that no naming is missed. It fences a claim of a lower epoch; below
// one of a higher epoch it is born fenced.
func (l *Leases) Claim(v id.Volume, e id.Epoch) *Claim {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.mu.claims[v]
	if old != nil && old.Epoch == e {
		return old
	}
	c := &Claim{Volume: v, Epoch: e}
	if old != nil && old.Epoch > e {
		c.fenced.Store(true)
		return c
	}
	if old != nil {
		old.fenced.Store(true)
	}
	l.mu.claims[v] = c
	return c
}

func (l *Leases) unclaim(c *Claim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.claims[c.Volume] == c {
		delete(l.mu.claims, c.Volume)
	}
}

// LeaseStatus shows the session with one store.
type LeaseStatus struct {
	Member
	Valid time.Duration // how long the grant still counts; 0 or less: it does not
	Users int           // cores that count on it
}

// Status is for people.
func (l *Leases) Status(now time.Duration) []LeaseStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []LeaseStatus
	for _, s := range l.mu.order {
		out = append(out, LeaseStatus{Member: s.Member, Valid: time.Duration(s.until.Load()) - now, Users: s.users})
	}
	return out
}
