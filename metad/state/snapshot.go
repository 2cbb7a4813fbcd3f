package state

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

const (
	snapshotMagic   = "ASHMETA\x00"
	snapshotVersion = 7 // 1 had no roster and no rebuilding, 2 no QoS, no level and no events, 3 no snapshots of disks, 4 no origins and nothing in archives, 5 no deleted disks that are kept, 6 no trash and no clones that are flattened
)

// Snapshot is the whole state in its one canonical form: equal states, equal bytes.
// FORMAT.md has them.
func (m *Machine) Snapshot() []byte {
	b := append(make([]byte, 0, 4096), snapshotMagic...)
	b = binary.LittleEndian.AppendUint16(b, m.snapshotVersion())
	b = binary.LittleEndian.AppendUint64(b, m.index)
	b = appendSettings(append(b, m.clusterID[:]...), m.settings)
	b = append(b, m.lastVolume[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.nextSequence))
	hosts := m.Hosts()
	b = binary.AppendUvarint(b, uint64(len(hosts)))
	for _, h := range hosts {
		b = appendHost(b, h)
	}
	stores := m.Stores()
	b = binary.AppendUvarint(b, uint64(len(stores)))
	for _, s := range stores {
		b = codec.AppendString(appendRef(b, s.StoreRef), string(s.Host))
		b = append(binary.LittleEndian.AppendUint64(b, s.Capacity), s.flags())
	}
	b = appendRefs(b, slices.SortedFunc(maps.Keys(m.lost), compareRefs))
	b = binary.AppendUvarint(b, uint64(len(m.pgs)))
	for _, p := range m.pgs {
		b = binary.LittleEndian.AppendUint16(b, uint16(p.Number))
		b = binary.AppendUvarint(b, uint64(len(p.Versions)))
		for _, v := range p.Versions {
			b = appendRefs(append(binary.LittleEndian.AppendUint32(b, v.Version), v.K, v.M), v.Stores)
		}
	}
	volumes := m.Volumes()
	b = binary.AppendUvarint(b, uint64(len(volumes)))
	for _, v := range volumes {
		b = appendVolume(b, v, m.snapshotVersion())
	}
	b = m.appendRebuild(m.appendRoster(b))
	if m.level > LevelFirst {
		b = m.appendLater(b)
	}
	return binary.LittleEndian.AppendUint32(b, codec.CRC(b))
}

// snapshotVersion is the one that all members read: at level 1 some may know version 2 only,
// below LevelSnapshots version 3, below LevelTime version 4, below LevelImages version 5, below LevelTrash version 6.
func (m *Machine) snapshotVersion() uint16 {
	switch {
	case m.level >= LevelTrash:
		return snapshotVersion
	case m.level >= LevelImages:
		return 6
	case m.level >= LevelTime:
		return 5
	case m.level >= LevelSnapshots:
		return 4
	case m.level > LevelFirst:
		return 3
	}
	return 2
}

// Restore reads a snapshot. An error is of class ErrCorrupt, or ErrInvalid for a
// version of a later program. A snapshot not in the canonical form is corrupt.
func Restore(b []byte) (*Machine, error) {
	if len(b) < len(snapshotMagic)+2+4 || string(b[:len(snapshotMagic)]) != snapshotMagic {
		return nil, &errs.Corrupt{Place: "snapshot", What: "magic", Want: uint64(len(snapshotMagic)), Got: uint64(len(b))}
	}
	body := b[:len(b)-4]
	if got, want := codec.CRC(body), binary.LittleEndian.Uint32(b[len(body):]); got != want {
		return nil, &errs.Corrupt{Place: "snapshot", Offset: int64(len(body)), What: "checksum", Want: uint64(want), Got: uint64(got)}
	}
	r := codec.NewReader("snapshot", body)
	r.Bytes(len(snapshotMagic))
	version := r.U16()
	if version == 0 || version > snapshotVersion {
		return nil, fmt.Errorf("snapshot version %d is not known: %w", version, errs.ErrInvalid)
	}
	m := New()
	m.index = r.U64()
	r.Fill(m.clusterID[:])
	m.settings = readSettings(&r)
	m.lastVolume = readVolumeID(&r)
	m.nextSequence = id.Sequence(r.U64())
	m.readMembers(&r)
	m.readVolumes(&r, version)
	if version >= 2 {
		m.readRoster(&r)
		m.readRebuild(&r, version)
	}
	if version >= 3 {
		if err := m.readLater(&r); err != nil {
			return nil, fmt.Errorf("restore: %w", err)
		}
	}
	r.End()
	if r.Err() != nil {
		return nil, fmt.Errorf("restore: %w", r.Err())
	}
	return m, nil
}

func (m *Machine) readMembers(r *codec.Reader) {
	for n := r.Count(HostsMax, 16); n > 0; n-- {
		h := readHost(r)
		m.hosts[h.Host] = &h
	}
	for n := r.Count(StoresMax, refSize+10); n > 0; n-- {
		s := Store{StoreRef: readRef(r), Host: id.Host(r.String(id.HostMax)), Capacity: r.U64()}
		s.readFlags(r)
		m.stores[s.Store] = &s
	}
	for _, ref := range readRefs(r, LostMax) {
		m.lost[ref] = struct{}{}
	}
	last := -1
	for n := r.Count(int(id.PGMax)+1, 3); n > 0 && r.Err() == nil; n-- {
		p := PG{Number: id.PG(r.U16())}
		if int(p.Number) <= last || p.Number > id.PGMax {
			r.Fail("placement group number", uint64(last+1), uint64(p.Number))
		}
		last = int(p.Number)
		for n := r.Count(VersionsMax, 7); n > 0; n-- {
			v := cluster.PGVersion{Version: r.U32(), K: r.U8(), M: r.U8()}
			v.Stores = readRefs(r, int(v.K)+int(v.M))
			if len(v.Stores) != int(v.K)+int(v.M) {
				r.Fail("placement group width", uint64(v.K)+uint64(v.M), uint64(len(v.Stores)))
			}
			p.Versions = append(p.Versions, v)
		}
		if len(p.Versions) == 0 {
			r.Fail("placement group versions", 1, 0)
		}
		m.pgs = append(m.pgs, p)
	}
}

func (m *Machine) readVolumes(r *codec.Reader, version uint16) {
	for n := r.Count(VolumesMax, 64); n > 0 && r.Err() == nil; n-- {
		v := readVolume(r, version)
		m.put(v)
		if v.Live() {
			m.names[v.Name] = v.ID
		}
	}
}

const (
	flagLost = 1 << iota
	flagLeaving
	flagOut
)

func (s *Store) flags() (b byte) {
	for i, set := range []bool{s.Lost, s.Leaving, s.Out} {
		if set {
			b |= 1 << i
		}
	}
	return b
}

func (s *Store) readFlags(r *codec.Reader) {
	b := r.U8()
	if b&^(flagLost|flagLeaving|flagOut) != 0 {
		r.Fail("store flags", flagLost|flagLeaving|flagOut, uint64(b))
	}
	s.Lost, s.Leaving, s.Out = b&flagLost != 0, b&flagLeaving != 0, b&flagOut != 0
}
