package server

import (
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/rpc"
	"ashlar.dev/pkg/telemetry"
)

// peerConnsMax bounds the connections that other hosts have here.
const peerConnsMax = 1024

// Segments that are in memory at once for work behind the clients' backs: packers, their parity, what
// comes from archives, the cleaner's; and for each store what repair and scrub make anew there.
const (
	segmentsBehind   = 12
	segmentsPerStore = 2
	segmentBytes     = id.SlotsMax * block.Size
)

// memory lists what this process bounds and how much of it is used. Payload is counted where it
// is: a client's write is in its request, and in the write buffer until it is packed, and is one
// buffer all the time. Reads take as much again while they are put together. The limit of
// peer connections is that of those there are now: this host has one of each class to each other, and takes peerConnsMax.
func (s *server) memory() []cluster.Memory {
	write := cluster.Memory{Name: "write buffer", Within: payload, Limit: uint64(s.buffers.Limit()), Used: uint64(s.buffers.Used())}
	clients := cluster.Memory{Name: "client requests", Within: payload, Limit: uint64(s.cfg.Memory.ClientRequests)}
	conns := cluster.Memory{Name: "client connections"}
	if s.nbd != nil {
		st := s.nbd.Status()
		clients.Used, clients.Limit = uint64(st.BytesInFlight), uint64(st.Limits.ServerBytesMax)
		conns.Used, conns.Limit = uint64(st.Conns)*nbd.ConnBytesMax, uint64(st.Limits.ConnsMax)*nbd.ConnBytesMax
	}
	peers := cluster.Memory{Name: "peer requests", Within: payload}
	for _, b := range s.shares {
		peers.Limit += uint64(b.Limit())
		peers.Used += uint64(b.Used())
	}
	behind := uint64(segmentsBehind+segmentsPerStore*len(s.local.all())) * segmentBytes
	cache := s.cache.Stats()
	wire, open := s.rpcStats.Buffers()
	return append([]cluster.Memory{
		{Name: payload, Limit: write.Limit + 2*clients.Limit + peers.Limit + behind, Used: uint64(buf.Outstanding().Bytes)},
		write, clients, peers,
		{Name: "map pages", Limit: uint64(s.budget.Limit()) * blockmap.PageSize, Used: uint64(s.budget.Used()) * blockmap.PageSize},
		{Name: "block cache", Limit: cache.LimitBytes, Used: cache.UsedBytes},
		conns,
		{Name: "peer connections", Limit: uint64(max(open, 0)) * rpc.ConnBytesMax, Used: uint64(max(wire, 0))},
	}, s.storeMemory()...)
}

const payload = "payload buffers"

// storeMemory is what the stores of this host keep, together.
func (s *server) storeMemory() []cluster.Memory {
	sums, blocks, tables := cluster.Memory{Name: "checksum caches"}, cluster.Memory{Name: "index caches"}, cluster.Memory{Name: "index memtables"}
	for _, st := range s.local.all() {
		u := st.Stats()
		for _, x := range []struct {
			to          *cluster.Memory
			limit, used int64
		}{{&sums, u.SumCacheMax, u.SumCacheBytes}, {&blocks, u.IndexCacheMax, u.IndexCacheBytes}, {&tables, u.MemTableMax, u.MemTableBytes}} {
			x.to.Limit += uint64(x.limit)
			x.to.Used += uint64(max(x.used, 0))
		}
	}
	return []cluster.Memory{sums, blocks, tables}
}

// showMemory has all uses among the metrics.
func (s *server) showMemory() {
	s.registry.MustRegister(telemetry.MemoryMetrics(func(tell func(use, within string, limit, used uint64)) {
		for _, m := range s.memory() {
			tell(m.Name, m.Within, m.Limit, m.Used)
		}
	}))
}
