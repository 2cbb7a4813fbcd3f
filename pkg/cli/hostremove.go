package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"ashlar.dev/pkg/errs"
)

type hostRemove struct {
	Host string `arg:"" help:"Name of the host, as ashlar host list shows it."`
}

// Help is the long form.
func (hostRemove) Help() string {
	return `For a host that is gone for good. It is refused, with the reason, while its blockd runs, it has stores, owns
disks, is a metad of the group, or a policy freezes an application there. In order: host drain HOST --stores, wait
until store list shows none of its stores, stop its daemons, metad remove HOST, host remove HOST. A host that died:
store remove for each of its stores in the place of the drain; disks that it owned go elsewhere when they are used.

From then on nobody accepts its certificates, whoever has their keys. Another machine gets its name by a token made for
it: host token --for HOST.`
}

// Run is called by kong.
func (c *hostRemove) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		err := cl.RemoveHost(ctx, c.Host)
		switch {
		case errors.Is(err, errs.ErrConflict):
			return &hinted{err, "ashlar host remove --help has the order in which a host is taken away"}
		case errors.Is(err, errs.ErrNotFound):
			return &hinted{err, "ashlar host list shows the hosts"}
		case err != nil:
			return err
		}
		return s.show(struct {
			Removed string `json:"removed"`
		}{c.Host}, func(w io.Writer) {
			fmt.Fprintf(w, "host %s is off the list, its certificates are refused\n", c.Host)
		})
	})
}
