package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Kind is what a fault does.
type Kind int

// The faults. The owner is the blockd that owns the first disk, the leader is metad's.
const (
	KillBlockd         Kind = iota // SIGKILL of any blockd
	KillOwner                      // SIGKILL of the owner, started again at once or after a while
	KillLeader                     // SIGKILL of the leader
	KillMetads                     // SIGKILL of all metads: I/O goes on
	KillOwnerAndLeader             // one of each at the same moment
	KillAll                        // SIGKILL of everything
	PauseOwner                     // SIGSTOP past the lease: a zombie when it goes on
	PauseBlockd                    // SIGSTOP of any blockd
	PauseLeader                    // SIGSTOP of the leader: its lease runs out too
	BlinkOwner                     // SIGSTOP for less than a lease
	CutOwner                       // no daemon reaches the owner; its clients do
	CutOwnerInward                 // the owner is heard and hears nobody
	CutOwnerFromMetads             // the owner reaches stores, not metad
	CutPair                        // the owner and one other blockd do not reach each other
	CutBlockd                      // no daemon reaches some blockd
	CutLeader                      // no daemon reaches the leader
	LoseStore                      // a blockd dies, and what one of its stores had is gone for good
	LoseHost                       // a blockd dies, and what all its stores had is gone for good
	LoseMetad                      // a metad dies with its data
	LoseMachine                    // a blockd and a metad with all they had
	LoseStoreAndMetad              // a blockd dies and one of its stores is gone, and a metad with its data
	kinds
)

var kindNames = [...]string{"kill a blockd", "kill the owner", "kill metad's leader", "kill all metads", "kill the owner and the leader", "kill everything",
	"pause the owner", "pause a blockd", "pause the leader", "pause the owner briefly",
	"cut the owner off", "cut the owner off inward", "cut the owner off from metad", "cut the owner off from one blockd", "cut a blockd off", "cut the leader off",
	"lose a store", "lose a host", "lose a metad", "lose a machine", "lose a store and a metad"}

func (k Kind) String() string { return kindNames[k] }

// Fault is one step of a plan.
type Fault struct {
	Kind Kind
	// Calm is the time to wait before it, Hold how long it lasts.
	Calm, Hold time.Duration
	// Pick chooses among the daemons where the kind leaves a choice.
	Pick int
}

func (f Fault) String() string {
	return fmt.Sprintf("%s for %s", f.Kind, f.Hold.Round(10*time.Millisecond))
}

// leaseTerm is the cluster's; a pause must outlast it to make a zombie.
const leaseTerm = 3 * time.Second

// holds are the bounds of each kind's time. Whoever is dead, paused or cut off for
// longer than a lease is replaced by another owner.
var holds = [kinds][2]time.Duration{
	KillBlockd: {0, 6 * time.Second}, KillOwner: {0, 7 * time.Second}, KillLeader: {0, 3 * time.Second}, KillMetads: {time.Second, 4 * time.Second},
	KillOwnerAndLeader: {0, 5 * time.Second}, KillAll: {0, time.Second},
	PauseOwner: {2 * leaseTerm, 4 * leaseTerm}, PauseBlockd: {leaseTerm, 3 * leaseTerm}, PauseLeader: {time.Second, 5 * time.Second}, BlinkOwner: {100 * time.Millisecond, leaseTerm},
	CutOwner: {leaseTerm, 4 * leaseTerm}, CutOwnerInward: {leaseTerm, 3 * leaseTerm}, CutOwnerFromMetads: {leaseTerm, 3 * leaseTerm},
	CutPair: {leaseTerm, 3 * leaseTerm}, CutBlockd: {leaseTerm, 3 * leaseTerm}, CutLeader: {time.Second, 5 * time.Second},
	LoseStore: {0, 5 * time.Second}, LoseHost: {0, 5 * time.Second}, LoseMetad: {0, 3 * time.Second}, LoseMachine: {0, 5 * time.Second}, LoseStoreAndMetad: {0, 5 * time.Second},
}

// loses says whether a fault takes data away for good: then what is left must be all
// that the redundancy asks for before the next one comes.
func (k Kind) loses() bool { return k >= LoseStore && k <= LoseStoreAndMetad }

// Plan deals faults from a seed, without end: every kind once in each round, in
// another order.
type Plan struct {
	rng   *rand.Rand
	kinds []Kind
	deck  []Kind
}

// NewPlan begins the plan of a seed, of the given kinds of faults or, if there are none, of all.
func NewPlan(seed uint64, only ...Kind) *Plan {
	p := &Plan{rng: rand.New(rand.NewPCG(seed, 0)), kinds: only}
	if len(only) == 0 {
		for k := range kinds {
			p.kinds = append(p.kinds, k)
		}
	}
	return p
}

// ParseKinds reads names of kinds, apart by commas.
func ParseKinds(text string) (out []Kind, err error) {
	for name := range strings.SplitSeq(text, ",") {
		i := slices.Index(kindNames[:], strings.TrimSpace(name))
		if i < 0 {
			return nil, fmt.Errorf("no fault is called %q; there are: %s", name, strings.Join(kindNames[:], ", "))
		}
		out = append(out, Kind(i))
	}
	return out, nil
}

const calmMax = 1500 * time.Millisecond

// Next is the next fault.
func (p *Plan) Next() Fault {
	if len(p.deck) == 0 {
		p.deck = slices.Clone(p.kinds)
		p.rng.Shuffle(len(p.deck), func(i, j int) { p.deck[i], p.deck[j] = p.deck[j], p.deck[i] })
	}
	k := p.deck[0]
	p.deck = p.deck[1:]
	h := holds[k]
	f := Fault{Kind: k, Calm: p.span(200*time.Millisecond, calmMax), Hold: p.span(h[0], h[1]), Pick: p.rng.IntN(1 << 20)}
	if (k == KillOwner || k == KillBlockd) && p.rng.IntN(2) == 0 {
		f.Hold = 0 // started again at once, before anybody else takes over
	}
	return f
}

func (p *Plan) span(least, most time.Duration) time.Duration {
	return least + time.Duration(p.rng.Int64N(int64(most-least)+1))
}
