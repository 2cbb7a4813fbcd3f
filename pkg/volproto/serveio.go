package volproto

import (
	"fmt"
	"sync"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/rpc"
)

// ioServing is one I/O under way at the owner.
type ioServing struct {
	h     *handler
	r     *rpc.Request
	at    *attached
	q     ioRequest
	req   *nbd.Request
	holes []hole
}

var ioServings = sync.Pool{New: func() any { return new(ioServing) }}

// prepareIO checks a request as the NBD server checks those of clients; what is wrong
// with it is answered when its payload was read, so that the answer has a status.
func (h *handler) prepareIO(r *rpc.Request, t target, dec *codec.Reader) error {
	q := readIORequest(dec)
	if r.Op == opContext {
		dec.Fill(q.context[:])
		if q.op != nbd.OpBlockStatus {
			dec.Fail("operation in a context", uint64(nbd.OpBlockStatus), uint64(q.op))
		}
	}
	if dec.End(); dec.Err() != nil {
		return dec.Err()
	}
	payload := 0
	if q.op == nbd.OpWrite {
		payload = int(min(q.length, ioBytesMax+1))
	}
	if r.PayloadBytes != payload {
		return &errs.Corrupt{Place: h.place(), Offset: -1, What: "payload of an I/O", Want: uint64(payload), Got: uint64(r.PayloadBytes)}
	}
	if (q.op == nbd.OpRead || q.op == nbd.OpWrite) && q.length > ioBytesMax {
		return fmt.Errorf("I/O of %d bytes, at most %d: %w", q.length, ioBytesMax, errs.ErrInvalid)
	}
	s := ioServings.Get().(*ioServing)
	s.h, s.r, s.q = h, r, q
	r.State = s
	s.req = nbd.NewRequest(q.op, q.flags, q.offset, q.length, nil, s)
	s.req.Context = q.context
	if payload > 0 {
		r.Into = append(r.Into, s.req.Data)
	}
	if q.op == nbd.OpRead {
		r.ReplyBytes = int(q.length)
	}
	s.at = h.find(t)
	return nil
}

func (s *ioServing) serve() {
	err := error(errNotAttached)
	if s.at != nil {
		err = s.check()
	}
	if err != nil {
		s.Completed(s.req, err)
		return
	}
	s.h.cork(s.at)
	s.at.handle.Submit(s.req)
}

// check refuses what a device need not expect.
func (s *ioServing) check() error {
	q, info := &s.q, &s.at.info
	size := s.at.handle.Size()
	invalid := func(what string) error { return fmt.Errorf("%s in a proxied request: %w", what, errs.ErrInvalid) }
	if q.op == nbd.OpFlush {
		if q.offset != 0 || q.length != 0 {
			return invalid("range of a flush")
		}
		return nil
	}
	if q.length == 0 || q.offset > size || q.length > size-q.offset {
		return fmt.Errorf("%d bytes at %d of a volume of %d: %w", q.length, q.offset, size, block.ErrRange)
	}
	if m := uint64(max(info.BlockMin, 1)); q.offset%m != 0 || q.length%m != 0 {
		return invalid("unaligned range")
	}
	switch q.op {
	case nbd.OpWrite, nbd.OpTrim, nbd.OpWriteZeroes:
		if info.ReadOnly {
			return nbd.EPERM
		}
		if got := codec.CRC(s.req.Data); q.op == nbd.OpWrite && got != q.sum {
			return &errs.Corrupt{Place: s.r.Peer.Identity.Name, Offset: int64(q.offset), What: "data of a write", Want: uint64(q.sum), Got: uint64(got)}
		}
	case nbd.OpRead, nbd.OpCache, nbd.OpBlockStatus:
	default:
		return invalid("unknown operation")
	}
	return nil
}

// Completed is part of nbd.Completer.
func (s *ioServing) Completed(req *nbd.Request, err error) {
	r := s.r
	r.OutHead = appendStatus(r.OutHead, err)
	if err == nil {
		switch s.q.op {
		case nbd.OpRead:
			s.answerRead(req)
		case nbd.OpBlockStatus:
			r.OutHead = appendExtents(r.OutHead, req.Extents())
		}
	}
	r.Reply(nil)
}

// answerRead sends the holes by name and the rest as payload, after its sum.
func (s *ioServing) answerRead(req *nbd.Request) {
	r := s.r
	s.holes = s.holes[:0]
	req.Holes(func(offset, length uint64) { s.holes = append(s.holes, hole{offset, length}) })
	at := uint64(0)
	for _, h := range s.holes {
		if from := h.offset - s.q.offset; from > at {
			r.OutPayload = append(r.OutPayload, req.Data[at:from])
		}
		at = h.offset - s.q.offset + h.length
	}
	if at < s.q.length {
		r.OutPayload = append(r.OutPayload, req.Data[at:])
	}
	r.OutHead = appendHoles(le.AppendUint32(r.OutHead, sumOf(r.OutPayload)), s.holes)
}

func sumOf(slices [][]byte) uint32 {
	sum := uint32(0)
	for _, p := range slices {
		sum = codec.CRCMore(sum, p)
	}
	return sum
}

func (s *ioServing) done() {
	s.req.Recycle()
	if s.at != nil {
		s.at.io.Done()
	}
	s.h, s.r, s.at, s.req = nil, nil, nil, nil
	ioServings.Put(s)
}
