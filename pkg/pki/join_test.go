package pki

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
)

// Without this a request could make its sender somebody else than the CA's side meant.
func TestSignTakesOnlyTheKeyOfARequest(t *testing.T) {
	c := clock.NewManual()
	ca, err := NewCA(c, "one")
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := NewRequest(key, RoleOperator, "root")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Sign(csr, Request{Role: RoleBlockd, Name: "b1", Hosts: []string{"b1"}})
	if err != nil {
		t.Fatal(err)
	}
	cr, err := NewCredentials(c, ca.CertPEM(), Pair{CertPEM: cert, KeyPEM: key})
	if err != nil {
		t.Fatal(err)
	}
	if who := cr.Self(); who.Role != RoleBlockd || who.Name != "b1" {
		t.Fatalf("signed for %s", who)
	}
	csr[len(csr)-1] ^= 1
	if _, err := ca.Sign(csr, Request{Role: RoleBlockd, Name: "b1", Hosts: []string{"b1"}}); !errors.Is(err, errs.ErrInvalid) {
		t.Fatalf("a request whose sender does not hold the key: %v", err)
	}
}

// Without this whoever sits on the way could give a joining host a cluster of his own.
func TestJoiningHostKnowsTheClusterByFingerprint(t *testing.T) {
	c := clock.System
	one, other := testCA(t, c, "one"), testCA(t, c, "other")
	mine, err := FingerprintOf(one.CertPEM())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name string
		ca   *CA
		with *CA // whose certificate is shown as the CA's
		role Role
		host string
		want string
	}{
		{"the right one", one, one, RoleMetad, "127.0.0.1", ""},
		{"another cluster", other, other, RoleMetad, "127.0.0.1", "another CA"},
		{"another cluster with the right CA shown beside", other, one, RoleMetad, "127.0.0.1", "verify server"},
		{"a blockd of the cluster", one, one, RoleBlockd, "127.0.0.1", "role is not metad"},
		{"a metad for another address", one, one, RoleMetad, "10.1.1.1", "verify server"},
	} {
		t.Run(x.name, func(t *testing.T) {
			pair, err := x.ca.Issue(Request{Role: x.role, Name: "n", Hosts: []string{x.host}})
			if err != nil {
				t.Fatal(err)
			}
			cr, err := NewCredentials(c, x.ca.CertPEM(), pair)
			if err != nil {
				t.Fatal(err)
			}
			server := cr.JoinServer()
			shows := server.GetCertificate
			server.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
				cert, err := shows(h)
				cert.Certificate[1] = x.with.DER() // a liar shows whose CA it likes
				return cert, err
			}
			client, err := Pinned(c, mine, "127.0.0.1:7102")
			if err != nil {
				t.Fatal(err)
			}
			err = shake(t, server, client)
			if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
				t.Fatalf("want %q, got %v", x.want, err)
			}
		})
	}
}

func testCA(t *testing.T, c clock.Clock, cluster string) *CA {
	t.Helper()
	ca, err := NewCA(c, cluster)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// shake gives the client's verdict.
func shake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.Close()
		_ = tls.Server(b, server).HandshakeContext(ctx) // the client's verdict is the one asked for
	}()
	err := tls.Client(a, client).HandshakeContext(ctx)
	a.Close()
	<-done
	return err
}
