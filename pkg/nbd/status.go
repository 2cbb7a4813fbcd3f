package nbd

import (
	"slices"
	"sync/atomic"
)

// connStats counts what a connection did.
type connStats struct {
	ops    [len(opNames)]atomic.Uint64
	errors atomic.Uint64
}

// opNames are for status and metrics; the last stands for commands that do not exist.
var opNames = [...]string{"read", "write", "disconnect", "flush", "trim", "cache", "write_zeroes", "block_status", "unknown"}

func (o Op) String() string { return opNames[min(int(o), len(opNames)-1)] }

func (s *connStats) count(op Op) { s.ops[min(int(op), len(opNames)-1)].Add(1) }

func (s *connStats) addFrom(o *connStats) {
	for i := range s.ops {
		s.ops[i].Add(o.ops[i].Load())
	}
	s.errors.Add(o.errors.Load())
}

func (s *connStats) counts() Counts {
	c := Counts{Requests: make(map[string]uint64, len(opNames)), Errors: s.errors.Load()}
	for i, name := range opNames {
		if n := s.ops[i].Load(); n > 0 {
			c.Requests[name] = n
		}
	}
	return c
}

// Counts is what was asked and how often the answer was an error.
type Counts struct {
	Requests map[string]uint64 // by operation
	Errors   uint64
}

// ConnStatus is one connection.
type ConnStatus struct {
	Peer             Peer
	Export           string // empty during the handshake
	Transmitting     bool
	RequestsInFlight int
	BytesInFlight    int64
	Waits            uint64 // how often its own limits made it wait
	Counts           Counts
}

// Status is a server as a whole, with its limits beside what they bound.
type Status struct {
	Conns            int
	ConnsRefused     uint64
	RequestsInFlight int
	BytesInFlight    int64
	Waits            uint64 // how often the limits of the server made a connection wait
	Counts           Counts // of all connections ever
	Limits           Limits
}

func (c *conn) status() ConnStatus {
	st := ConnStatus{Counts: c.stats.counts()}
	if name := c.export.Load(); name != nil {
		st.Export, st.Transmitting, st.Peer = *name, true, c.peer // the peer is settled by then
	} else {
		st.Peer = Peer{Conn: c.id, Addr: c.raw.RemoteAddr()}
	}
	st.RequestsInFlight, st.BytesInFlight, st.Waits = c.limit.usage()
	return st
}

// Conns tells of every connection, the oldest first.
func (s *Server) Conns() []ConnStatus {
	conns := s.snapshot()
	slices.SortFunc(conns, func(a, b *conn) int { return int(a.id) - int(b.id) })
	all := make([]ConnStatus, len(conns))
	for i, c := range conns {
		all[i] = c.status()
	}
	return all
}

// Status tells of the server.
func (s *Server) Status() Status {
	st := Status{ConnsRefused: s.refused.Load(), Limits: s.cfg.Limits}
	var sum connStats
	s.mu.Lock()
	st.Conns = len(s.mu.conns)
	sum.addFrom(&s.retired)
	for _, c := range s.mu.conns {
		sum.addFrom(&c.stats)
	}
	s.mu.Unlock()
	st.Counts = sum.counts()
	st.RequestsInFlight, st.BytesInFlight, st.Waits = s.limit.usage()
	return st
}
