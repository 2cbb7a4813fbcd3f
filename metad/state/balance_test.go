package state

import (
	"testing"

	"ashlar.dev/pkg/errs"
)

// A pause is the cluster's: the next leader keeps it, and a member that does not know of it
// never sees it.
func TestPauseOfBalancingIsKept(t *testing.T) {
	w := newWorld(t, 3, 2)
	w.refused(errs.ErrUnavailable, &SetBalancing{Paused: true})
	w.ok(&SetLevel{Level: LevelTime})
	w.ok(&SetBalancing{Paused: true})
	m, err := Restore(w.Snapshot())
	if err != nil || !m.BalancingPaused() {
		t.Fatal(err, m.BalancingPaused())
	}
	w.ok(&SetBalancing{})
	if w.BalancingPaused() {
		t.Error("still paused")
	}
}
