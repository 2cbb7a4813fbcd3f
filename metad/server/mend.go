package server

import (
	"context"
	"errors"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/id"
)

// mend commits what makes the cluster whole again, one plan at a time.
func (r *reign) mend() {
	seed, err := r.s.seed()
	if err != nil {
		return // the next round has another chance
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.s.clock.Now()
	// What settles placement settles this too: a starting cluster is not rearranged.
	if r.mu.mending || now < r.mu.settleAt {
		return
	}
	var plan []state.Command
	was, balanced := r.mu.balancer.On(), false
	r.s.node.View(func(m *state.Machine) {
		if plan = r.mu.mender.Plan(now, m, r.mu.live, r.mu.top, seed); len(plan) > 0 {
			return
		}
		if c := r.mu.balancer.Plan(now, m, r.mu.live, r.mu.top); c != nil {
			plan, balanced = []state.Command{c}, true
		}
	})
	r.tellBalancing(was)
	if len(plan) == 0 {
		return
	}
	done := mended{shifting: reconcile.Shifting(r.mu.top), balancing: balanced}
	r.mu.mending = r.s.group.Go("mend", func(context.Context) error {
		r.carryOut(plan, done)
		r.mu.Lock()
		r.mu.mending = false
		r.mu.Unlock()
		r.poke()
		return nil
	})
}

// carryOut commits a plan; what is refused has been overtaken, and is planned anew.
func (r *reign) carryOut(plan []state.Command, done mended) {
	defer func() { done.note(r.s) }()
	for _, c := range plan {
		ctx, cancel := context.WithTimeout(r.ctx, placeTimeout)
		res, err := r.s.node.Apply(ctx, c)
		cancel()
		if err = errors.Join(err, res.Err); err != nil {
			r.s.log.Debug("not mended", "err", err)
			return
		}
		r.tellMended(c)
		done.add(c)
	}
}

// mended counts what one plan did, so that the loss of a store with many groups is one event.
type mended struct {
	shifting     map[id.PG]bool // groups that balancing moved
	balancing    bool           // the plan is a move by it
	moved, whole int
	better, done int // groups with a better code
	removed      []string
}

func (d *mended) add(c state.Command) {
	switch c := c.(type) {
	case *state.MoveGroup:
		if !d.balancing {
			d.moved++
		}
	case *state.ForgetVersions:
		if !d.shifting[c.PG] {
			d.whole++
		}
	case *state.RecodeGroup:
		d.better++
	case *state.ForgetCodes:
		d.done++
	case *state.RemoveStore:
		d.removed = append(d.removed, c.Store.Store.String())
	}
}

func (d *mended) note(s *Server) {
	if d.moved > 0 {
		s.note(state.Info, "repair_begun", aboutRepair, "", "", "%d placement groups get stores that are to be filled in", d.moved)
	}
	if d.whole > 0 {
		s.note(state.Info, "repair_done", aboutRepair, "", "", "%d placement groups are whole", d.whole)
	}
	if d.better > 0 {
		s.note(state.Info, "recode_begun", aboutRepair, "", "", "%d placement groups get a better code: what is in them is coded anew", d.better)
	}
	if d.done > 0 {
		s.note(state.Info, "recode_done", aboutRepair, "", "", "all that is in %d placement groups has their better code", d.done)
	}
	for _, x := range d.removed {
		s.note(state.Info, "store_removed", aboutStore, x, "", "store removed, nothing needs it")
	}
}

func (r *reign) tellMended(c state.Command) {
	switch c := c.(type) {
	case *state.MarkStore:
		if c.Out {
			r.s.log.Info("store counts as out, its places go to others", "store", c.Store.String())
		} else {
			r.s.log.Info("store is back", "store", c.Store.String())
		}
	case *state.MoveGroup:
		r.s.log.Info("placement group moves", "group", int(c.PG), "version", c.At+1)
	case *state.ForgetVersions:
		r.s.log.Info("placement group is whole", "group", int(c.PG), "version", c.At)
	case *state.RecodeGroup:
		r.s.log.Info("placement group gets a better code", "group", int(c.PG), "version", c.At+1, "k", int(c.K), "m", int(c.M))
	case *state.ForgetCodes:
		r.s.log.Info("placement group has its better code", "group", int(c.PG), "version", c.At)
	case *state.RemoveStore:
		r.s.log.Info("store removed, nothing needs it", "store", c.Store.String())
	}
}
