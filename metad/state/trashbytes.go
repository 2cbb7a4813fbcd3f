package state

import (
	"encoding/binary"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
)

// The bytes of the trash, in the log and in snapshots. Times in the trash are milliseconds.

// The kinds of the trash, apart from the others so that all lists may grow.
const (
	kindSetTrash kind = iota + 195
	kindPutInTrash
	kindTakeFromTrash
	kindEmptyTrash
	kindPassTrash
)

func emptyTrash(k kind) Command {
	switch k {
	case kindSetTrash:
		return &SetTrash{}
	case kindPutInTrash:
		return &PutInTrash{}
	case kindTakeFromTrash:
		return &TakeFromTrash{}
	case kindEmptyTrash:
		return &EmptyTrash{}
	case kindPassTrash:
		return &PassTrash{}
	}
	return nil
}

func (m *Machine) applyTrash(c Command) (Result, bool) {
	switch c := c.(type) {
	case *SetTrash:
		return m.setTrash(c), true
	case *PutInTrash:
		return m.putInTrash(c), true
	case *TakeFromTrash:
		return m.takeFromTrash(c), true
	case *EmptyTrash:
		return m.emptyTrash(c), true
	case *PassTrash:
		return m.passTrash(c), true
	}
	return Result{}, false
}

func (*SetTrash) kind() kind      { return kindSetTrash }
func (*PutInTrash) kind() kind    { return kindPutInTrash }
func (*TakeFromTrash) kind() kind { return kindTakeFromTrash }
func (*EmptyTrash) kind() kind    { return kindEmptyTrash }
func (*PassTrash) kind() kind     { return kindPassTrash }

// spanMax bounds a time in the trash as it is read.
const spanMax = 1 << 61

func appendSpan(b []byte, d time.Duration) []byte {
	return binary.AppendUvarint(b, uint64(d/time.Millisecond))
}

func readSpan(r *codec.Reader) time.Duration {
	ms := r.Uvarint()
	if ms > spanMax/uint64(time.Millisecond) {
		r.Fail("time in the trash", spanMax/uint64(time.Millisecond), ms)
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

func (c *SetTrash) append(b []byte) []byte { return appendSpan(b, c.Keep) }
func (c *SetTrash) read(r *codec.Reader)   { c.Keep = readSpan(r) }

func (c *PutInTrash) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(appendSnapshotID(b, c.Volume, c.Snapshot), uint64(c.Epoch))
	b = binary.LittleEndian.AppendUint64(append(appendBool(b, c.Forced), byte(c.Snapshots)), uint64(c.NowMS))
	return appendSpan(codec.AppendString(b, c.By), c.Passed)
}

func (c *PutInTrash) read(r *codec.Reader) {
	c.Volume, c.Snapshot = readSnapshotID(r)
	c.Epoch, c.Forced, c.Snapshots = id.Epoch(r.U64()), readBool(r), SnapshotsOfDeleted(r.U8())
	c.NowMS, c.By, c.Passed = int64(r.U64()), r.String(NameMax), readSpan(r)
}

func (c *TakeFromTrash) append(b []byte) []byte {
	return codec.AppendString(appendSnapshotID(b, c.Volume, c.Snapshot), c.Name)
}

func (c *TakeFromTrash) read(r *codec.Reader) {
	c.Volume, c.Snapshot = readSnapshotID(r)
	c.Name = r.String(NameMax)
}

func (c *EmptyTrash) append(b []byte) []byte { return appendSnapshotID(b, c.Volume, c.Snapshot) }
func (c *EmptyTrash) read(r *codec.Reader)   { c.Volume, c.Snapshot = readSnapshotID(r) }

func (c *PassTrash) append(b []byte) []byte { return appendSpan(appendSpan(b, c.From), c.Passed) }
func (c *PassTrash) read(r *codec.Reader)   { c.From, c.Passed = readSpan(r), readSpan(r) }

// appendTrash is a part of a snapshot that came with LevelTrash.
func (m *Machine) appendTrash(b []byte) []byte {
	return appendSpan(appendBool(appendSpan(b, m.trash.clock), m.trash.set), m.trash.keep)
}

func (m *Machine) readTrash(r *codec.Reader) {
	m.trash = trash{clock: readSpan(r), set: readBool(r), keep: readSpan(r)}
}

// appendTrashed is the part of a volume that came with LevelTrash.
func appendTrashed(b []byte, v *Volume) []byte {
	if k := v.Kept; k != nil {
		if b = appendSpan(b, k.Until); k.Until != 0 {
			b = appendBool(codec.AppendString(b, k.By), k.Settled)
		}
	}
	for i := range v.Snapshots {
		if t := v.Snapshots[i].Trash; t != nil {
			b = appendSpan(binary.LittleEndian.AppendUint64(b, uint64(t.Since.UnixMilli())), t.Until)
			b = appendBool(codec.AppendString(codec.AppendString(b, t.By), t.Name), t.With)
		}
	}
	return b
}

func readTrashed(r *codec.Reader, v *Volume) {
	if k := v.Kept; k != nil {
		if k.Until = readSpan(r); k.Until != 0 {
			k.By, k.Settled = r.String(NameMax), readBool(r)
		}
	}
	for i := range v.Snapshots {
		if s := &v.Snapshots[i]; s.State == cluster.SnapshotTrashed {
			s.Trash = &cluster.Trashed{Since: readTime(r), Until: readSpan(r), By: r.String(NameMax), Name: r.String(NameMax), With: readBool(r)}
		}
	}
}
