package rpc

import (
	"crypto/tls"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
)

const (
	// holdBytes is how much may be gathered while a burst is read before it is sent anyway.
	holdBytes = 64 << 10
	// flushRounds is how often a caller writes what others added before a goroutine takes over.
	flushRounds = 4
)

// outgoing is a message on its way to the socket. Its head and payload are not touched
// any more once it is encoded (sent == total) or taken out of the queue.
type outgoing struct {
	hdr     header
	head    []byte
	payload [][]byte
	total   int // bytes of payload
	sent    int // of them encoded
	i, off  int // where in payload the next one is
	queued  bool
	started bool // the first frame is encoded
	next    *outgoing
	owner   owner
}

// owner hears of its outgoing message under the connection's lock.
type owner interface {
	// start is asked before the first frame is encoded; false leaves it waiting.
	start(o *outgoing) bool
}

// fifo is a list of messages.
type fifo struct {
	first, last *outgoing
	n           int
}

func (f *fifo) push(o *outgoing) {
	o.next, o.queued = nil, true
	if f.last == nil {
		f.first = o
	} else {
		f.last.next = o
	}
	f.last = o
	f.n++
}

func (f *fifo) pop() *outgoing {
	o := f.first
	f.remove(nil, o)
	return o
}

func (f *fifo) remove(before, o *outgoing) {
	if before == nil {
		f.first = o.next
	} else {
		before.next = o.next
	}
	if f.last == o {
		f.last = before
	}
	o.next, o.queued = nil, false
	f.n--
}

// drop takes o out, if it is there.
func (f *fifo) drop(o *outgoing) bool {
	var before *outgoing
	for x := f.first; x != nil; before, x = x, x.next {
		if x == o {
			f.remove(before, x)
			return true
		}
	}
	return false
}

// conn is what both ends have: a socket, a reader, and the combining writer.
//
// Lock order: conn.mu, then nothing (wire.mu is a leaf). No callback of a service or a caller runs under it.
type conn struct {
	class  Class
	place  string
	limits Limits
	timing Timing
	stats  *Stats
	w      *wire
	sec    *tls.Conn // nil in plain
	in     *reader
	died   func() // called once, by whoever ends the connection; may be nil

	held   atomic.Bool   // the reader has input left: leave the writing to it
	corks  *atomic.Int32 // above zero: more is coming; nil if nobody says so
	dry    func()        // called before the reader waits for input or room; may be nil
	inRead atomic.Bool   // the reader waits for the peer, so silence counts
	heard  atomic.Bool
	spoke  atomic.Bool
	// For the pacer alone.
	lastHeard, lastSpoke time.Duration

	mu struct {
		sync.Mutex
		dead     error
		flushing bool // somebody writes, and will look again before it stops
		pending  []byte
		spare    []byte
		counted  int        // bytes of both and of the read buffer that stats has
		small    fifo       // in the order of the calls
		long     fifo       // of a class that overtakes: messages of several frames
		idle     *sync.Cond // a request ended, nobody writes any more, or dead was set
	}
	writers sync.WaitGroup // goroutines that write what the socket did not take
}

func (c *conn) init(w *wire, sec *tls.Conn) {
	c.w, c.sec = w, sec
	var src io.Reader = w
	size := readerBytes
	if sec != nil {
		src, size = sec, readerBytes/4
		w.gather()
	}
	c.in = newReader(c.place, src, size)
	c.mu.idle = sync.NewCond(&c.mu.Mutex)
	c.stats.addBuffers(0, 1)
	c.count()
	w.before, w.after = c.beforeRead, c.afterRead
	c.heard.Store(true) // the hello: silence counts from here
}

// beforeRead sends what was gathered while the last burst was read.
func (c *conn) beforeRead() {
	c.pause()
	c.inRead.Store(true)
}

// pause lets go of what is held back, because the reader may have to wait.
func (c *conn) pause() {
	if c.dry != nil {
		c.dry()
	}
	c.held.Store(false)
	c.flushIfAny()
}

// gathering tells whether somebody will flush soon.
func (c *conn) gathering() bool { return c.held.Load() || c.corks != nil && c.corks.Load() > 0 }

func (c *conn) afterRead() {
	c.inRead.Store(false)
	c.heard.Store(true)
	c.held.Store(true)
}

func (c *conn) flushIfAny() {
	c.mu.Lock()
	flush := c.mu.dead == nil && !c.mu.flushing && (len(c.mu.pending) > 0 || c.mu.small.n > 0 || c.mu.long.n > 0)
	if flush {
		c.mu.flushing = true
	}
	c.mu.Unlock()
	if flush {
		c.flush(false)
	}
}

// push sends o, now or when there is room. It tells whether o is encoded already; an
// error means that the connection is dead and o was not taken.
func (c *conn) push(o *outgoing, queueMax int) (encoded bool, err error) {
	c.mu.Lock()
	if c.mu.dead != nil {
		err = c.mu.dead
		c.mu.Unlock()
		return false, err
	}
	switch {
	case c.mu.small.n == 0 && o.total <= FragmentMax && len(c.mu.pending) < c.limits.PendingBytes && o.owner.start(o):
		c.encode(o)
		encoded = true
	case c.mu.small.n+c.mu.long.n >= queueMax:
		c.mu.Unlock()
		return false, fmt.Errorf("queue of %d calls to %s is full: %w", queueMax, c.place, errs.ErrUnavailable)
	case o.total > FragmentMax && c.class.Overtakes():
		c.mu.long.push(o)
	default:
		c.mu.small.push(o)
	}
	flush := !c.mu.flushing && (!c.gathering() || len(c.mu.pending) >= holdBytes)
	if flush {
		c.mu.flushing = true
	}
	c.mu.Unlock()
	if flush {
		c.flush(false)
	}
	return encoded, nil
}

// encode appends the next frame of o to pending. Under mu.
func (c *conn) encode(o *outgoing) {
	h := o.hdr
	h.total = uint32(o.total)
	n := min(o.total-o.sent, FragmentMax)
	h.payload = uint32(n)
	if o.started {
		h.flags = flagContinued
		h.op, h.timeout = 0, 0
	} else {
		h.head = uint32(len(o.head))
		h.headCRC = codec.CRC(o.head)
	}
	b := h.append(c.mu.pending)
	if !o.started {
		b = append(b, o.head...)
	}
	o.started = true
	o.sent += n
	for n > 0 {
		p := o.payload[o.i][o.off:]
		m := min(n, len(p))
		b = append(b, p[:m]...)
		o.off += m
		n -= m
		if m == len(p) {
			o.i, o.off = o.i+1, 0
		}
	}
	c.mu.pending = b
}

// abort tells the peer that the rest of o will not come. Under mu.
func (c *conn) abort(o *outgoing) {
	h := header{kind: o.hdr.kind, id: o.hdr.id, total: uint32(o.total), flags: flagContinued | flagAbort}
	c.mu.pending = h.append(c.mu.pending)
}

// pump encodes what waits, as far as there is room, and gives the messages that are through. Under mu.
func (c *conn) pump() (through *outgoing) {
	if c.mu.dead != nil {
		c.mu.pending = c.mu.pending[:0]
		return nil
	}
	for len(c.mu.pending) < c.limits.PendingBytes {
		// No message is begun while another is unfinished, but for whole ones of a class that overtakes.
		f := &c.mu.small
		if !ready(f.first) {
			if f = &c.mu.long; !ready(f.first) {
				break
			}
		}
		o := f.first
		c.encode(o)
		if o.sent < o.total {
			continue
		}
		f.pop()
		if o.hdr.kind == kindReply { // a request may be answered, and o be used again, from here on
			o.next, through = through, o
		}
	}
	return through
}

func ready(o *outgoing) bool { return o != nil && (o.started || o.owner.start(o)) }

// flush writes until nothing is left. The caller has set flushing. Unless it may wait,
// it hands over to a goroutine when the socket is full or others keep adding.
func (c *conn) flush(mayWait bool) {
	for round := 0; ; round++ {
		c.mu.Lock()
		through := c.pump()
		out := c.mu.pending
		if len(out) == 0 || !mayWait && round == flushRounds {
			done := len(out) == 0
			if done {
				c.mu.flushing = false
				c.mu.idle.Broadcast()
			}
			c.mu.Unlock()
			finish(through)
			if !done {
				c.handOver(nil)
			}
			return
		}
		c.mu.pending, c.mu.spare = c.mu.spare[:0], out
		if cap(c.mu.pending) > c.limits.PendingBytes+FragmentMax+frameSlack {
			c.mu.pending = nil // a long head has passed: its room goes, too
		}
		c.count()
		c.mu.Unlock()
		finish(through)
		rest, err := c.send(out)
		if err == nil && len(rest) > 0 {
			if !mayWait {
				c.handOver(rest)
				return
			}
			_, err = c.w.Conn.Write(rest)
		}
		if err != nil {
			c.fail(fmt.Errorf("write to %s: %v: %w", c.place, err, errs.ErrUnavailable))
		}
	}
}

// send encrypts out and gives the socket what it takes at once.
func (c *conn) send(out []byte) (rest []byte, err error) {
	c.spoke.Store(true)
	if c.sec != nil {
		if _, err := c.sec.Write(out); err != nil {
			return nil, err
		}
		out = c.w.take()
	}
	c.stats.addWrite(len(out))
	n, err := c.w.try(out)
	return out[n:], err
}

// handOver lets a goroutine write rest and what comes after. flushing stays set.
func (c *conn) handOver(rest []byte) {
	c.writers.Add(1)
	go func() {
		defer c.writers.Done()
		if len(rest) > 0 {
			if _, err := c.w.Conn.Write(rest); err != nil {
				c.fail(fmt.Errorf("write to %s: %v: %w", c.place, err, errs.ErrUnavailable))
			}
		}
		c.flush(true)
	}()
}

// finisher is an owner that wants to know when its message is encoded; called without locks.
type finisher interface{ encoded() }

func finish(through *outgoing) {
	for o := through; o != nil; {
		next := o.next
		o.next = nil
		if f, ok := o.owner.(finisher); ok {
			f.encoded()
		}
		o = next
	}
}

// fail ends the connection. The reader notices and tidies up; the first reason stays.
func (c *conn) fail(err error) {
	c.mu.Lock()
	first := c.mu.dead == nil
	if first {
		c.mu.dead = err
		c.mu.idle.Broadcast()
	}
	c.mu.Unlock()
	if first {
		_ = c.w.Conn.Close() // it is given up; its own error would only repeat the reason
		if c.died != nil {
			c.died()
		}
	}
}

// quiesce waits until nobody writes any more. The connection is dead, so nobody begins to.
func (c *conn) quiesce() {
	c.mu.Lock()
	for c.mu.flushing {
		c.mu.idle.Wait()
	}
	c.mu.Unlock()
	c.writers.Wait()
	c.mu.Lock()
	c.stats.addBuffers(-c.mu.counted, -1)
	c.mu.counted = 0
	c.mu.Unlock()
}

// count tells stats what the buffers take now. Under mu, or before anybody else knows c.
func (c *conn) count() {
	if n := len(c.in.buf) + cap(c.mu.pending) + cap(c.mu.spare); n != c.mu.counted {
		c.stats.addBuffers(n-c.mu.counted, 0)
		c.mu.counted = n
	}
}

func (c *conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.dead
}

// tick is called by the pacer. gap tells that time passed unseen: then nobody is to blame for silence.
func (c *conn) tick(now time.Duration, gap bool) {
	if c.heard.Swap(false) || gap || c.lastHeard == 0 || !c.inRead.Load() { // 0: the first tick
		c.lastHeard = now
	} else if now-c.lastHeard >= c.timing.Dead {
		c.fail(fmt.Errorf("%s was silent for %s: %w", c.place, now-c.lastHeard, errs.ErrUnavailable))
		return
	}
	if c.spoke.Swap(false) {
		c.lastSpoke = now
	}
	if now-c.lastSpoke < c.timing.Beat-c.timing.Beat/8 {
		return
	}
	c.mu.Lock()
	flush := c.mu.dead == nil && !c.mu.flushing
	if flush {
		h := header{kind: kindBeat}
		c.mu.pending = h.append(c.mu.pending)
		c.mu.flushing = true
	}
	c.mu.Unlock()
	if flush {
		c.flush(false)
	}
}
