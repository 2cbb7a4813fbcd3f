package enroll

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/devcluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// Joined tells what a host became part of.
type Joined struct {
	Cluster string
	// MetadAPI and MetadRaft are where its metad will be, if it has that role.
	MetadAPI, MetadRaft string
}

// Join makes a host of this machine. ErrDenied says why the token does not help; ErrExists
// that another host goes by the name, or that this one belongs to a cluster.
func Join(ctx context.Context, c clock.Clock, h Host, t Token) (Joined, error) {
	if err := h.Validate(); err != nil {
		return Joined{}, err
	}
	if err := h.fresh(); err != nil {
		return Joined{}, err
	}
	if err := h.makeDir(); err != nil {
		return Joined{}, err
	}
	q := &api.JoinRequest{Token: t.ID[:], Secret: t.secret[:], Name: h.Name, Hosts: h.reached()}
	keys := make(map[string]pki.Secret)
	for _, r := range h.Roles {
		key, err := h.key(r)
		if err != nil {
			return Joined{}, err
		}
		csr, err := pki.NewRequest(key, r, h.Name)
		if err != nil {
			return Joined{}, err
		}
		keys[string(r)] = key
		q.Keys = append(q.Keys, &api.KeyRequest{Role: string(r), Csr: csr})
	}
	rep, err := ask(ctx, c, t, q)
	if err != nil {
		return Joined{}, err
	}
	if err := h.take(c, t, rep, keys); err != nil {
		return Joined{}, err
	}
	var others []devcluster.PeerConfig
	for _, m := range rep.Members {
		if m.Id != h.Name {
			others = append(others, devcluster.PeerConfig{ID: m.Id, API: m.ApiAddress, Raft: m.RaftAddress})
		}
	}
	j := Joined{Cluster: rep.Cluster}
	if h.Has(pki.RoleMetad) {
		j.MetadAPI, j.MetadRaft, _ = h.metadAddresses()
	}
	return j, h.writeConfigs(rep.Cluster, others, false)
}

// key makes the role's key, or finds the one that an attempt before this made. It is
// durable before anybody is asked to sign it.
func (h *Host) key(r pki.Role) (pki.Secret, error) {
	path := h.files(r).Key
	key, err := pki.LoadKey(path)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	if key, err = pki.NewKey(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make folder of keys: %w", err)
	}
	return key, config.WriteFile(path, key, 0o600)
}

// ask shows the token to the first address that answers.
func ask(ctx context.Context, c clock.Clock, t Token, q *api.JoinRequest) (*api.JoinReply, error) {
	var all error
	for _, a := range t.Addresses {
		rep, err := askAt(ctx, c, t, a, q)
		if err == nil {
			return rep, nil
		}
		err = fmt.Errorf("ask %s: %w", a, err)
		if !errors.Is(err, errs.ErrUnavailable) && !errors.Is(err, errs.ErrTimeout) {
			return nil, err // an answer
		}
		all = errors.Join(all, err)
	}
	return nil, all
}

func askAt(ctx context.Context, c clock.Clock, t Token, address string, q *api.JoinRequest) (*api.JoinReply, error) {
	cfg, err := pki.Pinned(c, t.CA, address)
	if err != nil {
		return nil, err
	}
	// Once by hand: gRPC would say "unavailable" of a server of another cluster too.
	probe, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", address)
	switch {
	case errors.Is(err, errs.ErrDenied):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", err, errs.ErrUnavailable)
	}
	if err := probe.Close(); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errs.ErrUnavailable)
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	defer conn.Close()
	rep, err := api.NewJoinClient(conn).Join(ctx, q)
	_, err = api.FromStatus(err)
	return rep, err
}

// take checks and keeps what was signed.
func (h *Host) take(c clock.Clock, t Token, rep *api.JoinReply, keys map[string]pki.Secret) error {
	if got, err := pki.FingerprintOf(rep.CaPem); err != nil || got != t.CA {
		return fmt.Errorf("the CA's certificate is not the one of the token: %w", errs.ErrDenied)
	}
	if len(rep.Certificates) != len(h.Roles) {
		return fmt.Errorf("%d certificates for %d keys: %w", len(rep.Certificates), len(h.Roles), errs.ErrInvalid)
	}
	for i, s := range rep.Certificates {
		r := h.Roles[i]
		cr, err := pki.NewCredentials(c, rep.CaPem, pki.Pair{CertPEM: s.CertPem, KeyPEM: keys[string(r)]})
		if err != nil {
			return err
		}
		if who := cr.Self(); who.Role != r || who.Name != h.Name || who.Cluster != rep.Cluster {
			return fmt.Errorf("the certificate is of %s, not of %s %s: %w", who, r, h.Name, errs.ErrInvalid)
		}
		if err := config.WriteFile(h.files(r).Cert, s.CertPem, 0o644); err != nil {
			return err
		}
		if err := config.WriteFile(h.files(r).CA, rep.CaPem, 0o644); err != nil {
			return err
		}
	}
	return nil
}
