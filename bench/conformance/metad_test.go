package conformance

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"ashlar.dev/blockd/volume/metadtest"
	"ashlar.dev/metad/consensus"
	metad "ashlar.dev/metad/server"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
)

// patience bounds what should be a moment.
const patience = 20 * time.Second

const beatEvery = 100 * time.Millisecond

// rig is one metad, and hosts that only speak to it.
type rig struct {
	t        *testing.T
	ca       *pki.CA
	address  string
	operator *client.Cluster
	hosts    map[id.Host]*host
}

// host is a blockd that only speaks to metad.
type host struct {
	*client.Blockd
	name   id.Host
	stores []cluster.StoreRef

	mu     sync.Mutex
	number uint64
	full   map[cluster.StoreRef]bool
	dead   map[cluster.StoreRef]string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	ca, err := pki.NewCA(clock.System, "test")
	must(t, err)
	r := &rig{t: t, ca: ca, hosts: make(map[id.Host]*host)}
	api, raft := listen(t), listen(t)
	r.address = api.Addr().String()
	s, err := metad.Open(metad.Options{
		Config: metad.Config{ID: "m1", Listen: r.address, RaftListen: raft.Addr().String(), Data: t.TempDir(), Bootstrap: true,
			Peers: []metad.Peer{{ID: "m1", API: r.address, Raft: raft.Addr().String()}}},
		Listener: api, RaftListener: raft, Creds: r.creds(pki.RoleMetad, "m1"), Clock: clock.System, Log: slog.New(slog.DiscardHandler),
		Timing:   consensus.Timing{Heartbeat: 50 * time.Millisecond},
		Settings: cluster.Settings{LeaseTerm: time.Second, HeartbeatInterval: beatEvery, HeartbeatTimeout: 5 * time.Second, RangeCount: 4096},
	})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	r.operator, err = client.NewCluster(r.options(pki.RoleOperator, "ops"))
	must(t, err)
	t.Cleanup(func() { r.operator.Close() })
	for i, name := range metadtest.Hosts {
		r.join(name, byte(2*i+1))
	}
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	return ln
}

func (r *rig) creds(role pki.Role, name string) *pki.Credentials {
	r.t.Helper()
	pair, err := r.ca.Issue(pki.Request{Role: role, Name: name, Hosts: []string{"127.0.0.1"}})
	must(r.t, err)
	c, err := pki.NewCredentials(clock.System, r.ca.CertPEM(), pair)
	must(r.t, err)
	return c
}

func (r *rig) options(role pki.Role, name string) client.Options {
	r.t.Helper()
	return client.Options{Addresses: []string{r.address}, TLS: r.creds(role, name).Client(pki.Expect{Roles: []pki.Role{pki.RoleMetad}})}
}

// join makes a host with two stores that sends heartbeats until the test ends.
func (r *rig) join(name id.Host, first byte) {
	r.t.Helper()
	b, err := client.NewBlockd(r.options(pki.RoleBlockd, string(name)))
	must(r.t, err)
	h := &host{Blockd: b, name: name, full: make(map[cluster.StoreRef]bool), dead: make(map[cluster.StoreRef]string)}
	for n := range byte(2) {
		h.stores = append(h.stores, cluster.StoreRef{Store: id.Store{15: first + n}, Incarnation: id.Incarnation{1, first + n}})
	}
	r.hosts[name] = h
	r.live(r.t, id.Holder{Host: name, Number: 1})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for clock.System.Sleep(ctx, beatEvery) == nil {
			_, _ = h.Heartbeat(ctx, h.beat()) // a life that has just ended is refused
		}
	}()
	r.t.Cleanup(func() {
		cancel()
		<-done
		must(r.t, b.Close())
	})
}

func (h *host) beat() client.Heartbeat {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := client.Heartbeat{Holder: id.Holder{Host: h.name, Number: h.number}}
	for _, s := range h.stores {
		b.Stores = append(b.Stores, client.StoreBeat{StoreRef: s, Capacity: 1 << 40, Free: 1 << 39, Full: h.full[s], Dead: h.dead[s]})
	}
	return b
}

// tell changes what hosts say.
func (r *rig) tell(f func(*host)) {
	for _, h := range r.hosts {
		h.mu.Lock()
		f(h)
		h.mu.Unlock()
	}
}

// live begins a life of a host.
func (r *rig) live(t *testing.T, by id.Holder) {
	t.Helper()
	h := r.hosts[by.Host]
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reg := client.Registration{Holder: by, DataAddress: "127.0.0.1:1", Exports: true}
	for _, s := range h.stores {
		reg.Stores = append(reg.Stores, client.RegisteredStore{StoreRef: s, Capacity: 1 << 40})
	}
	h.mu.Lock()
	h.number = by.Number
	h.mu.Unlock()
	_, err := h.Register(ctx, reg)
	must(t, err)
	_, err = h.Heartbeat(ctx, h.beat())
	must(t, err)
}

// seen waits until the topology that engines have says something.
func (r *rig) seen(t *testing.T, what string, ok func(*cluster.Topology) bool) {
	t.Helper()
	for end := clock.System.Now() + patience; !ok(r.hosts[metadtest.Hosts[0]].Topology()); {
		if clock.System.Sleep(t.Context(), 5*time.Millisecond) != nil || clock.System.Now() > end {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func store(top *cluster.Topology, ref cluster.StoreRef) cluster.Store {
	for _, s := range top.Stores {
		if s.StoreRef == ref {
			return s
		}
	}
	return cluster.Store{}
}

// Without this everything that engines are tested with could keep rules that the metad which ships does not.
func TestMetadKeepsTheRules(t *testing.T) {
	metadtest.Run(t, func(t *testing.T) metadtest.Body {
		t.Parallel() // they mostly wait
		r := newRig(t)
		r.seen(t, "groups over six stores", func(top *cluster.Topology) bool { return top != nil && len(top.Stores) == 6 && len(top.PGs) > 0 })
		made := 0
		return metadtest.Body{
			Metad: r.hosts[metadtest.Hosts[0]].Blockd,
			Create: func(t *testing.T) id.Volume {
				made++
				d, err := r.operator.CreateDisk(t.Context(), fmt.Sprintf("d%d", made), 1<<30)
				must(t, err)
				v, err := id.ParseVolume(d.DiskId)
				must(t, err)
				return v
			},
			Live: r.live,
			Acquire: func(t *testing.T, v id.Volume, by id.Holder) *cluster.Volume {
				a, err := r.hosts[by.Host].Acquire(t.Context(), v, by, client.AcquireOpen)
				must(t, err)
				if a.Refused != nil {
					t.Fatalf("refused: %+v", a.Refused)
				}
				return a.Volume
			},
			Lose: func(t *testing.T, s cluster.StoreRef) {
				r.tell(func(h *host) { h.dead[s] = "its disk is gone" })
				r.seen(t, "a dead store", func(top *cluster.Topology) bool { return store(top, s).State == cluster.StoreDown })
				must(t, r.operator.DeclareStoreLost(t.Context(), s.Store.String(), s.Incarnation.String(), true))
				r.seen(t, "a lost store", func(top *cluster.Topology) bool { return store(top, s).State == cluster.StoreLost })
			},
			Full: func(t *testing.T, s cluster.StoreRef, full bool) {
				r.tell(func(h *host) { h.full[s] = full })
				r.seen(t, "a full store", func(top *cluster.Topology) bool { return store(top, s).Full == full })
			},
		}
	})
}
