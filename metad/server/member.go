package server

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"ashlar.dev/metad/consensus"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// memberService answers other members.
type memberService struct {
	api.UnimplementedMemberServer
	s *Server
}

// Describe tells what this member is, to one that wants to know before it founds a group
// or lets this one in.
func (m *memberService) Describe(context.Context, *api.DescribeRequest) (*api.DescribeReply, error) {
	n := m.s.node
	cid := m.s.truth()
	return &api.DescribeReply{Id: n.ID(), LastIndex: n.LastIndex(), Joining: n.Joining(), ClusterId: cid[:], JoinAddress: m.s.signsAt(), Level: uint32(state.LevelNewest),
		Identity: m.s.identity(), Memory: api.FromProcess(m.s.memory())}, nil
}

// signsAt is where this member signs for hosts that join; empty while it cannot.
func (s *Server) signsAt() string {
	if _, err := s.signs(); err != nil {
		return ""
	}
	return s.joinAddress
}

// truth names the state: a cluster, and how often it began anew.
func (s *Server) truth() (x [16]byte) {
	s.node.View(func(m *state.Machine) {
		x = m.ClusterID()
		if r := m.Rebuild(); r != nil {
			for i := range x {
				x[i] ^= r.ID[i]
			}
		}
	})
	return x
}

// UseToken takes a use for a member that signs; see state.UseToken for what is refused.
func (m *memberService) UseToken(ctx context.Context, q *api.UseTokenRequest) (*api.UseTokenReply, error) {
	c := &state.UseToken{Use: state.TokenUse{Name: q.GetName(), Roles: q.GetRoles(), AtMS: m.s.clock.Wall().UnixMilli()}}
	if len(q.GetToken()) != len(c.ID) || len(q.GetSecretHash()) != len(c.Hash) || len(q.GetKeyHash()) != len(c.Use.Key) {
		return nil, m.s.fail(fmt.Errorf("use token: lengths %d, %d, %d: %w", len(q.GetToken()), len(q.GetSecretHash()), len(q.GetKeyHash()), errs.ErrInvalid))
	}
	copy(c.ID[:], q.Token)
	copy(c.Hash[:], q.SecretHash)
	copy(c.Use.Key[:], q.KeyHash)
	if _, err := m.s.commit(ctx, c); err != nil {
		return nil, err
	}
	m.s.log.Info("join token used", "token", c.ID.String(), "name", c.Use.Name, "roles", c.Use.Roles, "signer", caller(ctx).Name)
	m.s.note(state.Info, "host_joined", aboutIdentity, c.Use.Name, caller(ctx).String(), "certificates for %s as %v by join token %s", c.Use.Name, c.Use.Roles, c.ID)
	rep := &api.UseTokenReply{}
	for _, x := range m.s.node.Members() {
		rep.Members = append(rep.Members, &api.MemberAddress{Id: x.ID, ApiAddress: x.API, RaftAddress: x.Raft})
	}
	return rep, nil
}

const describeTime = time.Second

// describe asks another member what it is, and makes sure that it is that member.
func describeMember(ctx context.Context, creds *pki.Credentials, p consensus.Peer) (*api.DescribeReply, error) {
	ctx, cancel := context.WithTimeout(ctx, describeTime)
	defer cancel()
	tls := creds.Client(pki.Expect{Roles: []pki.Role{pki.RoleMetad}, Name: p.ID})
	conn, err := grpc.NewClient("passthrough:///"+p.API, grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	if err != nil {
		return nil, fmt.Errorf("dial member %s: %w", p.ID, err)
	}
	defer conn.Close()
	rep, err := api.NewMemberClient(conn).Describe(ctx, &api.DescribeRequest{})
	if _, err = api.FromStatus(err); err != nil {
		return nil, fmt.Errorf("ask member %s at %s: %w", p.ID, p.API, err)
	}
	return rep, nil
}

// describeAll asks all members at once; those that do not answer are missing.
func (s *Server) describeAll(ctx context.Context, members []consensus.Member) map[string]*api.DescribeReply {
	type answer struct {
		id  string
		rep *api.DescribeReply
	}
	out := make(map[string]*api.DescribeReply)
	answers := make(chan answer, len(members))
	asked := 0
	for _, m := range members {
		if m.ID == s.node.ID() {
			rep, _ := (&memberService{s: s}).Describe(ctx, nil) // never fails
			out[m.ID] = rep
			continue
		}
		if s.group.Go("describe", func(context.Context) error {
			rep, err := describeMember(ctx, s.creds, m.Peer)
			if err != nil {
				s.log.Debug("member does not describe itself", "member", m.ID, "err", err)
			}
			answers <- answer{m.ID, rep}
			return nil
		}) {
			asked++
		}
	}
	for range asked {
		if a := <-answers; a.rep != nil {
			out[a.id] = a.rep
		}
	}
	return out
}
