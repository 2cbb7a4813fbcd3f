package server

import (
	"context"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// identityService renews certificates. Any member answers: it needs no leader.
type identityService struct {
	api.UnimplementedIdentityServer
	s *Server
}

// certificateOf is what the caller showed; it was verified in the handshake.
func certificateOf(ctx context.Context) (*x509.Certificate, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, fmt.Errorf("renew certificate: no peer: %w", errs.ErrDenied)
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return nil, fmt.Errorf("renew certificate: no certificate was shown: %w", errs.ErrDenied)
	}
	return info.State.PeerCertificates[0], nil
}

// Renew signs another key for who the caller is already. What it may ask for is nothing:
// role, name, hosts and disks are those of the certificate that it showed.
func (i *identityService) Renew(ctx context.Context, q *api.RenewRequest) (*api.RenewReply, error) {
	old, err := certificateOf(ctx)
	if err != nil {
		return nil, i.s.fail(&final{err})
	}
	ca, err := i.s.signs()
	if err != nil {
		rep := &api.RenewReply{}
		members := i.s.node.Members()
		said := i.s.describeAll(ctx, members)
		for _, m := range members {
			if m.ID != i.s.node.ID() && said[m.ID].GetJoinAddress() != "" {
				rep.Ask = append(rep.Ask, m.API)
			}
		}
		return rep, nil
	}
	cert, err := renew(ca, old, q.GetCsr())
	if err != nil {
		i.s.log.Warn("certificate not renewed", "who", caller(ctx).String(), "err", err)
		return nil, i.s.fail(&final{err})
	}
	i.s.log.Info("certificate renewed", "who", caller(ctx).String(), "issuer", ca.Fingerprint().String())
	return &api.RenewReply{CertPem: cert}, nil
}

func renew(ca *pki.CA, old *x509.Certificate, csr []byte) ([]byte, error) {
	r, err := pki.Renewal(old)
	if err != nil {
		return nil, err
	}
	return ca.Sign(csr, r)
}

// GetTrust tells the CAs that the cluster trusts.
func (i *identityService) GetTrust(ctx context.Context, _ *api.GetTrustRequest) (*api.TrustReply, error) {
	if err := i.s.fresh(ctx); err != nil {
		return nil, i.s.fail(err)
	}
	return &api.TrustReply{CasPem: pki.Bundle(i.s.trust().CAs)}, nil
}

// identity is what this member says of its own certificate.
func (s *Server) identity() *api.IdentityBeat {
	return api.FromIdentity(&cluster.Identity{TrustHash: s.creds.TrustHash(), Issuer: s.creds.Issuer(), Expires: s.creds.Expires()})
}

// keepIdentity renews this member's certificate and follows the cluster's CAs until ctx ends.
func (s *Server) keepIdentity(ctx context.Context, files pki.Files) error {
	k := &pki.Keeper{Creds: s.creds, Files: files, Clock: s.clock, Log: s.log, Sign: func(ctx context.Context, csr []byte) ([]byte, error) {
		if ca, err := s.signs(); err == nil {
			return ca.Sign(csr, s.ownRequest)
		}
		return s.askMembers.RenewCertificate(ctx, csr)
	}}
	t := s.clock.NewTicker(pki.KeepEvery)
	defer t.Stop()
	for {
		trust := s.trust()
		k.Step(ctx, pki.Bundle(trust.CAs))
		s.dropKeys(trust)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		}
	}
}

// dropKeys destroys the keys of CAs that the cluster has dropped, when this member itself
// has a certificate of the one that is left: a state restored from before the change
// says otherwise, and is not believed.
func (s *Server) dropKeys(t state.Trust) {
	if s.signer == nil || t.Version == 0 || t.Phase != state.TrustRest || s.signingCA() != s.creds.Issuer() {
		return
	}
	signs, err := s.signs()
	if err != nil {
		return
	}
	for _, f := range s.signer.before(signs) {
		if err := s.signer.drop(f); err != nil {
			s.log.Warn("key of a dropped CA not destroyed", "ca", f.String(), "err", err)
			continue
		}
		s.log.Info("key of a dropped CA destroyed", "ca", f.String())
	}
}

// callers remembers which certificates people have shown to this leader: they have no
// daemon that tells.
type callers struct {
	mu   sync.Mutex
	seen map[string]*x509.Certificate
}

// callersMax bounds them; one more forgets all, and they call again.
const callersMax = 256

func (c *callers) note(who pki.Identity, cert *x509.Certificate) {
	if who.Role != pki.RoleOperator {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil || len(c.seen) >= callersMax {
		c.seen = make(map[string]*x509.Certificate)
	}
	c.seen[who.Name] = cert
}

func (c *callers) each(f func(name string, cert *x509.Certificate)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, cert := range c.seen {
		f(name, cert)
	}
}

// startIdentity keeps this member's certificate up to date, if it has files.
func (s *Server) startIdentity(o Options) error {
	var addresses []string
	for _, p := range o.Config.Peers {
		addresses = append(addresses, p.API)
	}
	var err error
	s.askMembers, err = client.NewMembers(client.Options{Addresses: addresses, Clock: s.clock, LiveTLS: o.Creds.Dialer(pki.Expect{Roles: []pki.Role{pki.RoleMetad}})})
	if err != nil {
		return err
	}
	s.stack.PushCloser("members client", s.askMembers.Close)
	if o.Config.TLS.Cert == "" {
		return nil
	}
	if s.ownRequest, err = o.Creds.Own(); err != nil {
		return err
	}
	s.group.Go("identity", func(ctx context.Context) error { return s.keepIdentity(ctx, o.Config.TLS) })
	return nil
}

// noteRenewal notes that a host has another certificate than it told of before.
func (s *Server) noteRenewal(l *reconcile.Liveness, now *reconcile.Beat) {
	before, ok := l.HostBeat(now.Holder.Host)
	if !ok || before.Identity == nil || now.Identity == nil {
		return
	}
	if a, b := before.Identity, now.Identity; !a.Expires.Equal(b.Expires) || a.Issuer != b.Issuer {
		s.note(state.Info, "certificate_renewed", aboutIdentity, string(now.Holder.Host), "", "blockd %s has a certificate of CA %s until %s", now.Holder.Host,
			pki.Fingerprint(b.Issuer), b.Expires.UTC().Format(time.RFC3339))
	}
}

// renewalFails is how long before its end a certificate should have been renewed long ago.
const renewalFails = 14 * 24 * time.Hour

// sayCertificates adds to the health that a certificate is about to end, and nobody renewed it.
func (s *Server) sayCertificates(h *reconcile.Report, l *reconcile.Liveness, m *state.Machine) {
	late := func(who string, expires time.Time) {
		if left := expires.Sub(s.clock.Wall()); left < renewalFails {
			h.Add(reconcile.Degraded, "certificate_ends", who, "the certificate of %s ends %s and is not renewed: see its log, and whether the metad that signs runs", who, expires.UTC().Format(time.RFC3339))
		}
	}
	late(s.creds.Self().Name, s.creds.Expires())
	for _, x := range m.Hosts() {
		if b, ok := l.HostBeat(x.Host); ok && b.Identity != nil {
			late(string(x.Host), b.Identity.Expires)
		}
	}
}
