package nbd

import (
	"fmt"
	"io"
	"sync"

	"ashlar.dev/pkg/errs"
)

// call waits for one request.
type call struct{ done chan error }

// Completed wakes the caller.
func (c *call) Completed(_ *Request, err error) { c.done <- err }

var calls = sync.Pool{New: func() any { return &call{make(chan error, 1)} }}

// do sends one request and waits. The answer is in the request, which the caller recycles.
func (c *Client) do(op Op, flags Flags, offset, length uint64, data []byte) (*Request, error) {
	w := calls.Get().(*call)
	r := NewRequest(op, flags, offset, length, data, w)
	c.Submit(r)
	err := <-w.done
	calls.Put(w)
	return r, err
}

// plain does a request without an answer, in pieces where compact headers demand it.
func (c *Client) plain(op Op, flags Flags, offset, length uint64) error {
	for {
		n := length
		if c.mode != headersExtended {
			n = min(n, length32Max)
		}
		r, err := c.do(op, flags, offset, n, nil)
		r.Recycle()
		if err != nil {
			return fmt.Errorf("%v %d bytes at %d: %w", op, n, offset, err)
		}
		offset, length = offset+n, length-n
		if length == 0 {
			return nil
		}
	}
}

// pieceMax is the longest read or write of one request.
func (c *Client) pieceMax() int {
	if c.info.PayloadMax > 0 {
		return int(c.info.PayloadMax)
	}
	return payloadMaxDefault
}

// ReadAt reads len(p) bytes at offset, in pieces where the server wants it so. What reaches beyond the end is
// cut off with io.EOF.
func (c *Client) ReadAt(p []byte, offset int64) (int, error) {
	if offset < 0 {
		return 0, fmt.Errorf("read at %d: %w", offset, errs.ErrInvalid)
	}
	end := error(nil)
	if left := c.size - min(uint64(offset), c.size); uint64(len(p)) > left {
		p, end = p[:left], io.EOF
	}
	for done := 0; done < len(p); {
		piece := p[done:min(len(p), done+c.pieceMax())]
		r, err := c.do(OpRead, 0, uint64(offset)+uint64(done), uint64(len(piece)), piece)
		if err == nil {
			r.FillHoles()
		}
		r.Recycle()
		if err != nil {
			return done, fmt.Errorf("read %d bytes at %d: %w", len(piece), offset+int64(done), err)
		}
		done += len(piece)
	}
	return len(p), end
}

// WriteAt writes p at offset, in pieces where the server wants it so. It is durable after Flush.
func (c *Client) WriteAt(p []byte, offset int64) (int, error) { return c.WriteFlags(p, offset, 0) }

// WriteFlags is WriteAt with flags, such as FlagFUA.
func (c *Client) WriteFlags(p []byte, offset int64, flags Flags) (int, error) {
	if offset < 0 {
		return 0, fmt.Errorf("write at %d: %w", offset, errs.ErrInvalid)
	}
	for done := 0; done < len(p); {
		piece := p[done:min(len(p), done+c.pieceMax())]
		r, err := c.do(OpWrite, flags, uint64(offset)+uint64(done), uint64(len(piece)), piece)
		r.Recycle()
		if err != nil {
			return done, fmt.Errorf("write %d bytes at %d: %w", len(piece), offset+int64(done), err)
		}
		done += len(piece)
	}
	return len(p), nil
}

// Flush makes every write that completed before durable.
func (c *Client) Flush() error { return c.plain(OpFlush, 0, 0, 0) }

// Trim tells that length bytes at offset are not needed.
func (c *Client) Trim(offset, length uint64, flags Flags) error {
	return c.plain(OpTrim, flags, offset, length)
}

// WriteZeroes makes length bytes at offset zeros.
func (c *Client) WriteZeroes(offset, length uint64, flags Flags) error {
	return c.plain(OpWriteZeroes, flags, offset, length)
}

// Cache hints that length bytes at offset will be read.
func (c *Client) Cache(offset, length uint64) error { return c.plain(OpCache, 0, offset, length) }

// BlockStatus tells of the extents from offset on. It may tell of less than length, and of more.
func (c *Client) BlockStatus(offset, length uint64, flags Flags) ([]Extent, error) {
	r, err := c.do(OpBlockStatus, flags, offset, length, nil)
	defer r.Recycle()
	if err != nil {
		return nil, fmt.Errorf("block status of %d bytes at %d: %w", length, offset, err)
	}
	if len(r.extents) == 0 {
		return []Extent{{length, StateData}}, nil
	}
	return append([]Extent(nil), r.extents...), nil
}
