package rpc

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// The versions of the protocol that this package speaks.
const (
	versionMin = 1
	versionMax = 1
)

// features is the set of optional parts that this package knows: none so far. Both
// sides tell theirs, the server answers with those of both.
const features uint64 = 0

const (
	helloMax   = 4096 // bytes of a hello between its length and its sum
	nameMax    = 128  // bytes of a cluster's, role's or host's name
	helloMagic = 0x3150_4452_4c48_5341
)

// clientHello is the first thing on a connection.
type clientHello struct {
	versionMin, versionMax uint16
	features               uint64
	class                  Class
	serviceMin, serviceMax uint16 // versions of the class's protocol
	beat, dead             time.Duration
	self                   pki.Identity // without disks
}

// serverHello answers it. With another code than OK the server closes after it, and the rest is zero.
type serverHello struct {
	code       errs.Code
	text       string
	version    uint16
	features   uint64
	service    uint16
	inFlight   uint32
	payloadMax uint32
	beat, dead time.Duration
	self       pki.Identity
}

func appendIdentity(b []byte, i pki.Identity) []byte {
	b = codec.AppendString(b, i.Cluster)
	b = codec.AppendString(b, string(i.Role))
	return codec.AppendString(b, i.Name)
}

func readIdentity(r *codec.Reader) pki.Identity {
	return pki.Identity{Cluster: r.String(nameMax), Role: pki.Role(r.String(nameMax)), Name: r.String(nameMax)}
}

func appendMillis(b []byte, d time.Duration) []byte {
	return binary.LittleEndian.AppendUint32(b, uint32(d.Milliseconds()))
}

func readMillis(r *codec.Reader) time.Duration { return time.Duration(r.U32()) * time.Millisecond }

func (h *clientHello) append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, helloMagic)
	b = le.AppendUint16(b, h.versionMin)
	b = le.AppendUint16(b, h.versionMax)
	b = le.AppendUint64(b, h.features)
	b = append(b, uint8(h.class))
	b = le.AppendUint16(b, h.serviceMin)
	b = le.AppendUint16(b, h.serviceMax)
	b = appendMillis(b, h.beat)
	b = appendMillis(b, h.dead)
	return appendIdentity(b, h.self)
}

// decodeClientHello does not mind bytes after the end: later versions may add some.
func decodeClientHello(place string, b []byte) (h clientHello, err error) {
	r := codec.NewReader(place, b)
	checkMagic(&r)
	h.versionMin, h.versionMax = r.U16(), r.U16()
	h.features = r.U64()
	h.class = Class(r.U8())
	h.serviceMin, h.serviceMax = r.U16(), r.U16()
	h.beat, h.dead = readMillis(&r), readMillis(&r)
	h.self = readIdentity(&r)
	if h.versionMin == 0 || h.versionMin > h.versionMax {
		r.Fail("versions", uint64(h.versionMax), uint64(h.versionMin))
	}
	return h, r.Err()
}

func (h *serverHello) append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, helloMagic)
	b = le.AppendUint16(b, uint16(h.code))
	b = codec.AppendString(b, h.text)
	b = le.AppendUint16(b, h.version)
	b = le.AppendUint64(b, h.features)
	b = le.AppendUint16(b, h.service)
	b = le.AppendUint32(b, h.inFlight)
	b = le.AppendUint32(b, h.payloadMax)
	b = appendMillis(b, h.beat)
	b = appendMillis(b, h.dead)
	return appendIdentity(b, h.self)
}

func decodeServerHello(place string, b []byte) (h serverHello, err error) {
	r := codec.NewReader(place, b)
	checkMagic(&r)
	h.code = errs.Code(r.U16())
	h.text = r.String(ErrorTextMax)
	h.version = r.U16()
	h.features = r.U64()
	h.service = r.U16()
	h.inFlight, h.payloadMax = r.U32(), r.U32()
	h.beat, h.dead = readMillis(&r), readMillis(&r)
	h.self = readIdentity(&r)
	if r.Err() != nil || h.code != errs.OK {
		return h, r.Err()
	}
	switch {
	case h.version < versionMin || h.version > versionMax:
		r.Fail("version chosen", versionMax, uint64(h.version))
	case h.features&^features != 0:
		r.Fail("features chosen", features, h.features)
	case h.inFlight == 0 || h.inFlight > InFlightMax:
		r.Fail("requests in flight", InFlightMax, uint64(h.inFlight))
	case h.payloadMax == 0 || h.payloadMax > PayloadMax:
		r.Fail("payload limit", PayloadMax, uint64(h.payloadMax))
	}
	return h, r.Err()
}

func checkMagic(r *codec.Reader) {
	if m := r.U64(); m != helloMagic {
		r.Fail("hello magic", helloMagic, m)
	}
}

// writeHello sends a hello: length, body, CRC-32C of both.
func writeHello(w io.Writer, body []byte) error {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, len(body)+8), uint32(len(body)))
	b = append(b, body...)
	_, err := w.Write(binary.LittleEndian.AppendUint32(b, codec.CRC(b)))
	return err
}

func readHello(place string, r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, fmt.Errorf("read hello: %w", err)
	}
	n := binary.LittleEndian.Uint32(size[:])
	if n > helloMax {
		return nil, &errs.Corrupt{Place: place, What: "hello bytes", Want: helloMax, Got: uint64(n)}
	}
	b := make([]byte, n+4)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read hello: %w", err)
	}
	got, want := codec.CRCMore(codec.CRC(size[:]), b[:n]), binary.LittleEndian.Uint32(b[n:])
	if got != want {
		return nil, &errs.Corrupt{Place: place, What: "hello sum", Want: uint64(want), Got: uint64(got)}
	}
	return b[:n], nil
}
