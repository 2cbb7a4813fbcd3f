package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

const tokenLifetimeMax = 30 * 24 * time.Hour

// joinRoles may be handed out by a token. An NBD client's is good for all disks.
var joinRoles = []pki.Role{pki.RoleMetad, pki.RoleBlockd, pki.RoleSnapshotd, pki.RoleOperator, pki.RoleNBD}

// AddToken makes a join token known. Its secret stays with the caller.
func (m *membershipService) AddToken(ctx context.Context, q *api.AddTokenRequest) (*api.AddTokenReply, error) {
	if err := m.ruling(ctx); err != nil {
		return nil, err
	}
	now := m.s.clock.Wall()
	life := time.Duration(q.GetLifetimeMs()) * time.Millisecond
	t := state.Token{Roles: q.GetRoles(), Name: q.GetName(), UsesMax: q.GetUses(), ExpiresMS: now.Add(life).UnixMilli(), By: caller(ctx).Name}
	if len(q.GetToken()) != len(t.ID) || len(q.GetSecretHash()) != len(t.Hash) || life <= 0 || life > tokenLifetimeMax {
		return nil, m.s.fail(fmt.Errorf("a join token lives for up to %v: %w", tokenLifetimeMax, errs.ErrInvalid))
	}
	for _, r := range t.Roles {
		if !slices.Contains(joinRoles, pki.Role(r)) {
			return nil, m.s.fail(fmt.Errorf("role %.40q cannot be handed out by a join token, only %v: %w", r, joinRoles, errs.ErrInvalid))
		}
	}
	copy(t.ID[:], q.Token)
	copy(t.Hash[:], q.SecretHash)
	rep := &api.AddTokenReply{ExpiresUnixMs: t.ExpiresMS}
	for _, d := range m.s.describeAll(ctx, m.s.node.Members()) {
		if d.GetJoinAddress() != "" {
			rep.JoinAddresses = append(rep.JoinAddresses, d.GetJoinAddress())
		}
	}
	slices.Sort(rep.JoinAddresses)
	if len(rep.JoinAddresses) == 0 {
		return nil, m.s.fail(&final{fmt.Errorf("no metad that answers signs certificates (join in its metad.yaml): %w", errs.ErrUnavailable)})
	}
	if _, err := m.s.commit(ctx, &state.AddToken{Token: t, NowMS: now.UnixMilli()}); err != nil {
		return nil, err
	}
	m.s.note(state.Info, "token_made", aboutIdentity, t.ID.String(), caller(ctx).String(), "join token for %v, %d uses, until %s", t.Roles, t.UsesMax, time.UnixMilli(t.ExpiresMS).UTC().Format(time.RFC3339))
	m.s.log.Info("join token made", "token", t.ID.String(), "roles", t.Roles, "uses", t.UsesMax, "by", t.By)
	return rep, nil
}

// ListTokens lists tokens and who used them.
func (m *membershipService) ListTokens(ctx context.Context, _ *api.ListTokensRequest) (*api.ListTokensReply, error) {
	if err := m.ruling(ctx); err != nil {
		return nil, err
	}
	rep := &api.ListTokensReply{}
	m.s.node.View(func(x *state.Machine) {
		for _, t := range x.Tokens() {
			out := &api.JoinToken{Token: t.ID.String(), Roles: t.Roles, Name: t.Name, UsesMax: t.UsesMax, ExpiresUnixMs: t.ExpiresMS, By: t.By, Revoked: t.Revoked}
			for _, u := range t.Uses {
				out.Uses = append(out.Uses, &api.TokenUse{Name: u.Name, Roles: u.Roles, AtUnixMs: u.AtMS})
			}
			rep.Tokens = append(rep.Tokens, out)
		}
	})
	return rep, nil
}

// RevokeToken makes a token useless.
func (m *membershipService) RevokeToken(ctx context.Context, q *api.RevokeTokenRequest) (*api.RevokeTokenReply, error) {
	if err := m.ruling(ctx); err != nil {
		return nil, err
	}
	var t state.TokenID
	if b, err := hex.DecodeString(q.GetToken()); err != nil || len(b) != len(t) {
		return nil, m.s.fail(fmt.Errorf("token %.40q: want its %d hex digits, as ashlar host tokens lists them: %w", q.GetToken(), 2*len(t), errs.ErrInvalid))
	} else {
		copy(t[:], b)
	}
	if _, err := m.s.commit(ctx, &state.RevokeToken{ID: t}); err != nil {
		return nil, err
	}
	m.s.note(state.Info, "token_revoked", aboutIdentity, t.String(), caller(ctx).String(), "join token revoked")
	m.s.log.Info("join token revoked", "token", t.String(), "by", caller(ctx).String())
	return &api.RevokeTokenReply{}, nil
}
