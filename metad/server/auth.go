package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
)

// roles says who may call which service. A service that is not listed is closed.
var roles = map[string][]pki.Role{
	api.Blockd_ServiceDesc.ServiceName:     {pki.RoleBlockd},
	api.Cluster_ServiceDesc.ServiceName:    {pki.RoleOperator, pki.RoleMetad},
	api.Member_ServiceDesc.ServiceName:     {pki.RoleMetad},
	api.Rebuild_ServiceDesc.ServiceName:    {pki.RoleBlockd},
	api.Membership_ServiceDesc.ServiceName: {pki.RoleOperator},
	api.Identity_ServiceDesc.ServiceName:   {pki.RoleMetad, pki.RoleBlockd, pki.RoleSnapshotd, pki.RoleOperator},
	api.Archiver_ServiceDesc.ServiceName:   {pki.RoleSnapshotd},
	api.Backups_ServiceDesc.ServiceName:    {pki.RoleSnapshotd},
	api.Archives_ServiceDesc.ServiceName:   {pki.RoleOperator},
	api.Images_ServiceDesc.ServiceName:     {pki.RoleOperator},
	api.Hooks_ServiceDesc.ServiceName:      {pki.RoleBlockd},
	api.Freezes_ServiceDesc.ServiceName:    {pki.RoleOperator},
	api.Hosts_ServiceDesc.ServiceName:      {pki.RoleOperator},
}

type callerKey struct{}

// authorize gives ctx the caller's identity, if its role may call the method.
func authorize(ctx context.Context, method string) (context.Context, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, fmt.Errorf("call %s: no peer: %w", method, errs.ErrDenied)
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, fmt.Errorf("call %s: not over TLS: %w", method, errs.ErrDenied)
	}
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	who, err := pki.RequireRole(info.State, roles[service]...)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", method, err)
	}
	return context.WithValue(ctx, callerKey{}, who), nil
}

// gate refuses callers, and says so in the log.
type gate struct {
	log     *slog.Logger
	callers *callers
	removed func(pki.Identity, *x509.Certificate) error // nil: nobody is
}

func (g gate) enter(ctx context.Context, method string) (context.Context, error) {
	in, err := authorize(ctx, method)
	if err == nil {
		err = g.stillThere(ctx, caller(in))
	}
	if err != nil {
		from := "unknown"
		if p, ok := peer.FromContext(ctx); ok {
			from = p.Addr.String()
		}
		g.log.Info("call refused", "peer", from, "err", err)
		return nil, api.ToStatus(err, nil)
	}
	if cert, err := certificateOf(ctx); err == nil {
		g.callers.note(caller(in), cert)
	}
	return in, nil
}

// stillThere refuses who was removed.
func (g gate) stillThere(ctx context.Context, who pki.Identity) error {
	cert, err := certificateOf(ctx)
	if err != nil || g.removed == nil {
		return err
	}
	return g.removed(who, cert)
}

func (g gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := g.enter(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (g gate) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := g.enter(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return next(srv, &authorizedStream{stream, ctx})
}

// telling are credentials that log who fails their handshake.
type telling struct {
	credentials.TransportCredentials
	log *slog.Logger
}

// ServerHandshake is part of credentials.TransportCredentials.
func (c telling) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	out, info, err := c.TransportCredentials.ServerHandshake(conn)
	if err != nil && !errors.Is(err, io.EOF) { // nobody has tried anything yet
		c.log.Info("API connection refused", "peer", conn.RemoteAddr().String(), "err", err)
	}
	return out, info, err
}

// Clone is part of credentials.TransportCredentials.
func (c telling) Clone() credentials.TransportCredentials {
	return telling{c.TransportCredentials.Clone(), c.log}
}

type authorizedStream struct {
	grpc.ServerStream
	ctx context.Context // the stream's own, with the caller
}

func (s *authorizedStream) Context() context.Context { return s.ctx }

// caller is who calls.
func caller(ctx context.Context) pki.Identity {
	who, _ := ctx.Value(callerKey{}).(pki.Identity)
	return who
}

// mustBe refuses a caller that speaks for another host than its certificate names.
func mustBe(ctx context.Context, h id.Host) error {
	if who := caller(ctx); who.Name != string(h) {
		return fmt.Errorf("caller %s speaks for host %q: %w", who, h, errs.ErrDenied)
	}
	return nil
}
