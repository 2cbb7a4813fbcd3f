package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

type clusterSet struct {
	Rebalance string `help:"on or off: whether what older stores have moves to newer, emptier ones." enum:"on,off,-" default:"-" placeholder:"on|off"`
	Trash     string `help:"How long what is deleted from now on can be brought back: 7d, 12h, 4w; 0: not at all. By itself a day." placeholder:"TIME"`
}

// Help is printed by kong below the summary.
func (clusterSet) Help() string {
	return `When stores were added, places of older placement groups move to them, until all stores are about
equally full: it begins when two are ten points apart and ends at three. It never costs margin, goes on only while
nothing is missing, and is as considerate of clients as a repair. --rebalance off pauses it: what is under way (at most
two groups) is finished, nothing new begins. ashlar status shows it.

Deleted disks and snapshots stay in the trash for a day (ashlar trash list), and hold their space until then. --trash
sets another time for what is deleted from then on; what is in the trash keeps the time it was promised.`
}

type clusterSettingsView struct {
	Rebalance    bool   `json:"rebalance"`
	TrashSeconds uint64 `json:"trashSeconds"`
}

// Run is called by kong.
func (c *clusterSet) Run(ctx context.Context, s *session) error {
	q := &api.SetClusterRequest{}
	if c.Rebalance != "-" {
		q.BalancingPaused = new(c.Rebalance == "off")
	}
	if c.Trash != "" {
		keep, err := readTrash(c.Trash)
		if err != nil {
			return err
		}
		q.TrashSeconds = &keep
	}
	if q.BalancingPaused == nil && q.TrashSeconds == nil {
		return &hinted{fmt.Errorf("nothing to set: %w", errs.ErrInvalid), "ashlar cluster set --help shows what there is"}
	}
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		r, err := cl.SetCluster(ctx, q)
		if err != nil {
			return err
		}
		return s.show(clusterSettingsView{!r.BalancingPaused, r.TrashSeconds}, func(w io.Writer) {
			switch {
			case q.BalancingPaused == nil:
			case r.BalancingPaused:
				fmt.Fprintln(w, "stores are not balanced until ashlar cluster set --rebalance on")
			default:
				fmt.Fprintln(w, "stores are balanced when they are ten points apart")
			}
			if q.TrashSeconds != nil {
				fmt.Fprintf(w, "trash: %s; what is in it keeps its time\n", trashText(r.TrashSeconds))
			}
		})
	})
}

type balanceView struct {
	Paused         bool    `json:"paused"`
	Active         bool    `json:"active"`
	Groups         uint32  `json:"groups"`       // of which a place is on its way to an emptier store
	ApartPercent   float64 `json:"apartPercent"` // the fullest store from the emptiest
	BytesLeft      uint64  `json:"bytesLeft"`
	BytesPerSecond uint64  `json:"bytesPerSecond"`
	SecondsLeft    uint64  `json:"secondsLeft"`
}

func viewBalance(b *api.Balance) balanceView {
	return balanceView{b.GetPaused(), b.GetActive(), b.GetGroups(), 100 * b.GetApart(), b.GetBytesLeft(), b.GetBytesPerSecond(), b.GetSecondsLeft()}
}

// balancePausedApart is how far apart stores are when a pause is worth a word.
const balancePausedApart = 0.10

type recodingView struct {
	Groups         uint32 `json:"groups"` // that were given a better code
	BytesLeft      uint64 `json:"bytesLeft"`
	BytesPerSecond uint64 `json:"bytesPerSecond"`
	SecondsLeft    uint64 `json:"secondsLeft"`
}

func viewRecoding(x *api.Recoding) recodingView {
	return recodingView{x.GetGroups(), x.GetBytesLeft(), x.GetBytesPerSecond(), x.GetSecondsLeft()}
}

func printRecoding(w io.Writer, x *api.Recoding) {
	if x.GetGroups() == 0 {
		return
	}
	fmt.Fprintf(w, "recode  %d groups have a better code, %s on stores to be coded anew", x.Groups, size(x.BytesLeft))
	if x.SecondsLeft > 0 {
		fmt.Fprintf(w, " at %s/s, about %s", size(x.BytesPerSecond), time.Duration(x.SecondsLeft)*time.Second)
	}
	fmt.Fprintln(w)
}

func printBalance(w io.Writer, b *api.Balance) {
	switch {
	case b.GetActive():
		fmt.Fprintf(w, "balance stores are %.0f points apart, %d groups move, %s to go", 100*b.Apart, b.Groups, size(b.BytesLeft))
		if b.SecondsLeft > 0 {
			fmt.Fprintf(w, " at %s/s, about %s", size(b.BytesPerSecond), time.Duration(b.SecondsLeft)*time.Second)
		}
		if b.Paused {
			fmt.Fprint(w, "; then paused")
		}
		fmt.Fprintln(w)
	case b.GetPaused() && b.GetApart() > balancePausedApart:
		fmt.Fprintf(w, "balance paused, stores are %.0f points apart; go on with ashlar cluster set --rebalance on\n", 100*b.Apart)
	case b.GetPaused():
		fmt.Fprintln(w, "balance paused")
	}
}
