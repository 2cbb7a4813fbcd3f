package core

import (
	"testing"
	"time"
)

const (
	mb      = 1 << 20
	reserve = 8 * mb
	limit   = 64 * mb
)

// clients wait for what the rate of repair makes of it.
type clients struct {
	g      *Governor
	waits  Waits
	normal time.Duration
	hurtAt float64 // the rate at which waits have doubled; 0: they never do
}

func (c *clients) period(repairing bool, requests uint64) float64 {
	wait := c.normal
	if repairing && c.hurtAt > 0 {
		x := c.g.Rate() / c.hurtAt
		wait += time.Duration(float64(c.normal) * x * x)
	}
	c.waits.Count += requests
	c.waits.Total += time.Duration(requests) * wait
	return c.g.Step(repairing, map[Signal]Waits{"disk": c.waits})
}

func newClients(hurtAt float64) *clients {
	c := &clients{g: New(Config{Reserve: reserve, Limit: limit}), normal: 2 * time.Millisecond, hurtAt: hurtAt}
	for range 20 {
		c.period(false, 50)
	}
	return c
}

// Without this clients would wait for as long as a repair takes.
func TestRepairSlowsDownWhenClientsWait(t *testing.T) {
	c := newClients(24 * mb)
	var worst, sum float64
	for i := range 400 {
		r := c.period(true, 50)
		if i > 20 {
			worst, sum = max(worst, r), sum+r
		}
	}
	if worst > 24*mb {
		t.Errorf("the rate went to %.0f MiB/s, where waits double", worst/mb)
	}
	if mean := sum / 379; mean < 9*mb {
		t.Errorf("the rate is %.1f MiB/s on average; waits leave room for more", mean/mb)
	}
}

// Without this a cluster that is always busy would never be whole again.
func TestReservationIsKept(t *testing.T) {
	c := newClients(1 * mb) // hurt by anything
	for range 200 {
		if r := c.period(true, 50); r < reserve {
			t.Fatalf("the rate fell to %.1f MiB/s, below the reservation", r/mb)
		}
	}
	if r := c.g.Rate(); r > 2*reserve {
		t.Errorf("the rate is %.1f MiB/s although clients wait", r/mb)
	}
}

// Where clients do not notice, repair has all that it may.
func TestLimitIsReachedAndKept(t *testing.T) {
	c := newClients(0)
	for range 40 {
		if r := c.period(true, 50); r > limit {
			t.Fatalf("the rate rose to %.1f MiB/s, above the limit", r/mb)
		}
	}
	if r := c.g.Rate(); r != limit {
		t.Errorf("after 40 periods the rate is %.1f MiB/s", r/mb)
	}
}

// At night nobody is in the way of anybody.
func TestWithoutClientsAtTheLimitAtOnce(t *testing.T) {
	c := newClients(24 * mb)
	if r := c.period(true, 0); r != limit {
		t.Errorf("without clients the rate is %.1f MiB/s", r/mb)
	}
	// The first who comes finds it back soon.
	for range 8 {
		c.period(true, 50)
	}
	if r := c.g.Rate(); r > 24*mb {
		t.Errorf("eight periods after clients came the rate is %.1f MiB/s", r/mb)
	}
}

// A load that became heavier by itself is not repair's doing for ever.
func TestNewNormalIsLearntAtTheReservation(t *testing.T) {
	c := newClients(0)
	c.normal = 20 * time.Millisecond
	for range 400 {
		c.period(true, 50)
	}
	if r := c.g.Rate(); r != limit {
		t.Errorf("the rate stays at %.1f MiB/s although repair does not matter", r/mb)
	}
}

// A disk that is opened anew counts from zero: that is no wait below zero, and no normal of nothing.
func TestSignalsBeginAnew(t *testing.T) {
	c := newClients(24 * mb)
	c.waits = Waits{}
	for range 100 {
		c.period(true, 50)
	}
	if r := c.g.Rate(); r < reserve || r > 24*mb {
		t.Errorf("the rate is %.1f MiB/s", r/mb)
	}
	for range 5 {
		c.g.Step(true, nil)
	}
	if len(c.g.signals) != 0 {
		t.Errorf("%d signals are remembered of disks that are gone", len(c.g.signals))
	}
}
