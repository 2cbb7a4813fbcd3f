package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
)

type storeCommands struct {
	List storeList `cmd:"" help:"List all stores."`
	Lost storeLost `cmd:"" help:"Say that a store will never come back, so that nothing waits for it."`
}

// storeView is a store in JSON.
type storeView struct {
	StoreID          string `json:"storeId"`
	Incarnation      string `json:"incarnation"`
	Host             string `json:"host"`
	Zone             string `json:"zone,omitempty"`
	State            string `json:"state"` // up, down or lost
	Problem          string `json:"problem,omitempty"`
	CapacityBytes    uint64 `json:"capacityBytes"`
	UsedBytes        uint64 `json:"usedBytes"`
	LogUsedBytes     uint64 `json:"logUsedBytes"`
	LogCapacityBytes uint64 `json:"logCapacityBytes"`
	Full             bool   `json:"full"`
	PGs              uint32 `json:"pgs"`
	Ensembles        uint32 `json:"ensembles"`
}

func viewStore(x *api.Store) storeView {
	return storeView{StoreID: x.StoreId, Incarnation: x.Incarnation, Host: x.Host, Zone: x.Zone, State: x.State, Problem: x.Problem,
		CapacityBytes: x.CapacityBytes, UsedBytes: x.UsedBytes, LogUsedBytes: x.LogUsedBytes, LogCapacityBytes: x.LogCapacityBytes,
		Full: x.Full, PGs: x.Pgs, Ensembles: x.Ensembles}
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
				rows = append(rows, []string{x.StoreId, x.Host, dash(x.Zone), state, size(x.UsedBytes), size(x.CapacityBytes), percent(x.UsedBytes, x.CapacityBytes),
					percent(x.LogUsedBytes, x.LogCapacityBytes), strconv.Itoa(int(x.Pgs)), x.Problem})
			}
			table(w, []string{"STORE", "BLOCKD", "ZONE", "STATE", "USED", "SIZE", "", "JOURNAL", "GROUPS", ""}, rows)
		})
	})
}

type storeLost struct {
	Store string `arg:"" help:"Id of the store, as ashlar store list shows it."`
	Sure  bool   `help:"Needed: whatever is only on this store is given up."`
}

// Run is called by kong.
func (c *storeLost) Run(ctx context.Context, s *session) error {
	if !c.Sure {
		return &hinted{fmt.Errorf("declare store %s lost: %w", c.Store, errs.ErrInvalid),
			"this gives up whatever is only on that store, for ever; if its disk is truly gone, repeat with --sure"}
	}
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		stores, err := cl.Stores(ctx)
		if err != nil {
			return err
		}
		for _, x := range stores {
			if x.StoreId != c.Store {
				continue
			}
			err := cl.DeclareStoreLost(ctx, x.StoreId, x.Incarnation)
			if errors.Is(err, errs.ErrConflict) {
				return &hinted{err, "the store is up: stop its blockd first"}
			}
			if err != nil {
				return err
			}
			x.State = "lost"
			return s.show(viewStore(x), func(w io.Writer) { fmt.Fprintf(w, "store %s is given up\n", x.StoreId) })
		}
		return &hinted{fmt.Errorf("store %s: %w", c.Store, errs.ErrNotFound), "ashlar store list shows them all"}
	})
}

type blockdCommands struct {
	Store blockdStore `cmd:"" help:"Prepare the folder of a store."`
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
