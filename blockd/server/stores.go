package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/rpc"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/remote"
	"ashlar.dev/pkg/vfs/aio"
	"ashlar.dev/pkg/volproto"
)

// stores finds the body of every store of the cluster: this host's own directly, any
// other through the connections to its host, which follow metad's topology.
type stores struct {
	self  id.Host
	creds *pki.Credentials
	plain bool // no TLS between blockds
	clock clock.Clock
	log   *slog.Logger
	stats *rpc.Stats
	pacer *rpc.Pacer
	burst rpc.Corker // of the connections to peers; set before the first topology

	bodies atomic.Pointer[map[id.Store]storeproto.Store]
	corks  atomic.Pointer[[]nbd.Corker] // see Corks
	queue  *aio.Queue                   // of the local stores; nil if there is none

	mu    sync.Mutex
	local map[id.Store]storeproto.Store
	peers map[id.Host]*peer
}

// peer is the connections to one other host: to its stores, and to the disks it owns.
type peer struct {
	address string
	stores  *remote.Peer
	volumes *volproto.Peer
}

func newStores(self id.Host, creds *pki.Credentials, c clock.Clock, log *slog.Logger, stats *rpc.Stats) *stores {
	s := &stores{
		self: self, creds: creds, clock: c, log: log, stats: stats,
		local: make(map[id.Store]storeproto.Store), peers: make(map[id.Host]*peer),
	}
	s.bodies.Store(&map[id.Store]storeproto.Store{})
	s.corks.Store(&[]nbd.Corker{})
	return s
}

// addLocal makes a store of this host known.
func (s *stores) addLocal(n id.Store, body storeproto.Store) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.local[n] = body
	next := make(map[id.Store]storeproto.Store)
	for k, v := range *s.bodies.Load() {
		next[k] = v
	}
	next[n] = body
	s.bodies.Store(&next)
}

// removeLocal takes a store of this host out of service.
func (s *stores) removeLocal(n id.Store) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.local, n)
	next := maps.Clone(*s.bodies.Load())
	delete(next, n)
	s.bodies.Store(&next)
}

// Store finds a store's body. Lock-free.
func (s *stores) Store(n id.Store) (storeproto.Store, bool) {
	b, ok := (*s.bodies.Load())[n]
	return b, ok
}

// Local finds a store of this host.
func (s *stores) Local(n id.Store) (storeproto.Store, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.local[n]
	return b, ok
}

// follow takes a newer topology: connections to new hosts are made, to hosts that
// moved made anew, to hosts that are gone closed.
func (s *stores) follow(t *cluster.Topology) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range t.Hosts {
		h := &t.Hosts[i]
		if h.Host == s.self || h.DataAddress == "" {
			continue
		}
		if p := s.peers[h.Host]; p != nil {
			if p.address == h.DataAddress {
				continue
			}
			s.closePeer(p)
			delete(s.peers, h.Host)
		}
		s.connect(h)
	}
	for host, p := range s.peers {
		if _, ok := t.Host(host); !ok {
			s.closePeer(p)
			delete(s.peers, host)
		}
	}
	next := make(map[id.Store]storeproto.Store)
	for i := range t.Stores {
		st := &t.Stores[i]
		if p := s.peers[st.Host]; p != nil {
			next[st.Store] = p.stores.Store(st.Store, st.Incarnation)
		}
	}
	for n, b := range s.local {
		next[n] = b
	}
	s.bodies.Store(&next)
	corks := make([]nbd.Corker, 0, len(s.peers)+1)
	for _, p := range s.peers {
		corks = append(corks, p.stores)
	}
	if s.queue != nil {
		corks = append(corks, s.queue)
	}
	s.corks.Store(&corks)
}

// Corks are the connections to all peers, and the queue of the stores here.
func (s *stores) Corks() []nbd.Corker { return *s.corks.Load() }

func (s *stores) connect(h *cluster.Host) {
	log := s.log.With("peer", string(h.Host))
	tls := s.clientTLS(h.Host)
	p, err := remote.NewPeer(remote.PeerConfig{
		Host: h.Host, Network: "tcp", Address: h.DataAddress, LiveTLS: tls, Insecure: s.plain, Self: s.creds.Self(),
		Timeouts: remote.Timeouts{Put: putTimeout}, Clock: s.clock, Log: log, Stats: s.stats, Pacer: s.pacer, Corker: s.burst,
	})
	if err != nil {
		log.Error("no connection to the stores of a host", "err", err)
		return
	}
	v, err := volproto.NewPeer(volproto.PeerConfig{
		Host: h.Host, Network: "tcp", Address: h.DataAddress, LiveTLS: tls, Insecure: s.plain, Self: s.creds.Self(),
		Clock: s.clock, Log: log, Stats: s.stats, Pacer: s.pacer, Corker: s.burst,
	})
	if err != nil {
		log.Error("no connection to the disks of a host", "err", errors.Join(err, p.Close()))
		return
	}
	s.peers[h.Host] = &peer{h.DataAddress, p, v}
}

// putTimeout is how long one shard may take: a store that hangs is left out of the
// next try, and the writers that wait for memory must not wait long.
const putTimeout = 5 * time.Second

// Attach makes stores export.Proxy.
func (s *stores) Attach(ctx context.Context, owner id.Host, v id.Volume, session volproto.Session) (nbd.Handle, error) {
	s.mu.Lock()
	p := s.peers[owner]
	s.mu.Unlock()
	if p == nil {
		return nil, fmt.Errorf("host %s is not known here yet: %w", owner, errs.ErrUnavailable)
	}
	h, err := p.volumes.Attach(ctx, v, session)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// AttachSnapshot makes stores export.Proxy.
func (s *stores) AttachSnapshot(ctx context.Context, owner id.Host, v id.Volume, snap id.Snapshot, session volproto.Session) (nbd.Handle, error) {
	s.mu.Lock()
	p := s.peers[owner]
	s.mu.Unlock()
	if p == nil {
		return nil, fmt.Errorf("host %s is not known here yet: %w", owner, errs.ErrUnavailable)
	}
	h, err := p.volumes.AttachSnapshot(ctx, v, snap, session)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// clientTLS dials one blockd and nobody else; nil where there is no TLS.
func (s *stores) clientTLS(host id.Host) func() *tls.Config {
	if s.plain {
		return nil
	}
	return s.creds.Dialer(pki.Expect{Roles: []pki.Role{pki.RoleBlockd}, Name: string(host)})
}

func (s *stores) closePeer(p *peer) {
	if err := errors.Join(p.stores.Close(), p.volumes.Close()); err != nil {
		s.log.Warn("connection to a host not closed cleanly", "peer", string(p.stores.Host()), "err", err)
	}
}

func (s *stores) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.peers {
		s.closePeer(p)
	}
	clear(s.peers)
}
