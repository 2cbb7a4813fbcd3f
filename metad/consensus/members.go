package consensus

import (
	"context"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/errs"
)

// Who belongs to the group and who votes is in Raft's configuration; where they are
// reached is in the state's address book, or, for those it does not have, in the
// configuration file. Raft itself is given a member's name for an address: see stream.Dial.

// names are the addresses that raft is given: Dial finds out where they are.
type names struct{}

// ServerAddr is part of raft.ServerAddressProvider.
func (names) ServerAddr(member raft.ServerID) (raft.ServerAddress, error) {
	return raft.ServerAddress(member), nil
}

// Member is one member as this one sees it.
type Member struct {
	Peer
	Voter   bool
	Leader  bool
	Up      bool
	Applied uint64 // of this member only
}

// Members are all members; who is up is known by a leader only. Before there is a group,
// they are those of the configuration file.
func (n *Node) Members() []Member {
	_, leader := n.raft.LeaderWithID()
	servers := n.servers()
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]Member, 0, len(servers))
	for _, s := range servers {
		id := string(s.ID)
		p, _ := n.Peer(id)
		m := Member{Peer: p, Voter: s.Suffrage == raft.Voter, Leader: id == string(leader), Up: !n.mu.down[id]}
		if id == n.o.ID {
			m.Applied = n.raft.AppliedIndex()
		}
		out = append(out, m)
	}
	return out
}

func (n *Node) servers() []raft.Server {
	f := n.raft.GetConfiguration()
	if f.Error() == nil && len(f.Configuration().Servers) > 0 {
		return f.Configuration().Servers
	}
	var out []raft.Server
	for _, p := range n.o.Peers {
		out = append(out, raft.Server{ID: raft.ServerID(p.ID), Address: raft.ServerAddress(p.Raft)})
	}
	return out
}

// Peer tells where a member is reached; one that nobody knows has a name only.
func (n *Node) Peer(id string) (Peer, bool) {
	if all := n.whereabouts(id); len(all) > 0 {
		return all[0], true
	}
	return Peer{ID: id}, false
}

// whereabouts are the places where a member may be, the likeliest first.
func (n *Node) whereabouts(id string) []Peer {
	var out []Peer
	n.View(func(m *state.Machine) {
		if x, ok := m.Member(id); ok {
			out = append(out, Peer(x))
		}
	})
	for _, p := range n.o.Peers {
		if p.ID == id && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// AddNonvoter lets p in as a member that takes entries and does not vote. Its address
// must be in the state already. A member that is there stays what it is.
func (n *Node) AddNonvoter(ctx context.Context, p Peer) error {
	return n.change(ctx, "let in", p.ID, n.raft.AddNonvoter(raft.ServerID(p.ID), raft.ServerAddress(p.Raft), 0, enqueueTimeout))
}

// AddVoter gives a member its vote.
func (n *Node) AddVoter(ctx context.Context, p Peer) error {
	return n.change(ctx, "give a vote to", p.ID, n.raft.AddVoter(raft.ServerID(p.ID), raft.ServerAddress(p.Raft), 0, enqueueTimeout))
}

// RemoveMember takes a member out. Not for the leader itself: StepDown first.
func (n *Node) RemoveMember(ctx context.Context, id string) error {
	if id == n.o.ID {
		return fmt.Errorf("remove the leader %s: %w", id, errs.ErrConflict)
	}
	return n.change(ctx, "take out", id, n.raft.RemoveServer(raft.ServerID(id), 0, enqueueTimeout))
}

func (n *Node) change(ctx context.Context, what, id string, f raft.Future) error {
	if err := n.wait(ctx, f); err != nil {
		return fmt.Errorf("%s member %s: %w", what, id, err)
	}
	return nil
}

// CommitIndex is the highest entry that this member knows to be committed.
func (n *Node) CommitIndex() uint64 { return n.raft.CommitIndex() }

// AppliedIndex is the last entry of the log that the machine has for certain.
func (n *Node) AppliedIndex() uint64 { return n.raft.AppliedIndex() }

// ID is this member's name.
func (n *Node) ID() string { return n.o.ID }
