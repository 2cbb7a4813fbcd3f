package coretest

import (
	"slices"
	"time"

	"ashlar.dev/blockd/volume/core"
)

// roll is a rollback that metad has committed and that the owner is told of until it is done.
type roll struct{ to, safety *Snap }

// Rollback makes the volume what it was at a snapshot. Nobody uses it meanwhile: metad fences
// the owner, and the next one opens it for this alone. It returns when that is ordered.
func (w *World) Rollback(s *Snap) (*Snap, error) {
	if err := w.Settle(); err != nil {
		return nil, err
	}
	if err := w.readSnap(s); err != nil {
		return nil, err
	}
	for _, e := range w.Engines {
		e.Kill() // its clients hear that it is fenced
	}
	w.roll = &roll{to: s}
	w.open()
	if err := w.Settle(); err != nil {
		return nil, err
	}
	w.log("rollback to snapshot %x", s.ID)
	w.roll.safety, _ = w.Mark(w.Owner())
	return w.roll.safety, nil
}

// Rolled tells that no rollback is under way.
func (w *World) Rolled() bool { return w.roll == nil }

// askRoll is what a shell does that was told by metad: the mark first, then the rest.
func (e *Engine) askRoll() {
	w := e.w
	if w.roll == nil || w.roll.safety == nil || e != w.Owner() || !e.Opened || e.Ended {
		return
	}
	if w.roll.safety.state == snapAsked {
		w.markAgain(e, w.roll.safety)
		return
	}
	e.step(func(now time.Duration, fx *core.Effects) {
		if err := e.Core.Rollback(now, core.Rollback{To: w.roll.to.ID, Safety: w.roll.safety.ID}, fx); err != nil {
			w.Fail(err)
		}
	})
}

// rolledBack: it is done, and metad has heard of it. The model begins anew with what the snapshot was read as.
func (w *World) rolledBack(e *Engine) {
	if w.roll == nil || e != w.Owner() {
		return
	}
	old := w.Model
	w.Model = NewModel()
	w.Model.time = old.tick()
	w.Model.inherit(w.roll.to.seen)
	have := e.Core.Snapshots()
	for _, s := range w.Snaps {
		if s.state == snapAsked && !slices.Contains(have, s.ID) { // its mark came to nothing; asked again, it is of the new branch
			s.model, s.begun = w.Model, w.Model.tick()
		}
	}
	w.roll = nil
	e.Core.Thaw()
	w.log("rolled back")
}
