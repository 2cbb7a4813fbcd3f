package server

import (
	"context"
	"time"

	"ashlar.dev/metad/consensus"
	"ashlar.dev/pkg/pki"
)

const (
	foundEvery = 100 * time.Millisecond
	// electedIndex is the least last index of a member of a group that had a leader: the
	// founding is entry 1.
	electedIndex = 2
)

// founder decides whether a member with an empty disk founds a new group or is part of
// one that is there and has to be let in by its leader: a disk that was lost looks like
// one that was never used. It founds only when every peer answers that it never had a
// leader; while one does not answer it asks again.
type founder struct {
	s     *Server
	creds *pki.Credentials
	id    string
	peers []Peer
}

func (f *founder) run(ctx context.Context) error {
	said := ""
	for f.s.node.Blank() {
		all, exists, why := f.ask(ctx)
		switch {
		case exists:
			f.s.log.Info("the group is there; this member has no data and waits to be brought up to date")
			return nil
		case all:
			if err := f.s.node.Found(); err != nil {
				f.s.log.Error("the group cannot be founded", "err", err)
			}
			return nil
		case why != said:
			f.s.log.Info("a new group is founded once all members answer", "missing", why)
			said = why
		}
		if f.s.clock.Sleep(ctx, foundEvery) != nil {
			return nil
		}
	}
	return nil
}

// ask asks every peer.
func (f *founder) ask(ctx context.Context) (all, exists bool, why string) {
	all = true
	for _, p := range f.peers {
		if p.ID == f.id {
			continue
		}
		rep, err := describeMember(ctx, f.creds, consensus.Peer(p))
		if err != nil {
			all, why = false, p.ID
			continue
		}
		exists = exists || rep.LastIndex >= electedIndex
	}
	return all, exists, why
}
