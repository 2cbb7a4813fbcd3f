package state

import (
	"encoding/binary"
	"maps"
	"slices"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
)

// The bytes of a rebuilding: its commands and its part of a snapshot.

func appendSighting(b []byte, s Sighting) []byte {
	b = append(b, s.Volume[:]...)
	for _, x := range []uint64{uint64(s.Fence), uint64(s.LastSequence), s.Shards, s.Size} {
		b = binary.AppendUvarint(b, x)
	}
	b = appendBool(b, s.Checkpoint != nil)
	if s.Checkpoint != nil {
		b = appendCheckpoint(b, *s.Checkpoint)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Streams)))
	for _, x := range s.Streams {
		b = appendEnsembleID(b, x.Ensemble)
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(x.Tail)), uint64(x.Meta))
	}
	return b
}

func readSighting(r *codec.Reader) Sighting {
	s := Sighting{Volume: readVolumeID(r), Fence: id.Epoch(r.Uvarint()), LastSequence: id.Sequence(r.Uvarint()), Shards: r.Uvarint(), Size: r.Uvarint()}
	if readBool(r) {
		c := readCheckpoint(r)
		s.Checkpoint = &c
	}
	for n := r.Count(sightingsMax, 14); n > 0; n-- {
		s.Streams = append(s.Streams, StreamSighting{readEnsembleID(r), id.LSN(r.Uvarint()), id.LSN(r.Uvarint())})
	}
	return s
}

func appendGroupVersion(b []byte, pg id.PG, v cluster.PGVersion) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(pg))
	return appendRefs(append(binary.LittleEndian.AppendUint32(b, v.Version), v.K, v.M), v.Stores)
}

func readGroupVersion(r *codec.Reader) (id.PG, cluster.PGVersion) {
	pg := id.PG(r.U16())
	v := cluster.PGVersion{Version: r.U32(), K: r.U8(), M: r.U8()}
	v.Stores = readRefs(r, int(v.K)+int(v.M))
	if pg == 0 || pg > id.PGMax || v.Version == 0 || v.K == 0 || len(v.Stores) != int(v.K)+int(v.M) {
		r.Fail("placement group", uint64(v.K)+uint64(v.M), uint64(len(v.Stores)))
	}
	return pg, v
}

func (*TellInventory) kind() kind { return kindTellInventory }
func (*FinishRebuild) kind() kind { return kindFinishRebuild }

func (c *TellInventory) append(b []byte) []byte {
	b = binary.AppendUvarint(appendRef(b, c.Store), uint64(len(c.Volumes)))
	for _, s := range c.Volumes {
		b = appendSighting(b, s)
	}
	b = binary.AppendUvarint(b, uint64(len(c.Groups)))
	for _, g := range c.Groups {
		b = append(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint16(b, uint16(g.PG)), g.Version), g.K, g.M, g.Index)
	}
	b = binary.AppendUvarint(b, uint64(len(c.Known)))
	for _, k := range c.Known {
		b = appendGroupVersion(b, k.PG, k.Version)
	}
	return appendBool(b, c.Last)
}

func (c *TellInventory) read(r *codec.Reader) {
	c.Store = readRef(r)
	for n := r.Count(sightingsMax, 22); n > 0; n-- {
		c.Volumes = append(c.Volumes, readSighting(r))
	}
	for n := r.Count(sightingsMax, 9); n > 0; n-- {
		g := GroupSighting{PG: id.PG(r.U16()), Version: r.U32(), K: r.U8(), M: r.U8(), Index: r.U8()}
		if g.PG == 0 || g.PG > id.PGMax || g.Version == 0 || g.K == 0 || int(g.Index) >= int(g.K)+int(g.M) {
			r.Fail("placement group of a shard", uint64(g.K)+uint64(g.M), uint64(g.Index))
		}
		c.Groups = append(c.Groups, g)
	}
	for n := r.Count(sightingsMax, 9); n > 0; n-- {
		pg, v := readGroupVersion(r)
		c.Known = append(c.Known, KnownGroup{pg, v})
	}
	c.Last = readBool(r)
}

func (c *FinishRebuild) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(c.Without)))
	for _, s := range c.Without {
		b = append(b, s[:]...)
	}
	return b
}

func (c *FinishRebuild) read(r *codec.Reader) {
	for n := r.Count(StoresMax, 16); n > 0; n-- {
		var s id.Store
		r.Fill(s[:])
		c.Without = append(c.Without, s)
	}
}

// appendRebuild is the part of a snapshot about a rebuilding.
func (m *Machine) appendRebuild(b []byte) []byte {
	x := m.rebuild
	b = appendBool(b, x != nil)
	if x == nil {
		return b
	}
	b = appendRefs(appendBool(append(b, x.ID[:]...), x.Done), x.Told)
	b = appendStrings(appendStrings(b, x.Found), x.Gone)
	b = binary.AppendUvarint(b, uint64(len(x.volumes)))
	for _, v := range slices.SortedFunc(maps.Keys(x.volumes), func(a, b id.Volume) int { return slices.Compare(a[:], b[:]) }) {
		b = x.volumes[v].append(b, v)
	}
	b = binary.AppendUvarint(b, uint64(len(x.groups)))
	for _, k := range slices.SortedFunc(maps.Keys(x.groups), compareGroupVersions) {
		b = appendGroupVersion(append(b, k.layer), k.pg, *x.groups[k])
	}
	if m.snapshotVersion() >= 5 {
		b = x.appendLineages(b)
	}
	return b
}

// append writes what was seen as one sighting, then who has which streams.
func (s *seen) append(b []byte, v id.Volume) []byte {
	b = appendSighting(b, Sighting{Volume: v, Fence: s.fence, LastSequence: s.sequence, Shards: s.shards, Size: s.size, Checkpoint: s.checkpoint})
	b = binary.AppendUvarint(b, uint64(len(s.ensembles)))
	for _, e := range slices.SortedFunc(maps.Keys(s.ensembles), compareEnsembles) {
		b = binary.AppendUvarint(appendEnsembleID(b, e), uint64(len(s.ensembles[e])))
		for _, t := range s.ensembles[e] {
			b = binary.AppendUvarint(binary.AppendUvarint(appendRef(b, t.store), uint64(t.journal)), uint64(t.meta))
		}
	}
	return b
}

func (m *Machine) readRebuild(r *codec.Reader, version uint16) {
	if !readBool(r) {
		return
	}
	members := maps.Clone(m.members)
	var x [16]byte
	r.Fill(x[:])
	m.Reopen(x)
	m.members = members
	m.rebuild.Done, m.rebuild.Told = readBool(r), readRefs(r, StoresMax)
	m.rebuild.Found, m.rebuild.Gone = readStrings(r, VolumesMax), readStrings(r, VolumesMax)
	for n := r.Count(2*VolumesMax, 23); n > 0 && r.Err() == nil; n-- {
		s := readSighting(r)
		v := &seen{fence: s.Fence, sequence: s.LastSequence, shards: s.Shards, size: s.Size, checkpoint: s.Checkpoint, ensembles: make(map[id.Ensemble][]tail)}
		m.rebuild.volumes[s.Volume] = v
		for n := r.Count(sightingsMax, 13); n > 0; n-- {
			e := readEnsembleID(r)
			for n := r.Count(StoresMax, refSize+2); n > 0; n-- {
				v.ensembles[e] = append(v.ensembles[e], tail{readRef(r), id.LSN(r.Uvarint()), id.LSN(r.Uvarint())})
			}
		}
	}
	for n := r.Count(sightingsMax, 10); n > 0; n-- {
		layer := r.U8()
		pg, v := readGroupVersion(r)
		m.rebuild.groups[groupVersion{pg, v.Version, layer}] = &v
	}
	if version >= 5 {
		m.rebuild.readLineages(r)
	}
}
