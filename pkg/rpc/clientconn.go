package rpc

import (
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/errs"
)

// clientConn is one connection of a Client.
type clientConn struct {
	conn
	pacer      *Pacer
	version    uint16 // of the class's protocol
	payloadMax int    // bytes, as the server says
	corker     Corker
	corked     bool // the reader's own

	// slots holds the calls that were sent, one for each request the server lets be in
	// flight. An id is a sequence number above a slot, so a late reply is known as such. Under mu.
	slots struct {
		calls []*Call
		free  []uint16
		seq   uint64
	}

	// part is the reply whose payload comes in several frames. The reader's own.
	part struct {
		id    uint64
		left  int
		total int
		into  into
	}
}

func (c *clientConn) initSlots(n int) {
	c.slots.calls = make([]*Call, n)
	c.slots.free = make([]uint16, n)
	for i := range c.slots.free {
		c.slots.free[i] = uint16(n - 1 - i)
	}
}

// start sends call, or ends it.
func (c *clientConn) start(call *Call) {
	err := call.prepare(c)
	if err == nil {
		_, err = c.push(&call.out, c.limits.QueueMax)
	}
	if err != nil {
		call.end(err)
	}
}

// run reads until the connection is dead, and then ends all calls, in the order they were sent.
func (c *clientConn) run() {
	for {
		h, err := c.in.header()
		if err == nil {
			err = c.frame(&h)
		}
		if err != nil {
			c.fail(readFailed(c.place, err))
			break
		}
	}
	c.quiesce()
	reason := c.reason()
	for _, call := range c.takeAll() {
		call.end(reason)
	}
	c.uncork()
}

// cork tells, once in a burst, that answers are coming.
func (c *clientConn) cork() {
	if c.corker != nil && !c.corked {
		c.corked = true
		c.corker.Cork()
	}
}

// uncork tells that all that arrived has been told.
func (c *clientConn) uncork() {
	if c.corked {
		c.corked = false
		c.corker.Uncork()
	}
}

func readFailed(place string, err error) error {
	return fmt.Errorf("read from %s: %w: %w", place, err, errs.ErrUnavailable)
}

func (c *clientConn) takeAll() []*Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*Call
	for _, call := range c.slots.calls {
		if call != nil {
			all = append(all, call)
		}
	}
	clear(c.slots.calls)
	slices.SortFunc(all, bySequence)
	for _, f := range []*fifo{&c.mu.small, &c.mu.long} {
		for f.n > 0 {
			if o := f.pop(); !o.started {
				all = append(all, o.owner.(*Call))
			}
		}
	}
	return all
}

func bySequence(a, b *Call) int {
	if a.out.hdr.id>>16 < b.out.hdr.id>>16 {
		return -1
	}
	return 1
}

func (c *clientConn) frame(h *header) error {
	switch {
	case h.kind == kindBeat:
		return nil
	case h.kind != kindReply:
		return &errs.Corrupt{Place: c.place, Offset: -1, What: "kind from a server", Want: uint64(kindReply), Got: uint64(h.kind)}
	case h.flags&flagContinued != 0:
		c.cork()
		return c.more(h)
	}
	c.cork()
	return c.reply(h)
}

// reply takes the first frame of an answer.
func (c *clientConn) reply(h *header) error {
	if h.payload < h.total && c.part.left > 0 {
		return &errs.Corrupt{Place: c.place, Offset: -1, What: "long reply inside another", Want: c.part.id, Got: h.id}
	}
	head, err := c.in.head(h)
	if err != nil {
		return err
	}
	call, err := c.claim(h.id)
	if err != nil {
		return err
	}
	if call == nil {
		return c.rest(h, nil)
	}
	if h.op != uint16(errs.OK) {
		err = errs.FromCode(errs.Code(h.op), string(head))
	} else if err = call.Caller.Answer(call, head, int(h.total)); err == nil && bytesOf(call.Into) != int(h.total) {
		err = &errs.Corrupt{Place: c.place, Offset: -1, What: "payload of a reply", Want: uint64(bytesOf(call.Into)), Got: uint64(h.total)}
	}
	if err != nil {
		c.finish(call, err)
		return c.rest(h, nil)
	}
	return c.rest(h, call)
}

// rest takes the payload of a first frame; nil skips it.
func (c *clientConn) rest(h *header, call *Call) error {
	if h.payload == h.total { // the usual case: no state is kept
		if call == nil {
			return c.in.skip(int(h.payload))
		}
		var dst into
		dst.reset(call.Into)
		if err := dst.fill(c.in, int(h.payload)); err != nil {
			return err
		}
		c.finish(call, nil)
		return nil
	}
	c.part.id, c.part.total, c.part.left = h.id, int(h.total), int(h.total)
	if call != nil {
		c.part.into.reset(call.Into)
	}
	return c.fillPart(h, call)
}

// more takes a continued frame.
func (c *clientConn) more(h *header) error {
	if c.part.left < int(h.payload) || c.part.left == 0 || c.part.id != h.id || c.part.total != int(h.total) {
		return &errs.Corrupt{Place: c.place, Offset: -1, What: "continued frame", Want: uint64(c.part.left), Got: uint64(h.payload)}
	}
	call, err := c.claim(h.id)
	if err != nil {
		return err
	}
	if h.flags&flagAbort != 0 {
		c.part.left = 0
		if call != nil {
			c.finish(call, fmt.Errorf("%s broke off its reply: %w", c.place, errs.ErrUnavailable))
		}
		return nil
	}
	return c.fillPart(h, call)
}

func (c *clientConn) fillPart(h *header, call *Call) error {
	n := int(h.payload)
	c.part.left -= n
	if call == nil {
		return c.in.skip(n)
	}
	if err := c.part.into.fill(c.in, n); err != nil {
		return err
	}
	if c.part.left == 0 {
		c.part.into.reset(nil)
		c.finish(call, nil)
		return nil
	}
	c.unclaim(call)
	return nil
}

// claim keeps the call of id from ending while its reply is read; nil if it has ended.
func (c *clientConn) claim(id uint64) (*Call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	slot := int(id & 0xffff)
	if slot >= len(c.slots.calls) || id>>16 > c.slots.seq {
		return nil, &errs.Corrupt{Place: c.place, Offset: -1, What: "id of a reply", Want: c.slots.seq, Got: id}
	}
	call := c.slots.calls[slot]
	if call == nil || call.out.hdr.id != id {
		return nil, nil
	}
	if call.out.queued {
		return nil, &errs.Corrupt{Place: c.place, Offset: -1, What: "reply to a request not sent yet", Want: 0, Got: id}
	}
	call.reading = true
	return call, nil
}

func (c *clientConn) unclaim(call *Call) {
	c.mu.Lock()
	call.reading = false
	err := call.expired
	if err != nil {
		c.freeSlot(call)
	}
	c.mu.Unlock()
	if err != nil {
		call.end(err)
	}
}

// finish ends a claimed call.
func (c *clientConn) finish(call *Call, err error) {
	c.mu.Lock()
	call.reading = false
	c.freeSlot(call)
	c.mu.Unlock()
	call.end(err)
}

func (c *clientConn) freeSlot(call *Call) {
	slot := uint16(call.out.hdr.id)
	c.slots.calls[slot] = nil
	c.slots.free = append(c.slots.free, slot)
}

// cancel ends call with err, unless it has ended; if its reply is being read just now, a little later.
func (c *clientConn) cancel(call *Call, err error) {
	c.mu.Lock()
	ended := c.withdraw(call, err)
	c.mu.Unlock()
	if ended {
		c.flushIfAny()
		call.end(err)
	}
}

// withdraw takes call out of queue and slots. Under mu.
func (c *clientConn) withdraw(call *Call, err error) bool {
	o := &call.out
	sent := o.started && c.slots.calls[uint16(o.hdr.id)] == call
	switch {
	case sent && call.reading:
		if call.expired == nil {
			call.expired = err
		}
		return false
	case !sent && !o.queued:
		return false
	}
	if o.queued {
		if !c.mu.small.drop(o) {
			c.mu.long.drop(o)
		}
		if o.started {
			c.abort(o)
		}
	}
	if sent {
		c.freeSlot(call)
	}
	return true
}

// tick looks at the deadlines too.
func (c *clientConn) tick(now time.Duration, gap bool) {
	c.conn.tick(now, gap)
	var late []*Call
	stuck := false
	c.mu.Lock()
	if len(c.slots.free) == len(c.slots.calls) && c.mu.small.n+c.mu.long.n == 0 {
		c.mu.Unlock()
		return
	}
	for _, call := range c.slots.calls {
		if call != nil && now >= call.deadline {
			late = append(late, call)
			stuck = stuck || call.reading && now-call.deadline > c.timing.Dead
		}
	}
	slices.SortFunc(late, bySequence)
	for _, f := range []*fifo{&c.mu.small, &c.mu.long} {
		for o := f.first; o != nil; o = o.next {
			if call := o.owner.(*Call); !o.started && now >= call.deadline {
				late = append(late, call)
			}
		}
	}
	kept := late[:0]
	var err error
	if len(late) > 0 {
		err = fmt.Errorf("no answer from %s in time: %w", c.place, errs.ErrTimeout)
	}
	for _, call := range late {
		if c.withdraw(call, err) {
			kept = append(kept, call)
		}
	}
	c.mu.Unlock()
	if stuck {
		c.fail(fmt.Errorf("%s does not finish a reply: %w", c.place, errs.ErrUnavailable))
	}
	if len(kept) > 0 {
		c.flushIfAny()
	}
	for _, call := range kept {
		c.stats.add(timeouts)
		call.end(err)
	}
}
