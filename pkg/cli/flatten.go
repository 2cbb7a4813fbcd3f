package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
)

// flatteningView is how far a clone is flattened, in JSON.
type flatteningView struct {
	State          string   `json:"state"` // waiting, counting, copying, copied or ending
	DoneBytes      uint64   `json:"doneBytes"`
	LeftBytes      uint64   `json:"leftBytes"`
	BytesPerSecond uint64   `json:"bytesPerSecond"`
	Rate           uint64   `json:"rate,omitempty"` // at most; absent: the host's default
	Snapshots      []string `json:"snapshots"`      // of the disk, that still read others; at most 16 are named
	Problem        string   `json:"problem,omitempty"`
}

func flattenState(f *api.Flattening) cluster.FlattenState { return cluster.FlattenState(f.GetState()) }

func viewFlattening(f *api.Flattening) *flatteningView {
	if f == nil {
		return nil
	}
	return &flatteningView{State: flattenState(f).String(), DoneBytes: f.DoneBytes, LeftBytes: f.LeftBytes, BytesPerSecond: f.BytesPerSecond,
		Rate: f.Rate, Snapshots: append([]string{}, f.SnapshotNames...), Problem: f.Problem}
}

// flatteningText is one line: how far, how fast, how long it will take yet, or what it waits for.
func flatteningText(f *api.Flattening) string {
	switch flattenState(f) {
	case cluster.FlattenCounts:
		return "counting what is to be copied"
	case cluster.FlattenCopies:
		return progressBar(f.DoneBytes, f.DoneBytes+f.LeftBytes, f.BytesPerSecond)
	case cluster.FlattenSnapshot:
		if f.Snapshots == 0 {
			return "all is copied; its snapshots are looked at"
		}
		return "all is copied; the origin stays until these snapshots are deleted, which still read it: " + heldNames(f)
	case cluster.FlattenForgets:
		return "all is copied; the origin is about to be forgotten"
	}
	return "waiting for a host to begin"
}

func heldNames(f *api.Flattening) string {
	names := strings.Join(f.SnapshotNames, ", ")
	if more := int(f.Snapshots) - len(f.SnapshotNames); more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return names
}

// flatteningRows tell of it in ashlar disk show.
func flatteningRows(d *api.Disk) (rows [][2]string) {
	f := d.Flattening
	if f == nil {
		return nil
	}
	text := flatteningText(f)
	if f.Rate > 0 {
		text += ", at most " + size(f.Rate) + "/s"
	}
	rows = append(rows, [2]string{"flattening", text})
	if f.Problem != "" {
		rows = append(rows, [2]string{"flattening", f.Problem})
	}
	return rows
}

// flatteningRemark is its part of the last column of ashlar disk list.
func flatteningRemark(f *api.Flattening) (parts []string) {
	if f == nil {
		return nil
	}
	switch flattenState(f) {
	case cluster.FlattenCopies:
		parts = append(parts, fmt.Sprintf("flattening, %d %%", 100*f.DoneBytes/max(f.DoneBytes+f.LeftBytes, 1)))
	case cluster.FlattenSnapshot:
		parts = append(parts, fmt.Sprintf("flattened but for %d snapshots", f.Snapshots))
	default:
		parts = append(parts, "flattening: "+flattenState(f).String())
	}
	if f.Problem != "" {
		parts = append(parts, f.Problem)
	}
	return parts
}

type diskFlatten struct {
	Disk string   `arg:"" help:"Name or id of a clone, or of a disk made from an image."`
	Rate rateFlag `help:"Bytes a second that are copied at most, such as 100MiB, or default." placeholder:"SIZE"`
	Wait bool     `help:"Wait for the end, and show how far it is."`
	Stop bool     `help:"End it. What was copied stays; the disk goes on reading the rest as before."`
}

// Help is printed by kong below the summary.
func (c *diskFlatten) Help() string {
	return `What the disk still shares with the disk or image that it was made from is copied while it is in use, and then it
needs that no more: it can go, space and all, without the clone keeping anything of it. Asked again it changes the rate.

Snapshots of the clone that were taken before are not copied. While there is one that reads the other disk, the clone keeps
its origin, and ashlar disk show names them; delete them, or wait until they have had their time. Clones of the clone read
such a snapshot, too.

It takes as much room as was shared, and waits while a store is 85 % full. What cannot be read is not copied, and said.`
}

// Run is called by kong.
func (c *diskFlatten) Run(ctx context.Context, s *session) error {
	if c.Stop && (c.Wait || c.Rate.value != nil) {
		return &hinted{fmt.Errorf("--stop goes with no other flag: %w", errs.ErrInvalid), "see ashlar disk flatten --help"}
	}
	var d *api.Disk
	err := s.with(ctx, func(ctx context.Context, cl Cluster) (err error) {
		d, err = cl.FlattenDisk(ctx, c.Disk, c.Rate.rate(), c.Stop)
		return err
	})
	switch {
	case errors.Is(err, errs.ErrNoSpace):
		return &hinted{err, "ashlar store list shows how full they are; delete what is not needed, or add stores"}
	case errors.Is(err, errs.ErrConflict):
		return &hinted{err, "ashlar disk show " + c.Disk + " tells what it began as, and how far it is"}
	case err != nil:
		return explain(err, c.Disk)
	}
	if c.Wait {
		if d, err = c.follow(ctx, s, d); err != nil {
			return err
		}
	}
	return s.show(viewDisk(d), func(w io.Writer) { c.print(w, d) })
}

// follow waits until the disk has no origin any more, or only snapshots keep it, which no waiting ends.
func (c *diskFlatten) follow(ctx context.Context, s *session, d *api.Disk) (*api.Disk, error) {
	x := d.DiskId
	err := s.again(ctx, func(ctx context.Context, cl Cluster) (bool, error) {
		var err error
		if d, err = cl.Disk(ctx, x); err != nil || d.Flattening == nil {
			return true, err
		}
		s.line(flatteningText(d.Flattening))
		return flattenState(d.Flattening) == cluster.FlattenSnapshot && d.Flattening.Snapshots > 0, nil
	})
	s.line("")
	if err != nil {
		return d, &hinted{err, "ashlar disk flatten " + c.Disk + " --wait looks again"}
	}
	return d, nil
}

func (c *diskFlatten) print(w io.Writer, d *api.Disk) {
	switch {
	case c.Stop:
		fmt.Fprintf(w, "disk %s is not flattened any further; what was copied stays\n", d.Name)
	case d.Flattening == nil && d.Origin == nil:
		fmt.Fprintf(w, "disk %s is flattened: it needs no other disk any more\n", d.Name)
	case d.Flattening == nil:
		fmt.Fprintf(w, "somebody stopped it: disk %s still is a clone\n", d.Name)
	case c.Wait:
		fmt.Fprintf(w, "disk %s: %s\n", d.Name, flatteningText(d.Flattening))
	default:
		fmt.Fprintf(w, "disk %s is being flattened; ashlar disk flatten %s --wait follows it\n", d.Name, d.Name)
	}
}
