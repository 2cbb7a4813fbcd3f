package nbd

import (
	"net"
	"sync"
	"time"

	"ashlar.dev/pkg/clock"
)

// frame is one message in an outbox: a request of a client or a reply of a server.
type frame struct {
	next *frame
	r    *Request
	size int     // about its bytes on the wire
	fly  *flight // of a client
}

const (
	// heldMax is the bytes that a corked outbox holds back; above, it writes all the same.
	heldMax = 128 << 10
	// inlineMax is the bytes that a goroutine not the connection's own writes; more goes to a goroutine of its own.
	inlineMax = 128 << 10
	// batchMax bounds the bytes of one write, where it holds more than one frame.
	batchMax = 1 << 20
)

// outbox sends frames over a connection, each whole, combining those that come together.
// Who adds a frame to an idle outbox becomes its writer and writes, without waiting, all that
// is queued meanwhile; where the socket is full a goroutine takes over. While it is
// corked, frames wait for the last uncork or until there are many of them.
//
// Lock order: mu is taken with no lock of the connection held, and released before encode, sent and
// writes; within it only gather's is.
type outbox struct {
	sink         sink
	conn         net.Conn // for deadlines, and closed on an error
	writeTimeout time.Duration
	clock        clock.Clock
	// encode appends a frame; false means that vec has no room and nothing was appended.
	encode func(f *frame, v *vec) bool
	// sent hears of frames that were written, or dropped after an error; linked by next.
	sent   func(first *frame)
	gather *Gather // may be nil

	mu struct {
		sync.Mutex
		queue  frames
		corks  int
		busy   bool // somebody is the writer
		closed bool // no more is written; frames are dropped
	}
	drains sync.WaitGroup // goroutines that took over

	// Of the writer:
	rest  frames // taken from the queue, not encoded yet
	batch frames // in vec
	vec   vec
}

// frames is a list of frames.
type frames struct {
	first, last *frame
	size        int
}

func (q *frames) push(f *frame) {
	f.next = nil
	if q.last == nil {
		q.first = f
	} else {
		q.last.next = f
	}
	q.last = f
	q.size += f.size
}

func (q *frames) pop() *frame {
	f := q.first
	q.first = f.next
	if q.first == nil {
		q.last = nil
	}
	q.size -= f.size
	f.next = nil
	return f
}

// add queues f and sends it, unless somebody is at it or the outbox is corked. own tells that the
// caller is the connection's own goroutine, which may write much.
func (o *outbox) add(f *frame, own bool) {
	o.mu.Lock()
	if o.mu.closed {
		o.mu.Unlock()
		f.next = nil
		o.sent(f)
		return
	}
	o.mu.queue.push(f)
	if !o.mu.busy && o.mu.corks == 0 && o.gather.hold(o) {
		o.mu.corks = 1
	}
	if o.mu.busy || o.held() {
		o.mu.Unlock()
		return
	}
	o.mu.busy = true
	o.mu.Unlock()
	o.run(own)
}

// held tells whether what is queued waits for an uncork. The mutex is held.
func (o *outbox) held() bool { return o.mu.corks > 0 && o.mu.queue.size < heldMax }

// cork holds frames back until the uncork that belongs to it.
func (o *outbox) cork() {
	o.mu.Lock()
	o.mu.corks++
	o.mu.Unlock()
}

// uncork takes one cork away; the last one sends what waits.
func (o *outbox) uncork(own bool) {
	o.mu.Lock()
	o.mu.corks--
	if o.mu.corks > 0 || o.mu.busy || o.mu.queue.first == nil {
		o.mu.Unlock()
		return
	}
	o.mu.busy = true
	o.mu.Unlock()
	o.run(own)
}

// run writes until nothing is left, the socket is full or it fails. The caller is the writer.
func (o *outbox) run(own bool) {
	for o.load() {
		if !own && o.vec.left > inlineMax {
			o.handOver()
			return
		}
		done, err := o.sink.push(&o.vec, false)
		if err != nil {
			o.fail()
			return
		}
		if !done {
			o.handOver()
			return
		}
		o.delivered()
	}
}

// handOver makes a goroutine the writer, which waits for the socket.
func (o *outbox) handOver() {
	o.drains.Add(1)
	go o.drain()
}

func (o *outbox) drain() {
	defer o.drains.Done()
	for {
		for done := false; !done; {
			o.deadline(o.writeTimeout)
			var err error
			if done, err = o.sink.push(&o.vec, true); err != nil {
				o.fail()
				return
			}
		}
		o.deadline(0)
		o.delivered()
		if !o.load() {
			return
		}
	}
}

// deadline bounds the next write; none for zero. A failure shows at the write.
func (o *outbox) deadline(d time.Duration) {
	var t time.Time
	if d > 0 {
		t = o.clock.Wall().Add(d)
	}
	_ = o.conn.SetWriteDeadline(t)
}

// load fills vec from the queue. Where there is nothing to write it gives up being the writer.
func (o *outbox) load() bool {
	if o.rest.first == nil {
		o.mu.Lock()
		if o.mu.closed {
			o.mu.Unlock()
			o.fail()
			return false
		}
		if o.mu.queue.first == nil || o.held() {
			o.mu.busy = false
			o.mu.Unlock()
			return false
		}
		o.rest, o.mu.queue = o.mu.queue, frames{}
		o.mu.Unlock()
	}
	o.vec.reset()
	for f := o.rest.first; f != nil; f = o.rest.first {
		if o.batch.first != nil && o.vec.left+f.size > batchMax || !o.encode(f, &o.vec) {
			break
		}
		o.batch.push(o.rest.pop())
	}
	return true
}

func (o *outbox) delivered() {
	first := o.batch.first
	o.batch = frames{}
	o.sent(first)
}

// fail drops everything and closes the connection. The caller is the writer.
func (o *outbox) fail() {
	o.mu.Lock()
	o.mu.closed, o.mu.busy = true, false
	dropped := []frames{o.batch, o.rest, o.mu.queue}
	o.batch, o.rest, o.mu.queue = frames{}, frames{}, frames{}
	o.mu.Unlock()
	_ = o.conn.Close() // the reader hears of it
	for _, q := range dropped {
		if q.first != nil {
			o.sent(q.first)
		}
	}
}

// close drops what is queued and all that comes.
func (o *outbox) close() {
	o.mu.Lock()
	o.mu.closed = true
	var dropped frames
	if !o.mu.busy { // else the writer finds it
		dropped, o.mu.queue = o.mu.queue, frames{}
	}
	o.mu.Unlock()
	if dropped.first != nil {
		o.sent(dropped.first)
	}
}
