package sim

import (
	"errors"
	"slices"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/blockd/volume/coretest"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Rollbacks: clients let the disk be, metad commits it and fences the owner, and whoever opens the
// disk next carries it out, or the one after.

// rolling is a rollback under way.
type rolling struct{ to, safety *snap }

// rollBack has nobody ask for the disk any more, and orders the rollback when nothing is under way.
func (d *disk) rollBack() {
	if d.held || d.leaves || d.gone || d.retired {
		return
	}
	d.held = true
	d.orderRoll(d.w.now() + 400*time.Millisecond)
}

func (d *disk) orderRoll(until time.Duration) {
	w := d.w
	v, ok := w.metad.m.Volume(d.id)
	switch {
	case !ok || w.menu.calm || w.metad.silent() || w.now() > until:
		d.held = false
		return
	case d.waiting > 0 || slices.ContainsFunc(v.Snapshots, func(s cluster.Snapshot) bool {
		return s.State == cluster.SnapshotCreating || s.State == cluster.SnapshotGrouped
	}):
		w.after(5*time.Millisecond, d.name+" is rolled back soon", func() { d.orderRoll(until) })
		return
	}
	to, o := d.standing()
	if to == nil || !w.whatIs(to, o) {
		d.held = false
		return
	}
	safety := &snap{id: d.snapName(), begun: d.model.Reading(), model: d.model, seen: make(map[uint64]cells), safety: true}
	if r := w.metad.apply(&state.RollbackVolume{Volume: d.id, Epoch: v.Epoch, To: to.id, Safety: safety.id, NowMS: 1}); r.Err != nil {
		w.fail(CheckRollback, "rollback of %s: %v", d.name, r.Err)
		return
	}
	w.log("%s is rolled back to %s", d.name, to)
	d.snaps = append(d.snaps, safety)
	d.rolls = &rolling{to, safety}
}

// obeyRoll does what metad ordered: first the mark, then the rest.
func (e *engine) obeyRoll() {
	r := e.roll
	if r == nil || !e.frozen || e.rolled {
		return
	}
	if !e.safe {
		if !e.marking[r.Safety] {
			e.mark(r.Safety)
		}
		return
	}
	e.step(func(now time.Duration, fx *core.Effects) {
		err := e.core.Rollback(now, core.Rollback{To: id.Raw(r.To), Safety: id.Raw(r.Safety)}, fx)
		if err != nil && !errors.Is(err, errs.ErrClosed) && e.epoch >= e.disk.served {
			e.w.fail(CheckRollback, "%s: %v", e.name, err)
		}
	})
}

// tellRolled tells metad that it is done.
func (e *engine) tellRolled() {
	m, d, r := e.w.metad, e.disk, *e.roll
	e.w.net.ask(e.h, "rolled back "+e.name, func() error {
		x := m.apply(&state.VolumeRolledBack{Volume: d.id, Epoch: e.epoch, Safety: r.Safety})
		if x.Err == nil {
			d.rolledBack(r)
		}
		return x.Err
	}, func(err error) {
		if err == nil {
			e.thaw()
		}
		e.rolled = err == nil // or it is told again, if metad still wants it; if not, its news says so
	})
}

// rolledBack: metad knows it. From here on the disk is what the snapshot was read as.
func (d *disk) rolledBack(r cluster.Rollback) {
	x := d.rolls
	if x == nil || x.safety.id != r.Safety {
		return
	}
	if x.safety.ended == 0 {
		d.w.fail(CheckRollback, "%s is rolled back, and nobody has the mark of snapshot %s", d.name, r.Safety)
	}
	x.safety.safety = false
	d.model = coretest.NewModelAfter(d.model.Reading(), x.to.content())
	d.rolls, d.held = nil, false
	d.w.cover.Rolled++
	d.w.log("%s is rolled back", d.name)
}

// thaw lets clients in again.
func (e *engine) thaw() {
	if e.frozen && !e.dead {
		e.frozen = false
		e.core.Thaw()
	}
}
