package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"ashlar.dev/metad/consensus"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// group is a metad group in this process, over loopback and real TLS.
type group struct {
	t       *testing.T
	ca      *pki.CA
	peers   []Peer
	dirs    map[string]string
	timing  consensus.Timing
	running map[string]*Server
	first   map[string]net.Listener // of addresses that were never let go
	log     *slog.Logger
	sink    *logOf
	signer  string       // the member with the CA's key; empty: none
	join    net.Listener // its port
}

// testSettings make hosts silent sooner than real ones.
var testSettings = cluster.Settings{LeaseTerm: time.Second, HeartbeatInterval: 100 * time.Millisecond, HeartbeatTimeout: 700 * time.Millisecond, RangeCount: 4096}

// logOf sends a server's log to the test's; what comes after its end is dropped.
type logOf struct {
	mu  sync.Mutex
	t   *testing.T
	all bytes.Buffer
}

func (l *logOf) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

func (l *logOf) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.t != nil {
		l.t.Log(string(bytes.TrimSpace(b)))
		l.all.Write(b)
	}
	return len(b), nil
}

func newGroup(t *testing.T, members int) *group { return newSigningGroup(t, members, "") }

// newSigningGroup has a member that signs for hosts that join.
func newSigningGroup(t *testing.T, members int, signer string) *group {
	t.Helper()
	t.Parallel() // they mostly wait
	ca, err := pki.NewCA(clock.System, "test")
	must(t, err)
	sink := &logOf{t: t}
	log, err := telemetry.NewLogger(sink, telemetry.LogConfig{Level: "info"})
	must(t, err)
	g := &group{t: t, ca: ca, dirs: make(map[string]string), running: make(map[string]*Server), first: make(map[string]net.Listener), log: log, sink: sink,
		timing: consensus.Timing{Heartbeat: 300 * time.Millisecond}, signer: signer}
	if signer != "" {
		g.join, err = net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
	}
	for i := range members {
		p := Peer{ID: fmt.Sprintf("m%d", i+1), API: g.address(), Raft: g.address()}
		g.peers = append(g.peers, p)
		g.dirs[p.ID] = filepath.Join(t.TempDir(), p.ID)
	}
	t.Cleanup(func() {
		for _, p := range g.peers {
			g.stop(p.ID)
		}
		sink.mu.Lock()
		sink.t = nil
		sink.mu.Unlock()
	})
	for _, p := range g.peers {
		g.start(p.ID)
	}
	return g
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// address is a port of our own; members come back to theirs.
func (g *group) address() string {
	ln := lowPort(g.t)
	g.first[ln.Addr().String()] = ln
	return ln.Addr().String()
}

// lowPort takes a port below those that the kernel gives to connections: one of these could have the port while its
// member is away.
func lowPort(t *testing.T) net.Listener {
	t.Helper()
	for {
		var b [2]byte
		_, err := rand.Read(b[:])
		must(t, err)
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+binary.LittleEndian.Uint16(b[:])%20_000))
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		must(t, err)
		return ln
	}
}

// listener is the one an address was found with, the first time; later nil.
func (g *group) listener(address string) net.Listener {
	ln := g.first[address]
	delete(g.first, address)
	return ln
}

func (g *group) creds(role pki.Role, name string) *pki.Credentials {
	g.t.Helper()
	pair, err := g.ca.Issue(pki.Request{Role: role, Name: name, Hosts: []string{"127.0.0.1"}})
	must(g.t, err)
	c, err := pki.NewCredentials(clock.System, g.ca.CertPEM(), pair)
	must(g.t, err)
	return c
}

func (g *group) start(member string) {
	g.t.Helper()
	for _, p := range g.peers {
		if p.ID != member {
			continue
		}
		o := Options{Config: Config{ID: p.ID, Listen: p.API, RaftListen: p.Raft, Data: g.dirs[p.ID], Peers: g.peers, Bootstrap: true},
			Listener: g.listener(p.API), RaftListener: g.listener(p.Raft), Creds: g.creds(pki.RoleMetad, p.ID), Clock: clock.System, Log: g.log.With("metad", p.ID), Timing: g.timing, Settings: testSettings}
		if p.ID == g.signer {
			o.JoinListener, o.CA = g.join, g.ca
		}
		s, err := Open(o)
		must(g.t, err)
		g.running[member] = s
	}
}

// stop ends a member in order; kill ends it without a word to the others.
func (g *group) stop(member string) {
	if s := g.running[member]; s != nil {
		delete(g.running, member)
		must(g.t, s.Close())
	}
}

func (g *group) kill(member string) {
	s := g.running[member]
	delete(g.running, member)
	s.grpc.Stop()
	if s.join != nil {
		s.join.Stop()
	}
	s.group.Cancel()
	must(g.t, s.node.Close())
	must(g.t, s.group.Wait())
}

// leader waits for one.
func (g *group) leader() string {
	g.t.Helper()
	var leader string
	g.until("a leader", func() bool {
		for name, s := range g.running {
			if s.reign.Load() != nil {
				leader = name
				return true
			}
		}
		return false
	})
	return leader
}

// until waits for a condition, for as long as a loaded machine may take.
func (g *group) until(what string, f func() bool) {
	g.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			g.t.Fatalf("waited in vain for %s", what)
		}
		if clock.System.Sleep(context.Background(), 5*time.Millisecond) != nil {
			return
		}
	}
}

func (g *group) addresses() []string {
	var out []string
	for _, p := range g.peers {
		out = append(out, p.API)
	}
	return out
}

func (g *group) operator() *client.Cluster {
	g.t.Helper()
	c, err := client.NewCluster(client.Options{Addresses: g.addresses(),
		TLS: g.creds(pki.RoleOperator, "ops").Client(pki.Expect{Roles: []pki.Role{pki.RoleMetad}})})
	must(g.t, err)
	g.t.Cleanup(func() { c.Close() })
	return c
}

// host is a blockd that only speaks to metad.
type host struct {
	*client.Blockd
	g      *group
	holder id.Holder
	stores []cluster.StoreRef

	mu      sync.Mutex
	volumes []client.VolumeBeat
	uses    []cluster.VolumeUse

	identity *cluster.Identity
	replies  []client.HeartbeatReply
	quiet    context.CancelFunc
	done     chan struct{}
}

func newRef() (r cluster.StoreRef) {
	rand.Read(r.Store[:]) // never fails
	rand.Read(r.Incarnation[:])
	return r
}

func (g *group) host(name string, stores int) *host {
	g.t.Helper()
	b, err := client.NewBlockd(client.Options{Addresses: g.addresses(),
		TLS: g.creds(pki.RoleBlockd, name).Client(pki.Expect{Roles: []pki.Role{pki.RoleMetad}})})
	must(g.t, err)
	h := &host{Blockd: b, g: g, holder: id.Holder{Host: id.Host(name), Number: 1}}
	for range stores {
		h.stores = append(h.stores, newRef())
	}
	g.t.Cleanup(func() {
		h.silence()
		must(g.t, b.Close())
	})
	h.register()
	h.speak()
	return h
}

func (h *host) register() client.Registered {
	h.g.t.Helper()
	reg := client.Registration{Holder: h.holder, DataAddress: "127.0.0.1:1", Exports: true,
		NBDUnixPath: "/run/" + string(h.holder.Host) + "/nbd.sock", NBDTCP: "127.0.0.1:10809", NBDTLS: true}
	for _, s := range h.stores {
		reg.Stores = append(reg.Stores, client.RegisteredStore{StoreRef: s, Capacity: 1 << 30})
	}
	out, err := h.Register(h.g.ctx(), reg)
	must(h.g.t, err)
	return out
}

// speak sends heartbeats until silence.
func (h *host) speak() {
	ctx, cancel := context.WithCancel(context.Background())
	h.quiet, h.done = cancel, make(chan struct{})
	go func() {
		defer close(h.done)
		for ctx.Err() == nil {
			beatCtx, end := context.WithTimeout(ctx, time.Second)
			rep, err := h.Heartbeat(beatCtx, h.beat())
			end()
			if err == nil {
				h.mu.Lock()
				h.replies = append(h.replies, rep)
				h.mu.Unlock()
			}
			if clock.System.Sleep(ctx, testSettings.HeartbeatInterval) != nil {
				return
			}
		}
	}()
}

func (h *host) silence() {
	if h.quiet != nil {
		h.quiet()
		<-h.done
		h.quiet = nil
	}
}

func (h *host) beat() client.Heartbeat {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := client.Heartbeat{Holder: h.holder, Volumes: h.volumes, Identity: h.identity, Memory: []cluster.Memory{{Name: "buffers", Limit: 100, Used: 7}}}
	for _, s := range h.stores {
		b.Stores = append(b.Stores, client.StoreBeat{StoreRef: s, Capacity: 1 << 30, Used: 1 << 20, Free: 1 << 29,
			Use: &cluster.VolumeUsePage{Uses: h.uses, Last: true}})
	}
	return b
}

func (h *host) lastReply() client.HeartbeatReply {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.replies) == 0 {
		return client.HeartbeatReply{}
	}
	return h.replies[len(h.replies)-1]
}

func (g *group) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	g.t.Cleanup(cancel)
	return ctx
}

func volumeID(t *testing.T, text string) id.Volume {
	t.Helper()
	v, err := id.ParseVolume(text)
	must(t, err)
	return v
}

// closedAddress finds a port for a daemon that listens itself.
func closedAddress(t *testing.T) string {
	t.Helper()
	ln := lowPort(t)
	must(t, ln.Close())
	return ln.Addr().String()
}

func unixDialer(path string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
}
