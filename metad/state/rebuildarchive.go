package state

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// A state that is behind its cluster does not know the disks that were made from an archive since. Their
// checkpoints do: which manifest they lie in, and which sequences and groups its segments were allotted. Without
// it nothing would tell that such a disk lies in an archive, and its sequences could be handed out again: no store has
// any of them before they are brought in.

// TellArchives is what checkpoints found on stores say of archives.
type TellArchives struct{ Volumes []ArchiveSighting }

// ArchiveSighting is what one checkpoint says.
type ArchiveSighting struct {
	Volume  id.Volume
	Epoch   id.Epoch // of the checkpoint
	Meta    id.LSN
	Archive cluster.Restored // but for the rate
}

// The kinds of archives in the time of a rebuilding, apart from the others so that all lists may grow.
const kindTellArchives kind = 248

func emptyTellArchives(k kind) Command {
	if k == kindTellArchives {
		return &TellArchives{}
	}
	return nil
}

func (m *Machine) applyTellArchives(c Command) (Result, bool) {
	if c, ok := c.(*TellArchives); ok {
		return m.tellArchives(c), true
	}
	return Result{}, false
}

func (m *Machine) tellArchives(c *TellArchives) Result {
	if !m.Rebuilding() {
		return refuse(errs.ErrConflict, "the state is not being rebuilt")
	}
	for i := range c.Volumes {
		x := c.Volumes[i]
		if was := m.rebuild.archives[x.Volume]; was == nil || x.Epoch > was.Epoch || x.Epoch == was.Epoch && x.Meta > was.Meta {
			m.rebuild.archives[x.Volume] = &x
		}
	}
	return Result{}
}

// takeArchive takes what the stores' checkpoint says, if none is later that the state has. v has been given its
// checkpoint. An allotment that the record has stays: only the owner ends it.
func (m *Machine) takeArchive(v *Volume) {
	x := m.rebuild.archives[v.ID]
	if x == nil || v.Restored != nil || v.Checkpoint == nil || x.Epoch != v.Checkpoint.Epoch || x.Meta != v.Checkpoint.Meta {
		return
	}
	v.Restored = x.Archive.Clone()
}

// allotted is the sequence after all that archives were told to have.
func (r *Rebuild) allotted() (next id.Sequence) {
	for _, x := range r.archives {
		next = max(next, min(x.Archive.First, id.SequenceMax)+id.Sequence(x.Archive.Segments))
	}
	return next
}

func (*TellArchives) kind() kind { return kindTellArchives }

func (c *TellArchives) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(c.Volumes)))
	for i := range c.Volumes {
		b = c.Volumes[i].append(b)
	}
	return b
}

func (c *TellArchives) read(r *codec.Reader) {
	for n := r.Count(sightingsMax, archiveSightingMin); n > 0; n-- {
		var x ArchiveSighting
		x.read(r)
		c.Volumes = append(c.Volumes, x)
	}
}

const archiveSightingMin = 40

func (x *ArchiveSighting) append(b []byte) []byte {
	b = binary.AppendUvarint(binary.AppendUvarint(append(b, x.Volume[:]...), uint64(x.Epoch)), uint64(x.Meta))
	return appendAllotment(b, &x.Archive)
}

func (x *ArchiveSighting) read(r *codec.Reader) {
	x.Volume, x.Epoch, x.Meta = readVolumeID(r), id.Epoch(r.Uvarint()), id.LSN(r.Uvarint())
	x.Archive = *readAllotment(r)
}

// appendToldArchives is the part of a snapshot that came with LevelArchives.
func (m *Machine) appendToldArchives(b []byte) []byte {
	if m.rebuild == nil {
		return binary.AppendUvarint(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(m.rebuild.archives)))
	for _, v := range slices.SortedFunc(maps.Keys(m.rebuild.archives), func(a, b id.Volume) int { return bytes.Compare(a[:], b[:]) }) {
		b = m.rebuild.archives[v].append(b)
	}
	return b
}

func (m *Machine) readToldArchives(r *codec.Reader) {
	var last id.Volume
	for n := r.Count(2*VolumesMax, archiveSightingMin); n > 0 && r.Err() == nil; n-- {
		s := &ArchiveSighting{}
		s.read(r)
		if m.rebuild == nil || m.rebuild.Done || bytes.Compare(s.Volume[:], last[:]) <= 0 {
			r.Fail("order of archives", 0, 1)
			return
		}
		last = s.Volume
		m.rebuild.archives[s.Volume] = s
	}
}
