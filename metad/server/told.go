package server

import (
	"fmt"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
)

// told is what was last said, as an event, of everything whose state a leader only believes:
// hosts, stores, members, the health. A new leader takes it from the events that are kept, so
// that a change during a change of leaders is told once, and nothing is told twice.
type told map[string]string

// kinds of events that say in which state something is now, by what they are about.
var stateKinds = map[string]string{
	"host_up": aboutHost, "host_down": aboutHost,
	"store_up": aboutStore, "store_down": aboutStore, "store_lost": aboutStore, "store_out": aboutStore, "store_draining": aboutStore, "store_full": aboutStore,
	"member_up": aboutMember, "member_down": aboutMember,
	"health_ok": aboutCluster, "health_degraded": aboutCluster, "health_at_risk": aboutCluster, "health_unavailable": aboutCluster,
}

func readTold(m *state.Machine) told {
	t := make(told)
	for _, e := range m.Events(0, state.EventsInfoMax+state.EventsWorseMax) {
		if stateKinds[e.Kind] == e.About {
			t[e.About+" "+e.Subject] = e.Kind
		}
	}
	return t
}

// say notes a change of state, unless it was said already.
func (r *reign) say(severity state.Severity, kind, about, subject, format string, args ...any) {
	key := about + " " + subject
	if r.mu.told[key] == kind {
		return
	}
	if len(r.mu.told) > toldMax {
		clear(r.mu.told)
	}
	r.mu.told[key] = kind
	r.s.note(severity, kind, about, subject, "", format, args...)
}

// toldMax is above all hosts, stores and members there can be.
const toldMax = state.HostsMax + 2*state.StoresMax + 64

// sayEvery is the pause between two looks at members and health.
const sayEvery = time.Second

// sayStates notes what has changed since it was last said. A leader that has just begun
// knows too little. r.mu is held.
func (r *reign) sayStates(now time.Duration) {
	if now-r.began < r.settle*settlePart || now < r.mu.sayAt {
		return
	}
	r.mu.sayAt = now + sayEvery
	for _, h := range r.mu.top.Hosts {
		if h.Up {
			r.say(state.Info, "host_up", aboutHost, string(h.Host), "host %s is up", h.Host)
		} else {
			r.say(state.Warning, "host_down", aboutHost, string(h.Host), "host %s is silent", h.Host)
		}
	}
	for i := range r.mu.top.Stores {
		r.sayStore(now, &r.mu.top.Stores[i])
	}
	var known []reconcile.Member
	for _, m := range r.s.node.Members() {
		if m.Up {
			r.say(state.Info, "member_up", aboutMember, m.ID, "metad %s is up", m.ID)
		} else {
			r.say(state.Warning, "member_down", aboutMember, m.ID, "metad %s does not answer", m.ID)
		}
		if m.Voter {
			known = append(known, reconcile.Member{ID: m.ID, Up: m.Up})
		}
	}
	r.s.node.View(func(m *state.Machine) { r.sayHealth(reconcile.Health(m, r.mu.top, r.mu.live, known, now)) })
}

func (r *reign) sayStore(now time.Duration, s *cluster.Store) {
	name := s.Store.String()
	switch s.State {
	case cluster.StoreUp:
		if s.Full {
			r.say(state.Warning, "store_full", aboutStore, name, "store on %s is full and takes no new data", s.Host)
			return
		}
		r.say(state.Info, "store_up", aboutStore, name, "store on %s is up and takes data", s.Host)
	case cluster.StoreDraining:
		r.say(state.Info, "store_draining", aboutStore, name, "store on %s is being emptied", s.Host)
	case cluster.StoreLost:
		r.say(state.Warning, "store_lost", aboutStore, name, "store on %s is given up", s.Host)
	default:
		kind, what := "store_down", "down"
		if s.State == cluster.StoreOut {
			kind, what = "store_out", "out, what it has is rebuilt on others"
		}
		_, why := r.mu.live.StoreUp(now, s.StoreRef, s.Host)
		r.say(state.Warning, kind, aboutStore, name, "store on %s is %s: %s", s.Host, what, why)
	}
}

func (r *reign) sayHealth(h *reconcile.Report) {
	var first string
	if len(h.Reasons) > 0 {
		first = ": " + h.Reasons[0].Text
		if more := len(h.Reasons) - 1; more > 0 {
			first += fmt.Sprintf(" (and %d more)", more)
		}
	}
	switch h.Level {
	case reconcile.OK:
		r.say(state.Info, "health_ok", aboutCluster, "", "health is OK")
	case reconcile.Degraded:
		r.say(state.Warning, "health_degraded", aboutCluster, "", "health is DEGRADED%s", first)
	case reconcile.AtRisk:
		r.say(state.Warning, "health_at_risk", aboutCluster, "", "health is AT_RISK%s", first)
	default:
		r.say(state.Trouble, "health_unavailable", aboutCluster, "", "health is UNAVAILABLE%s", first)
	}
}
