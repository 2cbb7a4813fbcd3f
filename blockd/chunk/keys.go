package chunk

import (
	"encoding/binary"

	"ashlar.dev/blockd/chunk/extent"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// The first byte of a key says what it is. FORMAT.md has the table.
const (
	keyFence     = 'F' // volume → fence
	keyStream    = 'S' // stream → row
	keyDropped   = 'D' // stream → epoch of the drop
	keyMeta      = 'M' // stream, first LSN → batch
	keyTombstone = 'T' // volume, segment → generation, epoch
	keyPG        = 'P' // group → version
	keyLife      = 'L' // → number of the last start
	keyShard     = 's' // shard → place and head
	keyEntries   = 'x' // shard → slot header entries
	keySums      = 'c' // shard → sums
	keyOwner     = 'v' // volume, shard → nothing
	keyCare      = 'C' // → what is remembered of the care for shards
)

const valueVersion = 1

var be = binary.BigEndian

func volumeKey(kind byte, v id.Volume) []byte { return append([]byte{kind}, v[:]...) }

const streamKeyLen = 1 + 16 + 8 + 4 + 1

func streamKey(kind byte, s storeproto.Stream) []byte {
	b := make([]byte, 0, streamKeyLen+8)
	b = append(b, kind)
	b = append(b, s.Volume[:]...)
	b = be.AppendUint64(b, uint64(s.Ensemble.Epoch))
	b = be.AppendUint32(b, s.Ensemble.N)
	return append(b, byte(s.Kind))
}

func decodeStreamKey(b []byte) (storeproto.Stream, bool) {
	var s storeproto.Stream
	if len(b) != streamKeyLen || b[streamKeyLen-1] >= storeproto.Kinds {
		return s, false
	}
	copy(s.Volume[:], b[1:])
	s.Ensemble = id.Ensemble{Epoch: id.Epoch(be.Uint64(b[17:])), N: be.Uint32(b[25:])}
	s.Kind = storeproto.Kind(b[29])
	return s, true
}

func metaKey(s storeproto.Stream, first id.LSN) []byte {
	return be.AppendUint64(streamKey(keyMeta, s), uint64(first))
}

// shardName names one shard.
type shardName struct {
	segment    id.Segment
	generation id.Generation
	index      uint8
}

const shardKeyLen = 1 + 8 + 8 + 4 + 1

func (n shardName) append(b []byte) []byte {
	b = be.AppendUint64(b, uint64(n.segment))
	b = be.AppendUint64(b, uint64(n.generation.Epoch))
	b = be.AppendUint32(b, n.generation.N)
	return append(b, n.index)
}

func (n shardName) key(kind byte) []byte { return n.append(append(make([]byte, 0, shardKeyLen), kind)) }

func segmentKey(kind byte, s id.Segment) []byte { return be.AppendUint64([]byte{kind}, uint64(s)) }

func ownerKey(v id.Volume, n shardName) []byte { return n.append(volumeKey(keyOwner, v)) }

func decodeShardName(b []byte) (n shardName, ok bool) {
	if len(b) != shardKeyLen-1 {
		return n, false
	}
	n.segment = id.Segment(be.Uint64(b))
	n.generation = id.Generation{Epoch: id.Epoch(be.Uint64(b[8:])), N: be.Uint32(b[16:])}
	n.index = b[20]
	return n, true
}

func tombstoneKey(v id.Volume, s id.Segment) []byte {
	return be.AppendUint64(volumeKey(keyTombstone, v), uint64(s))
}

func pgKey(pg id.PG) []byte { return be.AppendUint16([]byte{keyPG}, uint16(pg)) }

// decodeValue reads a value: its version, then what f reads.
func decodeValue(place string, b []byte, f func(r *codec.Reader)) error {
	return codec.Decode(place, b, func(r *codec.Reader) {
		if v := r.U8(); v != valueVersion {
			r.Fail("value version", valueVersion, uint64(v))
		}
		f(r)
	})
}

func newValue() []byte { return append(make([]byte, 0, 64), valueVersion) }

func encodeFence(f core.FenceRow) []byte {
	b := newValue()
	b = binary.LittleEndian.AppendUint64(b, uint64(f.Epoch))
	b = binary.LittleEndian.AppendUint64(b, f.Naming)
	b = binary.LittleEndian.AppendUint64(b, f.By.Number)
	return codec.AppendString(b, string(f.By.Host))
}

func decodeFence(v id.Volume, b []byte) (f core.FenceRow, err error) {
	f.Volume = v
	err = decodeValue("fence", b, func(r *codec.Reader) {
		f.Epoch, f.Naming, f.By.Number = id.Epoch(r.U64()), r.U64(), r.U64()
		f.By.Host = id.Host(r.String(id.HostMax))
	})
	return f, err
}

func encodeRow(r core.Row) []byte {
	b := newValue()
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Base))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Released))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.LossyTo))
	return binary.LittleEndian.AppendUint64(b, r.Mark)
}

func decodeRow(s storeproto.Stream, b []byte) (row core.Row, err error) {
	row.Stream = s
	err = decodeValue("stream row", b, func(r *codec.Reader) {
		row.Base, row.Released, row.LossyTo = id.LSN(r.U64()), id.LSN(r.U64()), id.LSN(r.U64())
		row.Mark = r.U64()
		if row.Base == 0 {
			r.Fail("base", 1, 0)
		}
	})
	return row, err
}

func encodeEpoch(e id.Epoch) []byte {
	return binary.LittleEndian.AppendUint64(newValue(), uint64(e))
}

func decodeEpoch(b []byte) (e id.Epoch, err error) {
	err = decodeValue("epoch", b, func(r *codec.Reader) { e = id.Epoch(r.U64()) })
	return e, err
}

func encodeNumber(n uint32) []byte { return binary.LittleEndian.AppendUint32(newValue(), n) }

func decodeNumber(b []byte) (n uint32, err error) {
	err = decodeValue("number", b, func(r *codec.Reader) { n = r.U32() })
	return n, err
}

func encodeTombstone(t core.Tombstone) []byte {
	b := newValue()
	b = binary.LittleEndian.AppendUint64(b, uint64(t.Generation.Epoch))
	b = binary.LittleEndian.AppendUint32(b, t.Generation.N)
	return binary.LittleEndian.AppendUint64(b, uint64(t.Epoch))
}

func decodeTombstone(key, b []byte) (t core.Tombstone, err error) {
	err = codec.Decode("tombstone key", key, func(r *codec.Reader) {
		r.U8()
		r.Fill(t.Volume[:])
		if s := r.Bytes(8); s != nil {
			t.Segment = id.Segment(be.Uint64(s))
		}
	})
	if err != nil {
		return t, err
	}
	err = decodeValue("tombstone", b, func(r *codec.Reader) {
		t.Generation = id.Generation{Epoch: id.Epoch(r.U64()), N: r.U32()}
		t.Epoch = id.Epoch(r.U64())
	})
	return t, err
}

// shardRow is the small value of a shard: where it lies and all of its head that
// has a fixed size.
type shardRow struct {
	place extent.Place
	head  storeproto.ShardHead // without Entries and Sums
}

func (s *shardRow) encode() []byte {
	h := &s.head
	b := newValue()
	b = append(b, h.Volume[:]...)
	b = append(b, h.K, h.M)
	b = binary.LittleEndian.AppendUint32(b, h.PGVersion)
	b = binary.LittleEndian.AppendUint16(b, h.Slots)
	b = binary.LittleEndian.AppendUint16(b, h.Blocks)
	return s.place.Append(b)
}

func decodeShardRow(n shardName, b []byte) (s shardRow, err error) {
	h := &s.head
	h.Segment, h.Generation, h.Index = n.segment, n.generation, n.index
	err = decodeValue("shard row", b, func(r *codec.Reader) {
		r.Fill(h.Volume[:])
		h.K, h.M = r.U8(), r.U8()
		h.PGVersion = r.U32()
		h.Slots, h.Blocks = r.U16(), r.U16()
		s.place = extent.Decode(r)
		if room, need := s.place.Units()*extent.Unit, int64(h.Blocks)*storeproto.BlockSize; room < need || h.Blocks == 0 || h.Blocks > storeproto.ShardBlocksMax {
			r.Fail("room of the shard", uint64(need), uint64(room))
		}
	})
	return s, err
}

// encodeEntries packs entries, which mostly rise by little, as differences.
func encodeEntries(entries []uint64) []byte {
	b := append(make([]byte, 0, 8+3*len(entries)), valueVersion)
	b = binary.AppendUvarint(b, uint64(len(entries)))
	prev := uint64(0)
	for _, e := range entries {
		b = binary.AppendVarint(b, int64(e-prev))
		prev = e
	}
	return b
}

func decodeEntries(b []byte) (entries []uint64, err error) {
	err = decodeValue("shard entries", b, func(r *codec.Reader) {
		n := r.Count(id.SlotsMax, 1)
		if n > 0 {
			entries = make([]uint64, 0, n)
		}
		prev := uint64(0)
		for range n {
			z := r.Uvarint() // zigzag, as binary.AppendVarint writes
			prev += z>>1 ^ -(z & 1)
			entries = append(entries, prev)
		}
	})
	return entries, err
}

func encodeSums(sums []uint32) []byte {
	b := append(make([]byte, 0, 1+4*len(sums)), valueVersion)
	return storeproto.AppendSums(b, sums)
}

func decodeSums(blocks uint16, b []byte) (sums []uint32, err error) {
	err = decodeValue("shard sums", b, func(r *codec.Reader) {
		if raw := r.Bytes(4 * int(blocks)); raw != nil {
			sums = storeproto.DecodeSums(make([]uint32, 0, blocks), raw)
		}
	})
	return sums, err
}

// keyRange gives the bounds of all keys with a prefix.
func keyRange(prefix []byte) (lower, upper []byte) {
	upper = append([]byte(nil), prefix...)
	for i := len(upper) - 1; i >= 0; i-- {
		if upper[i]++; upper[i] != 0 {
			return prefix, upper[:i+1]
		}
	}
	return prefix, nil
}

func encodeCare(c storeproto.Care) []byte {
	b := newValue()
	b = binary.LittleEndian.AppendUint64(b, uint64(c.BeganMS))
	b = shardName{c.After.Segment, c.After.Generation, c.After.Index}.append(b)
	for _, v := range []uint64{c.Shards, c.Bytes, uint64(c.EndedMS), c.Wrong, c.Missing, c.Mended, uint64(c.ScoreMS)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = binary.LittleEndian.AppendUint32(b, c.Score)
	if c.Flagged {
		return append(b, 1)
	}
	return append(b, 0)
}

func decodeCare(b []byte) (c storeproto.Care, err error) {
	err = decodeValue("care", b, func(r *codec.Reader) {
		c.BeganMS = int64(r.U64())
		if name := r.Bytes(shardKeyLen - 1); name != nil {
			n, _ := decodeShardName(name)
			c.After = storeproto.ShardName{Segment: n.segment, Generation: n.generation, Index: n.index}
		}
		c.Shards, c.Bytes, c.EndedMS = r.U64(), r.U64(), int64(r.U64())
		c.Wrong, c.Missing, c.Mended, c.ScoreMS = r.U64(), r.U64(), r.U64(), int64(r.U64())
		c.Score = r.U32()
		flagged := r.U8()
		if c.Flagged = flagged == 1; flagged > 1 {
			r.Fail("flag", 1, uint64(flagged))
		}
	})
	return c, err
}
