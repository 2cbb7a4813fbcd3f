package volume

import (
	"sync/atomic"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/nbd"
)

// traffic counts what clients do. Of every timedEvery-th request the time is taken: two
// looks at the clock for each would be a part of a small request's cost that one sees.
type traffic struct {
	seen                    atomic.Uint64
	reads, writes, others   atomic.Uint64
	readBytes, writeBytes   atomic.Uint64
	timedReads, timedWrites atomic.Uint64
	readTime, writeTime     atomic.Int64
	failed                  atomic.Uint64
}

const timedEvery = 8

// tap is what a request keeps for its end.
type tap struct {
	timed bool
	at    time.Duration
}

func (t *traffic) begin(p *tap, r *nbd.Request, c clock.Clock) {
	p.timed = false
	if r.Op != nbd.OpRead && r.Op != nbd.OpWrite {
		return
	}
	if t.seen.Add(1)%timedEvery == 1 {
		p.timed, p.at = true, c.Now()
	}
}

func (t *traffic) end(p *tap, r *nbd.Request, err error, c clock.Clock) {
	var took time.Duration
	if p.timed {
		took = c.Now() - p.at
	}
	switch {
	case err != nil:
		t.failed.Add(1)
	case r.Op == nbd.OpRead:
		t.reads.Add(1)
		t.readBytes.Add(r.Length)
		if p.timed {
			t.timedReads.Add(1)
			t.readTime.Add(int64(took))
		}
	case r.Op == nbd.OpWrite:
		t.writes.Add(1)
		t.writeBytes.Add(r.Length)
		if p.timed {
			t.timedWrites.Add(1)
			t.writeTime.Add(int64(took))
		}
	default:
		t.others.Add(1)
	}
}

// Traffic tells what clients did on the volume since it was opened.
func (v *Volume) Traffic() cluster.Traffic {
	t := &v.traffic
	return cluster.Traffic{Reads: t.reads.Load(), Writes: t.writes.Load(), Others: t.others.Load(), ReadBytes: t.readBytes.Load(), WriteBytes: t.writeBytes.Load(),
		TimedReads: t.timedReads.Load(), TimedWrites: t.timedWrites.Load(), ReadTime: time.Duration(t.readTime.Load()),
		WriteTime: time.Duration(t.writeTime.Load()), Failed: t.failed.Load()}
}
