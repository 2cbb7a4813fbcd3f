package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"

	"google.golang.org/grpc/credentials"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

// live are credentials that ask, for each connection, which certificates hold then.
type live struct{ now func() *tls.Config }

// ClientHandshake is part of credentials.TransportCredentials.
func (l live) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(l.now()).ClientHandshake(ctx, authority, conn) // it clones
}

// ServerHandshake is part of credentials.TransportCredentials.
func (l live) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, fmt.Errorf("serve with a client's credentials: %w", errs.ErrInvalid)
}

// Info is part of credentials.TransportCredentials.
func (l live) Info() credentials.ProtocolInfo { return credentials.NewTLS(l.now()).Info() }

// Clone is part of credentials.TransportCredentials.
func (l live) Clone() credentials.TransportCredentials { return l }

// OverrideServerName is part of credentials.TransportCredentials. Nobody needs it.
func (l live) OverrideServerName(string) error {
	return fmt.Errorf("override server name: %w", errs.ErrInvalid)
}

// each asks member after member, until one has the answer or all have been asked. What f
// gives are further addresses worth asking.
func (p *pool) each(ctx context.Context, f func(context.Context, *target) (ask []string, done bool, err error)) error {
	p.mu.Lock()
	queue := slices.Clone(p.mu.order)
	p.mu.Unlock()
	var all error
	for i := 0; i < len(queue) && i < membersAskedMax; i++ {
		t, err := p.target(queue[i])
		if err != nil {
			return err
		}
		if err = p.ready(ctx, t); err == nil {
			attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
			var ask []string
			var done bool
			ask, done, err = f(attempt, t)
			cancel()
			if _, err = api.FromStatus(err); err == nil && done {
				return nil
			}
			for _, a := range ask {
				if !slices.Contains(queue, a) {
					queue = append(queue, a)
				}
			}
		}
		if err != nil {
			all = errors.Join(all, fmt.Errorf("ask metad at %s: %w", t.address, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	if all == nil {
		all = fmt.Errorf("no metad that answers signs certificates (join in its metad.yaml): %w", errs.ErrUnavailable)
	}
	return all
}

// membersAskedMax bounds a round: what members name is theirs to say.
const membersAskedMax = 16

// target is the connection to one member.
func (p *pool) target(address string) (*target, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.closed {
		return nil, fmt.Errorf("metad client: %w", errs.ErrClosed)
	}
	if t := p.mu.targets[address]; t != nil {
		return t, nil
	}
	t, err := p.dial(address)
	if err == nil {
		p.mu.targets[address] = t
	}
	return t, err
}

// renew has a request signed for who calls.
func (p *pool) renew(ctx context.Context, csr []byte) (cert []byte, err error) {
	err = p.each(ctx, func(ctx context.Context, t *target) ([]string, bool, error) {
		rep, err := api.NewIdentityClient(t.conn).Renew(ctx, &api.RenewRequest{Csr: csr})
		cert = rep.GetCertPem()
		return rep.GetAsk(), len(cert) > 0, err
	})
	return cert, err
}

// trust asks for the CAs that the cluster trusts; none if it has never changed its CA.
func (p *pool) trust(ctx context.Context) (bundle []byte, err error) {
	err = p.call(ctx, retryAlways, func(ctx context.Context, t *target) error {
		rep, err := api.NewIdentityClient(t.conn).GetTrust(ctx, &api.GetTrustRequest{})
		bundle = rep.GetCasPem()
		return err
	})
	return bundle, err
}

// RenewCertificate has a request (PKCS#10, DER) signed for the identity that this host has.
func (b *Blockd) RenewCertificate(ctx context.Context, csr []byte) ([]byte, error) {
	return b.p.renew(ctx, csr)
}

// TrustedCAs are those of the cluster, in PEM, the one that signs first; none if it has
// never changed its CA.
func (b *Blockd) TrustedCAs(ctx context.Context) ([]byte, error) { return b.p.trust(ctx) }

// RenewCertificate has a request (PKCS#10, DER) signed for the identity that the caller has.
func (m *Members) RenewCertificate(ctx context.Context, csr []byte) ([]byte, error) {
	return m.p.renew(ctx, csr)
}

// TrustedCAs are those of the cluster; see Blockd.TrustedCAs.
func (m *Members) TrustedCAs(ctx context.Context) ([]byte, error) { return m.p.trust(ctx) }

// ShowCA tells of the cluster's CAs and who has certificates of which.
func (m *Members) ShowCA(ctx context.Context) (*api.CAReply, error) {
	return manage(ctx, m, &api.ShowCARequest{}, func(x api.MembershipClient, ctx context.Context, r *api.ShowCARequest) (*api.CAReply, error) {
		return x.ShowCA(ctx, r)
	})
}

// ChangeCA takes one step of changing the CA. ErrConflict says what it waits for. A step
// that was taken, but whose answer was lost, is refused when it is repeated: look with ShowCA.
func (m *Members) ChangeCA(ctx context.Context, step api.CAStep, clientsReady bool, without []string) (*api.CAReply, error) {
	q := &api.ChangeCARequest{Step: step, ClientsReady: clientsReady, Without: without}
	return manage(ctx, m, q, func(x api.MembershipClient, ctx context.Context, r *api.ChangeCARequest) (*api.CAReply, error) {
		return x.ChangeCA(ctx, r)
	})
}

// MakeCA asks one member, who signs, for the CA that signs now and the one that is to follow it.
func (m *Members) MakeCA(ctx context.Context) (signing, next []byte, err error) {
	err = m.p.each(ctx, func(ctx context.Context, t *target) ([]string, bool, error) {
		rep, err := api.NewMemberClient(t.conn).MakeCA(ctx, &api.MakeCARequest{})
		signing, next = rep.GetSigning(), rep.GetNext()
		return nil, len(next) > 0, err
	})
	return signing, next, err
}
