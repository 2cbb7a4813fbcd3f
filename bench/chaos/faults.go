package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ashlar.dev/bench/chaos/load"
	"ashlar.dev/bench/e2e/cluster"
)

// fault does one fault, ends it, and waits until all is well.
func (r *runner) fault(f Fault, row *Row) error {
	pause(f.Calm)
	if f.Kind.loses() {
		if err := r.fleet.CLI.WaitHealthy(healTimeout); err != nil {
			return fmt.Errorf("before what is lost for good: %w", err)
		}
	}
	targets, err := r.targets(f)
	if err != nil {
		return err
	}
	row.Target = strings.Join(targets, ", ")
	witnesses := r.witnesses(f, targets)
	for _, d := range r.disks {
		d.TakeGap()
	}
	row.At = time.Since(r.start)
	r.say("fault %d: %s", row.Number, row.what())
	if err := r.begin(f, targets); err != nil {
		return err
	}
	// Others must have written after the fault began, or the witness proves nothing.
	var firsts []<-chan time.Time
	for _, d := range r.disks {
		firsts = append(firsts, d.First())
	}
	pause(f.Hold)
	for i, w := range witnesses {
		select {
		case <-firsts[i%len(firsts)]:
			row.Witnessed = true
		default:
		}
		w.Ask(blocks, 200)
	}
	if err := r.end(f, targets); err != nil {
		return err
	}
	ended := time.Now()
	for _, w := range witnesses {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		w.Close(ctx)
		cancel()
	}
	if f.Kind.loses() {
		if err := r.fleet.CLI.WaitHealthy(healTimeout); err != nil {
			return fmt.Errorf("after what was lost for good: %w", err)
		}
	}
	if err := r.recovered(ended); err != nil {
		return err
	}
	row.Recovery = time.Since(ended)
	for _, d := range r.disks {
		row.Gaps = append(row.Gaps, d.TakeGap())
	}
	return nil
}

func pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	<-t.C
}

// witnesses connect to a daemon that is about to become a zombie.
func (r *runner) witnesses(f Fault, targets []string) (out []*load.Witness) {
	switch f.Kind {
	case PauseOwner, PauseBlockd, CutOwner, CutOwnerInward, CutOwnerFromMetads, CutPair, CutBlockd:
	default:
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	endpoint := slices.Index(r.fleet.Blockds(), targets[0])
	for _, d := range r.disks {
		w, err := load.NewWitness(ctx, d, r.client(), endpoint)
		if err != nil { // the workers see as much
			r.say("no witness: %v", err)
			continue
		}
		out = append(out, w)
	}
	return out
}

// targets names the daemons that the fault is about.
func (r *runner) targets(f Fault) ([]string, error) {
	blockds, metads := r.fleet.Blockds(), r.fleet.Metads()
	switch f.Kind {
	case KillBlockd, PauseBlockd, CutBlockd, LoseStore, LoseHost:
		return []string{blockds[f.Pick%len(blockds)]}, nil
	case LoseMetad:
		return []string{metads[f.Pick%len(metads)]}, nil
	case LoseMachine, LoseStoreAndMetad:
		return []string{blockds[f.Pick%len(blockds)], metads[f.Pick/len(blockds)%len(metads)]}, nil
	case KillMetads:
		return metads, nil
	case KillAll:
		return append(blockds, metads...), nil
	}
	var owner, leader string
	err := cluster.Wait("an owner and a leader", recoverTimeout, func() bool {
		d, err := r.fleet.CLI.Disk(r.disks[0].Name)
		s, err2 := r.fleet.CLI.Status()
		owner, leader = d.Owner, s.Leader()
		return err == nil && err2 == nil && owner != "" && leader != ""
	})
	if err != nil {
		return nil, err
	}
	switch f.Kind {
	case KillLeader, PauseLeader, CutLeader:
		return []string{leader}, nil
	case KillOwnerAndLeader:
		return []string{owner, leader}, nil
	case CutPair:
		others := slices.DeleteFunc(blockds, func(b string) bool { return b == owner })
		return []string{owner, others[f.Pick%len(others)]}, nil
	}
	return []string{owner}, nil
}

// begin starts a fault.
func (r *runner) begin(f Fault, targets []string) error {
	all := append(r.fleet.Blockds(), r.fleet.Metads()...)
	switch f.Kind {
	case KillBlockd, KillOwner, KillLeader, KillMetads, KillOwnerAndLeader, KillAll:
		return r.each(targets, r.fleet.Kill)
	case LoseStore, LoseHost, LoseMetad, LoseMachine, LoseStoreAndMetad:
		return r.lose(f, targets)
	case PauseOwner, PauseBlockd, PauseLeader, BlinkOwner:
		return r.each(targets, r.fleet.Pause)
	case CutOwner, CutBlockd, CutLeader:
		return r.fleet.Cut(targets[0], all, false)
	case CutOwnerInward:
		return r.fleet.Cut(targets[0], all, true)
	case CutOwnerFromMetads:
		return r.fleet.Cut(targets[0], r.fleet.Metads(), false)
	case CutPair:
		return r.fleet.Cut(targets[0], targets[1:], false)
	}
	return fmt.Errorf("no such fault: %d", f.Kind)
}

// end takes a fault back.
func (r *runner) end(f Fault, targets []string) error {
	switch f.Kind {
	case KillBlockd, KillOwner, KillLeader, KillMetads, KillOwnerAndLeader, KillAll:
		return r.each(targets, r.fleet.Start)
	case LoseStore, LoseHost, LoseMetad, LoseMachine, LoseStoreAndMetad:
		return r.replace(targets)
	case PauseOwner, PauseBlockd, PauseLeader, BlinkOwner:
		return r.each(targets, r.fleet.Resume)
	}
	return r.fleet.Mend(targets[0])
}

func (r *runner) each(targets []string, do func(string) error) error {
	var all error
	for _, t := range targets {
		all = errors.Join(all, do(t))
	}
	return all
}

// allowed is what daemons may log in a run of faults.
var allowed = append(append([]cluster.Allowance{
	{Pattern: `level=WARN msg="store declared lost"`, Reason: "the operator gives up what a fault took away"}}, cluster.Always...), cluster.Faults...)
