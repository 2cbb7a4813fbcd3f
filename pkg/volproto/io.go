package volproto

import (
	"errors"
	"fmt"
	"sync"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/rpc"
)

// ioCall is one I/O under way at the proxy.
type ioCall struct {
	rpc.Call
	remote *Remote
	req    *nbd.Request
	bytes  uint64 // of its data, either way
	status error
	sum    uint32 // of a read's payload
	holes  []hole
	data   [1][]byte
}

var ioCalls = sync.Pool{New: func() any { return new(ioCall) }}

// Submit is part of nbd.Device. A read's data go from the socket to req.Data.
func (r *Remote) Submit(req *nbd.Request) {
	if lost := r.lost.Load(); lost != nil {
		req.Complete(*lost)
		return
	}
	c := ioCalls.Get().(*ioCall)
	c.remote, c.req, c.status, c.sum, c.Caller, c.bytes = r, req, nil, 0, c, 0
	q := ioRequest{op: req.Op, flags: req.Flags, offset: req.Offset, length: req.Length}
	c.Payload = nil
	if req.Op == nbd.OpRead || req.Op == nbd.OpWrite {
		c.bytes = req.Length
	}
	if req.Op == nbd.OpWrite {
		q.sum = codec.CRC(req.Data)
		c.data[0] = req.Data
		c.Payload = c.data[:]
	}
	c.Op, c.Timeout = opIO, r.peer.cfg.IO
	c.Head = q.append(r.target.append(c.Head[:0]))
	if req.Op == nbd.OpBlockStatus && req.Context != (nbd.ContextKey{}) {
		c.Op, c.Head = opContext, append(c.Head, req.Context[:]...)
	}
	if r.window.enter(c) {
		r.peer.client.Start(&c.Call)
	}
}

// start sends what waited for the window, unless its session has ended since.
func (c *ioCall) start() {
	if lost := c.remote.lost.Load(); lost != nil {
		c.Err, c.status = nil, *lost
		c.Done(&c.Call)
		return
	}
	c.remote.peer.client.Start(&c.Call)
}

// Answer is part of rpc.Caller.
func (c *ioCall) Answer(_ *rpc.Call, head []byte, payload int) error {
	dec := codec.NewReader(string(c.remote.peer.cfg.Host), head)
	if c.status = readStatus(&dec, c.remote.target.volume); c.status == nil {
		switch c.req.Op {
		case nbd.OpRead:
			c.answerRead(&dec)
		case nbd.OpBlockStatus:
			readExtents(&dec, func(e nbd.Extent) { c.req.AddExtent(e.Length, e.State) })
		}
	}
	dec.End()
	return dec.Err()
}

// answerRead names the holes and lays out what lies between them.
func (c *ioCall) answerRead(dec *codec.Reader) {
	req := c.req
	c.sum = dec.U32()
	c.holes = readHoles(dec, c.holes[:0], req.Offset, req.Length)
	if dec.Err() != nil {
		return
	}
	c.Into = c.Into[:0]
	at := uint64(0)
	for _, h := range c.holes {
		if from := h.offset - req.Offset; from > at {
			c.Into = append(c.Into, req.Data[at:from])
		}
		at = h.offset - req.Offset + h.length
		req.Hole(h.offset, h.length)
	}
	if at < req.Length {
		c.Into = append(c.Into, req.Data[at:])
	}
}

// Done is part of rpc.Caller.
func (c *ioCall) Done(*rpc.Call) {
	req, r := c.req, c.remote
	err := c.Err
	if err == nil {
		err = c.status
	}
	if err == nil && req.Op == nbd.OpRead {
		if got := sumOf(c.Into); got != c.sum {
			err = &errs.Corrupt{Place: string(r.peer.cfg.Host), Offset: int64(req.Offset), What: "data of a read", Want: uint64(c.sum), Got: uint64(got)}
		}
	}
	if err != nil {
		err = r.failed(err, c.Err != nil)
	}
	clear(c.Into)
	bytes := c.bytes
	c.remote, c.req, c.data[0] = nil, nil, nil
	ioCalls.Put(c)
	req.Complete(err)
	r.window.leave(bytes, (*ioCall).start)
}

// failed makes the handle dead if its session is: after a request whose outcome is unknown, and when the owner says so.
func (r *Remote) failed(err error, unknown bool) error {
	if unknown {
		err = fmt.Errorf("volume %s at %s: %w: %w", r.target.volume, r.peer.cfg.Host, nbd.ErrHangup, err)
	}
	if errors.Is(err, nbd.ErrHangup) {
		r.lost.CompareAndSwap(nil, &err)
	}
	return err
}
