package chaos

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/bench/chaos/fleet"
	"ashlar.dev/bench/e2e/cluster"
)

// healTimeout bounds the rebuilding of what was lost.
const healTimeout = 180 * time.Second

// lose kills daemons and takes away what they had: of a blockd one store or, by the
// fault's kind, all; of a metad everything.
func (r *runner) lose(f Fault, targets []string) error {
	r.lost = nil
	for _, id := range targets {
		if err := r.fleet.Kill(id); err != nil {
			return err
		}
		var stores []fleet.Store
		if slices.Contains(r.fleet.Blockds(), id) {
			var err error
			if stores, err = r.fleet.Stores(id); err != nil {
				return err
			}
		}
		if len(stores) > 0 && (f.Kind == LoseStore || f.Kind == LoseStoreAndMetad) {
			n := f.Pick / len(r.fleet.Blockds()) % len(stores)
			stores = stores[n : n+1]
			if err := r.fleet.WipeStore(stores[0]); err != nil {
				return err
			}
		} else if err := r.fleet.WipeData(id); err != nil {
			return err
		}
		for _, s := range stores {
			r.lost = append(r.lost, s.ID)
		}
	}
	return nil
}

// replace puts empty machines in the place of the lost ones and says what is gone, as an
// operator would.
func (r *runner) replace(targets []string) error {
	for _, id := range targets {
		member := slices.Contains(r.fleet.Metads(), id)
		if member {
			if err := r.command("metad", "remove", id, "--sure"); err != nil {
				return err
			}
		}
		if err := r.fleet.Start(id); err != nil {
			return err
		}
		if member {
			api, raft := r.fleet.Addresses(id)
			if err := r.command("metad", "add", id, "--api", api, "--raft", raft); err != nil {
				return err
			}
		}
	}
	for _, s := range r.lost {
		if err := r.command("store", "remove", s, "--sure"); err != nil {
			return err
		}
	}
	return nil
}

// command repeats a command until it is carried out: a store counts as down only after some
// silence, and a leader may be missing.
func (r *runner) command(args ...string) error {
	var last cluster.Result
	var lastErr error
	err := cluster.Wait(fmt.Sprint(args), recoverTimeout, func() bool {
		last, lastErr = r.fleet.CLI.CLI(args...)
		return lastErr == nil && last.Code == 0
	})
	if err != nil {
		return errors.Join(err, lastErr, fmt.Errorf("it said: %s%s", last.Stdout, last.Stderr))
	}
	return nil
}
