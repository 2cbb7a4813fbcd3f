package log

import (
	"encoding/binary"
	"fmt"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Block is the unit of the log: every log write begins and ends on one.
const Block = 4096

// HeaderSize is the bytes of the header of a log write.
const HeaderSize = 64

const (
	magic   = 0x474f4c41 // "ALOG"
	version = 1
)

// Kind is what a log write has.
type Kind uint8

// The kinds.
const (
	// Blank heads a file that was never used.
	Blank Kind = iota
	// Head is the first write of a file: a table.
	Head
	// Appends has new batches.
	Appends
	// Carried has batches copied from a file that is to be recycled.
	Carried
	// Seal is a table in the middle of a file, written at every open.
	Seal
	kindEnd
)

// Header is the decoded header of a log write.
type Header struct {
	Kind      Kind
	FileSeq   uint64
	Seq       uint64
	HeadBytes uint32 // header and what follows it, without the padding
	Blocks    uint32 // of payload, after the head rounded up to a block
	Entries   uint32
}

// Bytes is the size of the whole log write.
func (h *Header) Bytes() int64 {
	return roundUp(int64(h.HeadBytes)) + int64(h.Blocks)*Block
}

func roundUp(n int64) int64 { return (n + Block - 1) &^ (Block - 1) }

// encode writes the header into b[:HeaderSize]; b is the whole head.
func (h *Header) encode(b []byte, inc id.Incarnation) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], magic)
	le.PutUint16(b[4:], version)
	b[6], b[7] = uint8(h.Kind), 0
	copy(b[8:24], inc[:])
	le.PutUint64(b[24:], h.FileSeq)
	le.PutUint64(b[32:], h.Seq)
	le.PutUint32(b[40:], h.HeadBytes)
	le.PutUint32(b[44:], h.Blocks)
	le.PutUint32(b[48:], h.Entries)
	clear(b[52:60])
	le.PutUint32(b[60:], headCRC(b[:h.HeadBytes]))
}

func headCRC(head []byte) uint32 { return codec.CRCMore(codec.CRC(head[:60]), head[HeaderSize:]) }

// DecodeHeader checks and reads the log write that begins at b[0]. Only the head
// is checked; payload is checked by the sums of its batches. limit bounds the
// bytes the whole write may have.
func DecodeHeader(place string, b []byte, inc id.Incarnation, limit int64) (Header, error) {
	var h Header
	if len(b) < HeaderSize {
		return h, &errs.Corrupt{Place: place, What: "log header bytes", Want: HeaderSize, Got: uint64(len(b))}
	}
	le := binary.LittleEndian
	if m := le.Uint32(b); m != magic {
		return h, &errs.Corrupt{Place: place, What: "log magic", Want: magic, Got: uint64(m)}
	}
	h = Header{Kind: Kind(b[6]), FileSeq: le.Uint64(b[24:]), Seq: le.Uint64(b[32:]),
		HeadBytes: le.Uint32(b[40:]), Blocks: le.Uint32(b[44:]), Entries: le.Uint32(b[48:])}
	switch {
	case id.Incarnation(b[8:24]) != inc:
		return h, &errs.Corrupt{Place: place, What: "log incarnation", Want: le.Uint64(inc[:]), Got: le.Uint64(b[8:])}
	case h.HeadBytes < HeaderSize || int64(h.HeadBytes) > int64(len(b)) || h.Bytes() > limit:
		return h, &errs.Corrupt{Place: place, What: "log write bytes", Want: uint64(limit), Got: uint64(h.HeadBytes)}
	}
	if got, want := headCRC(b[:h.HeadBytes]), le.Uint32(b[60:]); got != want {
		return h, &errs.Corrupt{Place: place, What: "log head sum", Want: uint64(want), Got: uint64(got)}
	}
	switch {
	case le.Uint16(b[4:]) > version:
		// Its sum is right, so it is no torn write: taken for one it would be cut off.
		return h, fmt.Errorf("%s: log write of version %d, this program knows %d; update it, nothing was changed: %w", place, le.Uint16(b[4:]), version, errs.ErrInvalid)
	case le.Uint16(b[4:]) != version:
		return h, &errs.Corrupt{Place: place, What: "log version", Want: version, Got: uint64(le.Uint16(b[4:]))}
	case h.Kind >= kindEnd || b[7] != 0 || le.Uint64(b[52:]) != 0:
		return h, &errs.Corrupt{Place: place, What: "log write kind", Want: uint64(kindEnd) - 1, Got: uint64(h.Kind)}
	}
	return h, nil
}

// Table is what the log knows of streams and files at one moment. It heads every
// file, so that recycling the older ones loses no knowledge.
type Table struct {
	// Files are the closed files that may have live batches.
	Files []FileRange
	// Streams are all journal streams of the store.
	Streams []StreamRow
}

// FileRange is a closed file: where it lies and the log writes it has.
type FileRange struct {
	Slot        uint32
	FileSeq     uint64
	First, Last uint64
}

// StreamRow is a stream at the time of the table.
type StreamRow struct {
	Stream   storeproto.Stream
	Released id.LSN
	Tail     id.LSN // last durable
}

// Limits of a table; more is refused when it is read.
const (
	tableFilesMax   = 1 << 16
	tableStreamsMax = 1 << 20
	fileRangeSize   = 28
	streamRowSize   = 16 + 8 + 4 + 1 + 8 + 8
)

// Append writes t as DecodeTable reads it.
func (t *Table) Append(b []byte) []byte {
	le := binary.LittleEndian
	b = binary.AppendUvarint(b, uint64(len(t.Files)))
	for _, f := range t.Files {
		b = le.AppendUint32(b, f.Slot)
		b = le.AppendUint64(b, f.FileSeq)
		b = le.AppendUint64(b, f.First)
		b = le.AppendUint64(b, f.Last)
	}
	b = binary.AppendUvarint(b, uint64(len(t.Streams)))
	for _, s := range t.Streams {
		b = append(b, s.Stream.Volume[:]...)
		b = le.AppendUint64(b, uint64(s.Stream.Ensemble.Epoch))
		b = le.AppendUint32(b, s.Stream.Ensemble.N)
		b = append(b, byte(s.Stream.Kind))
		b = le.AppendUint64(b, uint64(s.Released))
		b = le.AppendUint64(b, uint64(s.Tail))
	}
	return b
}

// DecodeTable reads a table.
func DecodeTable(place string, b []byte) (Table, error) {
	var t Table
	err := codec.Decode(place, b, func(r *codec.Reader) {
		for range r.Count(tableFilesMax, fileRangeSize) {
			t.Files = append(t.Files, FileRange{Slot: r.U32(), FileSeq: r.U64(), First: r.U64(), Last: r.U64()})
		}
		for range r.Count(tableStreamsMax, streamRowSize) {
			var s StreamRow
			r.Fill(s.Stream.Volume[:])
			s.Stream.Ensemble = id.Ensemble{Epoch: id.Epoch(r.U64()), N: r.U32()}
			s.Stream.Kind = storeproto.Kind(r.U8())
			s.Released, s.Tail = id.LSN(r.U64()), id.LSN(r.U64())
			if s.Stream.Kind >= storeproto.Kinds {
				r.Fail("stream kind", storeproto.Kinds, uint64(s.Stream.Kind))
			}
			t.Streams = append(t.Streams, s)
		}
	})
	return t, err
}

// headBytes is the length that the header in b claims, unchecked, to know how much to read.
func headBytes(b []byte) uint32 { return binary.LittleEndian.Uint32(b[40:]) }
