package segment

import (
	"encoding/binary"
	"slices"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

const (
	headMagic   = 0x44485341 // "ASHD"
	headVersion = 1
	headFixed   = 56 // bytes before the entries
	sumSize     = 4

	flagKept = 1 << 0 // every shard lists all slots, and those that are empty have no block
)

// ShardsMax bounds K+M.
const ShardsMax = 32

// HeadMax bounds an encoded header in bytes: every entry in a group of its own.
const HeadMax = headFixed + id.SlotsMax*(2+binary.MaxVarintLen64) + id.SlotsMax*sumSize + sumSize

// EntryCount is the number of entries in the header of a shard of a generation that
// keeps all slots: a data shard lists its own, a parity shard all of the segment. One
// that has dropped some lists all slots in every shard.
func EntryCount(k, index uint8, slots uint16) int {
	if index >= k {
		return int(slots)
	}
	return int(Layout{K: k, Slots: slots}.ShardSlots(index))
}

// checkHead gives what is wrong with the fixed fields; "" for nothing.
func checkHead(h *storeproto.ShardHead) (what string, want, got uint64) {
	l := Layout{K: h.K, Slots: h.Slots}
	switch {
	case !h.Segment.Valid():
		return "segment id", 1, uint64(h.Segment)
	case h.Generation.Epoch == 0:
		return "generation epoch", 1, 0
	case h.K == 0 || int(h.K)+int(h.M) > ShardsMax:
		return "shards", ShardsMax, uint64(h.K) + uint64(h.M)
	case int(h.Index) >= int(h.K)+int(h.M):
		return "shard index", uint64(h.K) + uint64(h.M) - 1, uint64(h.Index)
	case !l.Valid():
		return "slots", id.SlotsMax, uint64(h.Slots)
	}
	return "", 0, 0
}

// dropped tells whether the entries are those of a generation that has dropped slots.
func dropped(h *storeproto.ShardHead) bool {
	return len(h.Entries) == int(h.Slots) && slices.Contains(h.Entries, 0)
}

// blocks is how many blocks the shard has: as a segment of the kept slots would.
func blocks(h *storeproto.ShardHead) uint16 {
	l := Layout{K: h.K, Slots: h.Slots}
	if dropped(h) {
		if l.Slots = MakeKept(h.Entries).Count(); l.Slots == 0 {
			return 0
		}
	}
	return l.Blocks()
}

// AppendHead appends the encoded header h to dst. It panics if h breaks its own
// rules (DecodeHead would refuse it).
func AppendHead(dst []byte, h *storeproto.ShardHead) []byte {
	if what, _, _ := checkHead(h); what != "" {
		panic("segment: a shard header with a wrong field: " + what)
	}
	var flags uint8
	if dropped(h) {
		flags = flagKept
	}
	if flags == 0 && len(h.Entries) != EntryCount(h.K, h.Index, h.Slots) || h.Blocks == 0 || h.Blocks != blocks(h) || len(h.Sums) != int(h.Blocks) {
		panic("segment: a shard header with the wrong number of entries or sums")
	}
	start := len(dst)
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, headMagic)
	dst = le.AppendUint16(dst, headVersion)
	dst = le.AppendUint16(dst, 0)
	dst = append(dst, h.Volume[:]...)
	dst = le.AppendUint64(dst, uint64(h.Segment))
	dst = le.AppendUint64(dst, uint64(h.Generation.Epoch))
	dst = le.AppendUint32(dst, h.Generation.N)
	dst = le.AppendUint32(dst, h.PGVersion)
	dst = append(dst, h.Index, h.K, h.M, flags)
	dst = le.AppendUint16(dst, h.Slots)
	dst = le.AppendUint16(dst, h.Blocks)
	dst = AppendEntries(dst, h.Entries)
	dst = storeproto.AppendSums(dst, h.Sums)
	return le.AppendUint32(dst, codec.CRC(dst[start:]))
}

// DecodeHead reads a header from b, all of it; place names the source in errors,
// which are of class errs.ErrCorrupt. The result shares no memory with b.
func DecodeHead(place string, b []byte) (*storeproto.ShardHead, error) {
	if len(b) < headFixed+sumSize {
		return nil, &errs.Corrupt{Place: place, What: "shard header bytes", Want: headFixed + sumSize, Got: uint64(len(b))}
	}
	body, tail := b[:len(b)-sumSize], b[len(b)-sumSize:]
	if want, got := binary.LittleEndian.Uint32(tail), codec.CRC(body); want != got {
		return nil, &errs.Corrupt{Place: place, What: "shard header sum", Want: uint64(want), Got: uint64(got)}
	}
	h := new(storeproto.ShardHead)
	if err := codec.Decode(place, body, func(r *codec.Reader) { decodeHead(r, h) }); err != nil {
		return nil, err
	}
	return h, nil
}

func decodeHead(r *codec.Reader, h *storeproto.ShardHead) {
	if v := r.U32(); v != headMagic {
		r.Fail("shard header magic", headMagic, uint64(v))
	}
	if v := r.U16(); v != headVersion {
		r.Fail("shard header version", headVersion, uint64(v))
	}
	r.Zero(2)
	r.Fill(h.Volume[:])
	h.Segment = id.Segment(r.U64())
	h.Generation = id.Generation{Epoch: id.Epoch(r.U64()), N: r.U32()}
	h.PGVersion = r.U32()
	h.Index, h.K, h.M = r.U8(), r.U8(), r.U8()
	flags := r.U8()
	if flags&^flagKept != 0 {
		r.Fail("flags of a shard header", flagKept, uint64(flags))
	}
	h.Slots, h.Blocks = r.U16(), r.U16()
	if what, want, got := checkHead(h); what != "" {
		r.Fail(what, want, got)
	}
	if r.Err() != nil {
		return
	}
	n := EntryCount(h.K, h.Index, h.Slots)
	if flags != 0 {
		n = int(h.Slots)
	}
	h.Entries = make([]uint64, n)
	DecodeEntries(r, h.Entries)
	if want := blocks(h); h.Blocks == 0 || h.Blocks != want || dropped(h) != (flags != 0) {
		r.Fail("blocks", uint64(want), uint64(h.Blocks))
	}
	if sums := r.Bytes(int(h.Blocks) * sumSize); sums != nil {
		h.Sums = storeproto.DecodeSums(make([]uint32, 0, h.Blocks), sums)
	}
}
