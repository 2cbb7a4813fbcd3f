package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"ashlar.dev/pkg/errs"
)

// A member that begins with an empty disk may have acknowledged entries in an earlier
// life. Its vote could then elect a leader that lacks them, or it could be elected
// itself, and what was committed would be gone: epochs would be given twice. So a
// member with an empty disk is joining: it takes entries, but neither votes nor stands,
// until its log holds an entry of a leader's own term that this leader had committed
// when it was asked. All that anybody committed before lies below that entry. The mark
// is durable and stands from before the first entry.

var joiningKey = []byte("Joining")

const joiningPoll = 50 * time.Millisecond

// joining is the mark in memory, and the entry waited for.
type joining struct {
	on atomic.Bool
	mu struct {
		sync.Mutex
		index, term uint64 // what a leader had committed, and the leader's term; 0: not heard yet
	}
}

// heard takes a leader's word, unless one is being waited for.
func (j *joining) heard(index, term uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.mu.index == 0 {
		j.mu.index, j.mu.term = index, term
	}
}

func (j *joining) awaited() (index, term uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.mu.index, j.mu.term
}

func (j *joining) again() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.mu.index, j.mu.term = 0, 0
}

// voting is raft's transport without votes while the member is joining.
type voting struct {
	*raft.NetworkTransport
	joining *joining
	out     chan raft.RPC
}

var errJoining = fmt.Errorf("this member is joining and does not vote yet: %w", errs.ErrUnavailable)

// Consumer is part of raft.Transport.
func (v *voting) Consumer() <-chan raft.RPC { return v.out }

// pass hands requests on until ctx ends.
func (v *voting) pass(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case rpc := <-v.NetworkTransport.Consumer():
			if v.joining.on.Load() && v.holdsBack(rpc) {
				continue
			}
			select {
			case v.out <- rpc:
			case <-ctx.Done():
				rpc.Respond(nil, raft.ErrTransportShutdown)
				return nil
			}
		}
	}
}

// holdsBack answers votes itself and listens to what leaders have committed.
func (v *voting) holdsBack(rpc raft.RPC) bool {
	switch q := rpc.Command.(type) {
	case *raft.RequestVoteRequest:
		rpc.Respond(&raft.RequestVoteResponse{}, errJoining)
		return true
	case *raft.RequestPreVoteRequest:
		rpc.Respond(&raft.RequestPreVoteResponse{}, errJoining)
		return true
	case *raft.AppendEntriesRequest:
		v.joining.heard(q.LeaderCommitIndex, q.Term)
	}
	return false
}

// RequestVote is part of raft.Transport.
func (v *voting) RequestVote(member raft.ServerID, to raft.ServerAddress, q *raft.RequestVoteRequest, r *raft.RequestVoteResponse) error {
	if v.joining.on.Load() {
		return errJoining
	}
	return v.NetworkTransport.RequestVote(member, to, q, r)
}

// RequestPreVote is part of raft.WithPreVote.
func (v *voting) RequestPreVote(member raft.ServerID, to raft.ServerAddress, q *raft.RequestPreVoteRequest, r *raft.RequestPreVoteResponse) error {
	if v.joining.on.Load() {
		return errJoining
	}
	return v.NetworkTransport.RequestPreVote(member, to, q, r)
}

// loadJoining finds the mark, and sets it on an empty disk.
func (n *Node) loadJoining(store *watched, snaps raft.SnapshotStore) error {
	has, err := raft.HasExistingState(store, store, snaps)
	if err != nil {
		return fmt.Errorf("look for raft state: %w", err)
	}
	n.hadState = has
	if !has {
		if err := store.SetUint64(joiningKey, 1); err != nil {
			return err
		}
	}
	mark, err := store.GetUint64(joiningKey)
	n.joining.on.Store(mark != 0)
	return err
}

// Joining tells whether this member does not vote yet.
func (n *Node) Joining() bool { return n.joining.on.Load() }

// Blank tells whether this member knows of no group yet.
func (n *Node) Blank() bool { return n.raft.LastIndex() == 0 }

// LastIndex is that of the last entry in this member's log; see api.DescribeReply.
func (n *Node) LastIndex() uint64 { return n.raft.LastIndex() }

// Found makes this member a founder of a new group of all Peers. Only when all of them
// have said that they know of no group: then nothing was ever committed, and the
// members may vote. Founding twice does nothing.
func (n *Node) Found() error {
	if err := n.store.SetUint64(joiningKey, 0); err != nil {
		return err
	}
	n.joining.on.Store(false)
	var members raft.Configuration
	for _, p := range n.o.Peers {
		members.Servers = append(members.Servers, raft.Server{ID: raft.ServerID(p.ID), Address: raft.ServerAddress(p.Raft)})
	}
	if err := n.raft.BootstrapCluster(members).Error(); err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		return fmt.Errorf("found group: %w", err)
	}
	return nil
}

// join waits until the member has caught up, and then lets it vote.
func (n *Node) join(ctx context.Context) error {
	for n.joining.on.Load() && n.o.Clock.Sleep(ctx, joiningPoll) == nil {
		index, term := n.joining.awaited()
		if index == 0 || n.raft.LastIndex() < index {
			continue
		}
		if !n.holds(index, term) {
			n.joining.again() // committed in an older term: it may not be all
			continue
		}
		if err := n.store.SetUint64(joiningKey, 0); err != nil {
			n.fail(err)
			return nil
		}
		n.joining.on.Store(false)
		n.o.Log.Info("member has caught up and votes", "index", index, "term", term)
	}
	return nil
}

// holds tells whether the log, or the snapshot before it, has entry index of the term
// or a later entry of that term's leader.
func (n *Node) holds(index, term uint64) bool {
	var l raft.Log
	if err := n.store.GetLog(index, &l); err == nil {
		return l.Term == term
	}
	meta, err := n.snaps.List()
	return err == nil && len(meta) > 0 && meta[0].Index >= index && meta[0].Term == term
}
