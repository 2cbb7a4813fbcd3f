package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

type diskMove struct {
	Disk string `arg:"" help:"Name or id."`
	To   string `required:"" help:"Host that is to own it." placeholder:"HOST"`
}

// Help is the long form.
func (diskMove) Help() string {
	return `The owner writes what is not packed yet, gives the disk up, and HOST opens it, within seconds. Clients are
hung up on meanwhile and connect again, wherever they were connected; QEMU does so by itself with reconnect-delay.
A disk that nobody uses may be moved too: it is opened there.`
}

// movePoll is the pause between two looks at a disk on its way.
const movePoll = 200 * time.Millisecond

// Run is called by kong. It waits until the disk is there.
func (c *diskMove) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		d, err := moveDisk(ctx, s, cl, c.Disk, c.To)
		if err != nil {
			return err
		}
		return s.show(viewDisk(d), func(w io.Writer) { fmt.Fprintf(w, "disk %s is on %s\n", d.Name, d.OwnerHost) })
	})
}

func moveDisk(ctx context.Context, s *session, cl Cluster, disk, to string) (*api.Disk, error) {
	d, err := cl.MoveDisk(ctx, disk, to)
	switch {
	case errors.Is(err, errs.ErrNotFound):
		return nil, &hinted{err, "ashlar disk list shows the disks, ashlar status the hosts"}
	case errors.Is(err, errs.ErrConflict):
		return nil, &hinted{err, "choose a host that is up; ashlar status shows them"}
	case err != nil:
		return nil, err
	}
	for d.OwnerHost != to || d.State == "opening" {
		if s.Clock.Sleep(ctx, movePoll) != nil {
			return nil, &hinted{fmt.Errorf("disk %s is not on %s yet: %w", d.Name, to, errs.ErrTimeout), "it may still be on its way; look with ashlar disk show " + d.Name + ", or move it again"}
		}
		if d, err = cl.Disk(ctx, d.DiskId); err != nil {
			return nil, err
		}
	}
	return d, nil
}
