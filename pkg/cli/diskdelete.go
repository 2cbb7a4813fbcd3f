package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
)

type diskDelete struct {
	Disk  string `arg:"" help:"Name or id."`
	Force bool   `help:"Also while clients are attached; they are cut off."`
	Purge bool   `help:"For good: it does not go into the trash, and its space comes back at once."`
	Keep  bool   `name:"keep-snapshots" xor:"snapshots" help:"Its snapshots stay, and can be read, cloned, archived and deleted one by one."`
	With  bool   `name:"with-snapshots" xor:"snapshots" help:"Its snapshots are deleted, too."`
}

// Help is printed by kong below the summary.
func (diskDelete) Help() string {
	return `The disk goes into the trash, where ashlar trash list shows it, and can be brought back with ashlar trash restore until
its time is over: a day, or what ashlar cluster set --trash says. Its name is free at once, and its space comes
back when it goes for good. It is refused while a client is attached; who attaches in this moment keeps the disk.

A disk with snapshots needs a word on them: with --with-snapshots they go with it, and come back with it; with
--keep-snapshots they stay, as long as you like. What clones and images read stays in any case, unseen.`
}

// how is what the flags ask for.
func (c *diskDelete) how() client.Deletion {
	d := client.Deletion{Force: c.Force, Purge: c.Purge}
	switch {
	case c.Keep:
		d.Snapshots = api.SnapshotsOfDeleted_SNAPSHOTS_OF_DELETED_STAY
	case c.With:
		d.Snapshots = api.SnapshotsOfDeleted_SNAPSHOTS_OF_DELETED_GO_TOO
	}
	return d
}

// Run is called by kong.
func (c *diskDelete) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		gone, err := cl.DeleteDisk(ctx, c.Disk, c.how())
		if errors.Is(err, errs.ErrConflict) {
			return c.refused(ctx, cl, err)
		}
		if err != nil {
			return explain(err, c.Disk)
		}
		kept, e := keptOf(ctx, cl, gone.DiskID)
		if e != nil {
			return fmt.Errorf("disk %s is deleted; its snapshots: %w", gone.DiskID, e)
		}
		until := int64(0)
		if !gone.Until.IsZero() {
			until = gone.Until.UnixMilli()
		}
		return s.show(struct {
			DiskID string   `json:"diskId"`
			Kept   []string `json:"keptSnapshots"`
			Until  string   `json:"restorableUntil,omitempty"` // from the trash
		}{gone.DiskID, kept, rfc3339(until)}, func(w io.Writer) {
			fmt.Fprintf(w, "deleted disk %s (%s)\n%s", c.Disk, gone.DiskID, undoText(c.Disk, until, s.Clock.Wall()))
			if len(kept) > 0 {
				fmt.Fprintf(w, "  its snapshots are kept: %s\n", brieflyAll(kept))
			}
		})
	})
}

// refused adds to a refusal what can be done.
func (c *diskDelete) refused(ctx context.Context, cl Cluster, err error) error {
	if e := refusedProtected(ctx, cl, c.Disk, err); e != nil {
		return e
	}
	if all, e := keptOf(ctx, cl, c.Disk); e == nil && len(all) > 0 && !c.Keep && !c.With {
		return &hinted{err, fmt.Sprintf("it has %s; keep them without the disk with --keep-snapshots, or delete them with it with --with-snapshots", brieflyAll(all))}
	}
	if strings.Contains(c.Disk, "@") {
		return err
	}
	return &hinted{err, "detach its clients first, or cut them off with --force"}
}

// keptOf names the snapshots of a disk that are not on their way out; none if there is no such disk.
func keptOf(ctx context.Context, cl Cluster, disk string) ([]string, error) {
	names := []string{}
	all, _, err := cl.Snapshots(ctx, disk)
	for _, x := range all {
		if x.State != "deleting" {
			names = append(names, x.Disk+"@"+x.Name)
		}
	}
	if errors.Is(err, errs.ErrNotFound) {
		err = nil
	}
	return names, err
}

// brieflyAll lists names, some if they are many.
func brieflyAll(names []string) string {
	if n := len(names); n > namesMax {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:namesMax], ", "), n-namesMax)
	}
	return strings.Join(names, ", ")
}

// keptView is what deleted disks take, in JSON.
type keptView struct {
	Disks     uint32 `json:"disks"`
	UsedBytes uint64 `json:"usedBytes"`
}

func viewKept(x *api.KeptRoom) keptView { return keptView{x.GetDisks(), x.GetUsedBytes()} }

// printKept says what deleted disks take, where there are any.
func printKept(w io.Writer, x *api.KeptRoom) {
	if n := x.GetDisks(); n > 0 {
		fmt.Fprintf(w, "kept    %s of deleted disks (%d), for snapshots that are kept or that clones read\n", size(x.GetUsedBytes()), n)
	}
}
