package rpc

import (
	"fmt"
	"time"

	"ashlar.dev/pkg/errs"
)

// Corker is told of a burst: what comes of it between Cork and Uncork may leave together.
// Neither waits.
type Corker interface {
	Cork()
	Uncork()
}

// Caller is who made a call and hears of its answer. Both methods are called on the
// connection's reader (Done also on others) and must not block.
type Caller interface {
	// Answer is told that c was answered well: with head, which is good until Answer
	// returns, and a payload of so many bytes. It sets c.Into to slices that
	// hold exactly those. An error is what the call ends with; the payload is then skipped.
	Answer(c *Call, head []byte, payload int) error
	// Done ends the call, exactly once; c.Err says how. c and all its slices are the caller's again.
	Done(c *Call)
}

// Call is one request on its way. The caller sets the first fields, starts it, and
// leaves it and the slices alone until Done. It may be used again then.
type Call struct {
	Op      uint16
	Head    []byte
	Payload [][]byte
	Timeout time.Duration // zero: the client's usual one
	Caller  Caller

	Into [][]byte // by Answer: where the payload of the reply goes; append to it, its memory is kept
	Err  error

	out      outgoing
	conn     *clientConn
	deadline time.Duration
	reading  bool  // under conn.mu: the reader fills Into
	expired  error // under conn.mu: the end that awaits the reader
}

// start takes one of the peer's slots. Under conn.mu.
func (c *Call) start(o *outgoing) bool {
	cc := c.conn
	n := len(cc.slots.free)
	if n == 0 {
		return false
	}
	slot := cc.slots.free[n-1]
	cc.slots.free = cc.slots.free[:n-1]
	cc.slots.seq++
	o.hdr.id = cc.slots.seq<<16 | uint64(slot)
	cc.slots.calls[slot] = c
	return true
}

// prepare makes c ready to be pushed.
func (c *Call) prepare(cc *clientConn) error {
	c.conn, c.Into, c.Err, c.reading, c.expired = cc, c.Into[:0], nil, false, nil
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = cc.timing.Call
	}
	c.deadline = cc.pacer.deadline(timeout)
	c.out = outgoing{head: c.Head, payload: c.Payload, total: bytesOf(c.Payload), owner: c}
	c.out.hdr = header{kind: kindRequest, op: c.Op, timeout: uint32(min(timeout.Milliseconds(), 1<<32-1))}
	if len(c.Head) > HeadMax || c.out.total > cc.payloadMax {
		return fmt.Errorf("call %d to %s: %d bytes of head and %d of payload are above the limit: %w",
			c.Op, cc.place, len(c.Head), c.out.total, errs.ErrInvalid)
	}
	return nil
}

func (c *Call) end(err error) {
	c.Err = err
	c.Caller.Done(c)
}
