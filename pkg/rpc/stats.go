package rpc

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats counts what connections do. Nil counts nothing. One Stats serves any
// number of clients and servers.
type Stats struct {
	writes, written, connected, broken, timeouts, refused atomic.Uint64

	buffers, open atomic.Int64
}

// Totals is a reading of Stats.
type Totals struct {
	Writes   uint64 // system calls that wrote, or would have
	Written  uint64 // bytes
	Connects uint64 // connections made or accepted
	Broken   uint64 // connections that ended without being closed
	Timeouts uint64 // calls whose time ran out
	Refused  uint64 // connections refused in the handshake
}

// Totals reads all counters.
func (s *Stats) Totals() Totals {
	if s == nil {
		return Totals{}
	}
	return Totals{s.writes.Load(), s.written.Load(), s.connected.Load(), s.broken.Load(), s.timeouts.Load(), s.refused.Load()}
}

// Buffers is the bytes that connections keep to read into and to write from now, and how many connections they are.
func (s *Stats) Buffers() (bytes, conns int64) {
	if s == nil {
		return 0, 0
	}
	return s.buffers.Load(), s.open.Load()
}

// Register shows the counters under ashlar_rpc_*.
func (s *Stats) Register(reg prometheus.Registerer) {
	for _, m := range []struct {
		name, help string
		v          *atomic.Uint64
	}{
		{"writes_total", "Writes to sockets of the data path.", &s.writes},
		{"written_bytes_total", "Bytes written to sockets of the data path.", &s.written},
		{"connects_total", "Connections of the data path made or accepted.", &s.connected},
		{"broken_total", "Connections of the data path that ended without being closed.", &s.broken},
		{"timeouts_total", "Calls on the data path whose time ran out.", &s.timeouts},
		{"refused_total", "Connections refused in the handshake.", &s.refused},
	} {
		v := m.v
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "ashlar", Subsystem: "rpc", Name: m.name, Help: m.help},
			func() float64 { return float64(v.Load()) }))
	}
}

func (s *Stats) addWrite(n int) {
	if s != nil {
		s.writes.Add(1)
		s.written.Add(uint64(n))
	}
}

func (s *Stats) addBuffers(n, conns int) {
	if s != nil {
		s.buffers.Add(int64(n))
		s.open.Add(int64(conns))
	}
}

func (s *Stats) add(c func(*Stats) *atomic.Uint64) {
	if s != nil {
		c(s).Add(1)
	}
}

func connects(s *Stats) *atomic.Uint64 { return &s.connected }
func broken(s *Stats) *atomic.Uint64   { return &s.broken }
func timeouts(s *Stats) *atomic.Uint64 { return &s.timeouts }
func refused(s *Stats) *atomic.Uint64  { return &s.refused }
