package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// Limits of the port for hosts without certificates.
const (
	joinBytesMax   = 64 << 10
	joinTimeout    = 10 * time.Second
	joinKeysMax    = 4
	joinHostsMax   = 16
	joinCallsMax   = 4
	joinConnection = 5 * time.Second // to finish a handshake
)

// joinService signs for hosts that show a token. It runs on members that have the CA's key.
type joinService struct {
	api.UnimplementedJoinServer
	s      *Server
	leader *client.Members
}

// startJoin opens the port for hosts that join, if this member signs.
func (s *Server) startJoin(o Options) error {
	cfg := o.Config.Join
	if cfg.Listen == "" && o.JoinListener == nil {
		return nil
	}
	var err error
	if s.signer, err = newSigner(s.clock, o.Creds.Self().Cluster, cfg.CA, o.CA); err != nil {
		return err
	}
	ln, err := listen(o.JoinListener, cfg.Listen)
	if err != nil {
		return err
	}
	s.joinAddress = ln.Addr().String()
	if cfg.Listen != "" {
		s.joinAddress = cfg.Listen
	}
	s.join = grpc.NewServer(grpc.Creds(credentials.NewTLS(o.Creds.JoinServer())), grpc.MaxRecvMsgSize(joinBytesMax), grpc.MaxConcurrentStreams(joinCallsMax),
		grpc.ConnectionTimeout(joinConnection), grpc.WaitForHandlers(true))
	api.RegisterJoinServer(s.join, &joinService{s: s, leader: s.askMembers})
	s.group.Go("join", func(context.Context) error {
		if err := s.join.Serve(ln); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serve hosts that join: %w", err)
		}
		return nil
	})
	return nil
}

// bundle are the CAs that one who joins is to trust: all of the cluster's, the one that signs first.
func (s *Server) bundle(ca *pki.CA) []byte {
	if t := s.trust(); len(t.CAs) > 0 {
		return pki.Bundle(t.CAs)
	}
	return ca.CertPEM()
}

// Join signs a host's keys after the leader took a use of its token. What is refused is
// logged, without the secret.
func (j *joinService) Join(ctx context.Context, q *api.JoinRequest) (*api.JoinReply, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	from := "unknown"
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr.String()
	}
	rep, err := j.join(ctx, q)
	if err != nil {
		j.s.log.Warn("host was not let in", "from", from, "token", fmt.Sprintf("%.8x", q.GetToken()), "name", fmt.Sprintf("%.64q", q.GetName()), "err", err)
		return nil, j.s.fail(&final{err})
	}
	j.s.log.Info("certificates signed", "from", from, "name", q.GetName(), "keys", len(q.GetKeys()))
	return rep, nil
}

func (j *joinService) join(ctx context.Context, q *api.JoinRequest) (*api.JoinReply, error) {
	if len(q.GetKeys()) == 0 || len(q.GetKeys()) > joinKeysMax || len(q.GetHosts()) == 0 || len(q.GetHosts()) > joinHostsMax {
		return nil, fmt.Errorf("a host that joins asks for 1 to %d keys and has 1 to %d addresses: %w", joinKeysMax, joinHostsMax, errs.ErrInvalid)
	}
	for _, h := range q.Hosts {
		if net.ParseIP(h) == nil && !plainHost(h) {
			return nil, fmt.Errorf("address %.80q is neither an IP address nor a host name: %w", h, errs.ErrInvalid)
		}
	}
	use := client.TokenUse{Token: q.GetToken(), Hash: sha256.Sum256(q.GetSecret()), Name: q.GetName()}
	var csrs [][]byte
	for _, k := range q.Keys {
		csrs = append(csrs, k.GetCsr())
		use.Roles = append(use.Roles, k.GetRole())
	}
	var err error
	if use.Key, err = pki.KeyHash(csrs...); err != nil {
		return nil, err
	}
	members, err := j.leader.UseToken(ctx, use)
	if err != nil {
		return nil, err
	}
	ca, err := j.s.signs()
	if err != nil {
		return nil, err
	}
	rep := &api.JoinReply{Cluster: ca.Cluster(), CaPem: j.s.bundle(ca), Members: members}
	for _, k := range q.Keys {
		r := pki.Request{Role: pki.Role(k.GetRole()), Name: q.GetName(), Hosts: q.GetHosts()}
		if r.Role == pki.RoleNBD {
			r.Disks = []string{pki.AllDisks}
		}
		cert, err := ca.Sign(k.GetCsr(), r)
		if err != nil {
			return nil, err
		}
		rep.Certificates = append(rep.Certificates, &api.SignedKey{Role: k.GetRole(), CertPem: cert})
	}
	return rep, nil
}

func plainHost(h string) bool {
	if h == "" || len(h) > 253 {
		return false
	}
	for _, r := range h {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_') {
			return false
		}
	}
	return true
}
