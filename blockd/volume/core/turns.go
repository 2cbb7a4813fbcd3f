package core

import (
	"slices"
	"sync"
	"time"

	"ashlar.dev/pkg/id"
)

// cleanTurns lets one volume of a process clean at a time, for a job holds up to a
// segment in memory, and in the order in which they came to want it: a busy volume that
// always finds a victim would else leave nothing to the others, whose dead space grew.
// Safe for concurrent use.
type cleanTurns struct {
	mu    sync.Mutex
	taken bool
	queue []cleanClaim
}

// cleanClaim is a volume that wants to clean, and when it said so last.
type cleanClaim struct {
	volume id.Volume
	said   time.Duration
}

// claimLapses is how long a volume keeps its place without saying again that it wants it: it
// has ended, or has nothing to clean any more.
const claimLapses = 2 * time.Second

// take tells whether it is the volume's turn; then leave is to be called.
func (t *cleanTurns) take(now time.Duration, v id.Volume) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = slices.DeleteFunc(t.queue, func(c cleanClaim) bool { return c.volume != v && now-c.said >= claimLapses })
	i := slices.IndexFunc(t.queue, func(c cleanClaim) bool { return c.volume == v })
	if i < 0 {
		i = len(t.queue)
		t.queue = append(t.queue, cleanClaim{volume: v})
	}
	t.queue[i].said = now
	if t.taken || i > 0 {
		return false
	}
	t.taken, t.queue = true, slices.Delete(t.queue, 0, 1)
	return true
}

func (t *cleanTurns) leave() {
	t.mu.Lock()
	t.taken = false
	t.mu.Unlock()
}

// takeClean tells whether this volume may begin a job of its cleaner; leaveClean is its end.
func (c *Core) takeClean(now time.Duration) bool {
	return c.cfg.Memory == nil || c.cfg.Memory.turns.take(now, c.cfg.Volume)
}

func (c *Core) leaveClean() {
	if c.cfg.Memory != nil {
		c.cfg.Memory.turns.leave()
	}
}
