package server

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// Without this a daemon could renew itself into another one, or only while the member that
// signs happens to be the one it asks.
func TestRenewalIsForWhoAsks(t *testing.T) {
	g := newSigningGroup(t, 3, "m2")
	g.leader()
	h := g.host("h1", 1)
	key, err := pki.NewKey()
	must(t, err)
	csr, err := pki.NewRequest(key, pki.RoleMetad, "m1") // what it would like to be
	must(t, err)
	certPEM, err := h.RenewCertificate(g.ctx(), csr)
	must(t, err)
	cr, err := pki.NewCredentials(clock.System, g.ca.CertPEM(), pki.Pair{CertPEM: certPEM, KeyPEM: key})
	must(t, err)
	if who := cr.Self(); who.Role != pki.RoleBlockd || who.Name != "h1" {
		t.Fatalf("renewed as %s", who)
	}
	block, _ := pem.Decode(certPEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	if len(cert.IPAddresses) != 1 || len(cert.DNSNames) != 0 {
		t.Errorf("for %v %v", cert.IPAddresses, cert.DNSNames)
	}
	// The leader hears of it from the host itself.
	h.mu.Lock()
	h.identity = &cluster.Identity{Issuer: cr.Issuer(), TrustHash: cr.TrustHash(), Expires: cr.Expires().Add(-time.Hour)}
	h.mu.Unlock()
	g.until("the certificate to be known", func() bool {
		r, err := g.members().ShowCA(g.ctx())
		must(t, err)
		return slices.ContainsFunc(r.Holders, func(x *api.CertificateHolder) bool {
			return x.Name == "h1" && x.Issuer == cr.Issuer().String() && x.Told
		})
	})
	h.mu.Lock()
	h.identity = &cluster.Identity{Issuer: cr.Issuer(), TrustHash: cr.TrustHash(), Expires: cr.Expires()}
	h.mu.Unlock()
	g.untilEvent("certificate_renewed", "h1")
	if _, err := h.RenewCertificate(g.ctx(), []byte("no request")); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("a request that is none: %v", err)
	}
	// Another cluster's CA, or a role that has no business here, does not even get to ask.
	stranger, err := pki.NewCA(clock.System, "test")
	must(t, err)
	for what, creds := range map[string]*pki.Credentials{"another CA's": issued(t, stranger, pki.RoleBlockd, g.ca), "an NBD client's": issued(t, g.ca, pki.RoleNBD, g.ca)} {
		cfg := creds.Client(pki.Expect{Roles: []pki.Role{pki.RoleMetad}})
		conn, err := grpc.NewClient("passthrough:///"+g.addresses()[1], grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
		must(t, err)
		if _, err := api.NewIdentityClient(conn).Renew(g.ctx(), &api.RenewRequest{Csr: csr}); err == nil {
			t.Errorf("%s certificate was renewed", what)
		}
		must(t, conn.Close())
	}
	if !strings.Contains(g.sink.text(), "API connection refused") {
		t.Error("who was refused is not in the log")
	}
}

// issued has a certificate of ca and trusts trusted.
func issued(t *testing.T, ca *pki.CA, role pki.Role, trusted *pki.CA) *pki.Credentials {
	t.Helper()
	pair, err := ca.Issue(pki.Request{Role: role, Name: "h1", Hosts: []string{"127.0.0.1"}})
	must(t, err)
	cr, err := pki.NewCredentials(clock.System, slices.Concat(ca.CertPEM(), trusted.CertPEM()), pair)
	must(t, err)
	return cr
}

// Without these refusals a CA would sign before everybody trusts it, or somebody would be
// locked out; a step is taken by nobody but operators, and survives the leader.
func TestCAStepsWaitForEverybody(t *testing.T) {
	g := newSigningGroup(t, 3, "m1")
	g.leader()
	g.host("h1", 1)
	g.untilEvent("host_up", "h1")
	ops := g.members()
	change := func(step api.CAStep, ready bool, without ...string) error {
		_, err := ops.ChangeCA(g.ctx(), step, ready, without)
		return err
	}
	for _, early := range []api.CAStep{api.CAStep_CA_STEP_SWITCH, api.CAStep_CA_STEP_FINISH, api.CAStep_CA_STEP_ABORT} {
		if err := change(early, true); !errors.Is(err, errs.ErrConflict) {
			t.Errorf("%s before begin: %v", early, err)
		}
	}
	must(t, change(api.CAStep_CA_STEP_BEGIN, false))
	show, err := ops.ShowCA(g.ctx())
	must(t, err)
	mine, err := pki.FingerprintOf(g.ca.CertPEM())
	must(t, err)
	if show.Phase != "spread" || len(show.Cas) != 2 || show.Cas[0].Fingerprint != mine.String() || !show.Cas[0].Signs {
		t.Fatalf("after begin: %v", show)
	}
	// These members have no files: they never come to trust the second.
	err = change(api.CAStep_CA_STEP_SWITCH, true)
	if !errors.Is(err, errs.ErrConflict) || !strings.Contains(err.Error(), "metad m3 does not trust both CAs yet") {
		t.Errorf("switch: %v", err)
	}
	if err := change(api.CAStep_CA_STEP_SWITCH, true, "m1", "m2", "m3"); !errors.Is(err, errs.ErrConflict) || !strings.Contains(err.Error(), "blockd h1 does not") {
		t.Errorf("switch without metads: %v", err)
	}
	g.stop(g.leader())
	g.leader()
	if show, err = ops.ShowCA(g.ctx()); err != nil || show.Phase != "spread" {
		t.Errorf("after the leader: %v %v", show, err)
	}
	must(t, change(api.CAStep_CA_STEP_ABORT, false))
	var trust state.Trust
	for _, s := range g.running {
		g.until("all to know", func() bool { trust = s.trust(); return trust.Phase == state.TrustRest && trust.Version == 2 })
	}
	if len(trust.CAs) != 1 {
		t.Errorf("trusted after abort: %d", len(trust.CAs))
	}
}
