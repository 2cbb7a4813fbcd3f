package devices

import (
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/nbd"
)

// ReadOnly refuses every change to the device under it.
type ReadOnly struct{ nbd.Device }

// Info is that of the device, read-only.
func (d ReadOnly) Info() nbd.Info {
	info := d.Device.Info()
	info.ReadOnly = true
	return info
}

// Submit hands on what does not write. The server asks for nothing else; another caller may.
func (d ReadOnly) Submit(r *nbd.Request) {
	switch r.Op {
	case nbd.OpWrite, nbd.OpWriteZeroes, nbd.OpTrim:
		r.Complete(errs.ErrDenied)
	default:
		d.Device.Submit(r)
	}
}
