package nbd

import (
	"errors"
)

// Error is an error with a text for the client's user. A device completes with it to have
// the text shown; the texts of other errors stay here. Clients get it for what a server reports.
type Error struct {
	Errno Errno
	Text  string
}

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Errno.Error()
	}
	return e.Errno.Error() + ": " + e.Text
}

// Unwrap gives the Errno.
func (e *Error) Unwrap() error { return e.Errno }

// reply is what the server keeps of a request until its reply is written.
type reply struct {
	frame   frame
	conn    *conn
	cookie  uint64
	charged int64 // bytes, given back to the limiters when the reply is out
	errno   Errno
	text    string
	// Of a block status: the contexts still to ask for, by bit, the one asked for, and where in Data the answer for each ends.
	wanted  uint32
	context uint32
	ends    []int
}

// messageMax bounds the text of an error reply in bytes.
const messageMax = 256

// Completed queues the reply to r.
func (c *conn) Completed(r *Request, err error) {
	r.reply.errno, r.reply.text = 0, ""
	if err != nil {
		e, hangup := errnoOf(err)
		if hangup {
			c.hangup("device hung up")
			r.reply.frame.next = nil
			c.sent(&r.reply.frame)
			return
		}
		r.reply.errno = e
		var public *Error
		if errors.As(err, &public) {
			r.reply.text = public.Text[:min(len(public.Text), messageMax)]
		}
		c.stats.errors.Add(1)
	}
	size := extendedLen + len(r.reply.text) + 6
	if r.reply.errno == 0 {
		switch r.Op {
		case OpRead:
			c.finishRead(r)
			size += len(r.Data)
		case OpBlockStatus:
			if c.finishStatus(r) {
				return // the device has it again
			}
			size += len(r.Data) + len(r.reply.ends)*extendedLen
		}
	}
	r.reply.frame.size = size
	c.out.add(&r.reply.frame, false)
}

// finishRead decides which holes travel as such.
func (c *conn) finishRead(r *Request) {
	if len(r.holes) == 0 {
		return
	}
	if c.mode == headersSimple || r.Flags&FlagDF != 0 {
		r.FillHoles()
		return
	}
	r.fillHoles(holeMin - 1)
}

// encode appends the reply of f to v.
func (c *conn) encode(f *frame, v *vec) bool {
	r := f.r
	switch {
	case r.reply.errno != 0 && c.mode != headersSimple:
		return c.encodeError(r, v)
	case r.reply.errno != 0 || c.mode == headersSimple || c.mode == headersStructured && !r.hasAnswer():
		if !v.room(simpleLen, 1) {
			return false
		}
		putSimple(v.head(simpleLen), r.reply.errno, r.reply.cookie)
		if r.reply.errno == 0 && r.Op == OpRead {
			v.payload(r.Data)
		}
	case r.Op == OpRead && len(r.Data) > 0:
		return c.encodeRead(r, v)
	case r.Op == OpBlockStatus:
		return c.encodeStatus(r, v)
	default:
		if !v.room(c.mode.chunkLen(), 0) {
			return false
		}
		c.chunk(r, v, chunkDone, chunkNone, 0, 0)
	}
	return true
}

// hasAnswer tells whether the reply to r is more than "done".
func (r *Request) hasAnswer() bool { return r.Op == OpRead || r.Op == OpBlockStatus }

// chunk puts the header of a chunk with payload bytes, of which the first fixed ones are
// given for the caller to fill.
func (c *conn) chunk(r *Request, v *vec, flags, kind uint16, payload, fixed int) []byte {
	n := c.mode.chunkLen()
	b := v.head(n + fixed)
	putChunk(b, c.mode, flags, kind, r.reply.cookie, r.Offset, payload)
	return b[n:]
}

func (c *conn) encodeError(r *Request, v *vec) bool {
	n := 6 + len(r.reply.text)
	if !v.room(c.mode.chunkLen()+n, 0) {
		return false
	}
	b := c.chunk(r, v, chunkDone, chunkError, n, n)
	be.PutUint32(b, uint32(r.reply.errno))
	be.PutUint16(b[4:], uint16(len(r.reply.text)))
	copy(b[6:], r.reply.text)
	return true
}

// encodeRead sends data and holes in chunks, in order.
func (c *conn) encodeRead(r *Request, v *vec) bool {
	chunks := 2*len(r.holes) + 1
	if !v.room(chunks*(c.mode.chunkLen()+12), chunks) {
		return false
	}
	total, at := uint64(len(r.Data)), uint64(0)
	data := func(until uint64) {
		if until == at {
			return
		}
		var flags uint16
		if until == total {
			flags = chunkDone
		}
		be.PutUint64(c.chunk(r, v, flags, chunkData, int(until-at)+8, 8), r.Offset+at)
		v.payload(r.Data[at:until])
		at = until
	}
	for _, h := range r.holes {
		data(h.offset)
		at += h.length
		var flags uint16
		if at == total {
			flags = chunkDone
		}
		b := c.chunk(r, v, flags, chunkHole, 12, 12)
		be.PutUint64(b, r.Offset+h.offset)
		be.PutUint32(b[8:], uint32(h.length))
	}
	data(total)
	return true
}

// sent ends requests whose replies are written or dropped.
func (c *conn) sent(first *frame) {
	n, bytes := 0, int64(0)
	for f := first; f != nil; {
		next, r := f.next, f.r
		n++
		bytes += r.reply.charged
		r.reply.conn = nil
		r.Recycle()
		f = next
	}
	c.giveBack(len(c.limits), n, bytes)
}
