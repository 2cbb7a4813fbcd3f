package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

type hostCordon struct {
	Host string `arg:"" help:"Name of the host, as ashlar host list shows it."`
}

// Help is printed by kong below the summary.
func (hostCordon) Help() string {
	return `New placement groups and new places in old ones, journals, and disks that are moved or opened without
somebody asking for this host go elsewhere: before its maintenance, or while it is in doubt. What is there
stays and is served, and groups that it is in go on taking what is written. To move things away: ashlar host drain.

Safety goes first: with fewer than three other hosts journals still use it, and groups are formed over
it where they would otherwise not bear the loss of a host. What a lost store had is not rebuilt on a
cordoned host: it waits for another place (pg_no_place in ashlar status). The cordon outlives restarts of the host.`
}

type hostUncordon struct {
	Host string `arg:"" help:"Name of the host, as ashlar host list shows it."`
}

// Run is called by kong.
func (c *hostCordon) Run(ctx context.Context, s *session) error { return cordon(ctx, s, c.Host, false) }

// Run is called by kong.
func (c *hostUncordon) Run(ctx context.Context, s *session) error {
	return cordon(ctx, s, c.Host, true)
}

func cordon(ctx context.Context, s *session, host string, off bool) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		h, err := cl.CordonHost(ctx, host, off)
		if errors.Is(err, errs.ErrNotFound) {
			return &hinted{err, "ashlar host list shows the hosts"}
		}
		if err != nil {
			return err
		}
		return s.show(viewHost(h), func(w io.Writer) {
			if h.Cordoned {
				fmt.Fprintf(w, "nothing new is placed on %s; take that back with ashlar host uncordon %s\n", h.Host, h.Host)
				return
			}
			fmt.Fprintf(w, "%s takes new things\n", h.Host)
		})
	})
}

type hostList struct{}

// Run is called by kong.
func (hostList) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		r, err := cl.Status(ctx, false)
		if err != nil {
			return err
		}
		views := []hostView{}
		for _, h := range r.Hosts {
			views = append(views, viewHost(h))
		}
		return s.show(views, func(w io.Writer) {
			var rows [][]string
			for _, h := range r.Hosts {
				rows = append(rows, []string{h.Host, dash(h.Zone), hostState(h), dash(h.DataAddress), fmt.Sprint(h.DisksOwned)})
			}
			table(w, []string{"HOST", "ZONE", "STATE", "ADDRESS", "OWNS"}, rows)
		})
	})
}

// hostState is up or down, and whether it is cordoned.
func hostState(h *api.Host) string {
	state := "down"
	if h.Up {
		state = "up"
	}
	if h.Cordoned {
		state += ", cordoned"
	}
	return state
}
