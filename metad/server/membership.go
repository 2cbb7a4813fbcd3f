package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"ashlar.dev/metad/consensus"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

// membershipService answers operators who change the group.
type membershipService struct {
	api.UnimplementedMembershipServer
	s *Server
}

// changeTimeout bounds one change of the group: one entry, committed by a majority.
const changeTimeout = 5 * time.Second

// ruling is the start of every call: a leader, certainly.
func (m *membershipService) ruling(ctx context.Context) error {
	if err := m.s.fresh(ctx); err != nil {
		return m.s.fail(err)
	}
	return nil
}

// ListMembers lists the group, with what each member says of itself.
func (m *membershipService) ListMembers(ctx context.Context, _ *api.ListMembersRequest) (*api.ListMembersReply, error) {
	if err := m.ruling(ctx); err != nil {
		return nil, err
	}
	members := m.s.node.Members()
	said := m.s.describeAll(ctx, members)
	rep := &api.ListMembersReply{}
	for _, x := range members {
		d := said[x.ID]
		rep.Members = append(rep.Members, &api.GroupMember{Id: x.ID, ApiAddress: x.API, RaftAddress: x.Raft, Voter: x.Voter, Leader: x.Leader,
			Up: d != nil, Joining: d.GetJoining(), LastIndex: d.GetLastIndex()})
	}
	return rep, nil
}

// AddMember lets a member in as one that does not vote; the reign gives it its vote when
// it has caught up (see promote). So a crash anywhere leaves a group as able as before,
// and the call is repeated.
func (m *membershipService) AddMember(ctx context.Context, q *api.AddMemberRequest) (*api.AddMemberReply, error) {
	if err := m.ruling(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	p := consensus.Peer{ID: q.GetId(), API: q.GetApiAddress(), Raft: q.GetRaftAddress()}
	if err := m.welcome(ctx, p); err != nil {
		return nil, m.s.fail(err)
	}
	if _, err := m.s.commit(ctx, &state.SetMember{Member: state.Member(p)}); err != nil {
		return nil, err
	}
	if m.voter(p.ID) {
		return &api.AddMemberReply{}, nil
	}
	if err := m.s.node.AddNonvoter(ctx, p); err != nil {
		return nil, m.s.fail(err)
	}
	m.s.note(state.Info, "member_added", aboutMember, p.ID, caller(ctx).String(), "metad %s let in, Raft at %s", p.ID, p.Raft)
	m.s.log.Info("member let in", "member", p.ID, "raft", p.Raft, "by", caller(ctx).String())
	return &api.AddMemberReply{}, nil
}

func (m *membershipService) voter(id string) bool {
	return slices.ContainsFunc(m.s.node.Members(), func(x consensus.Member) bool { return x.ID == id && x.Voter })
}

// welcome refuses who does not answer under that name, and who has the data of another
// cluster: its log would be mixed with ours.
func (m *membershipService) welcome(ctx context.Context, p consensus.Peer) error {
	for _, a := range []string{p.API, p.Raft} {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return fmt.Errorf("address %q of member %s: want host:port: %w", a, p.ID, errs.ErrInvalid)
		}
	}
	if known := m.s.node.Members(); len(known) >= peersMax && !slices.ContainsFunc(known, func(x consensus.Member) bool { return x.ID == p.ID }) {
		return fmt.Errorf("the group has %d members; take one out first: %w", len(known), errs.ErrConflict)
	}
	if p.ID == m.s.node.ID() {
		return nil
	}
	d, err := describeMember(ctx, m.s.creds, p)
	if err != nil {
		return &final{fmt.Errorf("metad %s does not answer; start it first: %w", p.ID, err)}
	}
	cid := m.s.truth()
	if theirs := [16]byte(append(d.GetClusterId(), make([]byte, 16)...)); theirs != cid && theirs != [16]byte{} {
		return fmt.Errorf("metad %s has data of another cluster, or of before this one was restored; empty its data folder first: %w", p.ID, errs.ErrConflict)
	}
	level := state.LevelFirst
	m.s.node.View(func(x *state.Machine) { level = x.Level() })
	if d.GetLevel() < uint32(level) && level > state.LevelFirst {
		return fmt.Errorf("metad %s is of an earlier version than the group (level %d of %d); update it first: %w", p.ID, d.GetLevel(), level, errs.ErrConflict)
	}
	return nil
}

// RemoveMember takes a member out, if the others have a majority that lives without it.
// A leader that is to go hands over first; the next one does the rest.
func (m *membershipService) RemoveMember(ctx context.Context, q *api.RemoveMemberRequest) (*api.RemoveMemberReply, error) {
	if err := m.ruling(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	id := q.GetId()
	members := m.s.node.Members()
	if !slices.ContainsFunc(members, func(x consensus.Member) bool { return x.ID == id }) {
		return nil, m.s.fail(fmt.Errorf("metad %q is no member: %w", id, errs.ErrNotFound))
	}
	err := mayGo(id, members, m.s.describeAll(ctx, members))
	if err == nil && !q.GetSure() {
		err = wouldWeaken(id, members)
	}
	if err != nil {
		return nil, m.s.fail(err)
	}
	if id == m.s.node.ID() {
		if err := m.s.node.StepDown(); err != nil {
			return nil, m.s.fail(fmt.Errorf("hand leadership over: %w: %w", err, errs.ErrUnavailable))
		}
		m.s.log.Info("handed leadership over to be taken out")
		return nil, m.s.fail(m.s.node.NotLeader())
	}
	if err := m.s.node.RemoveMember(ctx, id); err != nil {
		return nil, m.s.fail(err)
	}
	if _, err := m.s.commit(ctx, &state.DropMember{ID: id}); err != nil {
		return nil, err
	}
	m.s.note(state.Info, "member_removed", aboutMember, id, caller(ctx).String(), "metad %s taken out of the group", id)
	m.s.log.Info("member taken out", "member", id, "by", caller(ctx).String())
	return &api.RemoveMemberReply{}, nil
}

// mayGo refuses to take out a member without which the voters that answer are no majority
// of the voters that are left.
func mayGo(id string, members []consensus.Member, answer map[string]*api.DescribeReply) error {
	voters, alive, voter := 0, 0, false
	for _, x := range members {
		switch {
		case x.ID == id:
			voter = x.Voter
		case x.Voter:
			voters++
			if d := answer[x.ID]; d != nil && !d.GetJoining() {
				alive++
			}
		}
	}
	switch {
	case !voter: // it has no say: nothing is lost
	case voters == 0:
		return fmt.Errorf("metad %s is the only voter; add another first: %w", id, errs.ErrConflict)
	case alive <= voters/2:
		return fmt.Errorf("without %s only %d of %d voters answer, which is no majority; bring one back or add one first: %w", id, alive, voters, errs.ErrConflict)
	}
	return nil
}

// votersSafe is how many members a group has at least that survives the loss of one.
const votersSafe = 3

// wouldWeaken refuses to take out a voter if the group would survive fewer losses without it, or none. Replacing one
// is adding the new one first.
func wouldWeaken(id string, members []consensus.Member) error {
	voters, voter := 0, false
	for _, x := range members {
		if x.Voter {
			voters++
			voter = voter || x.ID == id
		}
	}
	survives := func(n int) int { return (n - 1) / 2 }
	left := voters - 1
	if !voter || left >= votersSafe && survives(left) == survives(voters) {
		return nil
	}
	return fmt.Errorf("without %s the group has %d voters, of which %d may be lost (now %d of %d); add another first, or say that you are sure: %w",
		id, left, survives(left), survives(voters), voters, errs.ErrConflict)
}

// promote gives members that have caught up their vote. Who was let in is meant to vote.
func (r *reign) promote() {
	var waiting []consensus.Member
	for _, x := range r.s.node.Members() {
		if !x.Voter {
			waiting = append(waiting, x)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(waiting) == 0 || r.mu.promoting {
		return
	}
	r.mu.promoting = r.s.group.Go("promotion", func(context.Context) error {
		defer func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.mu.promoting = false
		}()
		r.promoteAll(waiting)
		return nil
	})
}

func (r *reign) promoteAll(waiting []consensus.Member) {
	committed := r.s.node.CommitIndex()
	said := r.s.describeAll(r.ctx, waiting)
	for _, x := range waiting {
		if d := said[x.ID]; d == nil || d.GetJoining() || d.GetLastIndex() < committed {
			continue
		}
		ctx, cancel := context.WithTimeout(r.ctx, changeTimeout)
		err := r.s.node.AddVoter(ctx, x.Peer)
		cancel()
		if err != nil {
			r.s.log.Info("member does not get its vote yet", "member", x.ID, "err", err)
			continue
		}
		r.s.log.Info("member votes", "member", x.ID)
		r.s.note(state.Info, "member_votes", aboutMember, x.ID, "", "metad %s has caught up and votes", x.ID)
	}
}

// writeAddresses completes the address book: one's own place, and those of founders, whom
// nobody has let in.
func (r *reign) writeAddresses(ctx context.Context) error {
	for _, x := range r.s.node.Members() {
		var known state.Member
		var ok bool
		r.s.node.View(func(m *state.Machine) { known, ok = m.Member(x.ID) })
		want := known
		switch {
		case x.ID == r.s.node.ID():
			want = r.s.self
		case !ok:
			want = state.Member(x.Peer)
		}
		if want == known || want.API == "" {
			continue
		}
		res, err := r.s.node.Apply(ctx, &state.SetMember{Member: want})
		if err = errors.Join(err, res.Err); err != nil {
			return fmt.Errorf("write address of %s: %w", x.ID, err)
		}
	}
	return nil
}
