package cli

import (
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
