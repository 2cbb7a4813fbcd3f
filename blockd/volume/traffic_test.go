package volume

import (
	"errors"
	"testing"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/nbd"
)

// Without this top would show disks that do nothing, or latencies of requests that failed.
func TestTrafficIsCounted(t *testing.T) {
	c := clock.NewManual()
	v := &Volume{}
	do := func(op nbd.Op, n uint64, took time.Duration, err error) {
		var p tap
		r := &nbd.Request{Op: op, Length: n}
		v.traffic.begin(&p, r, c)
		c.Advance(took)
		v.traffic.end(&p, r, err, c)
	}
	for range 2 * timedEvery {
		do(nbd.OpWrite, 4096, time.Millisecond, nil)
	}
	do(nbd.OpRead, 512, 3*time.Millisecond, nil)
	do(nbd.OpRead, 512, time.Hour, errors.New("no"))
	do(nbd.OpFlush, 0, time.Hour, nil)
	got := v.Traffic()
	if got.Writes != 16 || got.WriteBytes != 16*4096 || got.TimedWrites != 2 || got.WriteTime != 2*time.Millisecond {
		t.Errorf("writes: %+v", got)
	}
	if got.Reads != 1 || got.ReadBytes != 512 || got.TimedReads != 1 || got.ReadTime != 3*time.Millisecond || got.Failed != 1 || got.Others != 1 {
		t.Errorf("reads: %+v", got)
	}
}
