package rpc

import (
	"encoding/binary"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
)

// headerSize is the bytes before the head of every frame.
const headerSize = 36

type kind uint8

const (
	kindRequest kind = 1
	kindReply   kind = 2
	kindBeat    kind = 3 // "I live"; empty
)

const (
	flagContinued = 1 << 0 // more payload of the message that the last frame left unfinished
	flagAbort     = 1 << 1 // with flagContinued: the rest of that message will not come
)

// header is a frame's fixed part. A message is one frame, or a first one and as many
// continued ones as it takes to reach total; between them come only other messages'
// frames that are whole.
type header struct {
	head    uint32 // bytes of head in this frame; none in a continued one
	payload uint32 // bytes of payload in this frame
	total   uint32 // bytes of payload in the message
	op      uint16 // request: the operation; reply: an errs.Code
	kind    kind
	flags   uint8
	id      uint64 // the request's; chosen by the client
	timeout uint32 // request: milliseconds that the caller will wait, 0 unknown
	headCRC uint32 // CRC-32C of the head
}

func (h *header) append(b []byte) []byte {
	le := binary.LittleEndian
	n := len(b)
	b = append(b, make([]byte, headerSize)...)
	p := b[n : n+headerSize : n+headerSize]
	le.PutUint32(p[0:], h.head)
	le.PutUint32(p[4:], h.payload)
	le.PutUint32(p[8:], h.total)
	le.PutUint16(p[12:], h.op)
	p[14] = uint8(h.kind)
	p[15] = h.flags
	le.PutUint64(p[16:], h.id)
	le.PutUint32(p[24:], h.timeout)
	le.PutUint32(p[28:], h.headCRC)
	le.PutUint32(p[32:], codec.CRC(p[:32]))
	return b
}

// decodeHeader checks and reads a header; what it lets through is within the protocol's limits.
func decodeHeader(place string, p []byte) (h header, err error) {
	if len(p) < headerSize {
		return h, &errs.Corrupt{Place: place, Offset: -1, What: "frame header bytes", Want: headerSize, Got: uint64(len(p))}
	}
	p = p[:headerSize]
	le := binary.LittleEndian
	if got, want := codec.CRC(p[:32]), le.Uint32(p[32:]); got != want {
		return h, &errs.Corrupt{Place: place, Offset: -1, What: "frame header sum", Want: uint64(want), Got: uint64(got)}
	}
	h = header{head: le.Uint32(p), payload: le.Uint32(p[4:]), total: le.Uint32(p[8:]), op: le.Uint16(p[12:]), kind: kind(p[14]),
		flags: p[15], id: le.Uint64(p[16:]), timeout: le.Uint32(p[24:]), headCRC: le.Uint32(p[28:])}
	bad := func(what string, want, got uint64) (header, error) {
		return header{}, &errs.Corrupt{Place: place, Offset: -1, What: what, Want: want, Got: got}
	}
	continued, abort := h.flags&flagContinued != 0, h.flags&flagAbort != 0
	switch {
	case h.kind < kindRequest || h.kind > kindBeat:
		return bad("frame kind", uint64(kindBeat), uint64(h.kind))
	case h.flags&^(flagContinued|flagAbort) != 0 || abort && !continued:
		return bad("frame flags", flagContinued|flagAbort, uint64(h.flags))
	case h.kind == kindBeat && h != header{kind: kindBeat}:
		return bad("bytes of a beat", 0, 1)
	case h.head > HeadMax || continued && (h.head != 0 || h.headCRC != 0):
		return bad("head bytes", HeadMax, uint64(h.head))
	case h.total > PayloadMax:
		return bad("payload of the message", PayloadMax, uint64(h.total))
	case h.payload > FragmentMax || h.payload > h.total:
		return bad("payload of the frame", uint64(h.total), uint64(h.payload))
	case h.payload == 0 && (h.total != 0 || continued) != abort:
		return bad("payload of the frame", 1, 0)
	case abort && h.payload != 0:
		return bad("payload of an abort", 0, uint64(h.payload))
	}
	return h, nil
}
