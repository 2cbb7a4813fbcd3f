package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

type snapshotCommands struct {
	Create  snapshotCreate  `cmd:"" help:"Keep a disk as it is now. It takes some milliseconds, writes go on, and it costs what changes from then on."`
	List    snapshotList    `cmd:"" help:"List the snapshots of a disk, or of all."`
	Show    snapshotShow    `cmd:"" help:"Show one snapshot."`
	Archive snapshotArchive `cmd:"" help:"Bring a snapshot into the archive, against what is there already."`
	Copy    snapshotCopy    `cmd:"" help:"Copy an archived snapshot to another archive, in another bucket or for another cluster."`
	Verify  snapshotVerify  `cmd:"" help:"Read all of an archived snapshot and check every block; restores nothing."`
	Diff    snapshotDiff    `cmd:"" help:"List what of a disk, or of a later snapshot of it, differs from a snapshot."`
	Export  snapshotExport  `cmd:"" help:"Write a snapshot to a file: raw, qcow2, VHD, VHDX, VMDK, VDI."`
	Delete  snapshotDelete  `cmd:"" help:"Let a snapshot go. The space that only it needs comes back."`
}

// snapshotView is a snapshot in JSON.
type snapshotView struct {
	SnapshotID string `json:"snapshotId"`
	Name       string `json:"name"`
	DiskID     string `json:"diskId"`
	Disk       string `json:"disk"`
	SizeBytes  uint64 `json:"sizeBytes"`
	State      string `json:"state"`
	Archive    string `json:"archive,omitempty"` // how far it is on its way there
	Created    string `json:"created,omitempty"`
	// DiskDeleted: disk is the name that it had, or its id where another disk has that name by now.
	DiskDeleted bool   `json:"diskDeleted,omitempty"`
	Export      string `json:"export"`                    // the name under which every blockd serves it
	Until       string `json:"restorableUntil,omitempty"` // from the trash, of one that is deleted
}

func viewSnapshot(x *api.Snapshot) snapshotView {
	return snapshotView{SnapshotID: x.SnapshotId, Name: x.Name, DiskID: x.DiskId, Disk: x.Disk, SizeBytes: x.SizeBytes, State: x.State, Archive: x.GetArchive(),
		Created: rfc3339(x.CreatedUnixMs), DiskDeleted: x.GetDiskDeleted(), Export: x.Disk + "@" + x.Name}
}

type snapshotCreate struct {
	Disk  string   `arg:"" optional:"" help:"Name or id; DISK@NAME, as snapshots are named elsewhere, gives the name too."`
	Disks []string `name:"disk" help:"Name or id; given again, a snapshot of each disk, all at one point in time: what was written to one because a write to another was acknowledged is there only with that write." placeholder:"DISK"`
	Name  string   `help:"A name that no other snapshot of the disk has; its id if not given." placeholder:"NAME"`
	hookFlags
}

// Run is called by kong.
func (c *snapshotCreate) Run(ctx context.Context, s *session) error {
	if disk, name, both := strings.Cut(c.Disk, "@"); both {
		if c.Name != "" || name == "" {
			return &hinted{fmt.Errorf("snapshot %s named %q: %w", c.Disk, c.Name, errs.ErrInvalid), "give one name: ashlar snapshot create DISK@NAME, or DISK --name NAME"}
		}
		c.Disk, c.Name = disk, name
	}
	if c.Disk != "" {
		c.Disks = append([]string{c.Disk}, c.Disks...)
	}
	h, err := c.use()
	if err != nil {
		return err
	}
	switch {
	case len(c.Disks) > 1 && h != nil:
		return &hinted{fmt.Errorf("--hook is for one disk: %w", errs.ErrInvalid), "freeze the application yourself around ashlar snapshot create --disk A --disk B"}
	case len(c.Disks) == 0:
		return &hinted{fmt.Errorf("no disk is named: %w", errs.ErrInvalid), "ashlar disk list shows them all"}
	case len(c.Disks) > 1:
		return c.group(ctx, s)
	}
	c.Disk = c.Disks[0]
	if h != nil {
		s.flags.Timeout += 3 * c.HookTimeout // to freeze, to take it, to thaw
	}
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		x, err := c.take(ctx, cl, h)
		if errors.Is(err, errs.ErrExists) {
			return &hinted{err, "choose another name, or delete that one: ashlar snapshot delete " + c.Disk + "@" + c.Name}
		}
		if err != nil {
			return explain(err, c.Disk)
		}
		return s.show(viewSnapshot(x), func(w io.Writer) {
			fmt.Fprintf(w, "created snapshot %s@%s (%s), %s\n  read it: NBD export %s@%s, read-only; see ashlar disk nbd %s\n", x.Disk, x.Name, x.SnapshotId, size(x.SizeBytes), x.Disk, x.Name, x.Disk)
		})
	})
}

// take takes one snapshot, with something frozen or not.
func (c *snapshotCreate) take(ctx context.Context, cl Cluster, h *api.HookUse) (*api.Snapshot, error) {
	if h != nil {
		return c.frozen(ctx, cl, h)
	}
	return cl.CreateSnapshot(ctx, c.Disk, c.Name)
}

// group takes snapshots of several disks at once.
func (c *snapshotCreate) group(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		all, err := cl.CreateSnapshots(ctx, c.Disks, c.Name)
		if errors.Is(err, errs.ErrExists) {
			return &hinted{err, "choose another name, or delete that one: ashlar snapshot delete DISK@" + c.Name}
		}
		if err != nil {
			return err
		}
		var views []snapshotView
		for _, x := range all {
			views = append(views, viewSnapshot(x))
		}
		return s.show(views, func(w io.Writer) {
			for _, x := range all {
				fmt.Fprintf(w, "created snapshot %s@%s (%s), %s\n", x.Disk, x.Name, x.SnapshotId, size(x.SizeBytes))
			}
			fmt.Fprintf(w, "%d disks at one point in time\n", len(all))
		})
	})
}

type snapshotList struct {
	Disk string `arg:"" optional:"" help:"Name or id of a disk; all if not given."`
}

// Run is called by kong.
func (c *snapshotList) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		all, more, err := cl.Snapshots(ctx, c.Disk)
		if err != nil {
			return explain(err, c.Disk)
		}
		views := make([]snapshotView, len(all))
		for i, x := range all {
			views[i] = viewSnapshot(x)
		}
		return s.show(views, func(w io.Writer) {
			if len(all) == 0 {
				fmt.Fprintln(w, "no snapshots yet; take one: ashlar snapshot create DISK")
				return
			}
			now := s.Clock.Wall()
			var rows [][]string
			for _, x := range all {
				rows = append(rows, []string{diskOf(x), x.Name, x.SnapshotId, size(x.SizeBytes), x.State, brief(dash(x.GetArchive())), age(now, x.CreatedUnixMs)})
			}
			table(w, []string{"DISK", "NAME", "ID", "SIZE", "STATE", "ARCHIVE", "AGE"}, rows)
			if more {
				fmt.Fprintln(w, "there are more; name a disk")
			}
		})
	})
}

// diskOf names a snapshot's disk, and says that it is deleted.
func diskOf(x *api.Snapshot) string {
	if x.GetDiskDeleted() {
		return x.Disk + " (deleted)"
	}
	return x.Disk
}

// brief cuts a long reason; ashlar snapshot show has all of it.
func brief(text string) string {
	const most = 40
	if r := []rune(text); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return text
}

// snapshotOf parts DISK@SNAPSHOT, and asks for the disk where a snapshot's id is given alone.
func (s *session) snapshotOf(ctx context.Context, text string) (disk, snapshot string, err error) {
	if _, e := id.ParseSnapshot(text); e != nil {
		return partSnapshot(text)
	}
	err = s.with(ctx, func(ctx context.Context, cl Cluster) (err error) {
		disk, snapshot, err = findSnapshot(ctx, cl, text)
		return err
	})
	return disk, snapshot, err
}

// findSnapshot is snapshotOf where the cluster is at hand.
func findSnapshot(ctx context.Context, cl Cluster, text string) (disk, snapshot string, err error) {
	if _, e := id.ParseSnapshot(text); e != nil {
		return partSnapshot(text)
	}
	all, more, err := cl.Snapshots(ctx, "")
	if err != nil {
		return "", "", err
	}
	for _, x := range all {
		if x.SnapshotId == text {
			return x.Disk, text, nil
		}
	}
	hint := "ashlar snapshot list shows them all; of one that is in the archive only say DISK@NAME"
	if more {
		hint = "there are too many to look through: write it as DISK@NAME"
	}
	return "", "", &hinted{fmt.Errorf("snapshot %s: %w", text, errs.ErrNotFound), hint}
}

// partSnapshot parts DISK@SNAPSHOT.
func partSnapshot(text string) (disk, snapshot string, err error) {
	disk, snapshot, ok := strings.Cut(text, "@")
	if !ok || disk == "" || snapshot == "" {
		return "", "", &hinted{fmt.Errorf("snapshot %s: %w", strconv.Quote(text), errs.ErrInvalid), "write it as DISK@NAME, or give its id; ashlar snapshot list shows them all"}
	}
	return disk, snapshot, nil
}

type snapshotShow struct {
	Snapshot string `arg:"" help:"DISK@NAME, or its id." placeholder:"DISK@NAME"`
}

// Run is called by kong.
func (c *snapshotShow) Run(ctx context.Context, s *session) error {
	disk, name, err := s.snapshotOf(ctx, c.Snapshot)
	if err != nil {
		return err
	}
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		all, _, err := cl.Snapshots(ctx, disk)
		if err != nil {
			return explain(err, disk)
		}
		for _, x := range all {
			if x.Name == name || x.SnapshotId == name {
				return s.show(viewSnapshot(x), func(w io.Writer) {
					for _, r := range [][2]string{
						{"name", x.Name}, {"id", x.SnapshotId}, {"disk", diskOf(x) + " (" + x.DiskId + ")"}, {"size", fmt.Sprintf("%s (%d bytes)", size(x.SizeBytes), x.SizeBytes)},
						{"state", x.State}, {"archive", dash(x.GetArchive())}, {"created", rfc3339(x.CreatedUnixMs)}, {"export", x.Disk + "@" + x.Name},
					} {
						fmt.Fprintf(w, "%-8s %s\n", r[0], r[1])
					}
				})
			}
		}
		return &hinted{fmt.Errorf("snapshot %s: %w", c.Snapshot, errs.ErrNotFound), "ashlar snapshot list " + disk + " shows what there is"}
	})
}

type snapshotDelete struct {
	Snapshot string `arg:"" help:"DISK@NAME, or its id." placeholder:"DISK@NAME"`
	Purge    bool   `help:"For good: it does not go into the trash."`
}

// Help is printed by kong below the summary.
func (snapshotDelete) Help() string {
	return `The snapshot goes into the trash, and can be brought back with ashlar trash restore until its time is over: a day, or what
ashlar cluster set --trash says. Meanwhile it cannot be read, its name is free, and it counts among the 256 that a
disk may have. What clones and images read of it stays in any case, unseen.`
}

// Run is called by kong.
func (c *snapshotDelete) Run(ctx context.Context, s *session) error {
	disk, name, err := s.snapshotOf(ctx, c.Snapshot)
	if err != nil {
		return err
	}
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		x, err := cl.DeleteSnapshot(ctx, disk, name, c.Purge)
		if errors.Is(err, errs.ErrNotFound) {
			return &hinted{err, "ashlar snapshot list shows them all"}
		}
		if err != nil {
			return err
		}
		v := viewSnapshot(x)
		v.Until = rfc3339(x.TrashedUntilUnixMs)
		return s.show(v, func(w io.Writer) {
			if x.TrashedUntilUnixMs != 0 {
				fmt.Fprintf(w, "snapshot %s@%s is in the trash\n%s", x.Disk, x.Name, undoText(x.Disk+"@"+x.Name, x.TrashedUntilUnixMs, s.Clock.Wall()))
				return
			}
			if x.State == "hidden" {
				fmt.Fprintf(w, "snapshot %s@%s is deleted; clones or images still need what it has, so its space comes back with the last of them\n", x.Disk, x.Name)
				return
			}
			fmt.Fprintf(w, "snapshot %s@%s is being deleted; what only it needs comes back\n", x.Disk, x.Name)
		})
	})
}
