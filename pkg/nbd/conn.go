package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"ashlar.dev/pkg/buf"
)

// conn is one connection of a server. serve runs on its own goroutine, the reader; replies come from anywhere.
type conn struct {
	server      *Server
	id          uint64
	raw         net.Conn
	stream      io.ReadWriter // raw, or tls
	tls         *tls.Conn     // nil without
	wire        *tlsWire      // under tls
	reads       *dryReader
	in          input
	peer        Peer
	tlsRequired bool
	tlsConfig   *tls.Config

	handshakeOver func() // tells the listener

	// Agreed on in the handshake:
	fixed    bool // the client speaks fixed newstyle
	noZeroes bool
	mode     headers
	metaName string // the export that meta contexts were selected for
	contexts []selected
	export   atomic.Pointer[string] // for Conns
	held     Handle                 // open, not in use yet
	heldName string
	options  []byte    // replies to options, not sent yet
	expires  time.Time // of the handshake

	// Of the transmission:
	dev    Handle
	corker Corker // dev, if it is one
	info   Info
	limit  limiter
	limits [3]*limiter // its own, the export's, the server's
	out    outbox
	stats  connStats

	draining atomic.Bool
	dead     chan struct{} // closed by hangup
	deadOnce sync.Once
	deadline struct {
		sync.Mutex
		kicked bool // the read deadline has passed for good
	}
}

// bufferLen is the read buffer of a connection in transmission, in bytes; bufferLenFirst that of the handshake.
const (
	bufferLen      = 256 << 10
	bufferLenFirst = 4 << 10
)

// ConnBytesMax bounds what a connection keeps beside the payload of its requests: to read into,
// to gather replies in, and, with TLS, what is not opened or not sealed yet.
const ConnBytesMax = bufferLen + tlsReadLen + 3*tlsGather + scratchLen

// skipMax bounds the payload that is read and dropped, in bytes, to answer a request that is too long.
const skipMax = 64 << 20

// hangup closes the connection at once, for a reason that stands in its log line. Safe from anywhere.
func (c *conn) hangup(why string) {
	c.deadOnce.Do(func() {
		c.server.log.Debug("nbd connection closed", "conn", c.id, "reason", why)
		close(c.dead)
		_ = c.raw.Close() // it is over either way
	})
}

// kick makes the reader stop before its next read.
func (c *conn) kick() {
	c.deadline.Lock()
	c.deadline.kicked = true
	_ = c.raw.SetReadDeadline(time.Unix(1, 0)) // a closed connection stops it as well
	c.deadline.Unlock()
}

// readWithin bounds the reads from now on; zero lifts the bound.
func (c *conn) readWithin(d time.Duration) {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	if c.deadline.kicked {
		return
	}
	var t time.Time
	if d != 0 {
		t = c.server.clock.Wall().Add(d)
	}
	_ = c.raw.SetReadDeadline(t) // a failure shows at the read
}

// serve runs the connection from greeting to close.
func (c *conn) serve(ctx context.Context) {
	defer c.hangup("done")
	stop := context.AfterFunc(ctx, func() { c.hangup("server closed") })
	defer stop()
	ready, err := c.negotiate(ctx)
	if c.handshakeOver != nil {
		c.handshakeOver()
	}
	if c.held != nil {
		c.closeHandle(c.held)
	}
	if !ready {
		if c.dev != nil { // the client hung up before it heard that it may begin
			c.closeHandle(c.dev)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			c.server.log.Info("nbd handshake ended", "conn", c.id, "peer", c.raw.RemoteAddr(), "error", err)
		}
		return
	}
	c.begin()
	err = c.transmit()
	c.finish(err)
	c.server.leaveShare(c.shareName())
	c.closeHandle(c.dev)
}

func (c *conn) closeHandle(h Handle) {
	if err := h.Close(); err != nil {
		c.server.log.Warn("close of an nbd export failed", "conn", c.id, "error", err)
	}
}

// begin prepares the transmission.
func (c *conn) begin() {
	c.in.grow(bufferLen)
	limits := &c.server.cfg.Limits
	c.limit.requestsMax, c.limit.bytesMax = limits.ConnRequestsMax, limits.ConnBytesMax
	c.limits = [3]*limiter{&c.limit, &c.server.joinShare(c.shareName()).limiter, &c.server.limit}
	c.out.conn, c.out.writeTimeout = c.raw, limits.StallTimeout
	c.out.encode, c.out.sent, c.out.clock, c.out.gather = c.encode, c.sent, c.server.clock, c.server.cfg.Gather
	if c.tls != nil {
		c.wire.stage()
		c.out.sink = newTLSSink(c.tls, c.wire)
	} else {
		c.out.sink = newSink(c.raw)
	}
	c.corker, _ = c.dev.(Corker)
	c.resume()
	c.reads.dry, c.reads.wet = c.pause, c.resume
}

// pause lets go of what is held back for company, because the reader may have to wait.
func (c *conn) pause() {
	if c.corker != nil {
		c.corker.Uncork()
	}
	c.out.uncork(true)
}

// resume holds requests and replies back for company, until the pause that follows.
func (c *conn) resume() {
	c.out.cork()
	if c.corker != nil {
		c.corker.Cork()
	}
}

// transmit serves requests until the client is done (nil) or something is wrong.
func (c *conn) transmit() error {
	n := c.mode.requestLen()
	for {
		b, err := c.in.take(n)
		if err != nil {
			return err
		}
		if c.draining.Load() && c.server.cfg.HangupOnShutdown {
			return nil // unanswered, whenever it came: the client sends it again elsewhere
		}
		h, ok := parseRequest(b, c.mode)
		if !ok {
			return fmt.Errorf("magic %#x of a request: %w", be.Uint32(b), ErrProtocol)
		}
		if h.op == opDisconnect {
			c.stats.count(h.op)
			return nil
		}
		if err := c.request(h); err != nil {
			return err
		}
	}
}

// finish ends the transmission: requests in flight end first; where the client can still
// listen, their replies are written.
func (c *conn) finish(err error) {
	c.pause()
	orderly := err == nil || errors.Is(err, io.EOF) || c.draining.Load() && errors.Is(err, os.ErrDeadlineExceeded)
	if !orderly {
		if !errors.Is(err, net.ErrClosed) {
			c.server.log.Info("nbd connection broke", "conn", c.id, "peer", c.raw.RemoteAddr(), "error", err)
		}
		c.out.close()
		c.hangup("broken")
	}
	<-c.limit.idle()
	c.out.drains.Wait()
	if orderly && c.tls != nil {
		c.goodbye()
	}
}

// goodbye tells the peer that TLS ends here; whether it hears is its affair.
func (c *conn) goodbye() {
	_ = c.raw.SetWriteDeadline(c.server.clock.Wall().Add(time.Second))
	_ = c.tls.CloseWrite()
	if out := c.wire.swap(nil); len(out) > 0 {
		_, _ = c.raw.Write(out)
	}
}

// admit waits until a request of n bytes may fly. False: the connection is over.
func (c *conn) admit(n int64) bool {
	taken := 0
	for taken < len(c.limits) && c.limits[taken].try(n) {
		taken++
	}
	if taken == len(c.limits) {
		return true
	}
	c.pause() // what is held back may be what all wait for
	defer c.resume()
	for ; taken < len(c.limits); taken++ {
		if !c.limits[taken].wait(n, c.dead) {
			c.giveBack(taken, 1, n)
			return false
		}
	}
	return true
}

// giveBack releases what the first limits granted. The connection's own comes last: who waits for
// it to be idle then finds nothing left.
func (c *conn) giveBack(limits, requests int, bytes int64) {
	for i := limits - 1; i >= 0; i-- {
		c.limits[i].release(requests, bytes)
	}
}

// shareName is what the connections of one export have in common.
func (c *conn) shareName() string {
	if c.info.Name != "" {
		return c.info.Name
	}
	return *c.export.Load()
}

var errOver = errors.New("the connection is closed")

// request answers h, or hands it to the device. An error ends the connection.
func (c *conn) request(h requestHeader) error {
	c.stats.count(h.op)
	if h.op == OpBlockStatus {
		h.contexts = 1<<len(c.contexts) - 1
	}
	if h.op == OpWrite && c.mode == headersExtended {
		h.flags |= flagPayloadLen // QEMU, as of version 10, leaves it out: its bytes follow all the same
	}
	payload := uint64(0)
	if h.flags&flagPayloadLen != 0 && c.mode == headersExtended || h.op == OpWrite {
		payload = h.length
	}
	v := c.check(&h)
	if payload > 0 && (h.op != OpWrite || v.done) {
		if payload > skipMax {
			return fmt.Errorf("payload of %d bytes: %w", payload, ErrProtocol)
		}
		c.readWithin(c.server.cfg.Limits.StallTimeout)
		if err := c.unwanted(&h, &v, payload); err != nil {
			return err
		}
		c.readWithin(0)
	}
	charge := int64(buf.Align)
	if !v.done {
		switch h.op {
		case OpRead, OpWrite:
			charge = int64(h.length+buf.Align-1) &^ (buf.Align - 1)
		case OpBlockStatus:
			charge = 16 * ExtentsMax * int64(bits.OnesCount32(h.contexts))
		}
	}
	if !c.admit(charge) {
		return errOver
	}
	r := c.newRequest(&h, charge, v)
	if v.done {
		c.answer(r, v.errno)
		return nil
	}
	if h.op == OpWrite {
		if err := c.payload(r.Data); err != nil {
			r.reply.frame.next = nil
			c.sent(&r.reply.frame)
			return err
		}
	}
	c.dev.Submit(r)
	return nil
}

// newRequest makes the request of h, admitted for charge bytes.
func (c *conn) newRequest(h *requestHeader, charge int64, v verdict) *Request {
	r := requests.Get().(*Request)
	r.Op, r.Flags, r.Offset, r.Length = h.op, h.flags&^flagPayloadLen, h.offset, h.length
	r.reply.conn, r.reply.cookie, r.reply.charged = c, h.cookie, charge
	r.reply.frame.r = r
	if !v.done {
		if h.op == OpRead || h.op == OpWrite {
			r.buffer = buf.Get(int(h.length))
			r.Data = r.buffer.Bytes()
		}
		r.hooks = append(r.hooks[:0], c)
	}
	if r.reply.wanted = h.contexts; h.op == OpBlockStatus && !v.done {
		c.nextContext(r)
	}
	return r
}

// answer replies to a request that needs no device.
func (c *conn) answer(r *Request, e Errno) {
	r.reply.errno, r.reply.text = e, ""
	if e != 0 {
		c.stats.errors.Add(1)
	}
	r.reply.frame.size = extendedLen + 6
	c.out.add(&r.reply.frame, true)
}

// payload reads what follows a write.
func (c *conn) payload(p []byte) error {
	if c.in.buffered() >= len(p) {
		return c.in.full(p)
	}
	c.readWithin(c.server.cfg.Limits.StallTimeout)
	err := c.in.full(p)
	c.readWithin(0)
	return err
}

// unwanted takes a payload that no write wants: the contexts of a block status, or something to drop.
func (c *conn) unwanted(h *requestHeader, v *verdict, payload uint64) error {
	if h.op != OpBlockStatus || v.done || payload < 12 || payload%4 != 0 || payload > 8+4*contextsMax { // effect length and contexts
		if v.errno == 0 {
			*v = refuse(EINVAL)
		}
		return c.in.skip(payload)
	}
	b, err := c.in.take(int(payload))
	if err != nil {
		return unexpected(err)
	}
	h.flags &^= flagPayloadLen
	h.length = be.Uint64(b)
	h.contexts = c.wantContexts(b[8:])
	if *v = c.check(h); h.contexts == 0 {
		*v = refuse(EINVAL)
	}
	return nil
}

// verdict is what check found: with done there is nothing for the device to do.
type verdict struct {
	done  bool
	errno Errno
}

func refuse(e Errno) verdict { return verdict{true, e} }

// flagsOf has the flags that a command may carry besides FlagFUA.
var flagsOf = [...]Flags{
	OpRead: FlagDF, OpWrite: flagPayloadLen, OpFlush: 0, OpTrim: 0, OpCache: 0,
	OpWriteZeroes: FlagNoHole | FlagFastZero, OpBlockStatus: FlagReqOne | flagPayloadLen,
}

// check holds h against the protocol and the device. For a block status with payload the
// range comes with the payload and is checked again.
func (c *conn) check(h *requestHeader) verdict {
	if int(h.op) >= len(flagsOf) || h.flags&^(flagsOf[h.op]|FlagFUA) != 0 {
		return refuse(EINVAL)
	}
	if c.draining.Load() && !c.server.cfg.HangupOnShutdown { // with it, what got here before the drain began is served
		return refuse(ESHUTDOWN)
	}
	extended, carries := c.mode == headersExtended, h.flags&flagPayloadLen != 0
	switch {
	case carries && !extended:
		return refuse(EINVAL)
	case h.op == OpRead && h.flags&FlagDF != 0 && c.mode == headersSimple:
		return refuse(EINVAL)
	case h.op == OpBlockStatus && len(c.contexts) == 0:
		return refuse(EINVAL)
	case h.op == OpBlockStatus && carries:
		return verdict{}
	case h.op == OpFlush:
		if h.offset != 0 || h.length != 0 {
			return refuse(EINVAL)
		}
		return verdict{}
	}
	return c.checkRange(h)
}

// writes tells whether op changes the device.
func writes(op Op) bool { return op == OpWrite || op == OpTrim || op == OpWriteZeroes }

func (c *conn) checkRange(h *requestHeader) verdict {
	if writes(h.op) && c.info.ReadOnly {
		return refuse(EPERM)
	}
	if size := c.dev.Size(); h.offset > size || h.length > size-h.offset {
		if h.op == OpWrite || h.op == OpWriteZeroes {
			return refuse(ENOSPC)
		}
		return refuse(EINVAL)
	}
	if mask := uint64(c.info.BlockMin) - 1; (h.offset|h.length)&mask != 0 {
		return refuse(EINVAL)
	}
	switch {
	case h.op == OpRead && h.length > uint64(c.info.PayloadMax):
		if c.mode == headersSimple {
			return refuse(EINVAL)
		}
		return refuse(EOVERFLOW)
	case h.op == OpWrite && h.length > uint64(c.info.PayloadMax):
		return refuse(EINVAL)
	case h.length == 0 && h.op == OpBlockStatus:
		return refuse(EINVAL)
	case h.length == 0:
		return verdict{done: true}
	}
	return verdict{}
}

// validName tells whether s may be the name of an export.
func validName(s []byte) bool {
	if len(s) > stringMax || !utf8.Valid(s) {
		return false
	}
	for _, b := range s {
		if b == 0 {
			return false
		}
	}
	return true
}
