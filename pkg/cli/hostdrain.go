package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

type hostDrain struct {
	Host   string `arg:"" help:"Name of the host, as ashlar status shows it."`
	Stores bool   `help:"Empty its stores too, for good: what they have goes to others, then they are removed."`
}

// Help is the long form.
func (hostDrain) Help() string {
	return `Moves the disks that the host owns to others that are up, one after the other; clients connect again. For a
reboot that is all: its stores are away for a while and cost nothing but what is born meanwhile. With
--stores it is emptied before it is taken away. A disk that a client then opens through the host is
proxied, but one that nobody owns it may come to own again: stop its blockd soon.`
}

// drainView is what was done, in JSON.
type drainView struct {
	Moved  []string `json:"moved"`  // disks
	Stores []string `json:"stores"` // that are being emptied
}

// Run is called by kong.
func (c *hostDrain) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		r, err := cl.Status(ctx, true)
		if err != nil {
			return err
		}
		others, err := othersOf(r, c.Host)
		if err != nil {
			return err
		}
		v := drainView{Moved: []string{}, Stores: []string{}}
		for _, d := range r.Disks {
			if d.OwnerHost != c.Host || d.State == "deleting" {
				continue
			}
			if len(others) == 0 {
				return &hinted{fmt.Errorf("no other host is up that serves disks and is not cordoned: %w", errs.ErrConflict), "ashlar status shows the hosts"}
			}
			to := others[len(v.Moved)%len(others)]
			if _, err := moveDisk(ctx, s, cl, d.DiskId, to); err != nil {
				return fmt.Errorf("after %d disks: %w", len(v.Moved), err)
			}
			v.Moved = append(v.Moved, d.Name)
		}
		if c.Stores {
			if v.Stores, err = drainStores(ctx, cl, r.Stores, c.Host); err != nil {
				return err
			}
		}
		return s.show(v, func(w io.Writer) {
			fmt.Fprintf(w, "%s owns no disk any more, %d were moved\n", c.Host, len(v.Moved))
			for _, x := range v.Stores {
				fmt.Fprintf(w, "  store %s is being emptied; ashlar store list shows how far it is\n", x)
			}
		})
	})
}

// othersOf are the hosts that may take disks over.
func othersOf(r *api.StatusReply, host string) ([]string, error) {
	var out []string
	found := false
	for _, h := range r.Hosts {
		if h.Host == host {
			found = true
		} else if h.Up && h.Exports && !h.Cordoned {
			out = append(out, h.Host)
		}
	}
	if !found {
		return nil, &hinted{fmt.Errorf("host %s: %w", host, errs.ErrNotFound), "ashlar status shows the hosts"}
	}
	return out, nil
}

func drainStores(ctx context.Context, cl Cluster, stores []*api.Store, host string) ([]string, error) {
	out := []string{}
	for _, x := range stores {
		if x.Host != host || x.State == "lost" {
			continue
		}
		if _, err := cl.DrainStore(ctx, x.StoreId, false); err != nil {
			if errors.Is(err, errs.ErrConflict) || errors.Is(err, errs.ErrNoSpace) {
				return out, &hinted{err, "its disks are moved; add stores on other hosts before its own can be emptied"}
			}
			return out, err
		}
		out = append(out, x.StoreId)
	}
	return out, nil
}
