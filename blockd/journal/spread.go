package journal

import (
	"slices"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Spread tells a Core whether its newest ensemble could be on more hosts than it is: a
// core knows stores only. It looks when the topology is another or the ensemble, whichever
// came last, for an ensemble that was formed while hosts were away may be answered
// after they are back; and from time to time, for an ask may fail because metad is away.
// The zero value is ready. Not safe for concurrent use.
type Spread struct {
	topology uint64
	newest   []id.Store
	next     time.Duration
}

// spreadAgain is how long a core is left with what it was told.
const spreadAgain = 30 * time.Second

// Look is for every tick.
func (s *Spread) Look(now time.Duration, t *cluster.Topology, c *Core) {
	newest := c.Newest()
	if t == nil || len(newest) == 0 || t.Version == s.topology && slices.Equal(newest, s.newest) && now < s.next {
		return
	}
	s.topology, s.newest, s.next = t.Version, newest, now+spreadAgain
	c.Narrow(narrow(t, newest))
}

// narrow tells whether an ensemble of these stores is on fewer hosts than one of the stores
// that are up could be.
func narrow(t *cluster.Topology, newest []id.Store) bool {
	have, up := make(map[id.Host]bool), make(map[id.Host]bool)
	for i := range t.Stores {
		s := &t.Stores[i]
		if slices.Contains(newest, s.Store) {
			have[s.Host] = true
		}
		if s.State == cluster.StoreUp {
			up[s.Host] = true
		}
	}
	return len(have) < min(cluster.JournalHosts, len(up))
}
