package state

import (
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// SetProtection protects a disk against deletion, by force too, or lets it be deleted again.
type SetProtection struct {
	Volume id.Volume
	On     bool
}

func (m *Machine) setProtection(c *SetProtection) Result {
	v, ok := m.volumes[c.Volume]
	if !ok || !v.Live() {
		return refuse(errs.ErrNotFound, "disk %s", c.Volume)
	}
	v = v.clone()
	v.Protected = c.On
	return m.put(v)
}

// unprotected refuses to delete a disk that is protected.
func (v *Volume) unprotected() error {
	if v.Protected {
		return refuse(errs.ErrConflict, "disk %s is protected against deletion", v.Name).Err
	}
	return nil
}

func (*SetProtection) kind() kind { return kindSetProtection }

func (c *SetProtection) append(b []byte) []byte { return appendBool(append(b, c.Volume[:]...), c.On) }
func (c *SetProtection) read(r *codec.Reader)   { c.Volume, c.On = readVolumeID(r), readBool(r) }
