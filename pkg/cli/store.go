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
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
)

type storeCommands struct {
	List    storeList    `cmd:"" help:"List all stores."`
	Add     storeAdd     `cmd:"" help:"Give this machine's blockd one more store, without a restart: format a folder and serve it."`
	Drain   storeDrain   `cmd:"" help:"Empty a store that serves: what it has goes to others, then it is removed."`
	Remove  storeLost    `cmd:"" aliases:"lost" help:"Give up a store that is down and will never come back: what it had is rebuilt on others."`
	Replace storeReplace `cmd:"" help:"Before or after its disk is changed: drain the store if it serves, remove it if it is down."`
}

// storeView is a store in JSON.
type storeView struct {
	StoreID          string     `json:"storeId"`
	Incarnation      string     `json:"incarnation"`
	Host             string     `json:"host"`
	Zone             string     `json:"zone,omitempty"`
	State            string     `json:"state"` // up, down, out, draining or lost
	Problem          string     `json:"problem,omitempty"`
	CapacityBytes    uint64     `json:"capacityBytes"`
	UsedBytes        uint64     `json:"usedBytes"`
	LogUsedBytes     uint64     `json:"logUsedBytes"`
	LogCapacityBytes uint64     `json:"logCapacityBytes"`
	Full             bool       `json:"full"`
	PGs              uint32     `json:"pgs"`
	Ensembles        uint32     `json:"ensembles"`
	PGsLeaving       uint32     `json:"pgsLeaving"` // groups that still need what it has, though its place is given away
	Repair           repairView `json:"repair"`
	FreeBytes        uint64     `json:"freeBytes"` // until it calls itself full
	Care             careView   `json:"care"`
}

// careView is what a store found of its own shards.
type careView struct {
	Wrong      uint64 `json:"wrong"`   // shards found wrong since the store was formatted
	Missing    uint64 `json:"missing"` // shards that should have been there and were not
	Mended     uint64 `json:"mended"`
	Stuck      uint32 `json:"stuck"` // wrong now, and too few others are right
	Problem    string `json:"problem,omitempty"`
	Flagged    bool   `json:"flagged"` // so many, so fast that the disk is not to be trusted
	PassBegan  string `json:"passBegan,omitempty"`
	PassEnded  string `json:"passEnded,omitempty"`
	PassBytes  uint64 `json:"passBytes"`
	PassShards uint64 `json:"passShards"`
}

func viewCare(x *api.Care) careView {
	return careView{Wrong: x.GetWrong(), Missing: x.GetMissing(), Mended: x.GetMended(), Stuck: x.GetStuck(), Problem: x.GetProblem(), Flagged: x.GetFlagged(),
		PassBegan: rfc3339(x.GetPassBeganUnixMs()), PassEnded: rfc3339(x.GetPassEndedUnixMs()), PassBytes: x.GetPassBytes(), PassShards: x.GetPassShards()}
}

// found says in words what a store found of its shards; nothing if all were right.
func found(x *api.Care) string {
	if x.GetWrong()+x.GetMissing()+uint64(x.GetStuck()) == 0 {
		return ""
	}
	s := fmt.Sprintf("%d shards were wrong or missing, %d are mended", x.GetWrong()+x.GetMissing(), x.GetMended())
	if x.GetFlagged() {
		s += "; replace it"
	}
	return s
}

// repairView is what is being moved to where it belongs.
type repairView struct {
	Groups         uint32 `json:"groups,omitempty"`
	SegmentsDone   uint64 `json:"segmentsDone"`
	SegmentsLeft   uint64 `json:"segmentsLeft"`
	BytesDone      uint64 `json:"bytesDone"`
	BytesLeft      uint64 `json:"bytesLeft"`
	BytesPerSecond uint64 `json:"bytesPerSecond"`
	SecondsLeft    uint64 `json:"secondsLeft"`
	Stuck          uint32 `json:"stuck"`
}

func viewRepair(x *api.Repair) repairView {
	return repairView{Groups: x.GetGroups(), SegmentsDone: x.GetSegmentsDone(), SegmentsLeft: x.GetSegmentsLeft(), BytesDone: x.GetBytesDone(),
		BytesLeft: x.GetBytesLeft(), BytesPerSecond: x.GetBytesPerSecond(), SecondsLeft: x.GetSecondsLeft(), Stuck: x.GetStuck()}
}

func viewStore(x *api.Store) storeView {
	return storeView{StoreID: x.StoreId, Incarnation: x.Incarnation, Host: x.Host, Zone: x.Zone, State: x.State, Problem: x.Problem,
		CapacityBytes: x.CapacityBytes, UsedBytes: x.UsedBytes, LogUsedBytes: x.LogUsedBytes, LogCapacityBytes: x.LogCapacityBytes,
		Full: x.Full, PGs: x.Pgs, Ensembles: x.Ensembles, PGsLeaving: x.PgsLeaving, Repair: viewRepair(x.Repair), Care: viewCare(x.Care), FreeBytes: x.FreeBytes}
}

type storeList struct{}

// Run is called by kong.
func (c *storeList) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		stores, err := cl.Stores(ctx)
		if err != nil {
			return err
		}
		views := make([]storeView, len(stores))
		for i, x := range stores {
			views[i] = viewStore(x)
		}
		return s.show(views, func(w io.Writer) {
			if len(stores) == 0 {
				fmt.Fprintln(w, "no stores yet; a blockd brings its own when it starts")
				return
			}
			var rows [][]string
			for _, x := range stores {
				state := x.State
				if x.Full {
					state += ", full"
				}
				rows = append(rows, []string{x.StoreId, x.Host, dash(x.Zone), state, size(x.UsedBytes), size(x.CapacityBytes), percent(x.UsedBytes, x.CapacityBytes), size(x.FreeBytes),
					percent(x.LogUsedBytes, x.LogCapacityBytes), strconv.Itoa(int(x.Pgs)), strings.Join(strings.Fields(moving(x)+" "+x.Problem+" "+found(x.Care)), " ")})
			}
			table(w, []string{"STORE", "BLOCKD", "ZONE", "STATE", "USED", "SIZE", "", "FREE", "JOURNAL", "GROUPS", ""}, rows)
		})
	})
}

// moving says in words what a store is being given, or still has that others need.
func moving(x *api.Store) string {
	r := x.GetRepair()
	switch {
	case x.State == "draining" && x.PgsLeaving == 0 && x.Pgs == 0 && x.Ensembles > 0:
		return fmt.Sprintf("empty but for %d journals", x.Ensembles)
	case x.State == "draining" && x.PgsLeaving+x.Pgs > 0:
		return fmt.Sprintf("%d groups to leave", x.PgsLeaving+x.Pgs)
	case x.State == "draining":
		return "empty; closed journals of disks name it until their next checkpoint"
	case r.GetSegmentsLeft() > 0:
		text := fmt.Sprintf("to get %d segments, %s", r.SegmentsLeft, size(r.BytesLeft))
		if r.GetSecondsLeft() > 0 {
			text += fmt.Sprintf(", at %s/s, about %s", size(r.BytesPerSecond), time.Duration(r.SecondsLeft)*time.Second)
		}
		return text
	}
	return ""
}

// store finds one by its id.
func store(ctx context.Context, cl Cluster, id string) (*api.Store, error) {
	stores, err := cl.Stores(ctx)
	if err != nil {
		return nil, err
	}
	for _, x := range stores {
		if x.StoreId == id {
			return x, nil
		}
	}
	return nil, &hinted{fmt.Errorf("store %s: %w", id, errs.ErrNotFound), "ashlar store list shows them all"}
}

type storeDrain struct {
	Store string `arg:"" help:"Id of the store, as ashlar store list shows it."`
	Stop  bool   `help:"Keep the store after all."`
}

// Run is called by kong.
func (c *storeDrain) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		x, err := store(ctx, cl, c.Store)
		if err != nil {
			return err
		}
		return c.drain(ctx, s, cl, x)
	})
}

func (c *storeDrain) drain(ctx context.Context, s *session, cl Cluster, x *api.Store) error {
	_, err := cl.DrainStore(ctx, c.Store, c.Stop)
	if errors.Is(err, errs.ErrConflict) || errors.Is(err, errs.ErrNoSpace) {
		return &hinted{err, "ashlar store list shows the others; ashlar store add, on any storage host, brings one more"}
	}
	if err != nil {
		return err
	}
	x.State = "draining"
	if c.Stop {
		x.State = "up"
	}
	return s.show(viewStore(x), func(w io.Writer) {
		if c.Stop {
			fmt.Fprintf(w, "store %s stays\n", x.StoreId)
			return
		}
		fmt.Fprintf(w, "store %s is being emptied\n  when ashlar store list shows it no more, and ashlar events that it is closed, its disk may be taken away\n", x.StoreId)
	})
}

type storeReplace struct {
	Store string `arg:"" help:"Id of the store, as ashlar store list shows it."`
	Sure  bool   `help:"Needed if the store is down: whatever is only on it is given up."`
}

// Run is called by kong.
func (c *storeReplace) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		x, err := store(ctx, cl, c.Store)
		if err != nil {
			return err
		}
		if x.State == "up" || x.State == "draining" {
			return (&storeDrain{Store: c.Store}).drain(ctx, s, cl, x)
		}
		return (&storeLost{Store: c.Store, Sure: c.Sure}).remove(ctx, s, cl, x)
	})
}

type storeLost struct {
	Store      string `arg:"" help:"Id of the store, as ashlar store list shows it."`
	Sure       bool   `help:"Needed: whatever is only on this store is given up."`
	AcceptLoss bool   `help:"Even if some data can only be read with this store."`
}

// Run is called by kong.
func (c *storeLost) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		x, err := store(ctx, cl, c.Store)
		if err != nil {
			return err
		}
		return c.remove(ctx, s, cl, x)
	})
}

func (c *storeLost) remove(ctx context.Context, s *session, cl Cluster, x *api.Store) error {
	if !c.Sure {
		return &hinted{fmt.Errorf("store %s is not given up without --sure: %w", c.Store, errs.ErrInvalid),
			"this gives up whatever is only on that store, for ever; if its disk is truly gone, repeat with --sure"}
	}
	err := cl.DeclareStoreLost(ctx, x.StoreId, x.Incarnation, c.AcceptLoss)
	if errors.Is(err, errs.ErrConflict) {
		return &hinted{err, "if the store is up: ashlar store drain, or stop its blockd; if data would be lost: bring other stores back, or repeat with --accept-loss"}
	}
	if err != nil {
		return err
	}
	x.State = "lost"
	return s.show(viewStore(x), func(w io.Writer) { fmt.Fprintf(w, "store %s is given up\n", x.StoreId) })
}

type blockdCommands struct {
	Store blockdStore `cmd:"" help:"Prepare the folder of a store."`
	Check blockdCheck `cmd:"" help:"Look at the folder of a store that no blockd has open, and write nothing."`
}

type blockdStore struct {
	Format blockdFormat `cmd:"" help:"Format a folder as a store. A folder that is a store already is refused."`
}

type blockdFormat struct {
	Dir  string          `arg:"" help:"An empty or new folder, best alone on its disk." type:"path"`
	Size config.ByteSize `required:"" help:"How much of the disk the store may fill." placeholder:"SIZE"`
}

// Run is called by kong.
func (c *blockdFormat) Run(ctx context.Context, s *session) error {
	return s.Exec(ctx, "blockd", "store", "format", "--size", c.Size.String(), c.Dir)
}

type blockdCheck struct {
	Dir string `arg:"" help:"Folder of the store." type:"path"`
}

// Help is printed by kong below the summary.
func (c *blockdCheck) Help() string {
	return `Reads the index, the journal log, and the head and every block of every shard. The exit code is 0
if all is right, 1 if something is wrong, 2 if it could not look: the store is in use, or is none.
ashlar scrub looks at stores that are in use, and mends what is wrong.`
}

// Run is called by kong.
func (c *blockdCheck) Run(ctx context.Context, s *session) error {
	return s.Exec(ctx, "blockd", "check", "-o", s.flags.Output, c.Dir)
}
