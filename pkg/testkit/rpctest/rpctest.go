// Package rpctest helps tests of what speaks over package rpc: certificates of a small
// cluster, transports to try each test over, and a Link that breaks when told to.
package rpctest

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/pki"
)

// ClusterName is the name in all certificates of World.
const ClusterName = "c-rpctest"

// World issues certificates and opens listeners for one test.
type World struct {
	t  testing.TB
	ca *pki.CA
}

// NewWorld makes a CA.
func NewWorld(t testing.TB) *World {
	t.Helper()
	ca, err := pki.NewCA(clock.System, ClusterName)
	if err != nil {
		t.Fatal(err)
	}
	return &World{t: t, ca: ca}
}

// Identity is what the certificate of a blockd says.
func Identity(name string) pki.Identity {
	return pki.Identity{Cluster: ClusterName, Role: pki.RoleBlockd, Name: name}
}

// Credentials are those of a holder of any role.
func (w *World) Credentials(role pki.Role, name string) *pki.Credentials {
	w.t.Helper()
	pair, err := w.ca.Issue(pki.Request{Role: role, Name: name, Hosts: []string{"localhost", "127.0.0.1"}})
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := pki.NewCredentials(clock.System, w.ca.CertPEM(), pair)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// ServerTLS is for the blockd of that name; it lets in any blockd and operator.
func (w *World) ServerTLS(name string) *tls.Config {
	return w.Credentials(pki.RoleBlockd, name).Server(pki.Expect{Roles: []pki.Role{pki.RoleBlockd, pki.RoleOperator}})
}

// ClientTLS is for the blockd of that name when it dials another.
func (w *World) ClientTLS(name string) *tls.Config {
	return w.Credentials(pki.RoleBlockd, name).Client(pki.Expect{Roles: []pki.Role{pki.RoleBlockd}})
}

// Transport is a way to connect.
type Transport struct {
	Name    string
	Network string
	TLS     bool
}

// Transports are those that package rpc supports.
var Transports = []Transport{{"tls", "tcp", true}, {"tcp", "tcp", false}, {"unix", "unix", false}}

// Listen opens a listener that the test's end closes.
func (w *World) Listen(tr Transport) net.Listener {
	w.t.Helper()
	address := "127.0.0.1:0"
	if tr.Network == "unix" {
		address = filepath.Join(w.t.TempDir(), "s")
	}
	l, err := net.Listen(tr.Network, address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = l.Close() }) // mostly closed by its server
	return l
}

// Log drops everything.
func Log() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Link forwards TCP connections to a server, until it is told to cut or to stall them.
type Link struct {
	l      net.Listener
	target net.Addr

	mu struct {
		sync.Mutex
		conns   map[net.Conn]struct{}
		stalled chan struct{} // closed when bytes flow again; nil while they flow
		refuse  bool
	}
	running sync.WaitGroup
}

// NewLink starts to forward to target until the test's end.
func NewLink(t testing.TB, target net.Addr) *Link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &Link{l: l, target: target}
	k.mu.conns = make(map[net.Conn]struct{})
	k.running.Add(1)
	go k.accept()
	t.Cleanup(func() {
		_ = l.Close()
		k.Resume()
		k.Cut()
		k.running.Wait()
	})
	return k
}

// Address is where to dial.
func (k *Link) Address() string { return k.l.Addr().String() }

// Cut ends all connections.
func (k *Link) Cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.mu.conns {
		_ = c.Close() // that is the point
	}
}

// Refuse makes new connections end at once, or not any more.
func (k *Link) Refuse(on bool) {
	k.mu.Lock()
	k.mu.refuse = on
	k.mu.Unlock()
}

// Stall holds all bytes back, as a host that vanished does: nothing ends, nothing comes.
func (k *Link) Stall() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mu.stalled == nil {
		k.mu.stalled = make(chan struct{})
	}
}

// Resume ends Stall.
func (k *Link) Resume() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mu.stalled != nil {
		close(k.mu.stalled)
		k.mu.stalled = nil
	}
}

func (k *Link) accept() {
	defer k.running.Done()
	for {
		c, err := k.l.Accept()
		if err != nil {
			return
		}
		k.mu.Lock()
		refuse := k.mu.refuse
		k.mu.Unlock()
		if refuse {
			_ = c.Close()
			continue
		}
		d, err := net.Dial(k.target.Network(), k.target.String())
		if err != nil {
			_ = c.Close()
			continue
		}
		k.mu.Lock()
		k.mu.conns[c], k.mu.conns[d] = struct{}{}, struct{}{}
		k.mu.Unlock()
		k.running.Add(2)
		go k.forward(c, d)
		go k.forward(d, c)
	}
}

func (k *Link) forward(dst, src net.Conn) {
	defer k.running.Done()
	b := make([]byte, 64<<10)
	for {
		n, err := src.Read(b)
		k.mu.Lock()
		stalled := k.mu.stalled
		k.mu.Unlock()
		if stalled != nil {
			<-stalled
		}
		if n > 0 {
			if _, werr := dst.Write(b[:n]); werr != nil {
				err = io.ErrClosedPipe
			}
		}
		if err != nil {
			break
		}
	}
	_, _ = dst.Close(), src.Close() // either may be closed already
	k.mu.Lock()
	delete(k.mu.conns, dst)
	delete(k.mu.conns, src)
	k.mu.Unlock()
}
