package consensus

import (
	"context"
	"log/slog"
)

// ordinary are raft's complaints about peers that are away, elections and connections
// that end. Raft says them again and again, as warnings and errors; to us a member's
// absence is one line (see observed), and an election is news, not a fault.
var ordinary = map[string]slog.Level{
	"heartbeat timeout reached, starting election":                  slog.LevelInfo,
	"Election timeout reached, restarting election":                 slog.LevelInfo,
	"failed to contact quorum of nodes, stepping down":              slog.LevelInfo,
	"new leader elected, stepping down":                             slog.LevelInfo,
	"peer has newer term, stopping replication":                     slog.LevelInfo,
	"clearing log suffix":                                           slog.LevelInfo,
	"failed to contact":                                             slog.LevelDebug,
	"failed to heartbeat to":                                        slog.LevelDebug,
	"failed to appendEntries to":                                    slog.LevelDebug,
	"failed to make requestVote RPC":                                slog.LevelDebug,
	"failed to make TimeoutNow RPC":                                 slog.LevelDebug,
	"failed to send snapshot to":                                    slog.LevelInfo,
	"failed to install snapshot":                                    slog.LevelInfo,
	"failed to copy snapshot":                                       slog.LevelInfo,
	"failed to receive whole snapshot":                              slog.LevelInfo,
	"failed to decode incoming command":                             slog.LevelDebug,
	"failed to flush response":                                      slog.LevelDebug,
	"failed to accept connection":                                   slog.LevelDebug,
	"failed to get log":                                             slog.LevelInfo, // it was compacted away: a snapshot goes instead
	"failed to get previous log":                                    slog.LevelDebug,
	"previous log term mis-match":                                   slog.LevelDebug,
	"appendEntries rejected, sending older logs":                    slog.LevelDebug,
	"installSnapshot rejected to":                                   slog.LevelInfo,
	"duplicate requestVote from":                                    slog.LevelDebug,
	"found temporary snapshot":                                      slog.LevelInfo,
	"no known peers, aborting election":                             slog.LevelInfo,
	"rejecting vote request since we have a leader":                 slog.LevelDebug,
	"rejecting vote request since our last term is greater":         slog.LevelDebug,
	"rejecting vote request since our last index is greater":        slog.LevelDebug,
	"rejecting pre-vote request since we have a leader":             slog.LevelDebug,
	"rejecting pre-vote request since our last term is greater":     slog.LevelDebug,
	"rejecting pre-vote request since our last index is greater":    slog.LevelDebug,
	"rejecting pre-vote request since node is not in configuration": slog.LevelDebug,
	"not part of stable configuration, aborting election":           slog.LevelInfo, // it was taken out
	"heartbeat timeout reached, not part of a stable configuration or a non-voter, not triggering a leader election": slog.LevelInfo,
	"rejecting appendEntries request since node is not in configuration":                                             slog.LevelDebug,
	"rejecting vote request since node is not in configuration":                                                      slog.LevelDebug,
}

// raftHandler gives raft's ordinary complaints their right level. What is not in the
// table keeps raft's.
type raftHandler struct{ slog.Handler }

func (h raftHandler) Handle(ctx context.Context, r slog.Record) error {
	if level, ok := ordinary[r.Message]; ok {
		if !h.Handler.Enabled(ctx, level) {
			return nil
		}
		r.Level = level
	}
	return h.Handler.Handle(ctx, r)
}

func (h raftHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return raftHandler{h.Handler.WithAttrs(attrs)}
}

func (h raftHandler) WithGroup(name string) slog.Handler {
	return raftHandler{h.Handler.WithGroup(name)}
}
