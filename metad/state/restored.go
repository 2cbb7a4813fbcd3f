package state

import (
	"encoding/binary"
	"slices"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Disks that are made from an archive. The segments of the manifest get sequences of this
// cluster, and groups, with the disk itself: before anybody opens it, once, and below every
// sequence that its owners will get. Two allotments would give one block two places. The
// record holds the manifest until the owner says that nothing lies in the archive any more;
// only the owner knows, for it commits a checkpoint that says so first.

// CreateRestored makes a disk from an archive. The same request again is the same disk.
type CreateRestored struct {
	Create   CreateVolume
	Manifest string
	Segments uint32
	PGs      []id.PG // that the leader finds good for new segments
	Rate     uint64
}

// RestoreWhole says that nothing of a disk lies in the archive any more.
type RestoreWhole struct {
	Volume id.Volume
	Epoch  id.Epoch
}

// SetHydrate changes how fast a disk is brought in from the archive.
type SetHydrate struct {
	Volume id.Volume
	Rate   uint64
}

// The kinds of restored disks, apart from the others so that all lists may grow.
const (
	kindCreateRestored kind = iota + 144
	kindRestoreWhole
	kindSetHydrate
)

func emptyRestored(k kind) Command {
	switch k {
	case kindCreateRestored:
		return &CreateRestored{}
	case kindRestoreWhole:
		return &RestoreWhole{}
	case kindSetHydrate:
		return &SetHydrate{}
	}
	return nil
}

func (m *Machine) applyRestored(c Command) (Result, bool) {
	switch c := c.(type) {
	case *CreateRestored:
		return m.createRestored(c), true
	case *RestoreWhole:
		return m.restoreWhole(c), true
	case *SetHydrate:
		return m.setHydrate(c), true
	}
	return Result{}, false
}

// HeldManifests are the keys of the manifests that disks of this cluster need, in order.
func (m *Machine) HeldManifests() (out []string) {
	for _, v := range m.volumes {
		if v.Restored != nil && !v.Deleted {
			out = append(out, v.Restored.Manifest)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (m *Machine) createRestored(c *CreateRestored) Result {
	if have, ok := m.names[c.Create.Name]; ok && c.Create.RequestID != "" && m.volumes[have].requestID == c.Create.RequestID {
		return Result{Volume: m.volumes[have]} // asked again: it has its allotment
	}
	switch {
	case c.Manifest == "" || len(c.Manifest) > cluster.ManifestKeyMax:
		return refuse(errs.ErrInvalid, "the key of a manifest has 1 to %d bytes", cluster.ManifestKeyMax)
	case c.Segments > cluster.RestoreSegmentsMax:
		return refuse(errs.ErrInvalid, "an archive of %d segments; at most %d can be restored", c.Segments, cluster.RestoreSegmentsMax)
	case c.Segments > 0 && (len(c.PGs) == 0 || len(c.PGs) > cluster.RestoreGroupsMax):
		return refuse(errs.ErrUnavailable, "there is no placement group for what is restored")
	case id.SequenceMax-m.nextSequence < id.Sequence(c.Segments):
		return refuse(errs.ErrNoSpace, "segment sequences are used up")
	}
	for _, g := range c.PGs {
		if _, p := m.pg(g); p == nil {
			return refuse(errs.ErrNotFound, "placement group %d", g)
		}
	}
	r := m.createVolume(&c.Create)
	if r.Err != nil {
		return r
	}
	v := r.Volume.clone()
	v.Restored = &cluster.Restored{Manifest: c.Manifest, Segments: c.Segments, First: m.nextSequence, PGs: slices.Clone(c.PGs), Rate: c.Rate}
	m.nextSequence += id.Sequence(c.Segments)
	return m.put(v)
}

func (m *Machine) restoreWhole(c *RestoreWhole) Result {
	v, r := m.owned(c.Volume, c.Epoch)
	switch {
	case v == nil:
		return r
	case v.Restored == nil:
		return Result{Volume: v}
	case v.Checkpoint == nil:
		return refuseWith(v, errs.ErrConflict, "disk %s has no checkpoint, and so all of it lies in the archive", v.Name)
	}
	v = v.clone()
	v.Restored = nil
	return m.put(v)
}

func (m *Machine) setHydrate(c *SetHydrate) Result {
	v, ok := m.volumes[c.Volume]
	switch {
	case !ok || !v.Live():
		return refuse(errs.ErrNotFound, "disk %s", c.Volume)
	case v.Restored == nil:
		return refuse(errs.ErrConflict, "nothing of disk %s lies in an archive", v.Name)
	}
	v = v.clone()
	v.Restored.Rate = c.Rate
	return m.put(v)
}

func (*CreateRestored) kind() kind { return kindCreateRestored }
func (*RestoreWhole) kind() kind   { return kindRestoreWhole }
func (*SetHydrate) kind() kind     { return kindSetHydrate }

func (c *CreateRestored) append(b []byte) []byte {
	b = appendAllotment(b, &cluster.Restored{Manifest: c.Manifest, Segments: c.Segments, PGs: c.PGs, Rate: c.Rate})
	return c.Create.append(b)
}

func (c *CreateRestored) read(r *codec.Reader) {
	x := readAllotment(r)
	*c = CreateRestored{Manifest: x.Manifest, Segments: x.Segments, PGs: x.PGs, Rate: x.Rate}
	c.Create.read(r)
}

func (c *RestoreWhole) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(append(b, c.Volume[:]...), uint64(c.Epoch))
}
func (c *RestoreWhole) read(r *codec.Reader) { c.Volume, c.Epoch = readVolumeID(r), id.Epoch(r.U64()) }

func (c *SetHydrate) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(append(b, c.Volume[:]...), c.Rate)
}
func (c *SetHydrate) read(r *codec.Reader) { c.Volume, c.Rate = readVolumeID(r), r.U64() }

func appendAllotment(b []byte, x *cluster.Restored) []byte {
	b = binary.LittleEndian.AppendUint32(codec.AppendString(b, x.Manifest), x.Segments)
	b = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, uint64(x.First)), x.Rate)
	b = binary.AppendUvarint(b, uint64(len(x.PGs)))
	for _, g := range x.PGs {
		b = binary.LittleEndian.AppendUint16(b, uint16(g))
	}
	return b
}

func readAllotment(r *codec.Reader) *cluster.Restored {
	x := &cluster.Restored{Manifest: r.String(cluster.ManifestKeyMax), Segments: r.U32(), First: id.Sequence(r.U64()), Rate: r.U64()}
	for n := r.Count(cluster.RestoreGroupsMax, 2); n > 0; n-- {
		x.PGs = append(x.PGs, id.PG(r.U16()))
	}
	return x
}

// appendRestored is the part of a volume that came with LevelTime.
func appendRestored(b []byte, v *Volume) []byte {
	b = appendBool(b, v.Restored != nil)
	if v.Restored != nil {
		b = appendAllotment(b, v.Restored)
	}
	return b
}

func readRestored(r *codec.Reader, v *Volume) {
	if readBool(r) {
		v.Restored = readAllotment(r)
	}
}
