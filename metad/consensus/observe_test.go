package consensus

import (
	"log/slog"
	"testing"

	"github.com/hashicorp/raft"
)

// Without this a member that was silent, was taken out and let in again under its name would
// count as silent until the next election: raft tells only of a silence that it has seen.
func TestSilenceEndsWithTheMembership(t *testing.T) {
	n := &Node{o: Options{Log: slog.New(slog.DiscardHandler)}}
	n.mu.down = make(map[string]bool)
	for _, end := range []any{
		raft.ResumedHeartbeatObservation{PeerID: "m3"},
		raft.PeerObservation{Removed: true, Peer: raft.Server{ID: "m3"}},
		raft.PeerObservation{Peer: raft.Server{ID: "m3"}},
		raft.Follower,
	} {
		n.observed(raft.FailedHeartbeatObservation{PeerID: "m3"})
		if !n.mu.down["m3"] {
			t.Fatal("silence is not noticed")
		}
		n.observed(end)
		if n.mu.down["m3"] {
			t.Errorf("still silent after %T", end)
		}
	}
}
