package state

import (
	"testing"

	"ashlar.dev/pkg/errs"
)

// A cordon is committed, so that the next leader keeps it, and outlives the host's restart:
// an operator who works on a machine restarts it.
func TestCordonOutlivesARestartOfTheHost(t *testing.T) {
	w := newWorld(t, 2, 1)
	w.refused(errs.ErrUnavailable, &CordonHost{Host: hostName(1), On: true}) // of a later level
	w.ok(&SetLevel{Level: LevelCordon})
	w.refused(errs.ErrNotFound, &CordonHost{Host: "h9", On: true})
	w.ok(&CordonHost{Host: hostName(1), On: true})
	w.ok(&CordonHost{Host: hostName(1), On: true}) // the answer was lost
	w.register(1, 2, 1)
	m, err := Restore(w.Snapshot())
	if err != nil || !m.Cordoned(hostName(1)) || m.Cordoned(hostName(2)) {
		t.Fatal(err, m.Cordoned(hostName(1)), m.Cordoned(hostName(2)))
	}
	w.ok(&CordonHost{Host: hostName(1)})
	if w.Cordoned(hostName(1)) {
		t.Error("it is cordoned still")
	}
}
