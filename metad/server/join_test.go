package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/enroll"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

func (g *group) invite(roles []string, uses uint32, life time.Duration, name string) enroll.Token {
	g.t.Helper()
	ca, err := pki.FingerprintOf(g.ca.CertPEM())
	must(g.t, err)
	tok, err := enroll.NewToken(ca)
	must(g.t, err)
	tok.Addresses, _, err = g.members().AddToken(g.ctx(), client.NewToken{Token: tok.ID, Hash: tok.Hash(), Roles: roles, Name: name, Uses: uses, Lifetime: life})
	must(g.t, err)
	tok, err = enroll.ParseToken(tok.Text())
	must(g.t, err)
	return tok
}

func testHost(t *testing.T, name string, roles ...pki.Role) enroll.Host {
	dir := t.TempDir()
	return enroll.Host{Dir: filepath.Join(dir, "etc"), State: dir, Run: dir, Name: name, Address: "127.0.0.1", Roles: roles,
		MetadPort: 7100, BlockdPort: 7200, NBDPort: 10809}
}

// A host that joins gets certificates for keys that nobody else has seen, and its daemons'
// configs; the signer need not lead.
func TestHostJoinsByToken(t *testing.T) {
	g := newSigningGroup(t, 3, "m1")
	if leader := g.leader(); leader == "m1" {
		must(t, g.running["m1"].node.StepDown())
	}
	tok := g.invite([]string{"metad", "blockd", "operator"}, 2, time.Hour, "")
	h := testHost(t, "n1", pki.RoleMetad, pki.RoleBlockd, pki.RoleOperator)
	j, err := enroll.Join(g.ctx(), clock.System, h, tok)
	must(t, err)
	if j.Cluster != "test" || j.MetadAPI != "127.0.0.1:7100" {
		t.Fatalf("joined %+v", j)
	}
	for _, r := range []string{"metad", "blockd", "operator"} {
		key := filepath.Join(h.Dir, "pki", r+".key")
		fi, err := os.Stat(key)
		must(t, err)
		if fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %04o", key, fi.Mode().Perm())
		}
		cr, err := pki.Load(clock.System, pki.Files{CA: filepath.Join(h.Dir, "pki", "ca.crt"), Cert: filepath.Join(h.Dir, "pki", r+".crt"), Key: key})
		must(t, err)
		if who := cr.Self(); who.Name != "n1" || string(who.Role) != r {
			t.Errorf("certificate of %s", who)
		}
	}
	if _, err := os.Stat(filepath.Join(h.Dir, "ca")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the CA's key went to a host that joined")
	}
	if _, err := enroll.Join(g.ctx(), clock.System, h, tok); !errors.Is(err, errs.ErrExists) {
		t.Errorf("a host that belongs to a cluster joined again: %v", err)
	}
	client := testHost(t, "vm", pki.RoleNBD)
	_, err = enroll.Join(g.ctx(), clock.System, client, g.invite([]string{"nbd"}, 1, time.Hour, ""))
	must(t, err)
	in := filepath.Join(client.Dir, "pki", "nbd")
	cr, err := pki.Load(clock.System, pki.Files{CA: filepath.Join(in, "ca-cert.pem"), Cert: filepath.Join(in, "client-cert.pem"), Key: filepath.Join(in, "client-key.pem")})
	must(t, err)
	if who := cr.Self(); who.Role != pki.RoleNBD || !who.MayOpen("any") {
		t.Errorf("an NBD client's certificate is of %s", who)
	}
	// A join whose answer was lost is repeated and counts once.
	lost := testHost(t, "n2", pki.RoleBlockd)
	_, err = enroll.Join(g.ctx(), clock.System, lost, tok)
	must(t, err)
	must(t, os.Remove(filepath.Join(lost.Dir, "blockd.yaml")))
	_, err = enroll.Join(g.ctx(), clock.System, lost, tok)
	must(t, err)
	if _, err := enroll.Join(g.ctx(), clock.System, testHost(t, "n3", pki.RoleBlockd), tok); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("a token for two let a third in: %v", err)
	}
}

// Without these refusals a token would be a key to the house for ever, for anybody.
func TestJoinIsRefused(t *testing.T) {
	g := newSigningGroup(t, 1, "m1")
	g.leader()
	g.host("h1", 1)
	good := g.invite([]string{"blockd"}, 9, time.Hour, "")
	ca, err := pki.FingerprintOf(g.ca.CertPEM())
	must(t, err)
	stranger, err := enroll.NewToken(ca)
	must(t, err)
	stranger.Addresses = good.Addresses
	elsewhere := good
	elsewhere.CA[0] ^= 1
	old := g.invite([]string{"blockd"}, 1, time.Millisecond, "")
	revoked := g.invite([]string{"blockd"}, 1, time.Hour, "")
	must(t, g.members().RevokeToken(g.ctx(), fmt.Sprintf("%x", revoked.ID)))
	for _, x := range []struct {
		what  string
		tok   enroll.Token
		name  string
		role  pki.Role
		class error
		text  string
	}{
		{"a secret nobody made", stranger, "n1", pki.RoleBlockd, errs.ErrDenied, "no such join token"},
		{"another cluster's CA", elsewhere, "n1", pki.RoleBlockd, errs.ErrDenied, "another CA"},
		{"an expired token", old, "n1", pki.RoleBlockd, errs.ErrDenied, "expired"},
		{"a revoked token", revoked, "n1", pki.RoleBlockd, errs.ErrDenied, "revoked"},
		{"a role it is not for", good, "n1", pki.RoleOperator, errs.ErrDenied, "not for operator"},
		{"the name of a host", good, "h1", pki.RoleBlockd, errs.ErrExists, "h1"},
		{"the name of a metad", good, "m1", pki.RoleBlockd, errs.ErrExists, "m1"},
	} {
		_, err := enroll.Join(g.ctx(), clock.System, testHost(t, x.name, x.role), x.tok)
		if !errors.Is(err, x.class) || !strings.Contains(err.Error(), x.text) {
			t.Errorf("%s: want %v with %q, got %v", x.what, x.class, x.text, err)
		}
		if err != nil && strings.Contains(err.Error(), x.tok.Text()[40:60]) {
			t.Errorf("%s: the error shows the token", x.what)
		}
	}
	list, err := g.members().Tokens(g.ctx())
	must(t, err)
	for _, x := range list {
		if len(x.Uses) != 0 {
			t.Errorf("token %s counts %d uses", x.Token, len(x.Uses))
		}
	}
}

// Every port of metad refuses who has no certificate, one of another cluster, or one of
// the wrong role.
func TestStrangersAreRefusedOnEveryPort(t *testing.T) {
	g := newSigningGroup(t, 1, "m1")
	g.leader()
	p := g.peers[0]
	other, err := pki.NewCA(clock.System, "test") // the same name, another key
	must(t, err)
	pair, err := other.Issue(pki.Request{Role: pki.RoleMetad, Name: "m2", Hosts: []string{"127.0.0.1"}})
	must(t, err)
	forged, err := pki.NewCredentials(clock.System, other.CertPEM(), pair)
	must(t, err)
	anyone := func(c *tls.Config) *tls.Config {
		c.InsecureSkipVerify, c.VerifyConnection = true, nil // the server's verdict counts
		return c
	}
	metadRole := pki.Expect{Roles: []pki.Role{pki.RoleMetad}}
	for _, x := range []struct {
		who, address string
		cfg          *tls.Config
	}{
		{"raft, no certificate", p.Raft, &tls.Config{}},
		{"raft, another cluster", p.Raft, forged.Client(metadRole)},
		{"raft, a blockd", p.Raft, g.creds(pki.RoleBlockd, "b1").Client(metadRole)},
		{"raft, an operator", p.Raft, g.creds(pki.RoleOperator, "ops").Client(metadRole)},
		{"API, no certificate", p.API, &tls.Config{}},
		{"API, another cluster", p.API, forged.Client(metadRole)},
	} {
		if err := entersTLS(g.ctx(), x.address, anyone(x.cfg)); err == nil {
			t.Errorf("%s: let in", x.who)
		}
	}
	for _, want := range []string{"raft connection refused", "API connection refused"} {
		g.until(want, func() bool { return strings.Contains(g.sink.text(), want) })
	}
	for role, call := range map[pki.Role]func(*grpc.ClientConn) error{
		pki.RoleBlockd: func(c *grpc.ClientConn) error {
			_, err := api.NewMembershipClient(c).ListMembers(g.ctx(), &api.ListMembersRequest{})
			return err
		},
		pki.RoleOperator: func(c *grpc.ClientConn) error {
			_, err := api.NewMemberClient(c).Describe(g.ctx(), &api.DescribeRequest{})
			return err
		},
		pki.RoleMetad: func(c *grpc.ClientConn) error {
			_, err := api.NewMembershipClient(c).AddToken(g.ctx(), &api.AddTokenRequest{})
			return err
		},
	} {
		conn, err := grpc.NewClient("passthrough:///"+p.API, grpc.WithTransportCredentials(credentials.NewTLS(g.creds(role, "x").Client(metadRole))))
		must(t, err)
		if _, err := api.FromStatus(call(conn)); !errors.Is(err, errs.ErrDenied) {
			t.Errorf("role %s: want denied, got %v", role, err)
		}
		must(t, conn.Close())
	}
	if !strings.Contains(g.sink.text(), "call refused") {
		t.Error("calls of the wrong role are not in the log")
	}
	// The port for joining hosts serves nothing but joining.
	conn, err := grpc.NewClient("passthrough:///"+g.running["m1"].joinAddress, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	must(t, err)
	defer conn.Close()
	if _, err := api.NewMemberClient(conn).Describe(g.ctx(), &api.DescribeRequest{}); err == nil {
		t.Error("the port for joining hosts answers members' calls")
	}
}

// entersTLS tells whether a server that speaks TLS 1.3 lets cfg in: the refusal of a
// client's certificate comes with the first read.
func entersTLS(ctx context.Context, address string, cfg *tls.Config) error {
	cfg.NextProtos = []string{"h2"}
	cfg.InsecureSkipVerify = true
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil // it waits for us to speak
	}
	return err
}

// Without this the refusals would leave no trace for the one who looks after an attack, or
// the trace would hold what was to be kept.
func TestRefusedJoinIsLoggedWithoutItsSecret(t *testing.T) {
	g := newSigningGroup(t, 1, "m1")
	g.leader()
	ca, err := pki.FingerprintOf(g.ca.CertPEM())
	must(t, err)
	tok, err := enroll.NewToken(ca)
	must(t, err)
	tok.Addresses = []string{g.running["m1"].joinAddress}
	if _, err := enroll.Join(g.ctx(), clock.System, testHost(t, "n1", pki.RoleBlockd), tok); !errors.Is(err, errs.ErrDenied) {
		t.Fatal(err)
	}
	logged := g.sink.text()
	if !strings.Contains(logged, "host was not let in") || !strings.Contains(logged, "n1") {
		t.Errorf("the refusal is not in the log")
	}
	for _, form := range []string{fmt.Sprint(tok), fmt.Sprintf("%v %+v %#v %s %x", tok, tok, tok, tok, tok)} {
		if bytes.Contains([]byte(form), []byte(tok.Text()[30:60])) {
			t.Error("a token prints its secret")
		}
	}
}
