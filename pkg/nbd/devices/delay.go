package devices

import (
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/nbd"
)

// Delay completes what the device under it did only after a while.
type Delay struct {
	nbd.Device
	// Read, Write, and Other bound below how long a request takes; Write is for writes, zeros, trims and flushes.
	Read, Write, Other time.Duration
	// After calls f after d, on any goroutine; nil stands for the system's clock.
	After func(d time.Duration, f func())
}

// Submit hands r on and holds its completion.
func (d *Delay) Submit(r *nbd.Request) {
	wait := d.Other
	switch r.Op {
	case nbd.OpRead:
		wait = d.Read
	case nbd.OpWrite, nbd.OpWriteZeroes, nbd.OpTrim, nbd.OpFlush:
		wait = d.Write
	}
	if wait > 0 {
		r.Hook(nbd.CompleterFunc(func(r *nbd.Request, err error) {
			d.after(wait, func() { r.Complete(err) })
		}))
	}
	d.Device.Submit(r)
}

func (d *Delay) after(wait time.Duration, f func()) {
	if d.After != nil {
		d.After(wait, f)
		return
	}
	clock.System.AfterFunc(wait, f)
}
