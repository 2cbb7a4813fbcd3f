package state

import (
	"bytes"
	"encoding/binary"
	"slices"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Snapshots on their way into the archive. The upload's id and what it is uploaded against are committed before the first
// object, so that whoever goes on after a crash goes on with the same; who does is decided by a lease with an epoch. A
// snapshot that is on its way does not go, and neither does what it is uploaded against (archive, not disk).

// QueueArchive asks for a snapshot to be archived. Asked again it changes nothing; of one that
// failed the upload goes on.
type QueueArchive struct {
	Volume id.Volume
	ID     id.Snapshot
	Upload id.Raw
}

// LeaseArchive gives the upload to a worker, under the epoch after the one named.
type LeaseArchive struct {
	Volume id.Volume
	ID     id.Snapshot
	Worker string
	Epoch  uint64 // of the lease before
}

// EndArchive says how the upload ended: archived, failed, or given up (none), which the epoch must allow.
type EndArchive struct {
	Volume   id.Volume
	ID       id.Snapshot
	Epoch    uint64
	State    cluster.ArchiveState
	Bytes    uint64
	Manifest string
	Reason   string
}

const (
	kindQueueArchive kind = iota + 128
	kindLeaseArchive
	kindEndArchive
)

func emptyArchive(k kind) Command {
	switch k {
	case kindQueueArchive:
		return &QueueArchive{}
	case kindLeaseArchive:
		return &LeaseArchive{}
	case kindEndArchive:
		return &EndArchive{}
	}
	return nil
}

func (m *Machine) applyArchive(c Command) (Result, bool) {
	switch c := c.(type) {
	case *QueueArchive:
		return m.queueArchive(c), true
	case *LeaseArchive:
		return m.leaseArchive(c), true
	case *EndArchive:
		return m.endArchive(c), true
	}
	return Result{}, false
}

func (m *Machine) queueArchive(c *QueueArchive) Result {
	v, i := m.snapshotOf(c.Volume, c.ID)
	if i < 0 {
		return refuse(errs.ErrNotFound, "snapshot %s of disk %s", c.ID, c.Volume)
	}
	s := &v.Snapshots[i]
	switch a := &s.Archived; {
	case s.State != cluster.SnapshotReady:
		return refuse(errs.ErrConflict, "snapshot %s of disk %s is %s", s.Name, v.Name, s.State)
	case c.Upload == id.Raw{}:
		return refuse(errs.ErrInvalid, "upload without id")
	case a.State == cluster.ArchiveFailed:
		a.State, a.Reason, a.Worker = cluster.ArchiveQueued, "", ""
	case a.State == cluster.ArchiveNone:
		// The epoch goes on rising: whoever had a lease of an upload that was given up has none of this.
		*a = cluster.Archived{State: cluster.ArchiveQueued, Upload: c.Upload, Base: v.BaseOf(c.ID), Epoch: a.Epoch}
	default:
		return Result{Volume: m.volumes[c.Volume]}
	}
	return m.put(v)
}

// pendingArchive gives a copy of the record with a snapshot whose upload is under way, if the epoch is that of its lease.
func (m *Machine) pendingArchive(volume id.Volume, s id.Snapshot, epoch uint64) (*Volume, *cluster.Snapshot, Result) {
	v, i := m.snapshotOf(volume, s)
	switch {
	case i < 0:
		return nil, nil, refuse(errs.ErrNotFound, "snapshot %s of disk %s", s, volume)
	case !v.Snapshots[i].Archived.Pending():
		return nil, nil, refuse(errs.ErrConflict, "snapshot %s of disk %s is not on its way into the archive", s, v.Name)
	case v.Snapshots[i].Archived.Epoch != epoch:
		return nil, nil, refuse(errs.ErrStaleEpoch, "upload of snapshot %s: lease %d, now %d", s, epoch, v.Snapshots[i].Archived.Epoch)
	}
	return v, &v.Snapshots[i], Result{}
}

func (m *Machine) leaseArchive(c *LeaseArchive) Result {
	v, s, r := m.pendingArchive(c.Volume, c.ID, c.Epoch)
	if v == nil {
		return r
	}
	if c.Worker == "" {
		return refuse(errs.ErrInvalid, "lease without worker")
	}
	s.Archived.State, s.Archived.Worker = cluster.ArchiveUploading, c.Worker
	s.Archived.Epoch++
	return m.put(v)
}

func (m *Machine) endArchive(c *EndArchive) Result {
	if c.State == cluster.ArchiveNone {
		return m.forgetArchive(c)
	}
	v, s, r := m.pendingArchive(c.Volume, c.ID, c.Epoch)
	if v == nil {
		return r
	}
	a := &s.Archived
	switch c.State {
	case cluster.ArchiveDone:
		*a = cluster.Archived{State: c.State, Upload: a.Upload, Base: a.Base, Epoch: a.Epoch, Bytes: c.Bytes, Manifest: c.Manifest}
		if s.Branch == v.Branch && !s.Created.Before(v.ArchiveBase.Created) {
			v.ArchiveBase = cluster.ArchiveBase{Snapshot: s.ID, Created: s.Created}
		}
	case cluster.ArchiveFailed:
		a.State, a.Worker, a.Reason = c.State, "", c.Reason[:min(len(c.Reason), cluster.ArchiveReasonMax)]
	default:
		return refuse(errs.ErrInvalid, "an upload does not end %s", c.State)
	}
	return m.put(v)
}

// forgetArchive gives an upload up, or says that what was archived is to go from there.
func (m *Machine) forgetArchive(c *EndArchive) Result {
	v, i := m.snapshotOf(c.Volume, c.ID)
	if i < 0 {
		return refuse(errs.ErrNotFound, "snapshot %s of disk %s", c.ID, c.Volume)
	}
	a := &v.Snapshots[i].Archived
	switch {
	case a.State == cluster.ArchiveNone:
		return Result{Volume: m.volumes[c.Volume]}
	case a.Epoch != c.Epoch:
		return refuse(errs.ErrStaleEpoch, "upload of snapshot %s: lease %d, now %d", c.ID, c.Epoch, a.Epoch)
	}
	*a = cluster.Archived{Epoch: a.Epoch + 1}
	if v.ArchiveBase.Snapshot == c.ID {
		v.ArchiveBase = cluster.ArchiveBase{}
	}
	return m.put(v)
}

// ArchiveWork are the disks that have snapshots on their way into the archive, in order of ids.
func (m *Machine) ArchiveWork() []*Volume {
	out := make([]*Volume, 0, len(m.archiveWork))
	for v := range m.archiveWork {
		out = append(out, m.volumes[v])
	}
	slices.SortFunc(out, func(a, b *Volume) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return out
}

// countArchives keeps archiveWork.
func (m *Machine) countArchives(v *Volume, present bool) {
	if present && !v.Deleted && slices.ContainsFunc(v.Snapshots, func(s cluster.Snapshot) bool { return s.Archived.Pending() }) {
		m.archiveWork[v.ID] = struct{}{}
	} else {
		delete(m.archiveWork, v.ID)
	}
}

func (*QueueArchive) kind() kind { return kindQueueArchive }
func (*LeaseArchive) kind() kind { return kindLeaseArchive }
func (*EndArchive) kind() kind   { return kindEndArchive }

func (c *QueueArchive) append(b []byte) []byte {
	return append(appendSnapshotID(b, c.Volume, c.ID), c.Upload[:]...)
}

func (c *QueueArchive) read(r *codec.Reader) {
	c.Volume, c.ID = readSnapshotID(r)
	r.Fill(c.Upload[:])
}

func (c *LeaseArchive) append(b []byte) []byte {
	b = codec.AppendString(appendSnapshotID(b, c.Volume, c.ID), c.Worker)
	return binary.LittleEndian.AppendUint64(b, c.Epoch)
}

func (c *LeaseArchive) read(r *codec.Reader) {
	c.Volume, c.ID = readSnapshotID(r)
	c.Worker, c.Epoch = r.String(id.HostMax), r.U64()
}

func (c *EndArchive) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(appendSnapshotID(b, c.Volume, c.ID), c.Epoch)
	b = binary.LittleEndian.AppendUint64(append(b, byte(c.State)), c.Bytes)
	return codec.AppendString(codec.AppendString(b, c.Manifest), c.Reason)
}

func (c *EndArchive) read(r *codec.Reader) {
	c.Volume, c.ID = readSnapshotID(r)
	c.Epoch, c.State, c.Bytes = r.U64(), cluster.ArchiveState(r.U8()), r.U64()
	c.Manifest, c.Reason = r.String(cluster.ManifestKeyMax), r.String(cluster.ArchiveReasonMax)
}

// appendArchives is the part of a volume that came with LevelTime: of each snapshot, in their order, and the volume's.
func appendArchives(b []byte, v *Volume) []byte {
	le := binary.LittleEndian
	b = append(b, v.ArchiveBase.Snapshot[:]...)
	created := uint64(0)
	if !v.ArchiveBase.Snapshot.IsZero() {
		created = uint64(v.ArchiveBase.Created.UnixMilli())
	}
	b = le.AppendUint64(b, created)
	for i := range v.Snapshots {
		a := &v.Snapshots[i].Archived
		b = le.AppendUint64(append(b, byte(a.State)), a.Epoch)
		if a.State == cluster.ArchiveNone {
			continue
		}
		b = append(append(b, a.Upload[:]...), a.Base[:]...)
		b = codec.AppendString(le.AppendUint64(b, a.Bytes), a.Worker)
		b = codec.AppendString(codec.AppendString(b, a.Manifest), a.Reason)
	}
	return b
}

func readArchives(r *codec.Reader, v *Volume) {
	r.Fill(v.ArchiveBase.Snapshot[:])
	if created := readTime(r); !v.ArchiveBase.Snapshot.IsZero() {
		v.ArchiveBase.Created = created
	}
	for i := range v.Snapshots {
		a := &v.Snapshots[i].Archived
		a.State, a.Epoch = cluster.ArchiveState(r.U8()), r.U64()
		if a.State > cluster.ArchiveFailed {
			r.Fail("state of an archive", uint64(cluster.ArchiveFailed), uint64(a.State))
		}
		if r.Err() != nil || a.State == cluster.ArchiveNone {
			continue
		}
		r.Fill(a.Upload[:])
		r.Fill(a.Base[:])
		a.Bytes, a.Worker = r.U64(), r.String(id.HostMax)
		a.Manifest, a.Reason = r.String(cluster.ManifestKeyMax), r.String(cluster.ArchiveReasonMax)
	}
}
