package nbd

import (
	"fmt"
	"strings"

	"ashlar.dev/pkg/errs"
)

// partsMaxRead bounds the separate pieces in which a server may answer one read.
const partsMaxRead = 4096

// statusBytesMax bounds the list of extents in one reply, in bytes.
const statusBytesMax = 8 + 16<<20

// receive reads replies until the connection ends.
func (c *Client) receive() {
	defer close(c.over)
	err := c.replies()
	c.batch.Flush()
	c.mu.Lock()
	if err = lost(err); c.mu.closing {
		err = errs.ErrClosed
	}
	c.mu.Unlock()
	c.fail(err)
}

func (c *Client) replies() error {
	for {
		var err error
		if c.mode == headersExtended {
			err = c.extended()
		} else {
			err = c.compact()
		}
		if err != nil {
			return err
		}
	}
}

func violation(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, ErrProtocol)...)
}

// find gives the flight of a cookie that the server sent.
func (c *Client) find(cookie uint64) (*flight, error) {
	c.mu.Lock()
	f := c.mu.flights[cookie]
	c.mu.Unlock()
	if f == nil {
		return nil, violation("reply to cookie %#x, which nobody sent", cookie)
	}
	return f, nil
}

// answered ends f, whose reply is complete.
func (c *Client) answered(f *flight) {
	c.land(f)
	if f.ends.Add(-1) > 0 {
		return // the other end does it
	}
	r, err := f.r, f.err
	f.r, f.frame.r = nil, nil
	flights.Put(f)
	c.batch.Complete(r, err)
}

// compact reads a simple reply or a structured chunk.
func (c *Client) compact() error {
	b, err := c.in.peek(simpleLen)
	if err != nil {
		return err
	}
	switch be.Uint32(b) {
	case magicSimple:
		e, cookie := Errno(be.Uint32(b[4:])), be.Uint64(b[8:])
		c.in.r += simpleLen
		return c.simple(e, cookie)
	case magicStructure:
		if b, err = c.in.take(structuredLen); err != nil {
			return unexpected(err)
		}
		if c.mode != headersStructured {
			return violation("structured reply without agreement")
		}
		f, err := c.find(be.Uint64(b[8:]))
		if err != nil {
			return err
		}
		return c.chunk(f, be.Uint16(b[4:]), be.Uint16(b[6:]), uint64(be.Uint32(b[16:])))
	}
	return violation("magic %#x of a reply", be.Uint32(b))
}

func (c *Client) simple(e Errno, cookie uint64) error {
	f, err := c.find(cookie)
	if err != nil {
		return err
	}
	if e != 0 {
		f.err = &Error{Errno: e}
	} else if f.r.hasAnswer() {
		if c.mode != headersSimple {
			return violation("simple reply to a request with an answer")
		}
		if err := c.in.full(f.r.Data); err != nil {
			return err
		}
	}
	c.answered(f)
	return nil
}

func (c *Client) extended() error {
	b, err := c.in.take(extendedLen)
	if err != nil {
		return err
	}
	if be.Uint32(b) != magicReplyEx {
		return violation("magic %#x of a reply", be.Uint32(b))
	}
	flags, kind, offset, length := be.Uint16(b[4:]), be.Uint16(b[6:]), be.Uint64(b[16:]), be.Uint64(b[24:])
	f, err := c.find(be.Uint64(b[8:]))
	if err != nil {
		return err
	}
	if offset != f.r.Offset {
		return violation("reply of offset %d to a request at %d", offset, f.r.Offset)
	}
	return c.chunk(f, flags, kind, length)
}

// chunk takes one chunk with length bytes of payload.
func (c *Client) chunk(f *flight, flags, kind uint16, length uint64) error {
	var err error
	switch {
	case kind == chunkNone:
		if length != 0 || flags&chunkDone == 0 {
			return violation("empty chunk of %d bytes", length)
		}
	case kind == chunkData && f.r.Op == OpRead:
		err = c.data(f, length)
	case kind == chunkHole && f.r.Op == OpRead && length == 12:
		err = c.hole(f)
	case (kind == chunkStatus && c.mode == headersStructured || kind == chunkStatusEx && c.mode == headersExtended) && f.r.Op == OpBlockStatus:
		err = c.status(f, length)
	case kind&(1<<15) != 0:
		err = c.errorChunk(f, kind, length)
	default:
		return violation("chunk of type %d and %d bytes to %v", kind, length, f.r.Op)
	}
	if err != nil {
		return unexpected(err)
	}
	if flags&chunkDone == 0 {
		return nil
	}
	if f.err == nil && !f.complete() {
		return violation("incomplete answer to %v", f.r.Op)
	}
	c.answered(f)
	return nil
}

// complete tells whether a successful reply said all it had to.
func (f *flight) complete() bool {
	switch f.r.Op {
	case OpRead:
		return f.r.Length == 0 || len(f.parts) == 1 && f.parts[0].length == f.r.Length
	case OpBlockStatus:
		return len(f.r.extents) > 0
	}
	return true
}

// cover notes that length bytes at offset of the export came.
func (f *flight) cover(offset, length uint64) error {
	r := f.r
	if length == 0 || offset < r.Offset || offset-r.Offset > r.Length || length > r.Length-(offset-r.Offset) {
		return violation("chunk of %d bytes at %d to a read of %d at %d", length, offset, r.Length, r.Offset)
	}
	from := offset - r.Offset
	i := len(f.parts)
	for i > 0 && f.parts[i-1].offset > from {
		i--
	}
	if i > 0 && f.parts[i-1].offset+f.parts[i-1].length > from || i < len(f.parts) && f.parts[i].offset < from+length {
		return violation("chunks overlap at %d", offset)
	}
	joinsBefore := i > 0 && f.parts[i-1].offset+f.parts[i-1].length == from
	joinsAfter := i < len(f.parts) && f.parts[i].offset == from+length
	switch {
	case joinsBefore && joinsAfter:
		f.parts[i-1].length += length + f.parts[i].length
		f.parts = append(f.parts[:i], f.parts[i+1:]...)
	case joinsBefore:
		f.parts[i-1].length += length
	case joinsAfter:
		f.parts[i].offset, f.parts[i].length = from, f.parts[i].length+length
	case len(f.parts) == partsMaxRead:
		return violation("a read answered in more than %d pieces", partsMaxRead)
	default:
		f.parts = append(f.parts, hole{})
		copy(f.parts[i+1:], f.parts[i:])
		f.parts[i] = hole{from, length}
	}
	return nil
}

func (c *Client) data(f *flight, length uint64) error {
	if length < 9 {
		return violation("data chunk of %d bytes", length)
	}
	b, err := c.in.take(8)
	if err != nil {
		return err
	}
	offset := be.Uint64(b)
	if err := f.cover(offset, length-8); err != nil {
		return err
	}
	from := offset - f.r.Offset
	return c.in.full(f.r.Data[from : from+length-8])
}

func (c *Client) hole(f *flight) error {
	b, err := c.in.take(12)
	if err != nil {
		return err
	}
	offset, length := be.Uint64(b), uint64(be.Uint32(b[8:]))
	if err := f.cover(offset, length); err != nil {
		return err
	}
	f.r.Hole(offset, length)
	return nil
}

// status takes a list of extents; what the request has no room for is dropped.
func (c *Client) status(f *flight, length uint64) error {
	head, each := uint64(4), uint64(8)
	if c.mode == headersExtended {
		head, each = 8, 16
	}
	if length < head+each || (length-head)%each != 0 || length > statusBytesMax || len(f.r.extents) > 0 {
		return violation("status chunk of %d bytes", length)
	}
	b, err := c.in.take(int(head))
	if err != nil {
		return err
	}
	n := (length - head) / each
	if be.Uint32(b) != c.metaID || c.mode == headersExtended && uint64(be.Uint32(b[4:])) != n {
		return violation("status of context %d", be.Uint32(b))
	}
	for more := true; n > 0; n-- {
		if b, err = c.in.take(int(each)); err != nil {
			return err
		}
		e := Extent{uint64(be.Uint32(b)), State(be.Uint32(b[4:]))}
		if c.mode == headersExtended {
			e = Extent{be.Uint64(b), State(be.Uint64(b[8:]))}
		}
		if e.Length == 0 || e.Length > 1<<63 {
			return violation("extent of %d bytes", e.Length)
		}
		if more {
			more = f.r.AddExtent(e.Length, e.State&statesMask)
		}
	}
	return nil
}

// errorChunk takes an error with its text; the first error of a reply counts.
func (c *Client) errorChunk(f *flight, kind uint16, length uint64) error {
	tail := uint64(0)
	if kind == chunkErrorOffset {
		tail = 8
	}
	if length < 6+tail || length > 6+stringMax+tail && (kind == chunkError || kind == chunkErrorOffset) || length > statusBytesMax {
		return violation("error chunk of %d bytes", length)
	}
	b, err := c.in.take(6)
	if err != nil {
		return err
	}
	e, n := Errno(be.Uint32(b)), uint64(be.Uint16(b[4:]))
	if n > length-6-tail {
		return violation("error text of %d bytes in a chunk of %d", n, length)
	}
	text := make([]byte, n)
	if err := c.in.full(text); err != nil {
		return err
	}
	if e == 0 {
		e = EIO
	}
	if f.err == nil {
		f.err = &Error{e, strings.ToValidUTF8(string(text), "?")}
	}
	return c.in.skip(length - 6 - n)
}
