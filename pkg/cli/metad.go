package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// Members is what the commands ask about the group and who may join.
type Members interface {
	List(ctx context.Context) ([]*api.GroupMember, error)
	Add(ctx context.Context, id, apiAddress, raftAddress string) error
	Remove(ctx context.Context, id string, sure bool) error
	AddToken(ctx context.Context, t client.NewToken) (joinAddresses []string, expiresUnixMS int64, err error)
	Tokens(ctx context.Context) ([]*api.JoinToken, error)
	RevokeToken(ctx context.Context, token string) error
	Backup(ctx context.Context) ([]byte, error)
	RebuildStatus(ctx context.Context) (*api.RebuildStatusReply, error)
	FinishRebuild(ctx context.Context, without []string) (*api.RebuildStatusReply, error)
	// CA is the fingerprint of the cluster's.
	CA() pki.Fingerprint
	Identities
	Close() error
}

// withMembers is with for the group.
func (s *session) withMembers(ctx context.Context, f func(context.Context, Members) error) error {
	if s.flags.Data == "" {
		return &hinted{fmt.Errorf("which cluster is meant is not said: %w", errs.ErrInvalid), "give --data DIR or set ASHLAR_DATA to the folder with its cluster.yaml"}
	}
	m, err := s.ConnectMembers(s.flags.Data)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.flags.Timeout)
	defer cancel()
	return errors.Join(f(ctx, m), m.Close())
}

type metadCommands struct {
	List    metadList    `cmd:"" help:"List the members of the metadata group."`
	Add     metadAdd     `cmd:"" help:"Let a metad that has joined into the group."`
	Remove  metadRemove  `cmd:"" help:"Take a member out of the group."`
	Backup  metadBackup  `cmd:"" help:"Write metad's state to a file."`
	Backups metadBackups `cmd:"" help:"Find the backups that snapshotds have put into the archive."`
	Rebuild metadRebuild `cmd:"" help:"After metad --restore or --recover-alone: see which stores have told what they have, and end it."`
}

// memberView is a member in JSON.
type memberView struct {
	ID        string `json:"id"`
	API       string `json:"api"`
	Raft      string `json:"raft"`
	State     string `json:"state"` // leader, voter, catching up or down
	Voter     bool   `json:"voter"`
	Leader    bool   `json:"leader"`
	Up        bool   `json:"up"`
	LastIndex uint64 `json:"lastIndex"`
}

func viewMember(x *api.GroupMember) memberView {
	v := memberView{ID: x.Id, API: x.ApiAddress, Raft: x.RaftAddress, State: "voter", Voter: x.Voter, Leader: x.Leader, Up: x.Up, LastIndex: x.LastIndex}
	switch {
	case x.Leader:
		v.State = "leader"
	case !x.Up:
		v.State = "down"
	case !x.Voter || x.Joining:
		v.State = "catching up"
	}
	return v
}

type metadList struct{}

// Run is called by kong.
func (c *metadList) Run(ctx context.Context, s *session) error {
	return s.withMembers(ctx, func(ctx context.Context, m Members) error { return s.listMembers(ctx, m) })
}

func (s *session) listMembers(ctx context.Context, m Members) error {
	all, err := m.List(ctx)
	if err != nil {
		return err
	}
	views := make([]memberView, len(all))
	rows := make([][]string, len(all))
	for i, x := range all {
		v := viewMember(x)
		views[i] = v
		rows[i] = []string{v.ID, v.State, v.API, v.Raft, strconv.FormatUint(v.LastIndex, 10)}
	}
	return s.show(views, func(w io.Writer) { table(w, []string{"METAD", "STATE", "API", "RAFT", "ENTRY"}, rows) })
}

type metadAdd struct {
	ID   string `arg:"" help:"Name of the metad."`
	API  string `name:"api" required:"" help:"Its API address, host:port."`
	Raft string `name:"raft" required:"" help:"Its Raft address, host:port."`
}

const votePoll = 100 * time.Millisecond

// Run is called by kong. It waits until the member votes; by then the group can lose another.
func (c *metadAdd) Run(ctx context.Context, s *session) error {
	return s.withMembers(ctx, func(ctx context.Context, m Members) error {
		if err := m.Add(ctx, c.ID, c.API, c.Raft); err != nil {
			if errors.Is(err, errs.ErrUnavailable) {
				return &hinted{err, "start it on its machine: metad --config metad.yaml"}
			}
			return err
		}
		for {
			all, err := m.List(ctx)
			if err != nil {
				return err
			}
			for _, x := range all {
				if x.Id == c.ID && x.Voter {
					return s.show(viewMember(x), func(w io.Writer) { fmt.Fprintf(w, "metad %s votes; the group has %d members\n", c.ID, len(all)) })
				}
			}
			if s.Clock.Sleep(ctx, votePoll) != nil {
				return &hinted{fmt.Errorf("metad %s is a member and has not caught up yet: %w", c.ID, errs.ErrTimeout), "it gets its vote by itself; look with ashlar metad list"}
			}
		}
	})
}

type metadRemove struct {
	ID   string `arg:"" help:"Name of the metad."`
	Sure bool   `help:"Also if fewer than three are left, or the group survives fewer losses without it."`
}

// Help is printed by kong below the summary.
func (c *metadRemove) Help() string {
	return `To replace a member, lost or not, add the new one first (ashlar metad add): the group is never weaker then. What would
leave those that answer without a majority is refused in any case.`
}

// Run is called by kong.
func (c *metadRemove) Run(ctx context.Context, s *session) error {
	return s.withMembers(ctx, func(ctx context.Context, m Members) error {
		if err := m.Remove(ctx, c.ID, c.Sure); err != nil {
			switch {
			case errors.Is(err, errs.ErrConflict) && !c.Sure:
				return &hinted{err, "see ashlar metad list; --sure takes it out though fewer losses are survived then"}
			case errors.Is(err, errs.ErrConflict) || errors.Is(err, errs.ErrNotFound):
				return &hinted{err, "see ashlar metad list"}
			}
			return err
		}
		return s.show(struct {
			Removed string `json:"removed"`
		}{c.ID}, func(w io.Writer) {
			fmt.Fprintf(w, "metad %s is out of the group; stop it on its machine\n", c.ID)
		})
	})
}
