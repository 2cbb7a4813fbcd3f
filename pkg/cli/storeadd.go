package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/devcluster"
	"ashlar.dev/pkg/errs"
)

type storeAdd struct {
	Dir      string          `arg:"" help:"An empty or new folder, best alone on its disk." type:"path"`
	Size     config.ByteSize `required:"" help:"How much of the disk the store may fill." placeholder:"SIZE"`
	Host     string          `help:"Name of the blockd: of this machine, or one of ashlar dev (b1)." placeholder:"HOST"`
	Config   string          `help:"The blockd's config file, if it is not blockd.yaml in the folder of --data." placeholder:"FILE" type:"path"`
	Existing bool            `help:"The folder is a store already: one of another machine, or of an addition that broke off. Nothing is formatted."`
}

// Help is printed by kong below the summary.
func (c *storeAdd) Help() string {
	return `Run it on the machine of the disk, as the user that owns blockd.yaml. It formats the folder, adds it to
that file (all else in there stays), has the running blockd open it, and waits until the cluster uses it. Stores
that are there already then give it a share of what they have, unless ashlar cluster set --rebalance off.`
}

// storeAddView is what was done, in JSON.
type storeAddView struct {
	StoreID string `json:"storeId"`
	Host    string `json:"host"`
	Config  string `json:"config"`
	State   string `json:"state"` // up; asked: this machine cannot ask metad; stopped: blockd does not run
}

// Run is called by kong.
func (c *storeAdd) Run(ctx context.Context, s *session) error {
	if s.flags.Data == "" && c.Config == "" {
		return &hinted{fmt.Errorf("which blockd is meant is not said: %w", errs.ErrInvalid), "give --data DIR, the folder of ashlar dev, cluster init or host join"}
	}
	file, cfg, err := devcluster.BlockdFile(s.flags.Data, c.Host, c.Config)
	if err != nil {
		return &hinted{err, c.elsewhere()}
	}
	if err := ownedByUs(file); err != nil {
		return err
	}
	for _, x := range cfg.Stores {
		if filepath.Clean(x.Path) == filepath.Clean(c.Dir) {
			return &hinted{fmt.Errorf("%s has the store in %s already: %w", file, c.Dir, errs.ErrExists), "ashlar store list shows it; if it does not, see the log of blockd"}
		}
	}
	v := storeAddView{Host: cfg.ID, Config: file}
	if v.StoreID, err = c.prepare(ctx, s); err != nil {
		return err
	}
	if err := devcluster.AddStore(s.flags.Data, file, devcluster.StoreConfig{Path: c.Dir, Size: c.Size}); err != nil {
		return &hinted{err, "the folder is formatted; repeat with --existing"}
	}
	runs, err := devcluster.ReloadBlockd(cfg.Data)
	if err != nil {
		return &hinted{err, file + " has the store: it is served from the next start of blockd on"}
	}
	if v.State = "stopped"; runs {
		if v.State, err = c.await(ctx, s, v.StoreID); err != nil {
			return err
		}
	}
	return s.show(v, func(w io.Writer) {
		fmt.Fprintf(w, "store %s on %s is %s\n", v.StoreID, v.Host, map[string]string{
			"up": "up", "asked": "given to blockd; ashlar store list, where you are an operator, shows when it is up",
			"stopped": "in its config: blockd does not run, and serves it when it starts"}[v.State])
	})
}

// elsewhere says what to run where the disk is. No daemon takes a folder from afar: who may
// speak to metad is not therefore to choose where the user of blockd writes on every machine.
func (c *storeAdd) elsewhere() string {
	where := "the machine of its disk"
	if c.Host != "" {
		where += ", here that of " + c.Host
	}
	return fmt.Sprintf("a store is added on %s; there run: ashlar --data /etc/ashlar store add %s --size %s; for ashlar dev say --host b1 or another",
		where, c.Dir, c.Size)
}

// prepare formats the folder, or finds the store in it.
func (c *storeAdd) prepare(ctx context.Context, s *session) (id string, err error) {
	if c.Existing {
		return s.ExecOutput(ctx, "blockd", "store", "id", c.Dir)
	}
	return s.ExecOutput(ctx, "blockd", "store", "format", "--size", c.Size.String(), c.Dir)
}

// ownedByUs refuses to write a file, and a store, that its blockd could not read any more.
func ownedByUs(file string) error {
	fi, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("look at config: %w", err)
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return &hinted{fmt.Errorf("%s is not yours: %w", file, errs.ErrDenied), fmt.Sprintf("run it as its owner, as whom blockd runs: user number %d", st.Uid)}
	}
	return nil
}

// addPoll is how often the cluster is asked whether it has the store.
const addPoll = 100 * time.Millisecond

// await waits until metad hears of the store that it is up.
func (c *storeAdd) await(ctx context.Context, s *session, store string) (state string, err error) {
	_, err = os.Stat(filepath.Join(s.flags.Data, devcluster.FileName))
	if s.flags.Data == "" || errors.Is(err, os.ErrNotExist) {
		return "asked", nil // a storage host without an operator's certificate
	}
	return "up", s.with(ctx, func(ctx context.Context, cl Cluster) error {
		for {
			all, err := cl.Stores(ctx)
			if err != nil {
				return err
			}
			for _, x := range all {
				if x.StoreId == store && up(x) {
					return nil
				}
			}
			if s.Clock.Sleep(ctx, addPoll) != nil {
				return &hinted{fmt.Errorf("store %s is not up yet: %w", store, errs.ErrTimeout), "ashlar events and the log of blockd say why; ashlar store list shows it when it is up"}
			}
		}
	})
}

// up tells that its host spoke of a store: one that has only registered has no free room yet.
func up(x *api.Store) bool { return x.State == "up" && (x.FreeBytes > 0 || x.Full) }
