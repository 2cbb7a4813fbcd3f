package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

type scrubCommand struct {
	Target string `arg:"" optional:"" help:"A disk, by name or id, or a store, by id. Without it everything is looked at."`
	Wait   bool   `help:"Wait for the end and print what was found."`
	ID     string `name:"id" help:"Ask how far an earlier scrub is; its id is what ashlar scrub printed. Name the same target." placeholder:"ID"`
}

// Help is printed by kong below the summary.
func (c *scrubCommand) Help() string {
	return `Every store reads all its shards (or those of one disk) from its disk, checks each block, and
compares with the other stores what should be there. What is wrong or missing is rebuilt from
the others and written again, while disks are in use. It reads at most scrub_rate of each host.

Stores do this by themselves, slowly, every 14 days (scrub_every); this is for when you want to
know now. What was found is counted in ashlar store list; a store with a pattern of wrong shards
is named by ashlar status (store_bad_blocks): give its place to another with ashlar store replace.

The exit code is 1 if something is wrong that could not be mended.`
}

// scrubView is a scrub in JSON.
type scrubView struct {
	ID      string           `json:"id"`
	Target  string           `json:"target,omitempty"`
	Done    bool             `json:"done"`
	Shards  uint64           `json:"shards"`
	Bytes   uint64           `json:"bytes"`
	Wrong   uint64           `json:"wrong"`
	Missing uint64           `json:"missing"`
	Mended  uint64           `json:"mended"`
	Stuck   uint64           `json:"stuck"`
	Stores  []scrubStoreView `json:"stores"`
}

type scrubStoreView struct {
	StoreID     string `json:"storeId"`
	Host        string `json:"host"`
	State       string `json:"state"` // waiting, running, done or away
	Shards      uint64 `json:"shards"`
	Bytes       uint64 `json:"bytes"`
	AllShards   uint64 `json:"allShards"`
	AllBytes    uint64 `json:"allBytes"`
	Wrong       uint64 `json:"wrong"`
	Missing     uint64 `json:"missing"`
	Mended      uint64 `json:"mended"`
	Stuck       uint64 `json:"stuck"`
	NotCompared uint64 `json:"notCompared"` // groups of which not all stores could be asked
	Problem     string `json:"problem,omitempty"`
}

func (c *scrubCommand) view(rep *api.ScrubReply) scrubView {
	v := scrubView{ID: c.ID, Target: c.Target, Done: rep.GetDone(), Stores: []scrubStoreView{}}
	for _, x := range rep.GetStores() {
		p := x.GetProgress()
		s := scrubStoreView{StoreID: x.StoreId, Host: x.Host, State: scrubStates[p.GetState()], Shards: p.GetShards(), Bytes: p.GetBytes(), AllShards: p.GetAllShards(),
			AllBytes: p.GetAllBytes(), Wrong: p.GetWrong(), Missing: p.GetMissing(), Mended: p.GetMended(), Stuck: p.GetStuck(), NotCompared: p.GetNotCompared(), Problem: p.GetProblem()}
		v.Stores = append(v.Stores, s)
		v.Shards, v.Bytes, v.Wrong, v.Missing = v.Shards+s.Shards, v.Bytes+s.Bytes, v.Wrong+s.Wrong, v.Missing+s.Missing
		v.Mended, v.Stuck = v.Mended+s.Mended, v.Stuck+s.Stuck
	}
	return v
}

var scrubStates = map[api.ScrubState]string{
	api.ScrubState_SCRUB_STATE_UNSPECIFIED: "waiting", api.ScrubState_SCRUB_STATE_WAITING: "waiting", api.ScrubState_SCRUB_STATE_RUNNING: "running",
	api.ScrubState_SCRUB_STATE_DONE: "done", api.ScrubState_SCRUB_STATE_AWAY: "away",
}

const (
	scrubPoll = 500 * time.Millisecond
	// scrubPatience is how long a cluster that does not answer is asked again.
	scrubPatience = time.Minute
)

// Run is called by kong.
func (c *scrubCommand) Run(ctx context.Context, s *session) error {
	asked, err := c.id()
	if err != nil {
		return err
	}
	if !c.Wait {
		return s.with(ctx, func(ctx context.Context, cl Cluster) error {
			rep, err := cl.Scrub(ctx, asked, c.Target)
			if err != nil {
				return c.explain(err)
			}
			return c.print(s, rep)
		})
	}
	began := s.Clock.Now()
	for heard := began; ; {
		var rep *api.ScrubReply
		err := s.with(ctx, func(ctx context.Context, cl Cluster) (err error) {
			rep, err = cl.Scrub(ctx, asked, c.Target)
			return err
		})
		now := s.Clock.Now()
		passing := errors.Is(err, errs.ErrUnavailable) || errors.Is(err, errs.ErrTimeout)
		switch {
		case err != nil && (!passing || now-heard > scrubPatience):
			return c.explain(err)
		case err == nil && rep.GetDone():
			c.bar(s, nil, 0)
			return c.print(s, rep)
		case err == nil:
			heard = now
			c.bar(s, rep, now-began)
		}
		if err := s.Clock.Sleep(ctx, scrubPoll); err != nil {
			c.bar(s, nil, 0)
			return &hinted{fmt.Errorf("stopped waiting, the scrub goes on: %w", err), "ashlar scrub " + strings.TrimSpace(c.Target+" --wait --id "+c.ID)}
		}
	}
}

// id reads the name of the scrub, or draws one.
func (c *scrubCommand) id() (n [16]byte, err error) {
	if c.ID == "" {
		if _, err := rand.Read(n[:]); err != nil {
			return n, fmt.Errorf("draw an id: %w", err)
		}
		c.ID = hex.EncodeToString(n[:])
		return n, nil
	}
	b, err := hex.DecodeString(c.ID)
	if err != nil || len(b) != len(n) {
		return n, &hinted{fmt.Errorf("scrub id %.40q: %w", c.ID, errs.ErrInvalid), "an id is the 32 hexadecimal digits that ashlar scrub printed"}
	}
	copy(n[:], b)
	return n, nil
}

func (c *scrubCommand) explain(err error) error {
	if errors.Is(err, errs.ErrNotFound) {
		return &hinted{err, "ashlar disk list and ashlar store list show what there is"}
	}
	return err
}

// bar draws how far it is, where a person looks on; nil wipes it.
func (c *scrubCommand) bar(s *session, rep *api.ScrubReply, spent time.Duration) {
	if f, ok := s.Err.(*os.File); !ok || s.flags.Output == "json" || !isTerminal(f) {
		return
	}
	io.WriteString(s.Err, "\r\x1b[K"+scrubBar(rep, spent))
}

func isTerminal(f *os.File) bool {
	i, err := f.Stat()
	return err == nil && i.Mode()&os.ModeCharDevice != 0
}

const barWidth = 32

// scrubBar is one line: how much is looked at, how fast, how long it will take yet.
func scrubBar(rep *api.ScrubReply, spent time.Duration) string {
	if rep == nil {
		return ""
	}
	var done, all, bad uint64
	for _, x := range rep.Stores {
		p := x.GetProgress()
		if p.GetState() == api.ScrubState_SCRUB_STATE_AWAY {
			continue
		}
		done, all, bad = done+p.GetBytes(), all+max(p.GetAllBytes(), p.GetBytes()), bad+p.GetWrong()+p.GetMissing()
	}
	if all == 0 {
		return "waiting for the stores"
	}
	full := int(min(done*barWidth/all, barWidth))
	line := fmt.Sprintf("[%s%s] %s of %s", strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), size(done), size(all))
	if rate := float64(done) / max(spent.Seconds(), 1); rate > 0 && done < all {
		line += fmt.Sprintf(", %s/s, %s left", size(uint64(rate)), time.Duration(float64(all-done)/rate*float64(time.Second)).Round(time.Second))
	}
	if bad > 0 {
		line += fmt.Sprintf(", %d found", bad)
	}
	return line
}

// print shows what there is, and fails if something is wrong that nothing mends.
func (c *scrubCommand) print(s *session, rep *api.ScrubReply) error {
	v := c.view(rep)
	err := s.show(v, func(w io.Writer) {
		var rows [][]string
		for _, x := range v.Stores {
			rows = append(rows, []string{x.StoreID, x.Host, x.State, strconv.FormatUint(x.Shards, 10), size(x.Bytes), strconv.FormatUint(x.Wrong, 10),
				strconv.FormatUint(x.Missing, 10), strconv.FormatUint(x.Mended, 10), strconv.FormatUint(x.Stuck, 10), x.Problem})
		}
		if v.Done {
			table(w, []string{"STORE", "BLOCKD", "STATE", "SHARDS", "BYTES", "WRONG", "MISSING", "MENDED", "STUCK", ""}, rows)
			fmt.Fprintf(w, "%d shards, %s: %d wrong, %d missing, %d mended, %d cannot be mended now\n", v.Shards, size(v.Bytes), v.Wrong, v.Missing, v.Mended, v.Stuck)
			return
		}
		fmt.Fprintf(w, "scrub %s on %d stores\n  wait for its end: ashlar scrub %s\n", v.ID, len(v.Stores), strings.TrimSpace(v.Target+" --wait --id "+v.ID))
	})
	if err == nil && v.Done && v.Stuck > 0 {
		err = &hinted{fmt.Errorf("%d shards are wrong and cannot be mended now: %w", v.Stuck, errs.ErrCorrupt),
			"stores that are down may have what is missing: ashlar status; it is tried again by itself"}
	}
	return err
}
