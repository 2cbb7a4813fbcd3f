package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
)

// ClientOptions say how a client meets its server. The zero value asks for everything.
type ClientOptions struct {
	// TLS is for addresses with TLS; nil stands for the system's authorities, or those the address names. A ServerName is filled in for TCP.
	TLS *tls.Config
	// NoExtended, NoStructured and NoMeta leave out what the server might offer; NoStructured implies the other two.
	NoExtended, NoStructured, NoMeta bool
	// ExportName enters by the old option that knows no errors. It implies NoExtended.
	ExportName bool
	// RequestsMax bounds the requests in flight; more wait in the client. Default 256.
	RequestsMax int
	// Context is the meta context that block status is to be about instead of base:allocation. A server
	// that does not have it is an error of class errs.ErrNotFound.
	Context string
}

// Client is one connection to an export. It is a Device: Submit sends a request and its completion
// comes on the client's reader. The blocking methods do one thing each. All are safe for
// concurrent use; many requests share the connection.
//
// When the connection breaks, everything in flight completes with errs.ErrUnavailable: a write
// may or may not have been done. There is no reconnect: make a new Client.
//
// Lock order: mu, then nothing; completions run without it.
type Client struct {
	raw      net.Conn
	stream   io.ReadWriter
	tls      *tls.Conn
	wire     *tlsWire
	reads    *dryReader
	in       input
	mode     headers
	padded   bool // zeros follow the answer to the old option
	metaID   uint32
	meta     bool
	size     uint64
	flags    TransmissionFlags
	info     Info
	max      int
	out      outbox
	batch    Batch
	over     chan struct{} // closed when the reader is gone
	hangOnce sync.Once

	mu struct {
		sync.Mutex
		flights map[uint64]*flight
		waiting []*flight // FIFO, for a place in flights
		cookie  uint64
		err     error // set once: no more is sent
		closing bool
		idle    chan struct{} // closed when closing and nothing flies
	}
}

// flight is a request on its way.
type flight struct {
	frame  frame
	r      *Request
	cookie uint64
	err    error
	parts  []hole       // of a read, what came, by place in Data, apart and ascending
	ends   atomic.Int32 // of its two ends, sent and answered, what is missing
}

var flights = sync.Pool{New: func() any { return new(flight) }}

const requestsMaxDefault = 256

// Dial connects to uri and opens its export.
func Dial(ctx context.Context, uri string, o ClientOptions) (*Client, error) {
	u, raw, err := connect(ctx, uri, &o)
	if err != nil {
		return nil, err
	}
	c, err := NewClient(ctx, raw, u.TLS, u.Export, o)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", uri, err)
	}
	return c, nil
}

// connect dials uri and completes o for it.
func connect(ctx context.Context, uri string, o *ClientOptions) (URI, net.Conn, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return u, nil, err
	}
	if u.TLS {
		if o.TLS == nil {
			if o.TLS, err = u.loadTLS(); err != nil {
				return u, nil, err
			}
		}
		if o.TLS.ServerName == "" && !u.Unix {
			o.TLS = o.TLS.Clone()
			o.TLS.ServerName, _, _ = net.SplitHostPort(u.Address)
		}
	}
	network, address := u.network()
	raw, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return u, nil, fmt.Errorf("dial nbd server: %w: %w", err, errs.ErrUnavailable)
	}
	roomy(raw)
	return u, raw, nil
}

// NewClient opens an export over raw, which it owns from now on. ctx bounds the handshake.
func NewClient(ctx context.Context, raw net.Conn, withTLS bool, export string, o ClientOptions) (*Client, error) {
	c, err := handshake(ctx, raw, withTLS, o, func(c *Client) error { return c.enter(export, o) })
	if err != nil {
		return nil, err
	}
	c.max = o.RequestsMax
	if c.max <= 0 {
		c.max = requestsMaxDefault
	}
	c.in.grow(bufferLen)
	c.mu.flights = make(map[uint64]*flight)
	c.out.conn, c.out.encode, c.out.sent, c.out.clock = raw, c.encode, c.sent, clock.System
	if c.tls != nil {
		c.wire.stage()
		c.out.sink = newTLSSink(c.tls, c.wire)
	} else {
		c.out.sink = newSink(raw)
	}
	c.reads.dry, c.reads.wet = c.batch.Flush, func() {}
	c.over = make(chan struct{})
	go c.receive()
	return c, nil
}

// List asks the server at uri for its exports.
func List(ctx context.Context, uri string, o ClientOptions) ([]ExportName, error) {
	u, raw, err := connect(ctx, uri, &o)
	if err != nil {
		return nil, err
	}
	var names []ExportName
	c, err := handshake(ctx, raw, u.TLS, o, func(c *Client) (err error) {
		if names, err = c.list(); err == nil {
			err = c.abort()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", uri, err)
	}
	return names, c.raw.Close()
}

// Size is the bytes of the export, as it was when opened.
func (c *Client) Size() uint64 { return c.size }

// Info describes the export.
func (c *Client) Info() Info { return c.info }

// Flags are the transmission flags of the export.
func (c *Client) Flags() TransmissionFlags { return c.flags }

// Headers names the form of messages in use: simple, structured or extended.
func (c *Client) Headers() string { return [...]string{"simple", "structured", "extended"}[c.mode] }

// HasBlockStatus tells whether the server answers OpBlockStatus.
func (c *Client) HasBlockStatus() bool { return c.meta }

// length32Max is the longest effect of a request with compact headers that keeps to blocks.
const length32Max = extentMax32

// Submit sends r, or keeps it until there is room. It completes on the client's reader.
func (c *Client) Submit(r *Request) {
	if c.mode != headersExtended && r.Length > length32Max {
		if r.Op != OpBlockStatus {
			r.Complete(EOVERFLOW)
			return
		}
	}
	if r.Op == OpBlockStatus && !c.meta {
		r.Complete(nil) // says "data"
		return
	}
	f := flights.Get().(*flight)
	f.r, f.err, f.parts, f.frame.r, f.frame.fly = r, nil, f.parts[:0], r, f
	f.ends.Store(2)
	f.frame.size = requestExLen
	if r.Op == OpWrite {
		f.frame.size += len(r.Data)
	}
	c.mu.Lock()
	switch {
	case c.mu.err != nil || c.mu.closing:
		err := c.mu.err
		c.mu.Unlock()
		if err == nil {
			err = errs.ErrClosed
		}
		f.err = err
		c.finish(f)
	case len(c.mu.flights) >= c.max:
		c.mu.waiting = append(c.mu.waiting, f)
		c.mu.Unlock()
	default:
		c.launch(f)
		c.mu.Unlock()
		c.out.add(&f.frame, false)
	}
}

// launch enters f into the table. The mutex is held.
func (c *Client) launch(f *flight) {
	c.mu.cookie++
	f.cookie = c.mu.cookie
	c.mu.flights[f.cookie] = f
}

// Cork holds requests back, until the Uncork that belongs to it, to send them together.
func (c *Client) Cork() { c.out.cork() }

// Uncork sends what was held back.
func (c *Client) Uncork() { c.out.uncork(true) }

// encode appends the request of a flight.
func (c *Client) encode(f *frame, v *vec) bool {
	r := f.r
	if !v.room(requestExLen, 1) {
		return false
	}
	h := requestHeader{flags: r.Flags, op: r.Op, offset: r.Offset, length: r.Length, cookie: f.fly.cookie}
	if c.mode == headersExtended && r.Op == OpWrite {
		h.flags |= flagPayloadLen
	}
	if c.mode != headersExtended {
		h.length = min(h.length, length32Max)
	}
	if c.mode == headersSimple {
		h.flags &^= FlagDF
	}
	putRequest(v.head(c.mode.requestLen()), c.mode, h)
	if r.Op == OpWrite {
		v.payload(r.Data)
	}
	return true
}

// sent hears of frames on the wire, or dropped; a dropped one is answered by the reader's end.
func (c *Client) sent(first *frame) {
	for f := first; f != nil; {
		next := f.next
		c.ended(f.fly)
		f = next
	}
}

// ended takes one of the two ends of f away; without ends it completes.
func (c *Client) ended(f *flight) {
	if f.ends.Add(-1) == 0 {
		c.finish(f)
	}
}

// finish completes the request of f, which nobody else knows any more.
func (c *Client) finish(f *flight) {
	r, err := f.r, f.err
	f.r, f.frame.r = nil, nil
	flights.Put(f)
	r.Complete(err)
}

// land takes f out of the table; the next that waits takes its place.
func (c *Client) land(f *flight) {
	c.mu.Lock()
	delete(c.mu.flights, f.cookie)
	var next *flight
	if len(c.mu.waiting) > 0 {
		next = c.mu.waiting[0]
		c.mu.waiting = c.mu.waiting[1:]
		c.launch(next)
	}
	c.tellIdle()
	c.mu.Unlock()
	if next != nil {
		c.out.add(&next.frame, false)
	}
}

// tellIdle wakes Close when nothing flies. The mutex is held.
func (c *Client) tellIdle() {
	if c.mu.closing && len(c.mu.flights) == 0 && c.mu.idle != nil {
		close(c.mu.idle)
		c.mu.idle = nil
	}
}

// fail ends everything in flight with err.
func (c *Client) fail(err error) {
	c.hang()
	c.out.close()
	c.mu.Lock()
	if c.mu.err == nil {
		c.mu.err = err
	}
	flying, waiting := c.mu.flights, c.mu.waiting
	c.mu.flights, c.mu.waiting = make(map[uint64]*flight), nil
	c.tellIdle()
	c.mu.Unlock()
	for _, f := range flying {
		f.err = err
		c.ended(f)
	}
	for _, f := range waiting {
		f.err = err
		c.finish(f)
	}
}

func (c *Client) hang() { c.hangOnce.Do(func() { _ = c.raw.Close() }) } // broken or done, either way over

// Hangup closes the connection at once; what is in flight completes with an error before it
// returns. Not from a completion, which runs on the reader that Hangup waits for.
func (c *Client) Hangup() {
	c.hang()
	<-c.over
	c.out.drains.Wait()
}

// goodbyeTimeout bounds how long Close waits for the server to take its leave.
const goodbyeTimeout = 5 * time.Second

// Close waits until nothing is in flight, takes leave of the server and closes the connection.
// Hangup, from another goroutine, ends the wait. Requests after Close fail with errs.ErrClosed.
func (c *Client) Close() error {
	idle := make(chan struct{})
	c.mu.Lock()
	if c.mu.closing {
		c.mu.Unlock()
		<-c.over
		return nil
	}
	c.mu.closing, c.mu.idle = true, idle
	c.tellIdle()
	c.mu.Unlock()
	select {
	case <-idle:
	case <-c.over:
	}
	sent := make(chan struct{})
	r := NewRequest(opDisconnect, 0, 0, 0, nil, CompleterFunc(func(*Request, error) { close(sent) }))
	f := &flight{r: r}
	f.frame.r, f.frame.fly, f.frame.size = r, f, requestExLen
	f.ends.Store(1)
	c.out.add(&f.frame, true)
	<-sent
	_ = c.raw.SetReadDeadline(clock.System.Wall().Add(goodbyeTimeout)) // the server closes, or we do
	<-c.over
	c.out.drains.Wait()
	return nil
}

// Done is closed when the connection is over; Err tells why.
func (c *Client) Done() <-chan struct{} { return c.over }

// Err is why the connection is over, nil while it is not.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.err
}

// lost is the error of requests whose connection broke with err.
func lost(err error) error {
	if errors.Is(err, ErrProtocol) {
		return err
	}
	return fmt.Errorf("nbd connection lost: %w: %w", err, errs.ErrUnavailable)
}
