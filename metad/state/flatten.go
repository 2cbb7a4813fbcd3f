package state

import (
	"encoding/binary"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// A clone that is flattened copies what it reads of its ancestors, until it needs them no more. The order is
// kept here, so that every owner knows it; how far it is only the owner knows. Its word ends it: it has a checkpoint
// committed first that knows of no origin. From then on the clone holds nothing of what it began with.

// FlattenVolume orders a clone to be flattened, changes how fast, or takes the order back.
type FlattenVolume struct {
	Volume id.Volume
	On     bool
	Rate   uint64
}

// VolumeFlattened says that nothing of a volume reads an ancestor any more.
type VolumeFlattened struct {
	Volume id.Volume
	Epoch  id.Epoch
}

// The kinds of flattening, apart from the others so that all lists may grow.
const (
	kindFlattenVolume kind = iota + 224
	kindVolumeFlattened
)

func emptyFlatten(k kind) Command {
	switch k {
	case kindFlattenVolume:
		return &FlattenVolume{}
	case kindVolumeFlattened:
		return &VolumeFlattened{}
	}
	return nil
}

func (m *Machine) applyFlatten(c Command) (Result, bool) {
	switch c := c.(type) {
	case *FlattenVolume:
		return m.flattenVolume(c), true
	case *VolumeFlattened:
		return m.volumeFlattened(c), true
	}
	return Result{}, false
}

// Flattening tells whether some clone is to be flattened.
func (m *Machine) Flattening() bool {
	for _, v := range m.volumes {
		if v.Flatten != nil {
			return true
		}
	}
	return false
}

func (m *Machine) flattenVolume(c *FlattenVolume) Result {
	v, ok := m.volumes[c.Volume]
	switch {
	case !ok || !v.Live():
		return refuse(errs.ErrNotFound, "disk %s", c.Volume)
	case !c.On && v.Flatten == nil:
		return refuse(errs.ErrConflict, "disk %s is not being flattened", v.Name)
	case c.On && v.Origin == nil:
		return refuse(errs.ErrConflict, "disk %s is no clone, or none any more: it reads no other disk", v.Name)
	case c.On && v.Restored != nil:
		return refuse(errs.ErrConflict, "disk %s is still being brought in from an archive", v.Name)
	}
	v = v.clone()
	v.Flatten = nil
	if c.On {
		v.Flatten = &cluster.Flatten{Rate: c.Rate}
	}
	return m.put(v)
}

func (m *Machine) volumeFlattened(c *VolumeFlattened) Result {
	v, r := m.owned(c.Volume, c.Epoch)
	switch {
	case v == nil:
		return r
	case v.Origin == nil:
		return Result{Volume: v} // the answer was lost
	case v.Checkpoint == nil:
		return refuseWith(v, errs.ErrConflict, "disk %s has no checkpoint, and so reads all that it began with", v.Name)
	}
	o := v.Origin
	v = v.clone()
	v.Origin, v.Flatten = nil, nil
	r = m.put(v)
	m.leave(o)
	return r
}

func (*FlattenVolume) kind() kind   { return kindFlattenVolume }
func (*VolumeFlattened) kind() kind { return kindVolumeFlattened }

func (c *FlattenVolume) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(appendBool(append(b, c.Volume[:]...), c.On), c.Rate)
}

func (c *FlattenVolume) read(r *codec.Reader) {
	c.Volume, c.On, c.Rate = readVolumeID(r), readBool(r), r.U64()
}

func (c *VolumeFlattened) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(append(b, c.Volume[:]...), uint64(c.Epoch))
}

func (c *VolumeFlattened) read(r *codec.Reader) {
	c.Volume, c.Epoch = readVolumeID(r), id.Epoch(r.U64())
}

// appendFlatten is a part of a volume that came with LevelTrash.
func appendFlatten(b []byte, v *Volume) []byte {
	if b = appendBool(b, v.Flatten != nil); v.Flatten != nil {
		b = binary.LittleEndian.AppendUint64(b, v.Flatten.Rate)
	}
	return b
}

func readFlatten(r *codec.Reader, v *Volume) {
	if readBool(r) {
		v.Flatten = &cluster.Flatten{Rate: r.U64()}
	}
}
