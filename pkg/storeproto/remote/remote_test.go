package remote

import (
	"context"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/rpc"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/memstore"
	"ashlar.dev/pkg/storeproto/storetest"
	"ashlar.dev/pkg/testkit/rpctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	storeID  = id.Store{7}
	storeInc = id.Incarnation{1}
)

// patient does not take a busy machine for a dead peer.
var patient = rpc.Timing{Dead: 20 * time.Second, Handshake: 20 * time.Second}

// site is a host that serves one store, and how to reach it.
type site struct {
	t       testing.TB
	w       *rpctest.World
	tr      rpctest.Transport
	addr    net.Addr
	server  *rpc.Server
	service *Service
}

func serve(t testing.TB, w *rpctest.World, tr rpctest.Transport, cfg ServiceConfig, timing rpc.Timing) *site {
	t.Helper()
	cfg.Clock = clock.System
	s, err := NewService(cfg)
	if err != nil {
		t.Fatal(err)
	}
	scfg := rpc.ServerConfig{Insecure: !tr.TLS, Self: rpctest.Identity("b1"), Services: s.Services(), Clock: clock.System, Log: rpctest.Log(), Timing: timing}
	if tr.TLS {
		scfg.TLS = w.ServerTLS("b1")
	}
	server, err := rpc.NewServer(scfg)
	if err != nil {
		t.Fatal(err)
	}
	l := w.Listen(tr)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return &site{t: t, w: w, tr: tr, addr: l.Addr(), server: server, service: s}
}

func lookup(s storeproto.Store) func(id.Store) (storeproto.Store, bool) {
	return func(want id.Store) (storeproto.Store, bool) { return s, want == storeID }
}

// peer connects as the blockd of that name.
func (s *site) peer(name string, change func(*PeerConfig)) *Peer {
	s.t.Helper()
	cfg := PeerConfig{Host: "b1", Network: s.tr.Network, Address: s.addr.String(), Insecure: !s.tr.TLS, Self: rpctest.Identity(name),
		Clock: clock.System, Log: rpctest.Log(), Timing: patient, Timeouts: Timeouts{Confirm: 20 * time.Second, Lease: 20 * time.Second}}
	if s.tr.TLS {
		cfg.TLS = s.w.ClientTLS(name)
	}
	if change != nil {
		change(&cfg)
	}
	p, err := NewPeer(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = p.Close() })
	return p
}

// byHolder sends what names a holder over the connection of that holder's host.
type byHolder struct {
	storeproto.Store
	hosts map[id.Host]storeproto.Store
}

// ListShards is part of storeproto.Lister.
func (b byHolder) ListShards(ctx context.Context, q storeproto.ListShards) (storeproto.ShardList, error) {
	return b.Store.(storeproto.Lister).ListShards(ctx, q)
}

func (b byHolder) of(h id.Holder) storeproto.Store {
	if s, ok := b.hosts[h.Host]; ok {
		return s
	}
	return b.Store
}

func (b byHolder) Lease(l *storeproto.Lease) { b.of(l.Holder).Lease(l) }

func (b byHolder) Fence(ctx context.Context, f storeproto.Fence) (storeproto.FenceReply, error) {
	return b.of(f.By).Fence(ctx, f)
}

func (b byHolder) Release(ctx context.Context, r storeproto.Release) error {
	return b.of(r.By).Release(ctx, r)
}

// Without this a distant store would behave otherwise than one in the same process.
func TestRemoteStoreConforms(t *testing.T) {
	for _, tr := range rpctest.Transports {
		t.Run(tr.Name, func(t *testing.T) {
			w := rpctest.NewWorld(t)
			storetest.Run(t, func(t *testing.T) *storetest.Harness {
				m := clock.NewManual()
				const term = 4 * time.Second
				mem := memstore.New(memstore.Options{ID: storeID, Incarnation: storeInc, Clock: m, LeaseTerm: term})
				m.Advance(term)
				s := serve(t, w, tr, ServiceConfig{Lookup: lookup(mem)}, patient)
				a, b := s.peer("a", nil).Store(storeID, storeInc), s.peer("b", nil).Store(storeID, storeInc)
				return &storetest.Harness{Store: byHolder{a, map[id.Host]storeproto.Store{"b": b}}, Advance: m.Advance, LeaseTerm: term,
					Restart: func() storeproto.Store {
						mem.Crash(0)
						mem.Restart()
						return byHolder{a, map[id.Host]storeproto.Store{"b": b}}
					}}
			})
		})
	}
}
