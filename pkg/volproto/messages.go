package volproto

import (
	"encoding/binary"
	"errors"
	"fmt"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
)

// Version is the one version of the protocol.
const Version = 1

// The operations. Values are those of the wire.
const (
	opAttach = 1
	opDetach = 2
	opIO     = 3
	opSize   = 4
	// opAttachSnapshot came later than the others: a peer that does not know it refuses it.
	opAttachSnapshot = 5
	// opContext, a block status in another context than base:allocation, came later still.
	opContext = 6
)

// The statuses with which every answer begins.
const (
	statusOK       = 0
	statusNotOwner = 1 // and owner, epoch
	statusStale    = 2 // a newer session was let in
	statusHangup   = 3 // and text: the client has to come back
	statusErrno    = 4 // and an error of NBD
	statusError    = 5 // and class, text
)

// Limits of messages.
const (
	holesMax = 1 << 12
	textMax  = 1 << 10
	// ioBytesMax bounds the bytes of one read or write.
	ioBytesMax = buf.LenMax
)

var le = binary.LittleEndian

// target is what every request begins with.
type target struct {
	volume  id.Volume
	session Session
}

func (t *target) append(b []byte) []byte {
	b = append(append(b, t.volume[:]...), t.session.Attachment[:]...)
	return le.AppendUint64(b, t.session.Number)
}

func readTarget(r *codec.Reader) (t target) {
	r.Fill(t.volume[:])
	r.Fill(t.session.Attachment[:])
	if t.session.Number = r.U64(); t.session.Number == 0 {
		r.Fail("session number", 1, 0)
	}
	return t
}

// use tells the attaches of one connection apart, so that a detach undoes its own and no
// other: also one that is not answered yet, or was never sent.
type use uint64

func (u use) append(b []byte) []byte { return le.AppendUint64(b, uint64(u)) }

func readUse(r *codec.Reader) use { return use(r.U64()) }

// ioRequest follows the target of an I/O; a write's data are the payload.
type ioRequest struct {
	op     nbd.Op
	flags  nbd.Flags
	offset uint64
	length uint64
	sum    uint32 // CRC-32C of the payload

	context nbd.ContextKey // of an opContext
}

func (q *ioRequest) append(b []byte) []byte {
	b = le.AppendUint16(le.AppendUint16(b, uint16(q.op)), uint16(q.flags))
	b = le.AppendUint64(le.AppendUint64(b, q.offset), q.length)
	return le.AppendUint32(b, q.sum)
}

func readIORequest(r *codec.Reader) ioRequest {
	return ioRequest{op: nbd.Op(r.U16()), flags: nbd.Flags(r.U16()), offset: r.U64(), length: r.U64(), sum: r.U32()}
}

const (
	infoReadOnly   = 1 << 0
	infoMultiConn  = 1 << 1
	infoRotational = 1 << 2
)

// appendInfo is the answer to an attach, after the status.
func appendInfo(b []byte, size uint64, i nbd.Info) []byte {
	var flags uint8
	for bit, on := range map[uint8]bool{infoReadOnly: i.ReadOnly, infoMultiConn: i.MultiConn, infoRotational: i.Rotational} {
		if on {
			flags |= bit
		}
	}
	b = append(le.AppendUint64(b, size), flags)
	for _, n := range []uint32{i.BlockMin, i.BlockPreferred, i.PayloadMax} {
		b = le.AppendUint32(b, n)
	}
	b = codec.AppendString(b, i.Name[:min(len(i.Name), textMax)])
	return codec.AppendString(b, i.Description[:min(len(i.Description), textMax)])
}

func readInfo(r *codec.Reader) (size uint64, i nbd.Info) {
	size = r.U64()
	flags := r.U8()
	if flags&^(infoReadOnly|infoMultiConn|infoRotational) != 0 {
		r.Fail("flags of a volume", 0, uint64(flags))
	}
	i.ReadOnly, i.MultiConn, i.Rotational = flags&infoReadOnly != 0, flags&infoMultiConn != 0, flags&infoRotational != 0
	i.BlockMin, i.BlockPreferred, i.PayloadMax = r.U32(), r.U32(), r.U32()
	i.Name, i.Description = r.String(textMax), r.String(textMax)
	return size, i
}

// hole is a range of a read that reads as zeros, in bytes of the volume.
type hole struct{ offset, length uint64 }

func appendHoles(b []byte, holes []hole) []byte {
	b = binary.AppendUvarint(b, uint64(len(holes)))
	for _, h := range holes {
		b = le.AppendUint64(le.AppendUint64(b, h.offset), h.length)
	}
	return b
}

// readHoles refuses holes that do not ascend within the range.
func readHoles(r *codec.Reader, dst []hole, offset, length uint64) []hole {
	n := r.Count(holesMax, 16)
	for at := offset; n > 0; n-- {
		h := hole{r.U64(), r.U64()}
		if h.length == 0 || h.offset < at || h.offset-offset > length || h.length > length-(h.offset-offset) {
			r.Fail("hole", at, h.offset)
		}
		if r.Err() != nil {
			return dst
		}
		dst = append(dst, h)
		at = h.offset + h.length
	}
	return dst
}

func appendExtents(b []byte, extents []nbd.Extent) []byte {
	b = binary.AppendUvarint(b, uint64(len(extents)))
	for _, e := range extents {
		b = le.AppendUint32(le.AppendUint64(b, e.Length), uint32(e.State))
	}
	return b
}

func readExtents(r *codec.Reader, f func(nbd.Extent)) {
	for n := r.Count(nbd.ExtentsMax, 12); n > 0 && r.Err() == nil; n-- {
		e := nbd.Extent{Length: r.U64(), State: nbd.State(r.U32())}
		if e.State&^(nbd.StateHole|nbd.StateZero) != 0 {
			r.Fail("state of an extent", 0, uint64(e.State))
			return
		}
		f(e)
	}
}

// appendStatus writes how a request ended; what an OK goes on with follows.
func appendStatus(b []byte, err error) []byte {
	var notOwner *NotOwner
	var errno nbd.Errno
	text := func() string { t := err.Error(); return t[:min(len(t), textMax)] }
	switch {
	case err == nil:
		return append(b, statusOK)
	case errors.As(err, &notOwner):
		b = codec.AppendString(append(b, statusNotOwner), string(notOwner.Owner))
		return le.AppendUint64(b, uint64(notOwner.Epoch))
	case errors.Is(err, ErrStaleSession):
		return append(b, statusStale)
	case errors.Is(err, nbd.ErrHangup), errors.Is(err, errs.ErrStaleEpoch):
		return codec.AppendString(append(b, statusHangup), text())
	case errors.As(err, &errno):
		return le.AppendUint32(append(b, statusErrno), uint32(errno))
	}
	b = le.AppendUint16(append(b, statusError), uint16(errs.CodeOf(err)))
	return codec.AppendString(b, text())
}

// readStatus is the error that the peer reported, or nil with the reader at what follows.
// A broken answer shows in r.Err.
func readStatus(r *codec.Reader, v id.Volume) error {
	switch status := r.U8(); status {
	case statusOK:
		return nil
	case statusNotOwner:
		owner := id.Host(r.String(id.HostMax))
		return fmt.Errorf("%w: %w", nbd.ErrHangup, &NotOwner{Volume: v, Owner: owner, Epoch: id.Epoch(r.U64())})
	case statusStale:
		return fmt.Errorf("%w: %w", nbd.ErrHangup, ErrStaleSession)
	case statusHangup:
		return fmt.Errorf("%w: peer reports: %s", nbd.ErrHangup, r.String(textMax))
	case statusErrno:
		if e := nbd.Errno(r.U32()); e != 0 {
			return e
		}
		r.Fail("errno", 1, 0)
	case statusError:
		code := errs.Code(r.U16())
		if err := errs.FromCode(code, r.String(textMax)); err != nil {
			return err
		}
		r.Fail("error class", 1, 0)
	default:
		r.Fail("status", statusError, uint64(status))
	}
	return r.Err()
}
