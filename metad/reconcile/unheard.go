package reconcile

import (
	"time"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
)

// A leader that has just begun has heard of nobody: what it would say of stores then is of its
// own ignorance, not of them. So for unheardGrace heartbeat timeouts the health judges a store that was not
// heard yet, whose host has not spoken and of which nobody complains, as if it were up, and says of how many that is so. Nothing else goes by it: placement,
// takeovers and repairs wait or not as ever.
const unheardGrace = 4

// heardSoon gives the topology as the health judges it. t is that of the same moment.
func (r *Report) heardSoon(m *state.Machine, t *cluster.Topology, l *Liveness, now time.Duration) *cluster.Topology {
	began := now - l.start
	if began >= unheardGrace*l.timeout {
		return t
	}
	young := *l
	young.start = now // one that begins now takes for up whom it has not heard
	next := Topology(m, &young, now)
	said, of, silent := 0, 0, 0
	for _, s := range next.Stores {
		if known, ok := m.Store(s.Store); !ok || known.Lost || known.Out {
			continue // committed: no heartbeat is needed to know it
		}
		of++
		if l.stores[s.StoreRef] != nil {
			said++
		} else if was, ok := t.Store(s.Store); ok && was.State != s.State {
			silent++
		}
	}
	if said == of {
		return t
	}
	level := OK
	if silent > 0 { // for longer than a host that lives is
		level = Degraded
	}
	r.add(level, "leader_new", "", "metad's leader began %v ago: %d of %d stores have reported to it", began.Round(100*time.Millisecond), said, of)
	return next
}

// rebuilding: heartbeats are not taken while the state is behind its cluster, so nothing is known
// of stores but who has told.
func (r *Report) rebuilding(m *state.Machine) bool {
	if !m.Rebuilding() {
		return false
	}
	r.add(AtRisk, "rebuilding", "", "metad's state is being rebuilt, %d stores have told what they have: disks that are open go on, none is opened, made or deleted until ashlar metad rebuild --finish; ashlar metad rebuild says who is missing",
		len(m.Rebuild().Told))
	return true
}
