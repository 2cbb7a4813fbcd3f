package journal

import (
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Status shows a core to people.
type Status struct {
	Fenced    bool
	Version   uint64
	Streams   [storeproto.Kinds]StreamStatus
	Ensembles []EnsembleStatus
	ReadsWait uint64 // reads that wait for a round
}

// StreamStatus shows one stream.
type StreamStatus struct {
	Next, Acked, Released id.LSN
	Batches               int // kept in memory
	Bytes                 uint64
}

// EnsembleStatus shows one ensemble; Retired: a later one counts for what is new.
type EnsembleStatus struct {
	ID      id.Ensemble
	Retired bool
	Closed  bool
	Members []MemberStatus
}

// MemberStatus shows one store of an ensemble, or one that is given copies. State
// is ok, failing, bad (to be replaced) or lost (cannot follow).
type MemberStatus struct {
	Store    id.Store
	State    string
	Problem  error
	Copy     bool
	InFlight [storeproto.Kinds]int
	Behind   [storeproto.Kinds]uint64 // batches it lacks
}

// Status is for people.
func (c *Core) Status() Status {
	st := Status{Fenced: c.fenced, Version: c.version, ReadsWait: c.readSeq - c.readable}
	for k := range c.streams {
		s := &c.streams[k]
		st.Streams[k] = StreamStatus{
			Next: s.next, Acked: s.acked, Released: s.released,
			Batches: int(s.tail - s.head), Bytes: s.bytes - s.startOf(s.head),
		}
	}
	for _, e := range c.ensembles {
		es := EnsembleStatus{ID: e.id, Retired: e.retired, Closed: e.closed}
		for _, m := range e.all() {
			es.Members = append(es.Members, c.memberStatus(m))
		}
		st.Ensembles = append(st.Ensembles, es)
	}
	return st
}

func (c *Core) memberStatus(m *member) MemberStatus {
	ms := MemberStatus{Store: m.Store, State: "ok", Copy: m.copy}
	switch {
	case m.lost:
		ms.State = "lost"
	case m.bad:
		ms.State = "bad"
	case !m.ok():
		ms.State = "failing"
	}
	if ms.State != "ok" {
		ms.Problem = m.problem
	}
	for k := range m.cursors {
		end := c.streams[k].tail
		if m.ensemble.retired {
			end = m.ensemble.to[k]
		}
		ms.InFlight[k] = m.cursors[k].inflight
		if d := m.cursors[k].durable; d < end {
			ms.Behind[k] = end - d
		}
	}
	return ms
}
