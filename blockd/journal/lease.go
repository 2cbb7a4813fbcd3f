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
		stores map[id.Store]*session
		claims map[id.Volume]*Claim
		order  []*session // of stores, so that effects have one order
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
	Store id.Store
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

// NewLeases makes the leases of one process.
func NewLeases(cfg LeaseConfig) *Leases { panic("journal: coming") }

// Tick sends requests that are due; call it some ten times a second.
func (l *Leases) Tick(now time.Duration, fx *LeaseEffects) { panic("journal: coming") }

// Done takes back a request that its store finished. Namings are applied before
// the grant counts.
func (l *Leases) Done(now time.Duration, s *LeaseSend, fx *LeaseEffects) { panic("journal: coming") }

// Claim returns the claim on a volume at an epoch, made if need be. A claim at a
// higher epoch fences the lower one.
func (l *Leases) Claim(v id.Volume, e id.Epoch) *Claim { panic("journal: coming") }

// Holds tells the highest number of grants in force; for people.
func (l *Leases) Status(now time.Duration) []LeaseStatus { panic("journal: coming") }

// LeaseStatus shows the session with one store.
type LeaseStatus struct {
	Store id.Store
	Valid time.Duration // how long the grant still counts
	Users int           // cores that count on it
}
