package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
)

// bin is what the commands ask about the trash.
type bin interface {
	Trash(ctx context.Context) (all []*api.TrashEntry, keepSeconds uint64, err error)
	RestoreTrash(ctx context.Context, id, name string) (*api.TrashEntry, error)
	EmptyTrash(ctx context.Context, id string) error
}

type trashCommands struct {
	List    trashList    `cmd:"" help:"Show which deleted disks and snapshots can be brought back, and until when."`
	Restore trashRestore `cmd:"" help:"Bring a deleted disk or snapshot back."`
	Empty   trashEmpty   `cmd:"" help:"Delete what is in the trash for good; its space comes back."`
}

// trashView is one disk or snapshot of the trash, in JSON.
type trashView struct {
	Kind      string  `json:"kind"` // disk or snapshot
	Name      string  `json:"name"` // of a snapshot DISK@NAME
	ID        string  `json:"id"`
	DiskID    string  `json:"diskId,omitempty"` // of a snapshot
	SizeBytes uint64  `json:"sizeBytes"`
	HeldBytes *uint64 `json:"heldBytes"` // on stores; null: unknown, it shares what it has with its disk
	Snapshots uint32  `json:"snapshots"` // of a disk: that went with it
	Deleted   string  `json:"deleted"`
	DeletedBy string  `json:"deletedBy"`
	Until     string  `json:"until"`
}

func viewTrash(e *api.TrashEntry) trashView {
	v := trashView{Kind: e.Kind, Name: trashName(e), ID: e.Id, DiskID: e.DiskId, SizeBytes: e.SizeBytes, Snapshots: e.Snapshots,
		Deleted: rfc3339(e.DeletedUnixMs), DeletedBy: e.DeletedBy, Until: rfc3339(e.UntilUnixMs)}
	if e.Kind == "disk" {
		v.HeldBytes = &e.UsedBytes
	}
	return v
}

func trashName(e *api.TrashEntry) string {
	if e.Kind == "snapshot" {
		return e.Disk + "@" + e.Name
	}
	return e.Name
}

type trashList struct{}

// Help is printed by kong below the summary.
func (trashList) Help() string {
	return `A deleted disk or snapshot stays in the trash for a day, or as long as ashlar cluster set --trash says, and holds
its space until then. A disk is there with the snapshots that were deleted with it (--with-snapshots), and comes
back with them; those that were kept (--keep-snapshots) stay listed, and are its own again when it comes back.
HELD is what the disk takes on the stores with them; what a snapshot by itself holds is part of its disk's.

What is deleted with --purge, by a policy whose time it is, or by a command that cleans up after itself is not kept.
Time runs while metad has a leader; what is due then goes for good.`
}

// Run is called by kong.
func (trashList) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		all, keep, err := cl.Trash(ctx)
		if err != nil {
			return err
		}
		views := []trashView{}
		for _, e := range all {
			views = append(views, viewTrash(e))
		}
		return s.show(views, func(w io.Writer) {
			if len(all) == 0 {
				fmt.Fprintf(w, "the trash is empty; %s\n", trashText(keep))
				return
			}
			rows := make([][]string, 0, len(all))
			for i, e := range all {
				held := "-"
				if views[i].HeldBytes != nil {
					held = size(*views[i].HeldBytes)
				}
				kind := e.Kind
				if e.Snapshots > 0 {
					kind += fmt.Sprintf(" + %d snapshots", e.Snapshots)
				}
				rows = append(rows, []string{kind, views[i].Name, e.Id, size(e.SizeBytes), held, age(s.Clock.Wall(), e.DeletedUnixMs) + " ago", who(e.DeletedBy), views[i].Until})
			}
			table(w, []string{"KIND", "NAME", "ID", "SIZE", "HELD", "DELETED", "BY", "UNTIL"}, rows)
		})
	})
}

// who is a caller without the cluster's name.
func who(identity string) string {
	if rest, ok := strings.CutPrefix(identity, "ashlar://"); ok {
		_, rest, _ = strings.Cut(rest, "/")
		return rest
	}
	return identity
}

// trashText says how long things are kept.
func trashText(keepSeconds uint64) string {
	if keepSeconds == 0 {
		return "it is off: what is deleted is gone (ashlar cluster set --trash 1d turns it on)"
	}
	return "what is deleted can be brought back for " + span(keepSeconds)
}

type trashRestore struct {
	What string `arg:"" help:"A disk's name, DISK@SNAPSHOT, or an id." placeholder:"NAME"`
	Name string `help:"Another name, where its own is another's by now." placeholder:"NAME"`
}

// Help is printed by kong below the summary.
func (trashRestore) Help() string {
	return `A disk comes back as it was when it was deleted, with the snapshots that were deleted with it, and can be attached
at once. Of what was written while it was deleted with --force, all that was acknowledged is there. A snapshot comes
back whole. What was a policy's is yours from then on: no policy deletes it.`
}

// Run is called by kong.
func (c *trashRestore) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		e, err := findTrash(ctx, cl, c.What)
		if err != nil {
			return err
		}
		got, err := cl.RestoreTrash(ctx, e.Id, c.Name)
		switch {
		case errors.Is(err, errs.ErrExists):
			return &hinted{err, "bring it back under another name: ashlar trash restore " + e.Id + " --name NAME"}
		case err != nil:
			return err
		}
		e.Name = got.Name
		return s.show(viewTrash(e), func(w io.Writer) {
			fmt.Fprintf(w, "%s %s (%s) is back", e.Kind, trashName(e), e.Id)
			if e.Snapshots > 0 {
				fmt.Fprintf(w, ", with %d snapshots", e.Snapshots)
			}
			fmt.Fprintln(w)
		})
	})
}

// findTrash finds something in the trash.
func findTrash(ctx context.Context, cl Cluster, what string) (*api.TrashEntry, error) {
	all, _, err := cl.Trash(ctx)
	if err != nil {
		return nil, err
	}
	e, err := client.InTrash(all, what)
	if errors.Is(err, errs.ErrNotFound) {
		return nil, &hinted{err, "ashlar trash list shows what is"}
	}
	return e, err
}

type trashEmpty struct {
	What string `arg:"" optional:"" help:"A disk's name, DISK@SNAPSHOT, or an id." placeholder:"NAME"`
	All  bool   `help:"All that is in the trash now."`
}

// Run is called by kong.
func (c *trashEmpty) Run(ctx context.Context, s *session) error {
	if c.All == (c.What != "") {
		return &hinted{fmt.Errorf("what is to be deleted for good: %w", errs.ErrInvalid), "name it, or give --all; ashlar trash list shows what there is"}
	}
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		all, _, err := cl.Trash(ctx)
		if err == nil && !c.All {
			var e *api.TrashEntry
			e, err = findTrash(ctx, cl, c.What)
			all = []*api.TrashEntry{e}
		}
		if err != nil {
			return err
		}
		views := []trashView{}
		for _, e := range all {
			if err := cl.EmptyTrash(ctx, e.Id); err != nil {
				return fmt.Errorf("delete %s %s for good: %w", e.Kind, e.Id, err)
			}
			views = append(views, viewTrash(e))
		}
		return s.show(views, func(w io.Writer) {
			if len(views) == 0 {
				fmt.Fprintln(w, "the trash is empty")
			}
			for _, v := range views {
				fmt.Fprintf(w, "%s %s (%s) is deleted for good\n", v.Kind, v.Name, v.ID)
			}
		})
	})
}

// undoText says after a deletion until when it can be taken back; nothing: it cannot.
func undoText(what string, until int64, now time.Time) string {
	if until == 0 {
		return ""
	}
	return fmt.Sprintf("  it can be brought back until %s (for %s): ashlar trash restore %s\n", rfc3339(until), shortly(time.UnixMilli(until).Sub(now)), what)
}

// shortly is a time that is left, in the one unit that matters.
func shortly(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d >= 48*time.Hour:
		return strconv.Itoa(int(d.Round(time.Hour)/(24*time.Hour))) + "d"
	case d >= 2*time.Hour:
		return strconv.Itoa(int(d.Round(time.Minute)/time.Hour)) + "h"
	case d >= 2*time.Minute:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	}
	return strconv.Itoa(int(d/time.Second)) + "s"
}

// trashRoomView is what the trash holds, in JSON.
type trashRoomView struct {
	Disks       uint32 `json:"disks"`
	Snapshots   uint32 `json:"snapshots"`
	UsedBytes   uint64 `json:"usedBytes"` // of the disks
	KeepSeconds uint64 `json:"keepSeconds"`
}

func viewTrashRoom(x *api.TrashRoom) trashRoomView {
	return trashRoomView{x.GetDisks(), x.GetSnapshots(), x.GetUsedBytes(), x.GetKeepSeconds()}
}

// printTrash says what the trash holds, where there is anything.
func printTrash(w io.Writer, x *api.TrashRoom) {
	if x.GetDisks()+x.GetSnapshots() > 0 {
		fmt.Fprintf(w, "trash   %s of %d deleted disks, and %d snapshots, that can be brought back (ashlar trash list)\n", size(x.GetUsedBytes()), x.GetDisks(), x.GetSnapshots())
	}
}

// readTrash reads the time of --trash.
func readTrash(text string) (uint64, error) {
	if text == "0" || text == "off" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(text[:max(len(text)-1, 0)], 10, 31); err == nil && n > 0 && text[len(text)-1] == 's' {
		return n, nil
	}
	return parseRetain(text)
}
