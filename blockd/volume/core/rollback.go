package core

import (
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// A rollback makes the disk what it was at a snapshot. What it is now is kept by a snapshot
// of its own, the safety snapshot, whose mark ends the branch that is left. When that stands
// and nothing is under way, the head's map becomes the tree of the snapshot, and the next
// checkpoint says so: before it is durable nothing has happened, after it everything has.
// Nothing is counted: all that the head had is the safety snapshot's, all that it gets is the
// other one's. From the opening for a rollback on the volume takes no writes (Config.Frozen) and no marks but the safety snapshot's: what came after the
// mark would be lost, or be in the wrong branch. It stays so until metad has heard that it is done
// (Thaw), for until then it may ask again. Who dies on the way leaves the disk as it
// was or as it is to be; the next owner is told again.

// Rollback says to which snapshot, and which one keeps what the disk was before.
type Rollback struct{ To, Safety id.Raw }

// rollState is a rollback under way.
type rollState struct {
	Rollback
	switched bool   // the head goes on from To
	cut      id.LSN // checkpoints at or above this position say so
}

// errRolling is the answer to what would change a volume that is rolled back.
var errRolling = fmt.Errorf("the disk is being rolled back: %w", errs.ErrUnavailable)

// Rollback begins to roll the volume back, or goes on with that; it may be asked again. The
// mark of the safety snapshot is durable. Effects.RolledBack says that it is done.
func (c *Core) Rollback(now time.Duration, r Rollback, fx *Effects) error {
	s := &c.snaps
	have := c.Snapshots()
	switch {
	case c.state != stateServing:
		return errs.ErrClosed
	case !c.cfg.Frozen:
		return fmt.Errorf("roll back a volume that takes writes: %w", errs.ErrConflict)
	case !slices.Contains(have, r.To) || s.doomed[r.To] || !slices.Contains(have, r.Safety) || r.To == r.Safety:
		return fmt.Errorf("roll back: snapshot: %w", errs.ErrNotFound)
	case s.roll != nil && s.roll.Rollback != r:
		return fmt.Errorf("roll back to two snapshots: %w", errs.ErrConflict)
	}
	if s.roll == nil {
		_, stands := c.snapshot(r.Safety)
		s.roll = &rollState{Rollback: r, switched: stands && s.parent == r.To, cut: c.check.last}
	}
	c.rollOn(now, fx)
	c.absorb(now, fx)
	return nil
}

// rollOn goes on with a rollback.
func (c *Core) rollOn(now time.Duration, fx *Effects) {
	r := c.snaps.roll
	if r == nil || c.state != stateServing {
		return
	}
	if r.switched {
		fx.RolledBack = fx.RolledBack || c.check.committed >= r.cut
		return
	}
	to, ok := c.snapshot(r.To)
	if _, stands := c.snapshot(r.Safety); !ok || !stands || c.check.running != nil || !c.quiet() || !c.journal.Room(storeproto.Meta) {
		return // a tick comes back here
	}
	m, err := blockmap.New(blockmap.Options{Blocks: c.blocks, Root: to.Root, Budget: c.cfg.Budget})
	if err != nil {
		panic(fmt.Sprintf("volume %s: the tree of a snapshot: %v", c.cfg.Volume, err)) // its record was checked
	}
	c.m.Close()
	c.m, r.switched, r.cut = m, true, c.check.last+1
	c.snaps.walk = nil // it begins anew: the children of what it deletes may be others now
	c.snaps.parent = to.ID
	c.snaps.settle(c.floor())
	c.usage.known = false
	c.restartFlatten()
	c.stir(now, fx)
}

// Thaw lets writes in again: metad knows that the volume is rolled back.
func (c *Core) Thaw() { c.snaps.roll, c.cfg.Frozen = nil, false }

// frozen tells that op must not be taken now.
func (c *Core) frozen(op *Op) bool {
	switch op.Kind {
	case OpWrite, OpZero, OpTrim:
		return c.cfg.Frozen
	case OpMark:
		return c.snaps.roll != nil && !slices.Contains(c.Snapshots(), op.Snapshot)
	}
	return false
}
