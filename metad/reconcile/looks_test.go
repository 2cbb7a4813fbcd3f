package reconcile

import (
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// A look is asked of the owner until it answers, and answered from memory after that. In
// trouble all disks are looked at, and one of which something cannot be read until
// nothing is: else a loss that was healed would be shown for ever.
func TestOwnersLookUntilNothingIsUnreadable(t *testing.T) {
	var x Looks
	q := cluster.Look{ID: [16]byte{1}, From: 4096}
	v := id.Volume{7}
	if x.Ask(v, q) != nil {
		t.Fatal("an answer before the question")
	}
	beat := Beat{Volumes: []VolumeBeat{{Volume: v, State: Serving}, {Volume: id.Volume{8}, State: Serving}, {Volume: id.Volume{9}, State: Opening}}}
	for range 2 {
		if o := x.Beat(beat, false); len(o) != 1 || o[0] != (LookOrder{v, q}) {
			t.Fatalf("orders %+v", o)
		}
	}
	beat.Volumes[0].Looks = []cluster.Lost{{Look: q, Bytes: 1}}
	if o := x.Beat(beat, false); len(o) != 0 {
		t.Errorf("asked again: %+v", o)
	}
	if a := x.Ask(v, q); a == nil || a.Bytes != 1 {
		t.Errorf("answer %+v", a)
	}
	if o := x.Beat(beat, true); len(o) != 2 {
		t.Errorf("in trouble: %+v", o)
	}
	beat.Volumes[1].Lost = &cluster.Lost{Away: 1}
	if o := x.Beat(beat, false); len(o) != 1 || o[0].Volume != (id.Volume{8}) {
		t.Errorf("after it: %+v", o)
	}
	beat.Volumes[1].Lost = &cluster.Lost{}
	if o := x.Beat(beat, false); len(o) != 0 {
		t.Errorf("healed: %+v", o)
	}
	for i := range 2 * cluster.LooksMax {
		x.Ask(v, cluster.Look{ID: [16]byte{2, byte(i)}})
	}
	if len(x.asked) != cluster.LooksMax {
		t.Errorf("%d looks are remembered", len(x.asked))
	}
}
