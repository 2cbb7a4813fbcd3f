package storeproto

import (
	"encoding/binary"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// HeaderSize is the bytes of an encoded append header. The wire and a store's
// log use the same form: header, meta, sums, payload.
const HeaderSize = 96

const (
	headerMagic   = 0x4e455041 // "APEN"
	headerVersion = 1

	flagBase = 1 << 0
	flagCopy = 1 << 1
)

// BodySize is the bytes that follow the header of an append.
func (b *Batch) BodySize() int { return len(b.Meta) + 4*len(b.Sums) + b.PayloadBytes() }

// EncodeHeader writes the header of a into dst (HeaderSize bytes).
func (a *Append) EncodeHeader(dst []byte) {
	_ = dst[HeaderSize-1]
	le := binary.LittleEndian
	b := a.Batch
	le.PutUint32(dst[0:], headerMagic)
	le.PutUint16(dst[4:], headerVersion)
	dst[6] = uint8(a.Stream.Kind)
	dst[7] = 0
	if a.Base {
		dst[7] |= flagBase
	}
	if a.Copy {
		dst[7] |= flagCopy
	}
	copy(dst[8:24], a.Stream.Volume[:])
	le.PutUint64(dst[24:], uint64(a.Stream.Ensemble.Epoch))
	le.PutUint32(dst[32:], a.Stream.Ensemble.N)
	le.PutUint32(dst[36:], b.Count)
	le.PutUint64(dst[40:], uint64(a.Epoch))
	le.PutUint64(dst[48:], uint64(b.Epoch))
	le.PutUint64(dst[56:], uint64(b.First))
	le.PutUint64(dst[64:], uint64(a.Released))
	le.PutUint32(dst[72:], uint32(len(b.Meta)))
	le.PutUint32(dst[76:], uint32(len(b.Sums)))
	le.PutUint32(dst[80:], b.Sum)
	clear(dst[84:92])
	le.PutUint32(dst[92:], codec.CRC(dst[:92]))
}

// Header is a decoded append header: an Append whose batch has no memory yet.
type Header struct {
	Stream     Stream
	Base, Copy bool
	Epoch      id.Epoch
	Released   id.LSN
	BatchEpoch id.Epoch
	First      id.LSN
	Count      uint32
	MetaLen    int
	Blocks     int
	Sum        uint32
}

// BodySize is the bytes that follow.
func (h *Header) BodySize() int { return h.MetaLen + 4*h.Blocks + h.Blocks*BlockSize }

// DecodeHeader checks and reads a header; b has at least HeaderSize bytes or the answer is ErrCorrupt.
func DecodeHeader(place string, b []byte) (Header, error) {
	var h Header
	if len(b) < HeaderSize {
		return h, &errs.Corrupt{Place: place, What: "header bytes", Want: HeaderSize, Got: uint64(len(b))}
	}
	le := binary.LittleEndian
	if m := le.Uint32(b); m != headerMagic {
		return h, &errs.Corrupt{Place: place, What: "append magic", Want: headerMagic, Got: uint64(m)}
	}
	if got, want := codec.CRC(b[:92]), le.Uint32(b[92:]); got != want {
		return h, &errs.Corrupt{Place: place, What: "append header sum", Want: uint64(want), Got: uint64(got)}
	}
	if v := le.Uint16(b[4:]); v != headerVersion {
		return h, &errs.Corrupt{Place: place, What: "append version", Want: headerVersion, Got: uint64(v)}
	}
	h.Stream.Kind = Kind(b[6])
	h.Base, h.Copy = b[7]&flagBase != 0, b[7]&flagCopy != 0
	copy(h.Stream.Volume[:], b[8:24])
	h.Stream.Ensemble = id.Ensemble{Epoch: id.Epoch(le.Uint64(b[24:])), N: le.Uint32(b[32:])}
	h.Count = le.Uint32(b[36:])
	h.Epoch = id.Epoch(le.Uint64(b[40:]))
	h.BatchEpoch = id.Epoch(le.Uint64(b[48:]))
	h.First = id.LSN(le.Uint64(b[56:]))
	h.Released = id.LSN(le.Uint64(b[64:]))
	meta, blocks := le.Uint32(b[72:]), le.Uint32(b[76:])
	h.Sum = le.Uint32(b[80:])
	switch {
	case h.Stream.Kind >= Kinds:
		return h, &errs.Corrupt{Place: place, What: "stream kind", Want: Kinds, Got: uint64(h.Stream.Kind)}
	case b[7]&^(flagBase|flagCopy) != 0 || le.Uint64(b[84:]) != 0:
		return h, &errs.Corrupt{Place: place, What: "reserved bytes", Want: 0, Got: 1}
	case h.Count == 0 || h.Count > BatchRecordsMax:
		return h, &errs.Corrupt{Place: place, What: "records", Want: BatchRecordsMax, Got: uint64(h.Count)}
	case h.First == 0 || h.First+id.LSN(h.Count) < h.First:
		return h, &errs.Corrupt{Place: place, What: "first LSN", Want: 1, Got: uint64(h.First)}
	case h.Epoch == 0 || h.BatchEpoch == 0 || h.Stream.Ensemble.Epoch == 0:
		return h, &errs.Corrupt{Place: place, What: "epoch", Want: 1, Got: 0}
	case meta > BatchMetaMax || blocks > BatchBlocksMax:
		return h, &errs.Corrupt{Place: place, What: "body size", Want: BatchMetaMax, Got: uint64(meta)}
	}
	h.MetaLen, h.Blocks = int(meta), int(blocks)
	return h, nil
}

// DecodeSums reads n little-endian sums from b into dst, which it returns extended.
func DecodeSums(dst []uint32, b []byte) []uint32 {
	for ; len(b) >= 4; b = b[4:] {
		dst = append(dst, binary.LittleEndian.Uint32(b))
	}
	return dst
}

// AppendSums writes sums as DecodeSums reads them.
func AppendSums(dst []byte, sums []uint32) []byte {
	for _, s := range sums {
		dst = binary.LittleEndian.AppendUint32(dst, s)
	}
	return dst
}
