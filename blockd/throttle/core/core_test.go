package core

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"ashlar.dev/pkg/cluster"
)

// client keeps depth requests of one cost waiting or under way; what goes is done after took.
type client struct {
	queue Queue[*client]
	cost  Cost
	depth int
	done  int
	bytes uint64
}

// world drives a Core through time: its waking is late by up to late, as timers are.
type world struct {
	core    Core[*client]
	now     time.Duration
	clients []*client
	random  *rand.Rand
	late    time.Duration
}

func newWorld(q cluster.QoS) *world {
	w := &world{now: time.Hour, random: rand.New(rand.NewPCG(1, 2))}
	w.core.Limit(w.now, q)
	return w
}

func (w *world) add(depth int, cost Cost) *client {
	c := &client{cost: cost, depth: depth}
	w.clients = append(w.clients, c)
	return c
}

// start fills the clients' queues; run goes on from there for d.
func (w *world) start() {
	for _, c := range w.clients {
		for range c.depth {
			w.submit(c)
		}
	}
}

func (w *world) submit(c *client) {
	for w.core.Submit(w.now, &c.queue, c, c.cost) {
		c.done++
		c.bytes += c.cost.Bytes
	}
}

func (w *world) run(d time.Duration) {
	end := w.now + d
	for w.now < end {
		next, waits := w.core.Next()
		if !waits {
			break
		}
		w.now = max(w.now, next) + time.Duration(w.random.Int64N(int64(w.late)+1))
		if w.now >= end {
			w.now = end
		}
		for _, c := range w.core.Go(w.now, nil) {
			c.done++
			c.bytes += c.cost.Bytes
			w.submit(c)
		}
	}
}

func near(t *testing.T, what string, got, want, part float64) {
	t.Helper()
	if math.Abs(got-want) > part*want {
		t.Errorf("%s: %.0f, want %.0f ± %.0f %%", what, got, want, part*100)
	}
}

const seconds = 10

// Without this a disk that was sold with a rate would have another.
func TestIOPSWithin5PercentOver10Seconds(t *testing.T) {
	for _, rate := range []uint64{100, 5000, 20_000} {
		for _, late := range []time.Duration{0, 5 * time.Millisecond, 30 * time.Millisecond} {
			w := newWorld(cluster.QoS{IOPS: rate})
			w.late = late
			c := w.add(32, Cost{1, 4096})
			w.start()
			w.run(seconds * time.Second)
			near(t, "I/Os", float64(c.done), float64(rate*seconds), 0.05)
		}
	}
}

// Likewise for bytes.
func TestBytesWithin5PercentOver10Seconds(t *testing.T) {
	for _, size := range []uint64{4096, 128 << 10, 1 << 20} {
		w := newWorld(cluster.QoS{Bytes: 50 << 20})
		w.late = 5 * time.Millisecond
		c := w.add(32, Cost{1, size})
		w.start()
		w.run(seconds * time.Second)
		near(t, "bytes", float64(c.bytes), 50<<20*seconds, 0.05)
	}
}

// Both limits hold at once: the one that is reached first counts.
func TestTheTighterLimitCounts(t *testing.T) {
	w := newWorld(cluster.QoS{IOPS: 1000, Bytes: 8 << 20})
	c := w.add(16, Cost{1, 64 << 10}) // 128 of these per second
	w.start()
	w.run(seconds * time.Second)
	near(t, "bytes", float64(c.bytes), 8<<20*seconds, 0.05)
	w = newWorld(cluster.QoS{IOPS: 1000, Bytes: 8 << 20})
	c = w.add(16, Cost{1, 4 << 10})
	w.start()
	w.run(seconds * time.Second)
	near(t, "I/Os", float64(c.done), 1000*seconds, 0.05)
}

// A burst is there after idleness, once, and gathers again while the disk rests.
func TestBurst(t *testing.T) {
	w := newWorld(cluster.QoS{IOPS: 1000, IOPSBurst: 5000})
	c := w.add(64, Cost{1, 4096})
	w.start()
	if c.done < 4900 || c.done > 5001 {
		t.Errorf("%d I/Os went at once, want a burst of 5000", c.done)
	}
	w.run(seconds * time.Second)
	near(t, "I/Os with a burst", float64(c.done), 5000+1000*seconds, 0.01)
	for c.depth = 0; w.core.Waiting() > 0; w.now += time.Second {
		w.core.Go(w.now, nil)
	}
	w.now += time.Second // a rest of two to three seconds
	before := c.done
	w.submit(c)
	if n := c.done - before; n < 1900 || n > 3100 {
		t.Errorf("after a rest %d went at once, want 2000 to 3000", n)
	}
}

// Without this one request larger than the bucket would wait for ever, and all behind it.
func TestRequestLargerThanTheBucketGoes(t *testing.T) {
	w := newWorld(cluster.QoS{Bytes: 1 << 20})
	c := w.add(1, Cost{1, 32 << 20})
	if !w.core.Submit(w.now, &c.queue, c, c.cost) {
		t.Fatal("a request of 32 MiB waits although nothing was used")
	}
	if w.core.Submit(w.now, &c.queue, c, c.cost) {
		t.Fatal("the second went at once")
	}
	at, _ := w.core.Next()
	if wait := at - w.now; wait < 31*time.Second || wait > 33*time.Second {
		t.Errorf("the second waits %v, want what the first costs: 32 s", wait)
	}
	if got := w.core.Go(at, nil); len(got) != 1 {
		t.Errorf("%d go when it is time", len(got))
	}
}

// A new limit counts at once, for what waits as well, and does not forgive what was taken.
func TestLimitsChangeLive(t *testing.T) {
	w := newWorld(cluster.QoS{IOPS: 100})
	c := w.add(32, Cost{1, 4096})
	w.start()
	w.run(seconds * time.Second)
	c.done = 0
	w.core.Limit(w.now, cluster.QoS{IOPS: 2000})
	w.run(seconds * time.Second)
	near(t, "I/Os after the limit was raised", float64(c.done), 2000*seconds, 0.05)
	c.done = 0
	w.core.Limit(w.now, cluster.QoS{IOPS: 500})
	w.run(seconds * time.Second)
	near(t, "I/Os after it was lowered", float64(c.done), 500*seconds, 0.05)

	w.core.Limit(w.now, cluster.QoS{})
	if got := len(w.core.Go(w.now, nil)); got == 0 || w.core.Waiting() != 0 {
		t.Errorf("without limits %d go and %d wait still", got, w.core.Waiting())
	}

	w = newWorld(cluster.QoS{Bytes: 1 << 20})
	c = w.add(1, Cost{1, 32 << 20})
	w.core.Submit(w.now, &c.queue, c, c.cost)
	w.core.Submit(w.now, &c.queue, c, c.cost)
	w.core.Limit(w.now, cluster.QoS{Bytes: 16 << 20})
	if at, _ := w.core.Next(); at-w.now < 1800*time.Millisecond || at-w.now > 2200*time.Millisecond {
		t.Errorf("32 MiB taken are made up for in %v at 16 MiB/s, want 2 s", at-w.now)
	}
}

// Without this a connection with many requests waiting would starve one with few.
func TestConnectionsOfOneDiskShareFairly(t *testing.T) {
	w := newWorld(cluster.QoS{IOPS: 1000})
	greedy, modest := w.add(256, Cost{1, 4096}), w.add(8, Cost{1, 4096})
	w.start()
	w.run(seconds * time.Second)
	near(t, "I/Os of the modest one", float64(modest.done), 500*seconds, 0.1)
	near(t, "I/Os of the greedy one", float64(greedy.done), 500*seconds, 0.1)

	// By what each takes: large requests count for more.
	w = newWorld(cluster.QoS{Bytes: 64 << 20})
	large, small := w.add(32, Cost{1, 1 << 20}), w.add(32, Cost{1, 4096})
	w.start()
	w.run(seconds * time.Second)
	near(t, "bytes of small requests", float64(small.bytes), 32<<20*seconds, 0.1)
	near(t, "bytes of large requests", float64(large.bytes), 32<<20*seconds, 0.1)
}

// A connection that has rested has no claim on the past, and none is held against one that worked alone.
func TestRestGivesNoCredit(t *testing.T) {
	w := newWorld(cluster.QoS{IOPS: 1000})
	first := w.add(32, Cost{1, 4096})
	w.start()
	w.run(seconds * time.Second)
	second := w.add(32, Cost{1, 4096})
	for range second.depth {
		w.submit(second)
	}
	first.done = 0
	w.run(seconds * time.Second)
	near(t, "I/Os of the one that was there", float64(first.done), 500*seconds, 0.1)
	near(t, "I/Os of the newcomer", float64(second.done), 500*seconds, 0.1)
}

// Requests of one connection go in the order in which they came.
func TestOrderWithinAConnection(t *testing.T) {
	var c Core[int]
	var q Queue[int]
	c.Limit(0, cluster.QoS{IOPS: 1000})
	next := 0
	for i := range 5000 {
		if c.Submit(0, &q, i, Cost{1, 1}) {
			if i != next {
				t.Fatalf("%d went as %d", i, next)
			}
			next++
		}
	}
	for now := time.Duration(0); c.Waiting() > 0; now += 10 * time.Millisecond {
		for _, i := range c.Go(now, nil) {
			if i != next {
				t.Fatalf("%d went as %d", i, next)
			}
			next++
		}
	}
	if next != 5000 {
		t.Fatalf("%d of 5000 went", next)
	}
}
