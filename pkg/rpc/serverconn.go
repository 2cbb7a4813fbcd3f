package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"ashlar.dev/pkg/errs"
)

var errReplyTooLong = fmt.Errorf("reply is above the limit: %w", errs.ErrInvalid)

// serverConn is one accepted connection.
type serverConn struct {
	conn
	svc     *Service
	handler Handler
	peer    Peer
	cancel  context.CancelFunc
	budget  *Budget

	inFlight int  // under mu
	draining bool // under mu: no further request is read

	// part is the request whose payload comes in several frames. The reader's own.
	part struct {
		r    *Request
		left int
	}
}

// run reads until the connection is dead or draining, and waits for the requests' ends.
func (c *serverConn) run() error {
	err := c.read()
	if c.part.r != nil {
		c.part.r.finish()
		c.part.r = nil
	}
	c.pause()
	if c.isDraining() {
		c.await(true)
	}
	c.fail(err)
	c.cancel()
	c.mu.Lock()
	c.mu.idle.Broadcast()
	for _, f := range []*fifo{&c.mu.small, &c.mu.long} {
		for f.n > 0 {
			o := f.pop()
			c.mu.Unlock()
			o.owner.(*Request).finish()
			c.mu.Lock()
		}
	}
	c.mu.Unlock()
	c.await(false)
	c.quiesce()
	c.handler.Close()
	return c.reason()
}

func (c *serverConn) read() error {
	for {
		h, err := c.in.header()
		if err == nil {
			err = c.frame(&h)
		}
		if err != nil {
			return readFailed(c.place, err)
		}
	}
}

// await waits until no request is in flight and, if wanted, everything is written; death ends the latter.
func (c *serverConn) await(written bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.inFlight > 0 || c.mu.flushing {
		if written && c.mu.dead != nil {
			return
		}
		c.mu.idle.Wait()
	}
}

func (c *serverConn) isDraining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}

// drain lets the reader end after the request it is at.
func (c *serverConn) drain() {
	c.mu.Lock()
	c.draining = true
	c.mu.Unlock()
	_ = c.w.Conn.SetReadDeadline(time.Unix(1, 0)) // if it fails, the connection is dead already
}

func (c *serverConn) frame(h *header) error {
	switch {
	case h.kind == kindBeat:
		return nil
	case h.kind != kindRequest:
		return &errs.Corrupt{Place: c.place, Offset: -1, What: "kind from a client", Want: uint64(kindRequest), Got: uint64(h.kind)}
	case h.flags&flagContinued != 0:
		return c.more(h)
	case h.payload < h.total && c.part.r != nil:
		return &errs.Corrupt{Place: c.place, Offset: -1, What: "long request inside another", Want: c.part.r.id, Got: h.id}
	}
	head, err := c.in.head(h)
	if err != nil {
		return err
	}
	r := newRequest(c, h, head)
	if err := c.admit(r, int(h.head)+int(h.total)); err != nil {
		r.recycle()
		return err
	}
	if err := c.prepare(r); err != nil {
		r.err = err
	} else {
		r.dst.reset(r.Into)
	}
	return c.fill(r, h, int(h.total))
}

// more takes a continued frame.
func (c *serverConn) more(h *header) error {
	r := c.part.r
	if r == nil || r.id != h.id || r.PayloadBytes != int(h.total) || int(h.payload) > c.part.left {
		return &errs.Corrupt{Place: c.place, Offset: -1, What: "continued frame", Want: uint64(c.part.left), Got: uint64(h.payload)}
	}
	if h.flags&flagAbort != 0 {
		c.part.r = nil
		r.finish()
		return nil
	}
	return c.fill(r, h, c.part.left)
}

// fill takes the payload of one frame of r, of which left bytes are missing, and serves r when it was the last.
func (c *serverConn) fill(r *Request, h *header, left int) error {
	var err error
	if r.err != nil {
		err = c.in.skip(int(h.payload))
	} else {
		err = r.dst.fill(c.in, int(h.payload))
	}
	if err != nil {
		if c.part.r != r { // else run finishes it
			r.finish()
		}
		return err
	}
	left -= int(h.payload)
	if left > 0 {
		c.part.r, c.part.left = r, left
		return nil
	}
	if c.part.r == r {
		c.part.r = nil
	}
	if r.err != nil {
		r.Reply(r.err)
		return nil
	}
	c.handler.Serve(r)
	return nil
}

func (c *serverConn) prepare(r *Request) error {
	if r.PayloadBytes > c.svc.Limits.PayloadMax {
		return fmt.Errorf("payload of %d bytes is above the limit of %d: %w", r.PayloadBytes, c.svc.Limits.PayloadMax, errs.ErrInvalid)
	}
	r.seen = true
	if err := c.handler.Prepare(r); err != nil {
		return err
	}
	if got := bytesOf(r.Into); got != r.PayloadBytes {
		return fmt.Errorf("payload of %d bytes where operation %d takes %d: %w", r.PayloadBytes, r.Op, got, errs.ErrInvalid)
	}
	if r.ReplyBytes > 0 && r.PayloadBytes == 0 {
		// All in one: holding some while waiting for more could be for ever.
		n := r.cost
		r.cost = 0
		c.giveBack(n)
		return c.take(r, n+r.ReplyBytes)
	}
	return nil
}

// admit waits until the connection's limits have room for a request of n bytes.
func (c *serverConn) admit(r *Request, n int) error {
	c.mu.Lock()
	if c.part.r == nil && c.inFlight >= c.svc.Limits.InFlight {
		c.mu.Unlock()
		c.pause()
		c.mu.Lock()
		for c.inFlight >= c.svc.Limits.InFlight && c.mu.dead == nil {
			c.mu.idle.Wait()
		}
	}
	c.inFlight++
	c.mu.Unlock()
	if err := c.take(r, n); err != nil {
		c.release(0)
		return err
	}
	return nil
}

// take takes n bytes from both budgets for r.
func (c *serverConn) take(r *Request, n int) error {
	if c.part.r != nil && c.part.r != r {
		// A long request is unfinished and its bytes are behind r: waiting here might be for ever.
		c.budget.force(n)
		if c.svc.Process != nil {
			c.svc.Process.force(n)
		}
		r.cost += n
		return nil
	}
	if !c.budget.tryTake(n) {
		c.pause()
		if err := c.budget.take(n, c.peer.Context.Done()); err != nil {
			return err
		}
	}
	if p := c.svc.Process; p != nil && !p.tryTake(n) {
		c.pause()
		if err := p.take(n, c.peer.Context.Done()); err != nil {
			c.budget.give(n)
			return err
		}
	}
	r.cost += n
	return nil
}

func (c *serverConn) release(cost int) {
	c.giveBack(cost)
	c.mu.Lock()
	c.inFlight--
	c.mu.idle.Broadcast()
	c.mu.Unlock()
}

func (c *serverConn) giveBack(cost int) {
	if cost == 0 {
		return
	}
	c.budget.give(cost)
	if c.svc.Process != nil {
		c.svc.Process.give(cost)
	}
}

// closedByPeer tells an orderly end between two frames.
func closedByPeer(err error) bool {
	return errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF)
}
