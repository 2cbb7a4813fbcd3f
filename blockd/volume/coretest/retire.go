package coretest

import (
	"slices"
)

// retirement is the deletion of a disk of which snapshots are kept, or read by clones: nobody uses
// it, and its owner is told to make all of it zeros until that is done.
type retirement struct {
	trash   bool // it is not emptied, and may come back
	emptied bool
	trim    *Request
}

// Retire deletes the disk: metad fences its owner, and the next one opens it for its snapshots
// alone. They stay, or go too: then those that clones read are hidden. One of which nobody knows
// whether it is there goes.
func (w *World) Retire(stay bool) error {
	if err := w.Settle(); err != nil {
		return err
	}
	if err := w.ReadSnapshots(); err != nil { // they must be this for as long as they are there
		return err
	}
	for _, e := range w.Engines {
		e.Kill()
	}
	for _, s := range w.Snaps {
		if s.state == snapAsked || s.state == snapMade && !stay {
			w.Drop(s)
		}
	}
	w.retired = &retirement{}
	w.log("the disk is deleted, its snapshots stay: %t", stay)
	w.open()
	return w.err
}

// Needed tells whether somebody may read a snapshot; of a deleted disk else nothing is left to be kept.
func (w *World) Needed() bool {
	return slices.ContainsFunc(w.Snaps, func(s *Snap) bool { return s.state == snapMade || s.state == snapHidden })
}

// askEmpty is what a shell does that was told by metad.
func (e *Engine) askEmpty() {
	w, x := e.w, e.w.retired
	if x == nil || x.trash || x.emptied || e != w.Owner() || !e.Opened || e.Ended {
		return
	}
	switch t := x.trim; {
	case t == nil || t.ended && t.Err != nil:
		x.trim = w.trimAll(e)
	case t.ended:
		x.emptied = true
		w.log("the disk is empty")
	}
}

// Bury purges the deleted volumes of the family of which nobody needs a snapshot, at whatever point
// their owners are; the first of the family, from whom the others are asked for, stays.
func (w *World) Bury() error {
	for i := 0; i < len(w.kin); i++ {
		x := w.kin[i]
		if x.retired == nil || x.retired.trash || x == w.kin[0] || x.Needed() {
			continue
		}
		if err := x.Purge(); err != nil {
			return err
		}
		w.Buried++
		i = -1 // one that it began with may go now
	}
	return nil
}
