package core

import (
	"testing"

	"ashlar.dev/pkg/id"
)

// Without this an owner that lets its disk go while stores are being listed would have metad forget that there may be
// leftovers, though it judged none of those that were listed since: nobody would look for them again.
func TestLeftoversListedWhileTheDiskIsLetGoAreNotForgotten(t *testing.T) {
	for _, s := range []state{stateServing, stateDraining, stateFenced} {
		c := &Core{cfg: Config{Epoch: 3}, state: s}
		c.reap = reapState{wanted: true, ready: true, busy: true}
		left := Leftover{Segment: id.MakeSegment(7, 1), Generation: id.Generation{Epoch: 2, N: 1}}
		var fx Effects
		c.ReapListed(0, true, &fx)
		if fx.Reaped != (s == stateServing) {
			t.Errorf("state %d: metad is told that nothing is left: %t", s, fx.Reaped)
		}
		if s != stateServing && c.IsLeftover(left.Segment, left.Generation) {
			t.Errorf("state %d: a segment is judged by a table that may be closed", s)
		}
	}
}
