package nbd

import "encoding/binary"

// Everything on the wire is big-endian.
var be = binary.BigEndian

// The magic numbers.
const (
	magicInit      uint64 = 0x4e42444d41474943 // NBDMAGIC
	magicOption    uint64 = 0x49484156454f5054 // IHAVEOPT
	magicOldstyle  uint64 = 0x0000420281861253
	magicOptReply  uint64 = 0x0003e889045565a9
	magicRequest   uint32 = 0x25609513
	magicSimple    uint32 = 0x67446698
	magicStructure uint32 = 0x668e33ef
	magicRequestEx uint32 = 0x21e41c71
	magicReplyEx   uint32 = 0x6e8a278c
)

// Handshake flags; the client's have the same bits.
const (
	handshakeFixed    uint16 = 1 << 0
	handshakeNoZeroes uint16 = 1 << 1
)

// Options that a client sends.
type option uint32

const (
	optExportName      option = 1
	optAbort           option = 2
	optList            option = 3
	optStartTLS        option = 5
	optInfo            option = 6
	optGo              option = 7
	optStructuredReply option = 8
	optListMeta        option = 9
	optSetMeta         option = 10
	optExtendedHeaders option = 11
)

// Replies to options. Errors have the top bit set.
type optReply uint32

const (
	repAck    optReply = 1
	repServer optReply = 2
	repInfo   optReply = 3
	repMeta   optReply = 4

	repErrUnsup             optReply = 1<<31 + 1
	repErrPolicy            optReply = 1<<31 + 2
	repErrInvalid           optReply = 1<<31 + 3
	repErrPlatform          optReply = 1<<31 + 4
	repErrTLSRequired       optReply = 1<<31 + 5
	repErrUnknown           optReply = 1<<31 + 6
	repErrShutdown          optReply = 1<<31 + 7
	repErrBlockSizeRequired optReply = 1<<31 + 8
	repErrTooBig            optReply = 1<<31 + 9
	repErrExtHeaderRequired optReply = 1<<31 + 10
)

func (r optReply) isError() bool { return r&(1<<31) != 0 }

// What an info reply tells.
const (
	infoExport      uint16 = 0
	infoName        uint16 = 1
	infoDescription uint16 = 2
	infoBlockSize   uint16 = 3
)

// TransmissionFlags tell a client what an export can do.
type TransmissionFlags uint16

// The transmission flags.
const (
	HasFlags           TransmissionFlags = 1 << 0
	ReadOnly           TransmissionFlags = 1 << 1
	SendFlush          TransmissionFlags = 1 << 2
	SendFUA            TransmissionFlags = 1 << 3
	Rotational         TransmissionFlags = 1 << 4
	SendTrim           TransmissionFlags = 1 << 5
	SendWriteZeroes    TransmissionFlags = 1 << 6
	SendDF             TransmissionFlags = 1 << 7
	CanMultiConn       TransmissionFlags = 1 << 8
	SendCache          TransmissionFlags = 1 << 10
	SendFastZero       TransmissionFlags = 1 << 11
	BlockStatusPayload TransmissionFlags = 1 << 12
)

// Chunks of structured and extended replies.
const (
	chunkNone        uint16 = 0
	chunkData        uint16 = 1
	chunkHole        uint16 = 2
	chunkStatus      uint16 = 5
	chunkStatusEx    uint16 = 6
	chunkError       uint16 = 1<<15 + 1
	chunkErrorOffset uint16 = 1<<15 + 2

	chunkDone uint16 = 1 << 0 // flag: the last of its reply
)

// Lengths of headers in bytes.
const (
	requestLen     = 28
	requestExLen   = 32
	simpleLen      = 16
	structuredLen  = 20
	extendedLen    = 32
	optionLen      = 16
	optionReplyLen = 20
)

// stringMax bounds names, descriptions and messages in bytes, as the protocol does.
const stringMax = 4096

// The defaults of the protocol for an export that names no sizes.
const (
	blockMinDefault       = 1
	blockPreferredDefault = 4096
	payloadMaxDefault     = 32 << 20
)

// metaAllocation is the metadata context of every device, with its number on the wire; others follow.
const (
	metaAllocation   = "base:allocation"
	metaAllocationID = 1
)

// headers says which transmission headers a connection agreed on.
type headers uint8

const (
	headersSimple     headers = iota // simple replies only
	headersStructured                // compact requests, structured replies
	headersExtended                  // both extended, 64-bit lengths
)

// requestHeader is a request as it stands on the wire, before it is believed.
type requestHeader struct {
	flags  Flags
	op     Op
	cookie uint64
	offset uint64
	length uint64

	contexts uint32 // of a block status at the server: which of those selected, by bit
}

// putRequest writes h in the form of mode and gives its length in bytes.
func putRequest(b []byte, mode headers, h requestHeader) int {
	be.PutUint16(b[4:], uint16(h.flags))
	be.PutUint16(b[6:], uint16(h.op))
	be.PutUint64(b[8:], h.cookie)
	be.PutUint64(b[16:], h.offset)
	if mode == headersExtended {
		be.PutUint32(b, magicRequestEx)
		be.PutUint64(b[24:], h.length)
		return requestExLen
	}
	be.PutUint32(b, magicRequest)
	be.PutUint32(b[24:], uint32(h.length))
	return requestLen
}

// parseRequest reads a header of the form of mode; false where the magic is wrong.
func parseRequest(b []byte, mode headers) (h requestHeader, ok bool) {
	h.flags = Flags(be.Uint16(b[4:]))
	h.op = Op(be.Uint16(b[6:]))
	h.cookie = be.Uint64(b[8:])
	h.offset = be.Uint64(b[16:])
	if mode == headersExtended {
		h.length = be.Uint64(b[24:])
		return h, be.Uint32(b) == magicRequestEx
	}
	h.length = uint64(be.Uint32(b[24:]))
	return h, be.Uint32(b) == magicRequest
}

// requestHeaderLen is the length in bytes of a request's header in mode.
func (m headers) requestLen() int {
	if m == headersExtended {
		return requestExLen
	}
	return requestLen
}

// chunkLen is the length in bytes of a chunk's header in mode.
func (m headers) chunkLen() int {
	if m == headersExtended {
		return extendedLen
	}
	return structuredLen
}

// putChunk writes the header of one chunk in the form of mode: payload bytes follow it.
// offset is that of the request; only the extended form carries it.
func putChunk(b []byte, mode headers, flags, kind uint16, cookie, offset uint64, payload int) {
	be.PutUint16(b[4:], flags)
	be.PutUint16(b[6:], kind)
	be.PutUint64(b[8:], cookie)
	if mode == headersExtended {
		be.PutUint32(b, magicReplyEx)
		be.PutUint64(b[16:], offset)
		be.PutUint64(b[24:], uint64(payload))
		return
	}
	be.PutUint32(b, magicStructure)
	be.PutUint32(b[16:], uint32(payload))
}

// putSimple writes a simple reply.
func putSimple(b []byte, e Errno, cookie uint64) {
	be.PutUint32(b, magicSimple)
	be.PutUint32(b[4:], uint32(e))
	be.PutUint64(b[8:], cookie)
}

// flags gives the transmission flags of a device with info, in mode; meta tells whether a context is selected.
func (info Info) flags(mode headers, meta bool) TransmissionFlags {
	f := HasFlags | SendFlush | SendFUA | SendCache
	if info.ReadOnly {
		f |= ReadOnly
	} else {
		f |= SendTrim | SendWriteZeroes | SendFastZero
	}
	if info.MultiConn {
		f |= CanMultiConn
	}
	if info.Rotational {
		f |= Rotational
	}
	if mode != headersSimple {
		f |= SendDF
	}
	if mode == headersExtended && meta {
		f |= BlockStatusPayload
	}
	return f
}

// withDefaults puts the protocol's sizes where info has none.
func (info Info) withDefaults() Info {
	if info.BlockMin == 0 {
		info.BlockMin = blockMinDefault
	}
	if info.BlockPreferred == 0 {
		info.BlockPreferred = max(blockPreferredDefault, info.BlockMin)
	}
	if info.PayloadMax == 0 || info.PayloadMax > payloadMaxDefault {
		info.PayloadMax = payloadMaxDefault
	}
	return info
}

// sizesAreDefault tells whether a client may ignore the sizes of info.
func (info Info) sizesAreDefault() bool {
	return info.BlockMin == blockMinDefault && info.PayloadMax == payloadMaxDefault
}
