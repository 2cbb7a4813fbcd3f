package server

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"

	"ashlar.dev/blockd/chunk"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/lifecycle"
)

// Exit codes of the commands.
const (
	codeFine   = 0
	codeFailed = 1 // a check found something; anything else failed
	codeCannot = 2 // it was not possible to look, or wrong usage
	codeThere  = 5 // as of the command ashlar: something is in the way
)

// Command carries out what blockd does beside serving: "store format", "store id" and "check". False:
// the arguments are not one of these.
func Command(args []string, out, errOut io.Writer) (code int, is bool) {
	switch {
	case len(args) > 1 && args[0] == "store" && args[1] == "format":
		if err := FormatStore(args[2:], out); err != nil {
			fmt.Fprintln(errOut, "blockd:", err)
			switch {
			case errors.Is(err, errs.ErrInvalid):
				return codeCannot, true
			case errors.Is(err, errs.ErrExists), errors.Is(err, errs.ErrConflict):
				fmt.Fprintln(errOut, "  it is left as it is; blockd check says what is in it")
				return codeThere, true
			}
			return codeFailed, true
		}
		return codeFine, true
	case len(args) == 3 && args[0] == "store" && args[1] == "id":
		ident, err := chunk.ReadIdentity(nil, args[2])
		if err != nil {
			fmt.Fprintln(errOut, "blockd:", err)
			return codeCannot, true
		}
		fmt.Fprintln(out, ident.ID)
		return codeFine, true
	case len(args) > 0 && args[0] == "check":
		return checkStore(args[1:], out, errOut), true
	}
	return 0, false
}

const checkUsage = `usage: blockd check [-o json] DIR

Reads a store's folder that no blockd has open, and writes nothing: the index, the journal
log, the head and every block of every shard. Prints what is there and what is wrong.

Exit codes: 0 all is right, 1 something is wrong, 2 it could not look (in use, not a store).`

// checkStore is the command "blockd check DIR".
func checkStore(args []string, out, errOut io.Writer) int {
	flags := flag.NewFlagSet("blockd check", flag.ContinueOnError)
	flags.SetOutput(errOut)
	output := flags.String("o", "table", "how to print: table or json")
	flags.Usage = func() { fmt.Fprintln(errOut, checkUsage) }
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return codeFine
	} else if err != nil {
		return codeCannot
	}
	if flags.NArg() != 1 || *output != "table" && *output != "json" {
		flags.Usage()
		return codeCannot
	}
	ctx, stop := lifecycle.SignalContext(context.Background())
	defer stop()
	r, err := chunk.Check(ctx, flags.Arg(0), nil)
	if err != nil {
		fmt.Fprintln(errOut, "blockd:", err)
		if errors.Is(err, errs.ErrConflict) {
			fmt.Fprintln(errOut, "  stop the blockd that serves it; ashlar scrub looks at a store that is in use")
		}
		return codeCannot
	}
	if err := printReport(out, *output, r); err != nil {
		fmt.Fprintln(errOut, "blockd:", err)
		return codeCannot
	}
	if r.ProblemsAll > 0 {
		return codeFailed
	}
	return codeFine
}

// reportView is a report in JSON.
type reportView struct {
	StoreID      string        `json:"storeId"`
	Incarnation  string        `json:"incarnation"`
	Starts       uint32        `json:"starts"`
	Disks        int           `json:"disks"`
	Streams      int           `json:"streams"`
	Batches      int           `json:"batches"` // not released
	Tombstones   int           `json:"tombstones"`
	Shards       int           `json:"shards"`
	ShardBytes   int64         `json:"shardBytes"`
	Wrong        uint64        `json:"wrongBefore"` // shards found wrong while it served
	Missing      uint64        `json:"missingBefore"`
	Mended       uint64        `json:"mendedBefore"`
	ProblemsAll  int           `json:"problemsTotal"`
	Problems     []problemView `json:"problems"` // at most 1,000
	EverythingOK bool          `json:"ok"`
}

type problemView struct {
	Part string `json:"part"` // index, log, extent or shard
	What string `json:"what"`
}

func printReport(out io.Writer, output string, r *chunk.Report) error {
	if output == "json" {
		v := reportView{StoreID: r.Identity.ID.String(), Incarnation: r.Identity.Incarnation.String(), Starts: r.Starts, Disks: r.Volumes, Streams: r.Streams,
			Batches: r.Records, Tombstones: r.Tombstones, Shards: r.Shards, ShardBytes: r.ShardBytes, Wrong: r.Care.Wrong, Missing: r.Care.Missing,
			Mended: r.Care.Mended, ProblemsAll: r.ProblemsAll, Problems: []problemView{}, EverythingOK: r.ProblemsAll == 0}
		for _, p := range r.Problems {
			v.Problems = append(v.Problems, problemView(p))
		}
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	lines := []string{
		fmt.Sprintf("store    %s, incarnation %s, started %d times", r.Identity.ID, r.Identity.Incarnation, r.Starts),
		fmt.Sprintf("journal  %d streams, %d batches not released", r.Streams, r.Records),
		fmt.Sprintf("shards   %d of %d disks, %s; %d tombstones", r.Shards, r.Volumes, config.ByteSize(r.ShardBytes).Human(), r.Tombstones),
		fmt.Sprintf("before   %d shards were wrong and %d missing while it served, %d were mended", r.Care.Wrong, r.Care.Missing, r.Care.Mended),
	}
	for _, p := range r.Problems {
		lines = append(lines, fmt.Sprintf("%-8s %s", p.Part, p.What))
	}
	switch n := r.ProblemsAll; {
	case n == 0:
		lines = append(lines, "all is right")
	case n > len(r.Problems):
		lines = append(lines, fmt.Sprintf("%d problems, of which %d are shown", n, len(r.Problems)))
	default:
		lines = append(lines, fmt.Sprintf("%d problems", n))
	}
	for _, l := range lines {
		if _, err := fmt.Fprintln(out, l); err != nil {
			return err
		}
	}
	return nil
}
