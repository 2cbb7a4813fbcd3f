package rpc

import (
	"context"
	"net"
	"sync"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// Peer is the client of a connection, as the server sees it.
type Peer struct {
	Identity pki.Identity // from the certificate; from its hello if the server is Insecure
	Addr     net.Addr
	Version  uint16 // of the class's protocol
	// Context ends when the connection does.
	Context context.Context
}

// Service serves one class.
type Service struct {
	Class                  Class
	VersionMin, VersionMax uint16
	Limits                 Limits // InFlight, BytesMax and PayloadMax count for each connection; zero: the class's defaults
	// Process bounds the bytes of all connections together; nil does not.
	Process *Budget
	// Accept makes a connection's handler, or refuses the peer.
	Accept func(Peer) (Handler, error)
}

// Handler carries out the requests of one connection. Prepare and Serve are called on
// the connection's reader, one request at a time, in the order they were sent; neither may block.
type Handler interface {
	// Prepare is told that r's head arrived, with r.PayloadBytes to come. It sets r.Into to slices of as
	// many bytes, and may set r.ReplyBytes. An error is the answer; the payload is then skipped.
	Prepare(r *Request) error
	// Serve begins r, whose payload is there now. It ends with r.Reply, inline or later from any goroutine.
	Serve(r *Request)
	// Done is the end of every r that Prepare saw: answered, broken off or failed. r.State
	// and what r refers to are the handler's again.
	Done(r *Request)
	// Close is called when the connection is dead and all its requests are done.
	Close()
}

// Drier is a Handler that gains from requests that come together: Dry is called on the
// reader whenever it has served all that has arrived, or has to wait.
type Drier interface {
	Dry()
}

// Request is what a client asked. It lives until Handler.Done.
type Request struct {
	Op           uint16
	Head         []byte // until Done
	PayloadBytes int
	Timeout      time.Duration // how long the client will wait from when it sent r; zero: not known
	Peer         *Peer

	Into [][]byte // by Prepare: where the payload goes; append to it, its memory is kept
	// ReplyBytes, by Prepare, is the payload of the reply to come. It counts against the
	// limits of the connection and the process; only for requests without payload.
	ReplyBytes int
	State      any // the handler's

	// The reply, set before Reply and left alone until Done. Append to both, their memory is kept.
	OutHead    []byte
	OutPayload [][]byte

	conn    *serverConn
	err     error // answered instead of serving, when the payload was skipped
	cost    int   // bytes taken from the budgets
	headBuf []byte
	dst     into
	out     outgoing
	id      uint64
	seen    bool // Prepare was called
}

// headKept is the most a pooled request keeps for heads, in bytes.
const headKept = 64 << 10

var requests = sync.Pool{New: func() any { return new(Request) }}

func newRequest(c *serverConn, h *header, head []byte) *Request {
	r := requests.Get().(*Request)
	r.conn, r.id, r.Op, r.PayloadBytes = c, h.id, h.op, int(h.total)
	r.Timeout = time.Duration(h.timeout) * time.Millisecond
	r.Peer = &c.peer
	r.headBuf = append(r.headBuf[:0], head...)
	r.Head = r.headBuf
	return r
}

func (r *Request) recycle() {
	if cap(r.headBuf) > headKept {
		r.headBuf = nil
	}
	if cap(r.OutHead) > headKept {
		r.OutHead = nil
	}
	clear(r.Into)
	clear(r.OutPayload)
	*r = Request{headBuf: r.headBuf, Into: r.Into[:0], OutHead: r.OutHead[:0], OutPayload: r.OutPayload[:0]}
	requests.Put(r)
}

// Reply answers r: with OutHead and OutPayload, or with err, of which class and text
// travel. It may be called from any goroutine, once, and does not block. r must not be used
// after it but by Handler.Done, which may run before Reply returns.
func (r *Request) Reply(err error) {
	c := r.conn
	r.out = outgoing{owner: r}
	r.out.hdr = header{kind: kindReply, id: r.id}
	switch {
	case err == nil && (len(r.OutHead) > HeadMax || bytesOf(r.OutPayload) > PayloadMax):
		r.fail(errReplyTooLong)
	case err == nil:
		r.out.head, r.out.payload, r.out.total = r.OutHead, r.OutPayload, bytesOf(r.OutPayload)
	default:
		r.fail(err)
	}
	encoded, err := c.push(&r.out, 1<<30) // bounded by the requests in flight
	if err != nil || encoded {
		r.finish()
	}
}

func (r *Request) fail(err error) {
	text := err.Error()
	r.OutHead = append(r.OutHead[:0], text[:min(len(text), ErrorTextMax)]...)
	r.out.head = r.OutHead
	r.out.hdr.op = uint16(errs.CodeOf(err))
}

func (r *Request) start(*outgoing) bool { return true }

// encoded is part of finisher.
func (r *Request) encoded() { r.finish() }

// finish gives everything back.
func (r *Request) finish() {
	c, cost := r.conn, r.cost
	if r.seen {
		c.handler.Done(r)
	}
	r.recycle()
	c.release(cost)
}
