package remote

import (
	"encoding/binary"
	"time"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/rpc"
	"ashlar.dev/pkg/storeproto"
)

// Version is the newest version of the protocol, VersionMin the oldest still spoken.
const (
	Version    = 3
	VersionMin = 1
	// versionClass is the first in which puts and reads have a class.
	versionClass = 2
	// versionRoom is the first in which puts say how far they may fill a store.
	versionRoom = 3
)

// The operations. Values are those of the wire.
const (
	opAppend       = 1
	opConfirm      = 2
	opLease        = 3
	opFence        = 4
	opRelease      = 5
	opPutShard     = 6
	opFetch        = 7
	opDrop         = 8
	opDeleteShards = 9
	opReadShard    = 10
	opShardHeads   = 11
	opListShards   = 12
)

// classOf gives the connection an operation belongs on.
func classOf(op uint16) rpc.Class {
	switch op {
	case opPutShard, opFetch, opDrop, opDeleteShards:
		return rpc.ClassBulk
	case opReadShard, opShardHeads, opListShards:
		return rpc.ClassRead
	}
	return rpc.ClassLog
}

// Limits of messages.
const (
	listMax       = 1 << 16 // hosts, ensembles, streams, segments and names in one message
	shardSlotsMax = id.SlotsMax
	headsMax      = 256     // shard heads in an answer
	fetchBytesMax = 8 << 20 // payload that one fetch asks for
	fetchTotalMax = 48 << 20
	fetchCountMax = 1 << 14
)

var le = binary.LittleEndian

// refBytes is what every head begins with: the store's id and its incarnation.
const refBytes = 32

// appendHeadBytes is the head of an append: the store, and the header that its log has too.
const appendHeadBytes = refBytes + storeproto.HeaderSize

func readStore(r *codec.Reader) (s id.Store) { r.Fill(s[:]); return s }

func readVolume(r *codec.Reader) (v id.Volume) { r.Fill(v[:]); return v }

func readHost(r *codec.Reader) id.Host { return id.Host(r.String(id.HostMax)) }

func appendHolder(b []byte, h id.Holder) []byte {
	return le.AppendUint64(codec.AppendString(b, string(h.Host)), h.Number)
}

func readHolder(r *codec.Reader) id.Holder { return id.Holder{Host: readHost(r), Number: r.U64()} }

func appendEnsemble(b []byte, e id.Ensemble) []byte {
	return le.AppendUint32(le.AppendUint64(b, uint64(e.Epoch)), e.N)
}

func readEnsemble(r *codec.Reader) id.Ensemble {
	return id.Ensemble{Epoch: id.Epoch(r.U64()), N: r.U32()}
}

func appendGeneration(b []byte, g id.Generation) []byte {
	return le.AppendUint32(le.AppendUint64(b, uint64(g.Epoch)), g.N)
}

func readGeneration(r *codec.Reader) id.Generation {
	return id.Generation{Epoch: id.Epoch(r.U64()), N: r.U32()}
}

func appendStream(b []byte, s storeproto.Stream) []byte {
	return appendEnsemble(append(append(b, uint8(s.Kind)), s.Volume[:]...), s.Ensemble)
}

func readStream(r *codec.Reader) storeproto.Stream {
	s := storeproto.Stream{Kind: storeproto.Kind(r.U8()), Volume: readVolume(r)}
	s.Ensemble = readEnsemble(r)
	if s.Kind >= storeproto.Kinds {
		r.Fail("stream kind", storeproto.Kinds-1, uint64(s.Kind))
	}
	return s
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
		r.Fail("yes or no", 1, uint64(v))
	}
	return v == 1
}

func appendDuration(b []byte, d time.Duration) []byte { return le.AppendUint64(b, uint64(d)) }

func readDuration(r *codec.Reader) time.Duration {
	v := r.U64()
	if v > uint64(24*time.Hour) {
		r.Fail("duration", uint64(24*time.Hour), v)
		return 0
	}
	return time.Duration(v)
}

// Confirm: volume, epoch. The answer is empty.
func appendConfirm(b []byte, v id.Volume, e id.Epoch) []byte {
	return le.AppendUint64(append(b, v[:]...), uint64(e))
}

func readConfirm(r *codec.Reader) (id.Volume, id.Epoch) {
	return readVolume(r), id.Epoch(r.U64())
}

func appendLease(b []byte, l *storeproto.Lease) []byte {
	b = le.AppendUint64(appendHolder(b, l.Holder), l.Acked)
	return appendDuration(b, l.Wait)
}

func readLease(r *codec.Reader, l *storeproto.Lease) {
	l.Holder, l.Acked, l.Wait = readHolder(r), r.U64(), readDuration(r)
}

func appendLeaseReply(b []byte, l *storeproto.Lease) []byte {
	b = le.AppendUint64(appendDuration(b, l.Term), l.Naming)
	b = binary.AppendUvarint(b, uint64(len(l.Named)))
	for _, n := range l.Named {
		b = appendConfirm(b, n.Volume, n.Epoch)
	}
	return b
}

func readLeaseReply(r *codec.Reader, l *storeproto.Lease) {
	l.Term, l.Naming = readDuration(r), r.U64()
	l.Named = nil
	if n := r.Count(listMax, 24); n > 0 {
		l.Named = make([]storeproto.NamedFence, n)
	}
	for i := range l.Named {
		l.Named[i].Volume, l.Named[i].Epoch = readConfirm(r)
	}
}

func appendFence(b []byte, f *storeproto.Fence) []byte {
	b = appendHolder(appendConfirm(b, f.Volume, f.Epoch), f.By)
	b = binary.AppendUvarint(b, uint64(len(f.Prior)))
	for _, h := range f.Prior {
		b = codec.AppendString(b, string(h))
	}
	return b
}

func readFence(r *codec.Reader) (f storeproto.Fence) {
	f.Volume, f.Epoch = readConfirm(r)
	f.By = readHolder(r)
	if n := r.Count(listMax, 1); n > 0 {
		f.Prior = make([]id.Host, n)
	}
	for i := range f.Prior {
		f.Prior[i] = readHost(r)
	}
	return f
}

func appendFenceReply(b []byte, f *storeproto.FenceReply) []byte {
	b = appendBool(append(append(b, f.Store[:]...), f.Incarnation[:]...), f.Lossy)
	b = binary.AppendUvarint(b, uint64(len(f.Streams)))
	for _, s := range f.Streams {
		b = appendStream(b, s.Stream)
		for _, n := range []id.LSN{s.Base, s.Released, s.Tail} {
			b = le.AppendUint64(b, uint64(n))
		}
		b = appendBool(b, s.Lossy)
	}
	return b
}

func readFenceReply(r *codec.Reader) (f storeproto.FenceReply) {
	f.Store = readStore(r)
	r.Fill(f.Incarnation[:])
	f.Lossy = readBool(r)
	if n := r.Count(listMax, 54); n > 0 {
		f.Streams = make([]storeproto.StreamState, n)
	}
	for i := range f.Streams {
		s := &f.Streams[i]
		s.Stream = readStream(r)
		s.Base, s.Released, s.Tail = id.LSN(r.U64()), id.LSN(r.U64()), id.LSN(r.U64())
		s.Lossy = readBool(r)
	}
	return f
}

func appendRelease(b []byte, q *storeproto.Release) []byte {
	return appendHolder(appendConfirm(b, q.Volume, q.Epoch), q.By)
}

func readRelease(r *codec.Reader) (q storeproto.Release) {
	q.Volume, q.Epoch = readConfirm(r)
	q.By = readHolder(r)
	return q
}

func appendDrop(b []byte, d *storeproto.Drop) []byte {
	b = binary.AppendUvarint(appendConfirm(b, d.Volume, d.Epoch), uint64(len(d.Keep)))
	for _, e := range d.Keep {
		b = appendEnsemble(b, e)
	}
	return b
}

func readDrop(r *codec.Reader) (d storeproto.Drop) {
	d.Volume, d.Epoch = readConfirm(r)
	if n := r.Count(listMax, 12); n > 0 {
		d.Keep = make([]id.Ensemble, n)
	}
	for i := range d.Keep {
		d.Keep[i] = readEnsemble(r)
	}
	return d
}

func appendDelete(b []byte, d *storeproto.DeleteShards) []byte {
	b = binary.AppendUvarint(appendConfirm(b, d.Volume, d.Epoch), uint64(len(d.Segments)))
	for _, s := range d.Segments {
		b = appendGeneration(le.AppendUint64(b, uint64(s.Segment)), s.Generation)
	}
	b = binary.AppendUvarint(b, uint64(len(d.Groups)))
	for _, g := range d.Groups {
		b = le.AppendUint32(le.AppendUint16(b, uint16(g.PG)), g.Version)
	}
	return b
}

func readDelete(r *codec.Reader) (d storeproto.DeleteShards) {
	d.Volume, d.Epoch = readConfirm(r)
	if n := r.Count(listMax, 20); n > 0 {
		d.Segments = make([]storeproto.SegmentGeneration, n)
	}
	for i := range d.Segments {
		d.Segments[i] = storeproto.SegmentGeneration{Segment: id.Segment(r.U64()), Generation: readGeneration(r)}
	}
	if n := r.Count(listMax, 6); n > 0 {
		d.Groups = make([]storeproto.GroupVersion, n)
	}
	for i := range d.Groups {
		d.Groups[i] = storeproto.GroupVersion{PG: id.PG(r.U16()), Version: r.U32()}
	}
	return d
}

func appendName(b []byte, n storeproto.ShardName) []byte {
	return append(appendGeneration(le.AppendUint64(b, uint64(n.Segment)), n.Generation), n.Index)
}

func readName(r *codec.Reader) storeproto.ShardName {
	return storeproto.ShardName{Segment: id.Segment(r.U64()), Generation: readGeneration(r), Index: r.U8()}
}

// List: group, its version, the name after which to begin, the most to give, the volume.
func appendList(b []byte, q *storeproto.ListShards) []byte {
	b = le.AppendUint32(le.AppendUint16(b, uint16(q.PG)), q.Version)
	b = le.AppendUint32(appendName(b, q.After), uint32(min(max(q.Limit, 0), storeproto.ListMax)))
	return append(b, q.Volume[:]...)
}

func readList(r *codec.Reader) (q storeproto.ListShards) {
	q.PG, q.Version = id.PG(r.U16()), r.U32()
	q.After = readName(r)
	if q.Limit = int(r.U32()); q.Limit > storeproto.ListMax {
		r.Fail("shards to list", storeproto.ListMax, uint64(q.Limit))
	}
	q.Volume = readVolume(r)
	return q
}

// shardInfoBytes is an encoded storeproto.ShardInfo.
const shardInfoBytes = 21 + 16 + 2 + 4 + 4

func appendListReply(b []byte, l *storeproto.ShardList) []byte {
	b = binary.AppendUvarint(appendName(appendBool(b, l.More), l.Next), uint64(len(l.Shards)))
	for i := range l.Shards {
		x := &l.Shards[i]
		b = append(append(appendName(b, x.ShardName), x.Volume[:]...), x.K, x.M)
		b = le.AppendUint16(le.AppendUint16(le.AppendUint32(b, x.PGVersion), x.Slots), x.Blocks)
	}
	return b
}

func readListReply(r *codec.Reader) (l storeproto.ShardList) {
	l.More, l.Next = readBool(r), readName(r)
	if n := r.Count(storeproto.ListMax, shardInfoBytes); n > 0 {
		l.Shards = make([]storeproto.ShardInfo, n)
	}
	for i := range l.Shards {
		x := &l.Shards[i]
		x.ShardName, x.Volume = readName(r), readVolume(r)
		x.K, x.M = r.U8(), r.U8()
		x.PGVersion, x.Slots, x.Blocks = r.U32(), r.U16(), r.U16()
	}
	return l
}

func appendShardHead(b []byte, h *storeproto.ShardHead) []byte {
	b = le.AppendUint64(append(b, h.Volume[:]...), uint64(h.Segment))
	b = append(appendGeneration(b, h.Generation), h.Index, h.K, h.M)
	b = le.AppendUint32(b, h.PGVersion)
	b = le.AppendUint16(le.AppendUint16(b, h.Slots), h.Blocks)
	b = le.AppendUint16(b, uint16(len(h.Entries)))
	b = le.AppendUint16(b, uint16(len(h.Sums)))
	for _, e := range h.Entries {
		b = le.AppendUint64(b, e)
	}
	return storeproto.AppendSums(b, h.Sums)
}

// shardHeadBytes is the least that an encoded head has.
const shardHeadBytes = 51

func readShardHead(r *codec.Reader, h *storeproto.ShardHead) {
	h.Volume, h.Segment = readVolume(r), id.Segment(r.U64())
	h.Generation = readGeneration(r)
	h.Index, h.K, h.M = r.U8(), r.U8(), r.U8()
	h.PGVersion = r.U32()
	h.Slots, h.Blocks = r.U16(), r.U16()
	entries, sums := int(r.U16()), int(r.U16())
	if max(int(h.Slots), int(h.Blocks), entries, sums) > shardSlotsMax {
		r.Fail("slots", shardSlotsMax, uint64(max(int(h.Slots), int(h.Blocks), entries, sums)))
	}
	raw := r.Bytes(8 * entries)
	rawSums := r.Bytes(4 * sums)
	if r.Err() != nil {
		return
	}
	h.Entries = make([]uint64, entries)
	for i := range h.Entries {
		h.Entries[i] = le.Uint64(raw[8*i:])
	}
	h.Sums = storeproto.DecodeSums(make([]uint32, 0, sums), rawSums)
}

func appendPut(b []byte, p *storeproto.PutShard) []byte {
	return appendShardHead(le.AppendUint64(b, uint64(p.Epoch)), p.Head)
}

func readPut(r *codec.Reader) (e id.Epoch, h *storeproto.ShardHead) {
	e, h = id.Epoch(r.U64()), new(storeproto.ShardHead)
	readShardHead(r, h)
	return e, h
}

// appendClass ends the head of a read. Demand is not said: it is what version 1 has.
func appendClass(b []byte, c storeproto.Class) []byte {
	if c == storeproto.ClassDemand {
		return b
	}
	return append(b, byte(c))
}

// appendUse ends the head of a put: class and room in one byte, not said if both are zero.
func appendUse(b []byte, c storeproto.Class, room storeproto.Room) []byte {
	if c == storeproto.ClassDemand && room == storeproto.RoomPack {
		return b
	}
	return append(b, byte(room)<<4|byte(c))
}

func readUse(r *codec.Reader) (storeproto.Class, storeproto.Room) {
	if r.Left() == 0 {
		return storeproto.ClassDemand, storeproto.RoomPack
	}
	u := r.U8()
	c, room := u&15, u>>4
	if u == 0 || c >= storeproto.Classes || room >= storeproto.Rooms {
		r.Fail("class and room", storeproto.Classes-1, uint64(u))
		return storeproto.ClassDemand, storeproto.RoomPack
	}
	return storeproto.Class(c), storeproto.Room(room)
}

func readClass(r *codec.Reader) storeproto.Class {
	if r.Left() == 0 {
		return storeproto.ClassDemand
	}
	c := r.U8()
	if c == 0 || c >= storeproto.Classes {
		r.Fail("class", storeproto.Classes-1, uint64(c))
		return storeproto.ClassDemand
	}
	return storeproto.Class(c)
}

func appendShardHeads(b []byte, heads []storeproto.ShardHead) []byte {
	b = binary.AppendUvarint(b, uint64(len(heads)))
	for i := range heads {
		b = appendShardHead(b, &heads[i])
	}
	return b
}

func readShardHeads(r *codec.Reader) []storeproto.ShardHead {
	n := r.Count(headsMax, shardHeadBytes)
	if n == 0 {
		return nil
	}
	heads := make([]storeproto.ShardHead, n)
	for i := range heads {
		readShardHead(r, &heads[i])
	}
	return heads
}

// A read names the shard and the blocks; the answer the generation and their sums.
func appendRead(b []byte, q *storeproto.ReadShard) []byte {
	b = appendGeneration(le.AppendUint64(b, uint64(q.Segment)), q.Generation)
	return le.AppendUint16(le.AppendUint16(append(b, q.Index), q.First), q.Count)
}

func readRead(r *codec.Reader, q *storeproto.ReadShard) {
	q.Segment, q.Generation = id.Segment(r.U64()), readGeneration(r)
	q.Index, q.First, q.Count = r.U8(), r.U16(), r.U16()
	if q.Count == 0 || int(q.First)+int(q.Count) > shardSlotsMax {
		r.Fail("blocks to read", shardSlotsMax, uint64(q.First)+uint64(q.Count))
	}
}

func appendReadReply(b []byte, q *storeproto.ReadShard) []byte {
	return storeproto.AppendSums(appendGeneration(b, q.Got), q.Sums)
}

// readReadReply fills Got and Sums of q.
func readReadReply(r *codec.Reader, q *storeproto.ReadShard) {
	q.Got = readGeneration(r)
	storeproto.DecodeSums(q.Sums[:0], r.Bytes(4*len(q.Sums)))
}

func appendFetch(b []byte, f *storeproto.Fetch) []byte {
	b = le.AppendUint64(appendStream(b, f.Stream), uint64(f.From))
	return le.AppendUint32(b, uint32(min(max(f.BytesMax, 0), fetchBytesMax)))
}

func readFetch(r *codec.Reader) storeproto.Fetch {
	f := storeproto.Fetch{Stream: readStream(r), From: id.LSN(r.U64()), BytesMax: int(r.U32())}
	if f.BytesMax > fetchBytesMax {
		r.Fail("bytes to fetch", fetchBytesMax, uint64(f.BytesMax))
	}
	return f
}

// appendFetchReply writes the heads of the batches, as of appends under their own epoch
// with nothing released; their bodies are the payload, in the same order.
func appendFetchReply(b []byte, s storeproto.Stream, batches []*storeproto.Batch, more bool) []byte {
	b = binary.AppendUvarint(appendBool(b, more), uint64(len(batches)))
	for _, batch := range batches {
		a := storeproto.Append{Stream: s, Epoch: batch.Epoch, Batch: batch}
		n := len(b)
		b = append(b, make([]byte, storeproto.HeaderSize)...)
		a.EncodeHeader(b[n:])
	}
	return b
}

func readFetchReply(place string, r *codec.Reader) (headers []storeproto.Header, more bool) {
	more = readBool(r)
	n := r.Count(fetchCountMax, storeproto.HeaderSize)
	for range n {
		raw := r.Bytes(storeproto.HeaderSize)
		if r.Err() != nil {
			return nil, false
		}
		h, err := storeproto.DecodeHeader(place, raw)
		if err != nil {
			r.Fail("batch header", 1, 0)
			return nil, false
		}
		if h.Base || h.Copy || h.Released != 0 || h.Epoch != h.BatchEpoch || len(headers) > 0 && h.Stream != headers[0].Stream {
			r.Fail("fields of a fetched batch", 0, 1)
			return nil, false
		}
		headers = append(headers, h)
	}
	return headers, more
}

// decode reads all of b with f.
func decode(place string, b []byte, f func(r *codec.Reader)) error {
	return codec.Decode(place, b, f)
}

func corrupt(place, what string, want, got int) error {
	return &errs.Corrupt{Place: place, Offset: -1, What: what, Want: uint64(want), Got: uint64(got)}
}
