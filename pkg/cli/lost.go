package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
)

type diskLost struct {
	Disk string          `arg:"" optional:"" help:"Name or id; without it all disks."`
	From config.ByteSize `help:"Begin at this byte, such as 4GiB or where an earlier list ended." placeholder:"OFFSET"`
	Wait time.Duration   `default:"2m" help:"How long the owner of a disk may look."`
}

// Help is printed by kong below the summary.
func (diskLost) Help() string {
	return `A block is lost when fewer shards of it are left than it takes, wherever they could still come from:
the others lie on stores that are lost or out, or are wrong. Reads of it fail (EIO); everything else
is served. Such a block is whole again when it is written, and gone when it is trimmed. A block that
stores which are only down could bring back is listed as away.

The disk's owner looks now: it asks the stores what they have, and its map where that should be.
A disk that nobody has open is opened for it. At most 1,024 ranges are listed at a time.

The exit code is 1 if something is lost.`
}

// lostView is what of one disk cannot be read, in JSON.
type lostView struct {
	DiskID      string          `json:"diskId"`
	Name        string          `json:"name"`
	LostBytes   uint64          `json:"lostBytes"` // from where the list begins
	AwayBytes   uint64          `json:"awayBytes"`
	RangesTotal uint64          `json:"rangesTotal"`
	Ranges      []lostRangeView `json:"ranges"`
	Next        uint64          `json:"next,omitempty"` // --from of the next list; absent: this is all
	Problem     string          `json:"problem,omitempty"`
}

type lostRangeView struct {
	Offset uint64 `json:"offset"`
	Length uint64 `json:"length"`
	State  string `json:"state"` // lost or away
}

func viewLost(rep *api.LostRangesReply) lostView {
	l := rep.GetLost()
	v := lostView{DiskID: rep.GetDiskId(), Name: rep.GetName(), LostBytes: l.GetLostBytes(), AwayBytes: l.GetAwayBytes(), RangesTotal: l.GetRangesTotal(),
		Next: l.GetNext(), Problem: l.GetProblem(), Ranges: []lostRangeView{}}
	for _, r := range l.GetRanges() {
		x := lostRangeView{r.GetOffset(), r.GetLength(), "lost"}
		if r.GetAway() {
			x.State = "away"
		}
		v.Ranges = append(v.Ranges, x)
	}
	return v
}

// lostPoll is the pause between two questions whether the owner has looked.
const lostPoll = 200 * time.Millisecond

// Run is called by kong.
func (c *diskLost) Run(ctx context.Context, s *session) error {
	names := []string{c.Disk}
	if c.Disk == "" {
		if c.From > 0 {
			return &hinted{fmt.Errorf("--from without a disk: %w", errs.ErrInvalid), "name the disk whose list is to go on"}
		}
		names = nil
		err := s.with(ctx, func(ctx context.Context, cl Cluster) error {
			disks, err := cl.Disks(ctx)
			for _, d := range disks {
				names = append(names, d.DiskId)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	views := []lostView{}
	var lost uint64
	for _, name := range names {
		rep, err := c.look(ctx, s, name)
		if err != nil && c.Disk == "" {
			views = append(views, lostView{Name: name, Ranges: []lostRangeView{}, Problem: err.Error()})
			continue
		}
		if err != nil {
			return explain(err, name)
		}
		views = append(views, viewLost(rep))
		lost += rep.GetLost().GetLostBytes()
	}
	if err := s.show(views, func(w io.Writer) { printLost(w, views) }); err != nil {
		return err
	}
	if lost > 0 {
		return &hinted{fmt.Errorf("%s are lost: %w", size(lost), errs.ErrCorrupt), "write or trim what is listed, or restore it from where else you have it"}
	}
	return nil
}

// look asks until the owner has looked.
func (c *diskLost) look(ctx context.Context, s *session, disk string) (*api.LostRangesReply, error) {
	q := cluster.Look{From: uint64(c.From)}
	if _, err := rand.Read(q.ID[:]); err != nil {
		return nil, fmt.Errorf("draw an id: %w", err)
	}
	for began := s.Clock.Now(); ; {
		var rep *api.LostRangesReply
		err := s.with(ctx, func(ctx context.Context, cl Cluster) (err error) {
			rep, err = cl.LostRanges(ctx, disk, q)
			return err
		})
		late := s.Clock.Now()-began > c.Wait
		switch {
		case err == nil && rep.GetLost() != nil:
			return rep, nil
		case err != nil && (late || !errors.Is(err, errs.ErrUnavailable) && !errors.Is(err, errs.ErrTimeout)):
			return nil, err
		case late && rep.GetOwnerHost() == "":
			return nil, &hinted{fmt.Errorf("disk %s is open nowhere, and could not be opened: %w", rep.GetName(), errs.ErrUnavailable), "ashlar status says why"}
		case late:
			return nil, &hinted{fmt.Errorf("%s has not looked at disk %s in %s: %w", rep.GetOwnerHost(), rep.GetName(), c.Wait, errs.ErrTimeout), "give it longer: --wait 10m"}
		}
		if err := s.Clock.Sleep(ctx, lostPoll); err != nil {
			return nil, err
		}
	}
}

func printLost(w io.Writer, views []lostView) {
	var rows [][]string
	for _, v := range views {
		for _, r := range v.Ranges {
			rows = append(rows, []string{v.Name, strconv.FormatUint(r.Offset, 10), strconv.FormatUint(r.Length, 10), size(r.Length), r.State})
		}
	}
	if len(rows) > 0 {
		table(w, []string{"DISK", "OFFSET", "LENGTH", "", "STATE"}, rows)
	}
	for _, v := range views {
		switch {
		case v.Problem != "" && v.RangesTotal == 0:
			fmt.Fprintf(w, "%s: not looked at: %s\n", v.Name, v.Problem)
			continue
		case v.RangesTotal == 0:
			fmt.Fprintf(w, "%s: nothing is lost\n", v.Name)
			continue
		}
		fmt.Fprintf(w, "%s: %s lost, %s away, in %d ranges", v.Name, size(v.LostBytes), size(v.AwayBytes), v.RangesTotal)
		if v.Next != 0 {
			fmt.Fprintf(w, " (%d more: ashlar disk lost %s --from %d)", v.RangesTotal-uint64(len(v.Ranges)), v.Name, v.Next)
		}
		fmt.Fprintln(w)
		if v.Problem != "" {
			fmt.Fprintf(w, "%s: %s\n", v.Name, v.Problem)
		}
	}
}
