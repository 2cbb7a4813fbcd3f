package server

import (
	"testing"

	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
)

// Without this a host whose metad is away would grow, or forget that it forgot.
func TestTalesWaitForMetadAndAreBounded(t *testing.T) {
	x := &tales{clock: clock.NewManual()}
	for i := range talesMax + 3 {
		x.tell(client.Info, "k", "host", "", "%d", i)
	}
	first := x.next()
	if len(first) != client.EventsPerBeatMax || first[0].Text != "3" || first[0].N != 4 {
		t.Fatalf("%d events, the first %+v", len(first), first[0])
	}
	if again := x.next(); again[0] != first[0] {
		t.Fatalf("told again: %+v", again[0])
	}
	var last client.Event
	for seen := 0; ; seen++ {
		page := x.next()
		if len(page) == 0 {
			break
		}
		last = page[len(page)-1]
		x.taken(last.N)
	}
	if last.Kind != "events_left_out" || last.Severity != client.Warning {
		t.Fatalf("what was lost is not told: %+v", last)
	}
}
