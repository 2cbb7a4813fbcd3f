package reader

import (
	"testing"
	"time"

	"ashlar.dev/pkg/clock"
)

// Without this stores that are slow under load would get several times the load.
func TestHedgesAreAShareOfReads(t *testing.T) {
	r := New(Config{Clock: clock.NewManual()})
	after := r.cfg.HedgeAfter
	start := func(n int, at time.Duration) {
		for range n {
			r.link(&part{r: r, started: at})
		}
	}
	start(100, 0)
	if n := len(r.late(after - 1)); n != 0 {
		t.Errorf("%d hedged before their time", n)
	}
	if n := len(r.late(after)); n != 100/hedgeShare {
		t.Errorf("%d of 100 late parts hedged", n)
	}
	if n := len(r.late(2 * after)); n != 0 {
		t.Errorf("%d more hedged though nothing was read since", n)
	}
	start(hedgeShare, after)
	if n := len(r.late(2 * after)); n != 1 {
		t.Errorf("%d hedged after %d more reads", n, hedgeShare)
	}
	if n := len(r.late(hedgePatience * after)); n != 100-100/hedgeShare-1 {
		t.Errorf("%d hedged that waited for long", n)
	}
	if n := len(r.late((hedgePatience + 1) * after)); n != hedgeShare {
		t.Errorf("%d of the last hedged", n)
	}
	if r.flight.head != nil || r.flight.tail != nil {
		t.Error("parts are left")
	}
}

// Without this one slow store after a quiet time would find nothing saved for it, or a
// day of quick reads would pay for a storm.
func TestHedgesAreSavedUpToABurst(t *testing.T) {
	r := New(Config{Clock: clock.NewManual()})
	for range 10 * hedgeShare * hedgeBurst {
		p := &part{r: r}
		r.link(p)
		r.unlink(p)
	}
	for range 2 * hedgeBurst {
		r.link(&part{r: r})
	}
	if n := len(r.late(r.cfg.HedgeAfter)); n != hedgeBurst {
		t.Errorf("%d hedged at once, want %d", n, hedgeBurst)
	}
}
