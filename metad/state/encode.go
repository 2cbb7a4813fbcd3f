package state

import (
	"encoding/binary"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
)

// The parts that commands and snapshots share.

const refSize = 32

func appendRef(b []byte, r cluster.StoreRef) []byte {
	return append(append(b, r.Store[:]...), r.Incarnation[:]...)
}

func readRef(r *codec.Reader) (x cluster.StoreRef) {
	r.Fill(x.Store[:])
	r.Fill(x.Incarnation[:])
	return x
}

func appendRefs(b []byte, refs []cluster.StoreRef) []byte {
	b = binary.AppendUvarint(b, uint64(len(refs)))
	for _, x := range refs {
		b = appendRef(b, x)
	}
	return b
}

func readRefs(r *codec.Reader, max int) []cluster.StoreRef {
	n := r.Count(max, refSize)
	if n == 0 {
		return nil
	}
	out := make([]cluster.StoreRef, n)
	for i := range out {
		out[i] = readRef(r)
	}
	return out
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func readBool(r *codec.Reader) bool {
	v := r.U8()
	if v > 1 {
		r.Fail("boolean", 1, uint64(v))
	}
	return v == 1
}

func readVolumeID(r *codec.Reader) (v id.Volume) {
	r.Fill(v[:])
	return v
}

func readLSN(r *codec.Reader) id.LSN { return id.LSN(r.U64()) }

func appendHolder(b []byte, h id.Holder) []byte {
	return binary.LittleEndian.AppendUint64(codec.AppendString(b, string(h.Host)), h.Number)
}

func readHolder(r *codec.Reader) id.Holder {
	return id.Holder{Host: id.Host(r.String(id.HostMax)), Number: r.U64()}
}

func appendEnsembleID(b []byte, e id.Ensemble) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint64(b, uint64(e.Epoch)), e.N)
}

func readEnsembleID(r *codec.Reader) id.Ensemble {
	return id.Ensemble{Epoch: id.Epoch(r.U64()), N: r.U32()}
}

func appendAt(b []byte, a At) []byte {
	b = binary.LittleEndian.AppendUint64(append(b, a.Volume[:]...), uint64(a.Epoch))
	return binary.LittleEndian.AppendUint64(b, a.Version)
}

func readAt(r *codec.Reader) At {
	return At{Volume: readVolumeID(r), Epoch: id.Epoch(r.U64()), Version: r.U64()}
}

func appendHost(b []byte, h Host) []byte {
	b = appendHolder(b, id.Holder{Host: h.Host, Number: h.HolderNumber})
	b = codec.AppendString(codec.AppendString(b, h.DataAddress), h.Zone)
	b = codec.AppendString(codec.AppendString(appendBool(b, h.Exports), h.NBDUnixPath), h.NBDTCP)
	return appendBool(b, h.NBDTLS)
}

func readHost(r *codec.Reader) Host {
	by := readHolder(r)
	return Host{Host: by.Host, HolderNumber: by.Number, DataAddress: r.String(AddressMax), Zone: r.String(NameMax),
		Exports: readBool(r), NBDUnixPath: r.String(AddressMax), NBDTCP: r.String(AddressMax), NBDTLS: readBool(r)}
}

func appendCheckpoint(b []byte, c cluster.Checkpoint) []byte {
	for _, v := range []uint64{uint64(c.Epoch), uint64(c.Meta), uint64(c.Covered)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return append(binary.AppendUvarint(b, uint64(len(c.Opaque))), c.Opaque...)
}

func readCheckpoint(r *codec.Reader) cluster.Checkpoint {
	c := cluster.Checkpoint{Epoch: id.Epoch(r.U64()), Meta: readLSN(r), Covered: readLSN(r)}
	c.Opaque = append(c.Opaque, r.Bytes(r.Count(cluster.CheckpointBytesMax, 1))...)
	return c
}

func appendEnsemble(b []byte, e cluster.Ensemble) []byte {
	b = appendRefs(appendEnsembleID(b, e.ID), e.Stores)
	b = append(appendBool(b, e.Closed), ensembleFlags(e))
	if e.Closed {
		for _, v := range []id.LSN{e.From, e.To, e.MetaFrom, e.MetaTo} {
			b = binary.LittleEndian.AppendUint64(b, uint64(v))
		}
		b = appendRefs(b, e.Holders)
	}
	return b
}

// The flags of an ensemble in a list.
const (
	flagLossAccepted = 1 << iota
	flagFound
)

func ensembleFlags(e cluster.Ensemble) (b byte) {
	if e.LossAccepted {
		b |= flagLossAccepted
	}
	if e.Found {
		b |= flagFound
	}
	return b
}

func readEnsemble(r *codec.Reader) cluster.Ensemble {
	e := cluster.Ensemble{ID: readEnsembleID(r), Stores: readRefs(r, EnsembleWidthMax), Closed: readBool(r)}
	flags := r.U8()
	if flags&^(flagLossAccepted|flagFound) != 0 {
		r.Fail("flags of an ensemble", flagLossAccepted|flagFound, uint64(flags))
	}
	e.LossAccepted, e.Found = flags&flagLossAccepted != 0, flags&flagFound != 0
	if e.Closed {
		e.From, e.To, e.MetaFrom, e.MetaTo = readLSN(r), readLSN(r), readLSN(r), readLSN(r)
		e.Holders = readRefs(r, EnsembleWidthMax)
	}
	return e
}

func appendQoS(b []byte, q cluster.QoS) []byte {
	for _, v := range []uint64{q.IOPS, q.IOPSBurst, q.Bytes, q.BytesBurst} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func readQoS(r *codec.Reader) cluster.QoS {
	return cluster.QoS{IOPS: r.Uvarint(), IOPSBurst: r.Uvarint(), Bytes: r.Uvarint(), BytesBurst: r.Uvarint()}
}

func appendVolume(b []byte, v *Volume, version uint16) []byte {
	b = codec.AppendString(append(b, v.ID[:]...), v.Name)
	b = codec.AppendString(binary.LittleEndian.AppendUint64(b, v.Size), v.requestID)
	b = binary.LittleEndian.AppendUint64(b, uint64(v.Created.UnixMilli()))
	b = appendHolder(binary.LittleEndian.AppendUint64(b, uint64(v.Epoch)), v.Owner)
	b = appendBool(appendBool(b, v.OpenComplete), v.Deleted)
	b = binary.LittleEndian.AppendUint64(b, v.ListVersion)
	b = binary.LittleEndian.AppendUint32(b, v.lastN)
	b = binary.AppendUvarint(b, uint64(len(v.List)))
	for _, e := range v.List {
		b = appendEnsemble(b, e)
	}
	b = appendBool(b, v.Checkpoint != nil)
	if v.Checkpoint != nil {
		b = appendCheckpoint(b, *v.Checkpoint)
	}
	b = binary.AppendUvarint(b, uint64(len(v.Prior)))
	for _, h := range v.Prior {
		b = codec.AppendString(b, string(h))
	}
	b = binary.AppendUvarint(b, uint64(len(v.Losses)))
	for _, l := range v.Losses {
		b = codec.AppendString(appendRefs(appendEnsembleID(b, l.Ensemble), l.Lost), l.By)
		b = binary.LittleEndian.AppendUint64(b, uint64(l.At.UnixMilli()))
	}
	b = binary.AppendUvarint(b, uint64(len(v.Spans)))
	for _, s := range v.Spans {
		for _, x := range []uint64{uint64(s.Epoch), uint64(s.First), uint64(s.End)} {
			b = binary.LittleEndian.AppendUint64(b, x)
		}
	}
	if b = appendRefs(b, v.purging); version >= 3 {
		b = appendQoS(b, v.QoS)
	}
	if version >= 4 {
		b = appendSnapshots(b, v)
	}
	if version >= 5 {
		b = appendLineage(b, v)
		b = appendRestored(b, v)
		b = appendArchives(b, v)
	}
	if version >= 6 {
		b = appendKeptDisk(b, v)
	}
	if version >= 7 {
		b = appendTrashed(b, v)
		b = appendFlatten(b, v)
	}
	return b
}

func readTime(r *codec.Reader) time.Time { return time.UnixMilli(int64(r.U64())).UTC() }

func readVolume(r *codec.Reader, version uint16) *Volume {
	v := &Volume{}
	v.ID, v.Name, v.Size, v.requestID = readVolumeID(r), r.String(NameMax), r.U64(), r.String(NameMax)
	v.Created, v.Epoch, v.Owner = readTime(r), id.Epoch(r.U64()), readHolder(r)
	v.OpenComplete, v.Deleted, v.ListVersion, v.lastN = readBool(r), readBool(r), r.U64(), r.U32()
	for n := r.Count(EnsemblesMax, 15); n > 0; n-- {
		v.List = append(v.List, readEnsemble(r))
	}
	if readBool(r) {
		c := readCheckpoint(r)
		v.Checkpoint = &c
	}
	for n := r.Count(PriorMax, 1); n > 0; n-- {
		v.Prior = append(v.Prior, id.Host(r.String(id.HostMax)))
	}
	for n := r.Count(LossesMax, 22); n > 0; n-- {
		l := cluster.Loss{Ensemble: readEnsembleID(r), Lost: readRefs(r, EnsembleWidthMax), By: r.String(NameMax)}
		l.At = readTime(r)
		v.Losses = append(v.Losses, l)
	}
	for n := r.Count(SpansMax, 24); n > 0; n-- {
		v.Spans = append(v.Spans, cluster.Span{Epoch: id.Epoch(r.U64()), First: id.Sequence(r.U64()), End: id.Sequence(r.U64())})
	}
	v.purging = readRefs(r, StoresMax)
	if version >= 3 {
		v.QoS = readQoS(r)
	}
	if version >= 4 {
		readSnapshots(r, v)
	}
	if version >= 5 {
		readLineage(r, v)
		readRestored(r, v)
		readArchives(r, v)
	}
	if version >= 6 {
		readKeptDisk(r, v)
	}
	if version >= 7 {
		readTrashed(r, v)
		readFlatten(r, v)
	}
	return v
}
