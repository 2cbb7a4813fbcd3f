package throttle

import (
	"testing"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/nbd"
)

// disk completes everything at once and counts it.
type disk struct {
	ops    map[nbd.Op]int
	corks  int
	inside bool
}

func (d *disk) Submit(r *nbd.Request) {
	d.ops[r.Op]++
	r.Complete(nil)
}
func (d *disk) Size() uint64   { return 1 << 30 }
func (d *disk) Info() nbd.Info { return nbd.Info{} }
func (d *disk) Close() error   { return nil }
func (d *disk) Cork()          { d.corks++; d.inside = true }
func (d *disk) Uncork()        { d.inside = false }

type counter struct{ done int }

func (c *counter) Completed(r *nbd.Request, _ error) {
	c.done++
	r.Recycle()
}

func submit(h *Handle, op nbd.Op, n int, length uint64) *counter {
	c := &counter{}
	for range n {
		h.Submit(nbd.NewRequest(op, 0, 0, length, nil, c))
	}
	return c
}

func newDisk(q cluster.QoS) (*clock.Manual, *disk, *Throttle) {
	c, d := clock.NewManual(), &disk{ops: make(map[nbd.Op]int)}
	return c, d, New(c, q, d)
}

// Without this a disk without limits would pay for those that have some: nothing is held,
// locked or timed.
func TestUnlimitedPassesThrough(t *testing.T) {
	c, _, th := newDisk(cluster.QoS{})
	got := submit(th.Handle(&disk{ops: make(map[nbd.Op]int)}), nbd.OpWrite, 1000, 4096)
	if got.done != 1000 || c.Pending() != 0 || th.Stats().Delayed != 0 {
		t.Errorf("%d of 1000 done, %d timers, %+v", got.done, c.Pending(), th.Stats())
	}
}

// The rate holds with real requests and a timer, and they go in bursts: between Cork and Uncork.
func TestLimitedByTheTimer(t *testing.T) {
	c, d, th := newDisk(cluster.QoS{IOPS: 1000})
	got := submit(th.Handle(d), nbd.OpRead, 1100, 4096)
	if got.done < 90 || got.done > 101 {
		t.Fatalf("%d went at once, want a tenth of a second's worth", got.done)
	}
	for range 500 {
		c.Advance(time.Millisecond)
	}
	if got.done < 580 || got.done > 605 {
		t.Errorf("%d went within half a second, want 600", got.done)
	}
	for range 600 {
		c.Advance(time.Millisecond)
	}
	if got.done != 1100 || th.Stats().Waiting != 0 || d.corks == 0 || d.inside {
		t.Errorf("%d of 1100 done, %d corks, %+v", got.done, d.corks, th.Stats())
	}
}

// A flush covers completed writes only; held back behind those that wait it would hang for nothing.
func TestFlushesAreFreeTrimsCount(t *testing.T) {
	_, d, th := newDisk(cluster.QoS{IOPS: 100, Bytes: 1 << 20})
	h := th.Handle(d)
	submit(h, nbd.OpWrite, 100, 4096)
	if th.Stats().Waiting == 0 {
		t.Fatal("nothing waits")
	}
	for _, op := range []nbd.Op{nbd.OpFlush, nbd.OpBlockStatus, nbd.OpCache} {
		if got := submit(h, op, 50, 4096); got.done != 50 {
			t.Errorf("op %d: %d of 50 passed", op, got.done)
		}
	}
	for _, op := range []nbd.Op{nbd.OpTrim, nbd.OpWriteZeroes} {
		if got := submit(h, op, 1, 1<<30); got.done != 0 {
			t.Errorf("op %d was not counted", op)
		}
		if c, _ := costOf(nbd.NewRequest(op, 0, 0, 1<<30, nil, &counter{})); c.Bytes != 0 || c.IOs != 1 {
			t.Errorf("op %d costs %+v, want one I/O and no bytes", op, c)
		}
	}
}

// A change counts for what waits: nobody has to reconnect.
func TestSetFreesWhatWaits(t *testing.T) {
	_, d, th := newDisk(cluster.QoS{IOPS: 100})
	got := submit(th.Handle(d), nbd.OpWrite, 200, 4096)
	th.Set(cluster.QoS{IOPS: 100, Bytes: 1 << 30})
	if got.done > 20 {
		t.Fatalf("%d went", got.done)
	}
	th.Set(cluster.QoS{})
	if got.done != 200 {
		t.Errorf("%d of 200 done without limits", got.done)
	}
}

// A volume that ended answers what its limits held back, and no late word of metad holds more.
func TestLiftIsForGood(t *testing.T) {
	_, d, th := newDisk(cluster.QoS{IOPS: 100})
	h := th.Handle(d)
	got := submit(h, nbd.OpWrite, 200, 4096)
	th.Lift()
	if got.done != 200 {
		t.Errorf("%d of 200 done after the end", got.done)
	}
	th.Set(cluster.QoS{IOPS: 100})
	if got := submit(h, nbd.OpWrite, 200, 4096); got.done != 200 {
		t.Errorf("%d of 200 done after the end and a late word", got.done)
	}
}

// BenchmarkUnlimited is what a disk without limits pays for there being limits.
func BenchmarkUnlimited(b *testing.B) {
	c, d := clock.NewManual(), &disk{ops: make(map[nbd.Op]int)}
	bench := func(b *testing.B, h nbd.Handle) {
		done := &counter{}
		for b.Loop() {
			h.Submit(nbd.NewRequest(nbd.OpRead, 0, 0, 4096, page[:], done))
		}
	}
	b.Run("without", func(b *testing.B) { bench(b, d) })
	b.Run("with", func(b *testing.B) { bench(b, New(c, cluster.QoS{}, d).Handle(d)) })
}

var page [4096]byte
