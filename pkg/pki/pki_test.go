package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
)

type world struct {
	t     *testing.T
	clock *clock.Manual
	ca    *CA
}

func newWorld(t *testing.T) *world {
	m := clock.NewManual()
	ca, err := NewCA(m, "c-test")
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, clock: m, ca: ca}
}

func (w *world) credentials(ca *CA, r Request) *Credentials {
	w.t.Helper()
	pair, err := ca.Issue(r)
	if err != nil {
		w.t.Fatal(err)
	}
	cr, err := NewCredentials(w.clock, ca.CertPEM(), pair)
	if err != nil {
		w.t.Fatal(err)
	}
	return cr
}

func (w *world) server() *Credentials {
	return w.credentials(w.ca, Request{Role: RoleBlockd, Name: "b1", Hosts: []string{"localhost", "127.0.0.1"}})
}

// socketPair has buffers, unlike net.Pipe: an alert can be sent to who does not read.
func socketPair() (net.Conn, net.Conn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if conns[i], err = net.FileConn(f); err != nil {
			panic(err)
		}
		f.Close()
	}
	return conns[0], conns[1]
}

// meet lets the two shake hands and exchange a byte; in TLS 1.3 a client learns that it was
// refused only when it reads.
func meet(server, client *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	a, b := socketPair()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	s := tls.Server(a, server)
	go func() {
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		a.Close()
		done <- err
	}()
	client = client.Clone()
	if client.ServerName == "" {
		client.ServerName = "localhost"
	}
	c := tls.Client(b, client)
	_, clientErr = c.Read(make([]byte, 1))
	b.Close()
	serverErr = <-done
	return s.ConnectionState(), serverErr, clientErr
}

// Without this nobody could speak to anybody, or over less than TLS 1.3.
func TestPeersMeet(t *testing.T) {
	w := newWorld(t)
	srv := w.server()
	cli := w.credentials(w.ca, Request{Role: RoleNBD, Name: "guest", Disks: []string{"d-1", "data"}})
	state, serr, cerr := meet(srv.Server(Expect{Roles: []Role{RoleNBD}}), cli.Client(Expect{Roles: []Role{RoleBlockd}, Name: "b1"}))
	if serr != nil || cerr != nil {
		t.Fatalf("server %v, client %v", serr, cerr)
	}
	who, err := PeerIdentity(state)
	if err != nil || who.String() != "ashlar://c-test/nbd/guest" || !slices.Equal(who.Disks, []string{"d-1", "data"}) {
		t.Errorf("peer %s %v, %v", who, who.Disks, err)
	}
	if state.Version != tls.VersionTLS13 {
		t.Errorf("version %x", state.Version)
	}
	if !srv.Server(Expect{}).DynamicRecordSizingDisabled {
		t.Error("record sizing must be fixed")
	}
	if _, err := RequireRole(state, RoleMetad, RoleNBD); err != nil {
		t.Error(err)
	}
	if _, err := RequireRole(state, RoleMetad); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("wrong role: %v", err)
	}
}

// Without this a stranger could read or write disks.
func TestStrangersAreRefused(t *testing.T) {
	w := newWorld(t)
	srv := w.server()
	other, err := NewCA(w.clock, "c-test") // same name, other key
	if err != nil {
		t.Fatal(err)
	}
	operator := Request{Role: RoleOperator, Name: "me"}
	accept := srv.Server(Expect{Roles: []Role{RoleOperator, RoleMetad}})
	good := w.credentials(w.ca, operator).Client(Expect{Roles: []Role{RoleBlockd}})

	noCert := good.Clone()
	noCert.Certificates = nil
	otherCA := w.credentials(other, operator).Client(Expect{Roles: []Role{RoleBlockd}})
	otherCA.RootCAs = good.RootCAs // it trusts us, we do not trust it
	oldTLS := good.Clone()
	oldTLS.MinVersion, oldTLS.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for name, client := range map[string]*tls.Config{
		"no certificate": noCert,
		"other CA":       otherCA,
		"wrong role":     w.credentials(w.ca, Request{Role: RoleNBD, Name: "me"}).Client(Expect{Roles: []Role{RoleBlockd}}),
		"TLS 1.2":        oldTLS,
	} {
		if _, serr, cerr := meet(accept, client); serr == nil || cerr == nil {
			t.Errorf("%s was let in (server %v, client %v)", name, serr, cerr)
		}
	}
	named := srv.Server(Expect{Roles: []Role{RoleOperator}, Name: "you"})
	if _, serr, _ := meet(named, good); !errors.Is(serr, errs.ErrDenied) {
		t.Errorf("wrong name: %v", serr)
	}
	if _, serr, cerr := meet(accept, good); serr != nil || cerr != nil {
		t.Errorf("the good one was refused: %v, %v", serr, cerr)
	}
}

// Without this a client could send its data to whoever listens on the address.
func TestClientsRefuseImpostors(t *testing.T) {
	w := newWorld(t)
	other, err := NewCA(w.clock, "c-test")
	if err != nil {
		t.Fatal(err)
	}
	me := w.credentials(w.ca, Request{Role: RoleOperator, Name: "me"})
	server := Request{Role: RoleBlockd, Name: "b1", Hosts: []string{"localhost"}}
	elsewhere := server
	elsewhere.Hosts = []string{"elsewhere"}
	open := func(c *Credentials) *tls.Config { // a server that takes anyone
		return &tls.Config{Certificates: []tls.Certificate{c.now.Load().pair}, Time: w.clock.Wall}
	}
	expect := Expect{Roles: []Role{RoleBlockd}, Name: "b1"}
	for name, tc := range map[string]struct {
		server *Credentials
		expect Expect
	}{
		"other CA":       {w.credentials(other, server), expect},
		"other host":     {w.credentials(w.ca, elsewhere), expect},
		"client's own":   {w.credentials(w.ca, Request{Role: RoleOperator, Name: "b1", Hosts: []string{"localhost"}}), Expect{Roles: []Role{RoleOperator}}},
		"wrong role":     {w.credentials(w.ca, server), Expect{Roles: []Role{RoleMetad}}},
		"wrong name":     {w.credentials(w.ca, server), Expect{Roles: []Role{RoleBlockd}, Name: "b2"}},
		"no role at all": {w.credentials(w.ca, server), Expect{}},
	} {
		if _, _, cerr := meet(open(tc.server), me.Client(tc.expect)); cerr == nil {
			t.Errorf("%s was believed", name)
		}
	}
	if _, serr, cerr := meet(open(w.credentials(w.ca, server)), me.Client(expect)); serr != nil || cerr != nil {
		t.Errorf("the good one was refused: %v, %v", serr, cerr)
	}
}

// Without this a lost laptop's certificate would be good for ever.
func TestExpiredIsRefused(t *testing.T) {
	w := newWorld(t)
	srv := w.server()
	pair, err := w.ca.Issue(Request{Role: RoleOperator, Name: "me", Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	me, err := NewCredentials(w.clock, w.ca.CertPEM(), pair)
	if err != nil {
		t.Fatal(err)
	}
	accept, dial := srv.Server(Expect{Roles: []Role{RoleOperator}}), me.Client(Expect{Roles: []Role{RoleBlockd}})
	dial.ServerName = "localhost"
	if _, serr, cerr := meet(accept, dial); serr != nil || cerr != nil {
		t.Fatalf("while valid: %v, %v", serr, cerr)
	}
	w.clock.Advance(2 * time.Hour)
	for range 2 { // with a session to resume, then without
		if _, serr, cerr := meet(accept, dial); serr == nil || cerr == nil {
			t.Errorf("expired was let in (server %v, client %v)", serr, cerr)
		}
		dial.ClientSessionCache = nil
	}
	if _, err := NewCredentials(w.clock, w.ca.CertPEM(), pair); !errors.Is(err, ErrExpired) {
		t.Errorf("an expired certificate was loaded: %v", err)
	}
	if !me.Expires().Before(w.clock.Wall()) {
		t.Error("Expires is wrong")
	}
}

// Without this role or cluster could be forged by a certificate that names several.
// Without this the keys of a machine that was removed, or sold, open the data path for a year; or
// a machine that is given its name anew is refused for ever.
func TestCertificatesOfBeforeARemovalAreRefused(t *testing.T) {
	w := newWorld(t)
	server := w.server()
	old := w.credentials(w.ca, Request{Role: RoleBlockd, Name: "b2", Hosts: []string{"localhost"}})
	expect := Expect{Roles: []Role{RoleBlockd, RoleNBD}}
	enters := func(c *Credentials) error {
		cfg := c.Client(Expect{Roles: []Role{RoleBlockd}})
		cfg.ServerName = "localhost"
		_, err, _ := meet(server.Server(expect), cfg)
		return err
	}
	if err := enters(old); err != nil {
		t.Fatal(err)
	}
	server.Bar(map[string]time.Time{"b2": w.clock.Wall()})
	if err := enters(old); !errors.Is(err, errs.ErrDenied) || !strings.Contains(err.Error(), "removed") {
		t.Errorf("its blockd: %v", err)
	}
	if err := enters(w.credentials(w.ca, Request{Role: RoleNBD, Name: "b2"})); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("another role under its name: %v", err)
	}
	if err := enters(w.credentials(w.ca, Request{Role: RoleBlockd, Name: "b3", Hosts: []string{"localhost"}})); err != nil {
		t.Errorf("another host: %v", err)
	}
	w.clock.Advance(2 * time.Second)
	if err := enters(w.credentials(w.ca, Request{Role: RoleBlockd, Name: "b2", Hosts: []string{"localhost"}})); err != nil {
		t.Errorf("a machine that has the name anew: %v", err)
	}
}

// Without this a certificate could be read as that of somebody else, or be of nobody.
func TestCertificateNamesOneIdentity(t *testing.T) {
	a := Identity{Cluster: "c", Role: RoleNBD, Name: "x", Disks: []string{"*"}}
	b := Identity{Cluster: "c", Role: RoleMetad, Name: "x"}
	elsewhere := Identity{Cluster: "d", Role: RoleNBD, Name: "x", Disks: []string{"y"}}
	cert := &x509.Certificate{URIs: a.uris()}
	if who, err := IdentityOf(cert); err != nil || who.String() != a.String() || !who.MayOpen("any") {
		t.Errorf("%v, %v", who, err)
	}
	for name, uris := range map[string][]Identity{"two roles": {a, b}, "two clusters": {a, elsewhere}, "unknown role": {{Cluster: "c", Role: "root", Name: "x"}}, "disks of a daemon": {{Cluster: "c", Role: RoleMetad, Name: "x", Disks: []string{"d"}}}, "nothing": nil, "empty name": {{Cluster: "c", Role: RoleNBD}}} {
		cert := &x509.Certificate{}
		for _, i := range uris {
			cert.URIs = append(cert.URIs, i.uris()...)
		}
		if who, err := IdentityOf(cert); !errors.Is(err, errs.ErrDenied) {
			t.Errorf("%s: %v, %v", name, who, err)
		}
	}
	if _, err := PeerIdentity(tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("unverified: %v", err)
	}
}

// Without this one guest's certificate would open every guest's disk.
func TestDisksOfAnNBDClient(t *testing.T) {
	for _, tc := range []struct {
		who  Identity
		want bool
	}{
		{Identity{Role: RoleNBD, Disks: []string{"data"}}, true},
		{Identity{Role: RoleNBD, Disks: []string{"d-1"}}, true},
		{Identity{Role: RoleNBD, Disks: []string{AllDisks}}, true},
		{Identity{Role: RoleNBD, Disks: []string{"dat", "d-11"}}, false},
		{Identity{Role: RoleNBD}, false},
		{Identity{Role: RoleMetad}, false},
		{Identity{Role: RoleOperator}, true},
		{Identity{Role: RoleBlockd}, true},
	} {
		if got := tc.who.MayOpen("d-1", "data"); got != tc.want {
			t.Errorf("%v: %v", tc.who, got)
		}
	}
}

// Without this a key could be read by every user of the machine.
func TestKeysAreGuardedOnDisk(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "pki")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := w.ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	again, err := LoadCA(w.clock, dir)
	if err != nil || again.Cluster() != "c-test" {
		t.Fatalf("load CA: %v", err)
	}
	pair, err := again.Issue(Request{Role: RoleMetad, Name: "m1", Hosts: []string{"::1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := pair.Save(dir, "m1"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{".": 0o700, CAKeyFile: 0o600, "m1.key": 0o600} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v", name, fi.Mode().Perm(), err)
		}
	}
	files := Files{CA: filepath.Join(dir, CACertFile), Cert: filepath.Join(dir, "m1.crt"), Key: filepath.Join(dir, "m1.key")}
	cr, err := Load(w.clock, files)
	if err != nil || cr.Self().String() != "ashlar://c-test/metad/m1" {
		t.Fatalf("load: %v", err)
	}
	if err := os.Chmod(files.Key, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(w.clock, files); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("an open key was loaded: %v", err)
	}
	if _, err := Load(w.clock, Files{CA: files.CA}); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("missing files: %v", err)
	}
}

// Without this one line of debug output would give the cluster away.
func TestSecretsNeverPrint(t *testing.T) {
	w := newWorld(t)
	pair, err := w.ca.Issue(Request{Role: RoleOperator, Name: "me"})
	if err != nil {
		t.Fatal(err)
	}
	cr, err := NewCredentials(w.clock, w.ca.CertPEM(), pair)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, v := range []any{pair, &pair, pair.KeyPEM, w.ca, *w.ca, cr, *cr} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
	}
	for _, v := range []any{pair, pair.KeyPEM, w.ca, cr} {
		if err := json.NewEncoder(&out).Encode(v); err != nil {
			t.Fatal(err)
		}
	}
	key := string(pair.KeyPEM)[40:80]
	caKey := string(w.ca.keyPEM)[40:80]
	d := w.ca.key.D.String()[:20] //lint:ignore SA1019 the very number that must not show
	hex := fmt.Sprintf("%x", []byte(key))
	for _, secret := range []string{"PRIVATE", key, caKey, d, hex} {
		if strings.Contains(out.String(), secret) {
			t.Fatal("a secret was printed")
		}
	}
}

// Without this a certificate could carry a name that means something else in a URI.
func TestOddRequestsAreRefused(t *testing.T) {
	w := newWorld(t)
	for _, r := range []Request{
		{Role: "root", Name: "x"}, {Role: RoleOperator}, {Role: RoleOperator, Name: "a/b"}, {Role: RoleOperator, Name: "a?b"}, {Role: RoleOperator, Name: strings.Repeat("x", 200)},
		{Role: RoleMetad, Name: "m1"}, {Role: RoleOperator, Name: "x", Disks: []string{"d"}}, {Role: RoleNBD, Name: "x", Disks: []string{"a/b"}},
	} {
		if _, err := w.ca.Issue(r); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	for _, name := range []string{"", "UPPER", "a b"} {
		if _, err := NewCA(w.clock, name); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("cluster %q: %v", name, err)
		}
	}
}

// Certificates and bundles of CAs come from the wire: whatever is in them must give an identity, CAs, or an error.
func FuzzIdentityOf(f *testing.F) {
	w := clock.NewManual()
	ca, err := NewCA(w, "c")
	if err != nil {
		f.Fatal(err)
	}
	pair, err := ca.Issue(Request{Role: RoleNBD, Name: "x", Disks: []string{"*"}})
	if err != nil {
		f.Fatal(err)
	}
	cert, err := parseCert(pair.CertPEM)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cert.Raw)
	f.Add(ca.CertPEM())
	f.Fuzz(func(t *testing.T, der []byte) {
		if cas, err := ReadBundle(der); err == nil && len(cas) == 0 {
			t.Error("a bundle without CAs was read")
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		if who, err := IdentityOf(cert); err == nil && who.validate() != nil {
			t.Errorf("an invalid identity was read: %v", who)
		}
	})
}
