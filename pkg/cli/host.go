package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/enroll"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

type hostCommands struct {
	Token    hostToken    `cmd:"" help:"Make a join token for other machines."`
	Tokens   hostTokens   `cmd:"" help:"List join tokens and who used them."`
	Revoke   hostRevoke   `cmd:"" help:"Make a join token useless."`
	Join     hostJoin     `cmd:"" help:"Make this machine a host of a cluster, by a token."`
	List     hostList     `cmd:"" help:"List the hosts that have stores or serve disks."`
	Cordon   hostCordon   `cmd:"" help:"Place nothing new on a host; what is there stays and is served."`
	Uncordon hostUncordon `cmd:"" help:"Take a cordon away."`
	Drain    hostDrain    `cmd:"" help:"Move all disks off a host, and on demand what its stores have: before a reboot, or for good."`
	Remove   hostRemove   `cmd:"" help:"Take a host off the list that is gone for good, and refuse its certificates."`
}

type hostToken struct {
	Role     []string      `help:"Role the token may hand out: metad, blockd, snapshotd, operator or nbd (a client of all disks); may be given again." default:"blockd" enum:"metad,blockd,snapshotd,operator,nbd"`
	Uses     uint32        `help:"How many machines may join by it." default:"1"`
	Lifetime time.Duration `help:"How long it is good for; at most 30 days." default:"1h"`
	For      string        `help:"For the machine of this name only, even if there is one already: it replaces that one." placeholder:"NAME"`
}

// Run is called by kong.
func (c *hostToken) Run(ctx context.Context, s *session) error {
	return s.withMembers(ctx, func(ctx context.Context, m Members) error {
		t, err := enroll.NewToken(m.CA())
		if err != nil {
			return err
		}
		addresses, expires, err := m.AddToken(ctx, client.NewToken{Token: t.ID, Hash: t.Hash(), Roles: c.Role, Name: c.For, Uses: c.Uses, Lifetime: c.Lifetime})
		if errors.Is(err, errs.ErrUnavailable) {
			return &hinted{err, "the metad that has the CA's key must run: on the machine of cluster init; a cluster of ashlar dev takes no other machines in"}
		}
		if err != nil {
			return err
		}
		t.Addresses = addresses
		view := struct {
			Token   string   `json:"token"`
			ID      string   `json:"id"`
			Roles   []string `json:"roles"`
			Uses    uint32   `json:"uses"`
			Expires string   `json:"expires"`
		}{t.Text(), fmt.Sprintf("%x", t.ID), c.Role, c.Uses, rfc3339(expires)}
		return s.show(view, func(w io.Writer) {
			fmt.Fprintf(w, "%s\n  whoever has it can join until %s; on the other machine, which reads it from standard input:\n  ashlar --data /etc/ashlar host join - --role %s --address HOST\n",
				view.Token, view.Expires, strings.Join(c.Role, " --role "))
		})
	})
}

// tokenView is a token in JSON.
type tokenView struct {
	ID      string    `json:"id"`
	State   string    `json:"state"` // good, used, expired or revoked
	Roles   []string  `json:"roles"`
	For     string    `json:"for,omitempty"`
	UsesMax uint32    `json:"usesMax"`
	Uses    []useView `json:"uses"`
	Expires string    `json:"expires"`
	By      string    `json:"by"`
}

type useView struct {
	Name  string   `json:"name"`
	Roles []string `json:"roles"`
	At    string   `json:"at"`
}

func viewToken(now time.Time, t *api.JoinToken) tokenView {
	v := tokenView{ID: t.Token, State: "good", Roles: t.Roles, For: t.Name, UsesMax: t.UsesMax, Uses: []useView{}, Expires: rfc3339(t.ExpiresUnixMs), By: t.By}
	switch {
	case t.Revoked:
		v.State = "revoked"
	case len(t.Uses) >= int(t.UsesMax):
		v.State = "used"
	case now.UnixMilli() >= t.ExpiresUnixMs:
		v.State = "expired"
	}
	for _, u := range t.Uses {
		v.Uses = append(v.Uses, useView{u.Name, u.Roles, rfc3339(u.AtUnixMs)})
	}
	return v
}

type hostTokens struct{}

// Run is called by kong.
func (c *hostTokens) Run(ctx context.Context, s *session) error {
	return s.withMembers(ctx, func(ctx context.Context, m Members) error {
		all, err := m.Tokens(ctx)
		if err != nil {
			return err
		}
		views := make([]tokenView, len(all))
		rows := make([][]string, len(all))
		for i, t := range all {
			v := viewToken(s.Clock.Wall(), t)
			var names []string
			for _, u := range v.Uses {
				names = append(names, u.Name)
			}
			views[i] = v
			rows[i] = []string{v.ID, v.State, strings.Join(v.Roles, ","), strconv.Itoa(len(v.Uses)) + "/" + strconv.Itoa(int(v.UsesMax)), v.Expires, v.By, strings.Join(names, " ")}
		}
		return s.show(views, func(w io.Writer) {
			table(w, []string{"TOKEN", "STATE", "ROLES", "USES", "EXPIRES", "BY", "HOSTS"}, rows)
		})
	})
}

type hostRevoke struct {
	Token string `arg:"" help:"Id of the token, as ashlar host tokens shows it."`
}

// Run is called by kong.
func (c *hostRevoke) Run(ctx context.Context, s *session) error {
	return s.withMembers(ctx, func(ctx context.Context, m Members) error {
		if err := m.RevokeToken(ctx, c.Token); err != nil {
			return err
		}
		return s.show(struct {
			Revoked string `json:"revoked"`
		}{c.Token}, func(w io.Writer) {
			fmt.Fprintf(w, "token %s is useless now; hosts that joined by it stay\n", c.Token)
		})
	})
}

type hostJoin struct {
	machine
	Role  []string `help:"What this machine becomes: metad, blockd, snapshotd (with --archive), operator or nbd (a client of all disks, certificate in pki/nbd); may be given again." default:"blockd" enum:"metad,blockd,snapshotd,operator,nbd"`
	Token string   `arg:"" help:"The token, or - to read it from standard input, where other users of this machine do not see it."`
}

// Help is the long form.
func (hostJoin) Help() string {
	return `Makes keys in the folder given by --data, has them signed by the cluster that made the token, and
writes the config files of this machine's daemons. The keys never leave the machine. It starts
nothing; after a failure it can simply be repeated.

A metad that joined takes part in its group after: ashlar metad add.`
}

// Run is called by kong.
func (c *hostJoin) Run(ctx context.Context, s *session) error {
	h, err := c.host(s, c.Role)
	if err != nil {
		return err
	}
	text := c.Token
	if text == "-" {
		if text, err = bufio.NewReader(io.LimitReader(s.In, 4096)).ReadString('\n'); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read token: %w", err)
		}
	}
	t, err := enroll.ParseToken(text)
	if err != nil {
		return &hinted{err, "make one with ashlar host token"}
	}
	if err := c.format(ctx, s); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.flags.Timeout)
	defer cancel()
	j, err := enroll.Join(ctx, s.Clock, h, t)
	if err != nil {
		return refusedJoin(err)
	}
	view := viewEnrolled(h, j.Cluster)
	view.MetadAPI, view.Raft = j.MetadAPI, j.MetadRaft
	return s.show(view, func(w io.Writer) {
		fmt.Fprintf(w, "%s is a host of cluster %s\n", h.Name, j.Cluster)
		startHint(w, h)
		if h.Has(pki.RoleMetad) {
			fmt.Fprintf(w, "  then let it into the group, from any machine with an operator's certificate:\n  ashlar metad add %s --api %s --raft %s\n", h.Name, j.MetadAPI, j.MetadRaft)
		}
	})
}

func refusedJoin(err error) error {
	switch {
	case errors.Is(err, errs.ErrDenied):
		return &hinted{err, "ask for a new token (ashlar host token)"}
	case errors.Is(err, errs.ErrUnavailable), errors.Is(err, errs.ErrTimeout):
		return &hinted{err, "the machine that signs must run and be reached from here; try again"}
	}
	return used(err)
}

// used explains that a folder or a name is taken.
func used(err error) error {
	if errors.Is(err, errs.ErrExists) {
		return &hinted{err, "to replace a machine under its name make a token with --for; to give this one another, use --name and an empty folder"}
	}
	return err
}
