package server

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"ashlar.dev/metad/consensus"
	"ashlar.dev/metad/reconcile"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/telemetry"
)

// describeTimeout bounds how long a status waits for what members say of their memory.
const describeTimeout = time.Second

// memory is what this member says of its own.
func (s *Server) memory() *cluster.Process {
	p := &cluster.Process{Daemon: "metad", Node: s.node.ID(), Uses: s.node.Memory(), Resident: telemetry.ReadUsage().ResidentBytes}
	p.HeapLimit, p.Heap = telemetry.ReadHeap()
	return p
}

// memories are those of the members that answer at once.
func (s *Server) memories(ctx context.Context, members []consensus.Member) (out []*api.ProcessMemory) {
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	var up []consensus.Member
	for _, m := range members {
		if m.Up {
			up = append(up, m)
		}
	}
	said := s.describeAll(ctx, up)
	for _, m := range up {
		if d := said[m.ID]; d.GetMemory() != nil {
			p := d.Memory.Value()
			p.Daemon, p.Node = "metad", m.ID
			out = append(out, api.FromProcess(&p))
		}
	}
	return out
}

// blockdMemories are those of the hosts that said something of it.
func blockdMemories(l *reconcile.Liveness, top *cluster.Topology) (out []*api.ProcessMemory) {
	for _, h := range top.Hosts {
		if b, ok := l.HostBeat(h.Host); ok && len(b.Memory) > 0 {
			out = append(out, api.FromProcess(&cluster.Process{Daemon: "blockd", Node: string(h.Host), Uses: b.Memory,
				HeapLimit: b.HeapLimit, Heap: b.Heap, Resident: b.ResidentBytes}))
		}
	}
	return out
}

// memories are those of the workers that were heard lately.
func (a *archives) memories(now time.Duration) (out []*api.ProcessMemory) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(a.workers)) {
		if w := a.workers[name]; w.memory != nil && now-w.heard <= workerSilent {
			p := w.memory.Value()
			p.Daemon, p.Node = "snapshotd", name
			out = append(out, api.FromProcess(&p))
		}
	}
	return out
}

// showMemory has the uses among the metrics. The collector gets no limit from them: how many bytes the state
// takes decoded depends on what is in it.
func (s *Server) showMemory(reg *prometheus.Registry) {
	if reg == nil {
		return
	}
	reg.MustRegister(telemetry.MemoryMetrics(func(tell func(use, within string, limit, used uint64)) {
		for _, m := range s.node.Memory() {
			tell(m.Name, m.Within, m.Limit, m.Used)
		}
	}))
}
