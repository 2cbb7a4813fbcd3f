package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
)

// Members is metad's group as those see it who change it, and as its members see each
// other. Safe for concurrent use.
type Members struct{ p *pool }

// NewMembers makes a client. It connects when first used.
func NewMembers(o Options) (*Members, error) {
	p, err := newPool(o)
	if err != nil {
		return nil, err
	}
	return &Members{p: p}, nil
}

// Close ends the connections.
func (m *Members) Close() error { return m.p.close() }

func manage[Req, Rep any](ctx context.Context, m *Members, req Req, f func(api.MembershipClient, context.Context, Req) (Rep, error)) (Rep, error) {
	var rep Rep
	err := m.p.call(ctx, retryAlways, func(ctx context.Context, conn *target) (err error) {
		rep, err = f(api.NewMembershipClient(conn.conn), ctx, req)
		return err
	})
	return rep, err
}

// List lists the group.
func (m *Members) List(ctx context.Context) ([]*api.GroupMember, error) {
	r, err := manage(ctx, m, &api.ListMembersRequest{}, func(x api.MembershipClient, ctx context.Context, r *api.ListMembersRequest) (*api.ListMembersReply, error) {
		return x.ListMembers(ctx, r)
	})
	return r.GetMembers(), err
}

// Add lets a member in. It votes when it has caught up, some time later.
func (m *Members) Add(ctx context.Context, id, apiAddress, raftAddress string) error {
	q := &api.AddMemberRequest{Id: id, ApiAddress: apiAddress, RaftAddress: raftAddress}
	_, err := manage(ctx, m, q, func(x api.MembershipClient, ctx context.Context, r *api.AddMemberRequest) (*api.AddMemberReply, error) {
		return x.AddMember(ctx, r)
	})
	return err
}

// Remove takes a member out. ErrConflict when the others would have no majority that lives, or, unless sure, survive
// fewer losses. That it is gone after an answer was lost counts as success.
func (m *Members) Remove(ctx context.Context, id string, sure bool) error {
	unsure := false // whether one that was asked may have done it
	return m.p.call(ctx, retryAlways, func(ctx context.Context, conn *target) error {
		_, err := api.NewMembershipClient(conn.conn).RemoveMember(ctx, &api.RemoveMemberRequest{Id: id, Sure: sure})
		detail, class := api.FromStatus(err)
		if unsure && errs.CodeOf(class) == errs.NotFound {
			return nil
		}
		unsure = unsure || err != nil && !detail.GetNotLeader()
		return err
	})
}

// NewToken is a join token to be made known.
type NewToken struct {
	Token    [8]byte
	Hash     [sha256.Size]byte // of its secret
	Roles    []string
	Name     string
	Uses     uint32
	Lifetime time.Duration
}

// AddToken makes a token known and tells where hosts may show it, and until when.
func (m *Members) AddToken(ctx context.Context, t NewToken) (joinAddresses []string, expiresUnixMS int64, err error) {
	q := &api.AddTokenRequest{Token: t.Token[:], SecretHash: t.Hash[:], Roles: t.Roles, Name: t.Name, Uses: t.Uses, LifetimeMs: t.Lifetime.Milliseconds()}
	r, err := manage(ctx, m, q, func(x api.MembershipClient, ctx context.Context, r *api.AddTokenRequest) (*api.AddTokenReply, error) {
		return x.AddToken(ctx, r)
	})
	return r.GetJoinAddresses(), r.GetExpiresUnixMs(), err
}

// Tokens lists tokens and who used them.
func (m *Members) Tokens(ctx context.Context) ([]*api.JoinToken, error) {
	r, err := manage(ctx, m, &api.ListTokensRequest{}, func(x api.MembershipClient, ctx context.Context, r *api.ListTokensRequest) (*api.ListTokensReply, error) {
		return x.ListTokens(ctx, r)
	})
	return r.GetTokens(), err
}

// RevokeToken makes a token useless.
func (m *Members) RevokeToken(ctx context.Context, token string) error {
	_, err := manage(ctx, m, &api.RevokeTokenRequest{Token: token}, func(x api.MembershipClient, ctx context.Context, r *api.RevokeTokenRequest) (*api.RevokeTokenReply, error) {
		return x.RevokeToken(ctx, r)
	})
	return err
}

// TokenUse is one host's use of a token.
type TokenUse struct {
	Token []byte
	Hash  [sha256.Size]byte
	Name  string
	Roles []string
	Key   [sha256.Size]byte
}

// UseToken takes a use, for a member that signs, and tells who the members are. ErrDenied
// says why not.
func (m *Members) UseToken(ctx context.Context, u TokenUse) ([]*api.MemberAddress, error) {
	var rep *api.UseTokenReply
	err := m.p.call(ctx, retryAlways, func(ctx context.Context, conn *target) (err error) {
		rep, err = api.NewMemberClient(conn.conn).UseToken(ctx, &api.UseTokenRequest{Token: u.Token, SecretHash: u.Hash[:], Name: u.Name, Roles: u.Roles, KeyHash: u.Key[:]})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("use join token: %w", err)
	}
	return rep.GetMembers(), nil
}

// Backup gives metad's state as of now, in the form of a file; it is whole.
func (m *Members) Backup(ctx context.Context) ([]byte, error) {
	var file []byte
	err := m.p.call(ctx, retryUnknown, func(ctx context.Context, conn *target) error {
		file = nil
		stream, err := api.NewMembershipClient(conn.conn).Backup(ctx, &api.BackupRequest{})
		if err != nil {
			return err
		}
		for {
			part, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if file = append(file, part.GetData()...); len(file) > cluster.BackupBytesMax {
				return fmt.Errorf("backup of over %d bytes: %w", cluster.BackupBytesMax, errs.ErrInvalid)
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("back metad up: %w", err)
	}
	if _, err := cluster.DecodeBackup(file); err != nil {
		return nil, err
	}
	return file, nil
}

// RebuildStatus tells how far the rebuilding of a restored state is.
func (m *Members) RebuildStatus(ctx context.Context) (*api.RebuildStatusReply, error) {
	return manage(ctx, m, &api.RebuildStatusRequest{}, func(x api.MembershipClient, ctx context.Context, r *api.RebuildStatusRequest) (*api.RebuildStatusReply, error) {
		return x.RebuildStatus(ctx, r)
	})
}

// FinishRebuild ends it: all stores but these have told what they have. ErrConflict while
// one that is known has not.
func (m *Members) FinishRebuild(ctx context.Context, without []string) (*api.RebuildStatusReply, error) {
	return manage(ctx, m, &api.FinishRebuildRequest{WithoutStores: without}, func(x api.MembershipClient, ctx context.Context, r *api.FinishRebuildRequest) (*api.RebuildStatusReply, error) {
		return x.FinishRebuild(ctx, r)
	})
}
