package server

import (
	"bytes"
	"context"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/pki"
)

// identity is what this host tells of its certificate.
func (s *server) identity() *cluster.Identity {
	return &cluster.Identity{TrustHash: s.creds.TrustHash(), Issuer: s.creds.Issuer(), Expires: s.creds.Expires()}
}

// bar has the certificates of hosts that were removed refused, on the data path and by NBD.
func (s *server) bar(removed []cluster.RemovedHost) {
	bars := make(map[string]time.Time, len(removed))
	for _, x := range removed {
		bars[string(x.Host)] = time.UnixMilli(x.AtMS)
	}
	s.creds.Bar(bars)
}

// identityTimeout bounds one question about certificates.
const identityTimeout = 10 * time.Second

// keepIdentity renews this host's certificate and follows the cluster's CAs until ctx ends.
// Connections, and with them disks, are not touched by it.
func (s *server) keepIdentity(ctx context.Context) error {
	k := &pki.Keeper{Creds: s.creds, Files: s.cfg.TLS, Clock: s.clock, Log: s.log, Sign: s.metad.RenewCertificate}
	t := s.clock.NewTicker(pki.KeepEvery)
	defer t.Stop()
	for {
		step, cancel := context.WithTimeout(ctx, identityTimeout)
		k.Step(step, s.trustedNow(step))
		cancel()
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		}
	}
}

// trustedNow are the cluster's CAs, if metad said that they are others than this host trusts.
func (s *server) trustedNow(ctx context.Context) []byte {
	told := s.trust.Load()
	have := s.creds.TrustHash()
	if told == nil || len(*told) == 0 || bytes.Equal(*told, have[:]) {
		return nil
	}
	bundle, err := s.metad.TrustedCAs(ctx)
	if err != nil {
		s.log.Info("the cluster's CAs are not known yet", "err", err)
		return nil
	}
	return bundle
}
