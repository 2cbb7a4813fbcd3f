package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

// protectFlag protects a disk against deletion, or not; empty: as it is.
type protectFlag struct {
	Protect string `enum:"on,off," default:"" help:"Protect the disk against deletion, by force too, or let it be deleted (on, off)." placeholder:"on|off"`
}

// setProtection changes the protection of a disk.
func setProtection(ctx context.Context, cl Cluster, disk, to string) (*api.Disk, error) {
	d, err := cl.SetProtection(ctx, disk, to == "on")
	if err != nil {
		return nil, explain(err, disk)
	}
	return d, nil
}

// protect is disk set --protect; done: there is nothing else to change.
func (c *diskSet) protect(ctx context.Context, s *session, cl Cluster, more bool) (done bool, err error) {
	d, err := setProtection(ctx, cl, c.Disk, c.Protect)
	if err != nil || more {
		return err != nil, err
	}
	return true, s.show(viewDisk(d), func(w io.Writer) { fmt.Fprintf(w, "disk %s: %s\n", d.Name, protectText(d)) })
}

// protect is disk create --protect: the disk is made, and protected if that is wanted.
func (c *diskCreate) protect(ctx context.Context, cl Cluster, d *api.Disk) (*api.Disk, error) {
	if c.Protect != "on" {
		return d, nil
	}
	d, err := setProtection(ctx, cl, d.DiskId, c.Protect)
	if err != nil {
		return nil, &hinted{fmt.Errorf("disk %s is made, and not protected: %w", c.Name, err), "try again: ashlar disk set " + c.Name + " --protect on"}
	}
	return d, nil
}

func protectText(d *api.Disk) string {
	if d.GetIsProtected() {
		return "protected against deletion"
	}
	return "may be deleted"
}

// refusedProtected is the refusal to delete a disk that is protected; nil: it is not.
func refusedProtected(ctx context.Context, cl Cluster, disk string, err error) error {
	d, e := cl.Disk(ctx, disk)
	if e != nil || !d.GetIsProtected() || !errors.Is(err, errs.ErrConflict) {
		return nil
	}
	return &hinted{err, "if it is to be deleted all the same: ashlar disk set " + disk + " --protect off"}
}
