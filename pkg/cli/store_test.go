package cli

import (
	"strings"
	"testing"

	"ashlar.dev/pkg/api"
)

// Without this store list would say what a new store is to get, but not how long that takes, or
// "0 B/s" where nobody has measured yet.
func TestStoreSaysHowLongItIsBeingFilled(t *testing.T) {
	x := &api.Store{State: "up", Repair: &api.Repair{SegmentsLeft: 120, BytesLeft: 480 << 20}}
	if got := moving(x); got != "to get 120 segments, 480 MiB" {
		t.Errorf("before a rate is known: %q", got)
	}
	x.Repair.BytesPerSecond, x.Repair.SecondsLeft = 48<<20, 10
	if got := moving(x); got != "to get 120 segments, 480 MiB, at 48 MiB/s, about 10s" {
		t.Errorf("with a rate: %q", got)
	}
}

// Without this who adds a store from another machine would be told that something is missing here,
// not that it is to be done there and how. Nothing is formatted and nobody is asked.
func TestStoreIsAddedOnItsOwnMachine(t *testing.T) {
	x := newTerminal(t)
	here := t.TempDir()
	code, said := x.fails("--data " + here + " store add /srv/disk2 --size 2GiB --host other")
	if code != 3 || x.executed != nil {
		t.Errorf("exit code %d, executed %v", code, x.executed)
	}
	for _, want := range []string{"the machine of its disk, here that of other", "ashlar --data /etc/ashlar store add /srv/disk2 --size 2GiB"} {
		if !strings.Contains(said, want) {
			t.Errorf("does not say %q: %s", want, said)
		}
	}
}
