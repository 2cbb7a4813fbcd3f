package nbd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ashlar.dev/pkg/errs"
)

// patience bounds what a test waits for things that come at once.
const patience = 10 * time.Second

// fake is an array that serves, with hooks for tests.
type fake struct {
	mu      sync.Mutex
	data    []byte
	info    Info
	status  []Extent              // answer of block status
	holes   []hole                // of every read, by place in the disk
	fail    error                 // of every request
	hold    func(r *Request) bool // takes the request away
	seen    []Request             // copies of Op to Length
	grown   uint64                // beyond data; reads as zeros
	closed  int
	onClose func()
}

func (d *fake) Submit(r *Request) {
	d.mu.Lock()
	d.seen = append(d.seen, Request{Op: r.Op, Flags: r.Flags, Offset: r.Offset, Length: r.Length})
	hold, fail := d.hold, d.fail
	d.mu.Unlock()
	if hold != nil && hold(r) {
		return
	}
	if fail == nil {
		d.do(r)
	}
	r.Complete(fail)
}

func (d *fake) do(r *Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	end := min(r.Offset+r.Length, uint64(len(d.data)))
	switch r.Op {
	case OpRead:
		clear(r.Data)
		if r.Offset < end {
			copy(r.Data, d.data[r.Offset:end])
		}
		for _, h := range d.holes {
			r.Hole(h.offset, h.length)
		}
	case OpWrite:
		copy(d.data[r.Offset:], r.Data)
	case OpWriteZeroes, OpTrim:
		if r.Offset < end {
			clear(d.data[r.Offset:end])
		}
	case OpBlockStatus:
		for _, e := range d.status {
			if !r.AddExtent(e.Length, e.State) {
				break
			}
		}
	}
}

func (d *fake) Size() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return max(uint64(len(d.data)), d.grown)
}
func (d *fake) Info() Info { return d.info }
func (d *fake) Close() error {
	d.mu.Lock()
	d.closed++
	d.mu.Unlock()
	if d.onClose != nil {
		d.onClose()
	}
	return nil
}

// fakes exports named fakes and named errors.
type fakes struct {
	mu      sync.Mutex
	devices map[string]*fake
	errors  map[string]error
	opens   []string
	slow    func(ctx context.Context) error // before each open
	peers   []Peer
}

func (e *fakes) Open(ctx context.Context, name string, peer Peer) (Handle, error) {
	if e.slow != nil {
		if err := e.slow(ctx); err != nil {
			return nil, err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.opens, e.peers = append(e.opens, name), append(e.peers, peer)
	if err := e.errors[name]; err != nil {
		return nil, err
	}
	if d := e.devices[name]; d != nil {
		return d, nil
	}
	return nil, errs.ErrNotFound
}

func (e *fakes) List(context.Context, Peer) ([]ExportName, error) {
	if err := e.errors["list"]; err != nil {
		return nil, err
	}
	return []ExportName{{"disk", "a disk"}, {"secret", ""}}, nil
}

// one exports d as "disk" and as the default.
func one(d *fake) *fakes { return &fakes{devices: map[string]*fake{"disk": d, "": d}} }

// peer is the client's end of a connection to a server, byte by byte.
type peer struct {
	t    testing.TB
	conn net.Conn
	over chan struct{} // closed when the server is done with the connection
}

// socketPair gives two ends of a unix socket.
func socketPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close() // FileConn has its own
	}
	return conns[0], conns[1]
}

// serve starts a server with cfg and gives the client's end of a connection to it.
func serve(t testing.TB, cfg Config, ep Endpoint) (*Server, *peer) {
	t.Helper()
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, meet(t, s, ep)
}

// meet makes one more connection to s.
func meet(t testing.TB, s *Server, ep Endpoint) *peer {
	t.Helper()
	client, server := socketPair(t)
	p := &peer{t: t, conn: client, over: make(chan struct{})}
	t.Cleanup(func() { _ = client.Close() })
	_ = client.SetDeadline(time.Now().Add(patience))
	go func() { defer close(p.over); s.ServeConn(server, ep) }()
	return p
}

func (p *peer) send(b ...[]byte) {
	p.t.Helper()
	if _, err := p.conn.Write(bytes.Join(b, nil)); err != nil {
		p.t.Fatalf("send: %v", err)
	}
}

func (p *peer) read(n int) []byte {
	p.t.Helper()
	b := make([]byte, n)
	if got, err := io.ReadFull(p.conn, b); err != nil {
		p.t.Fatalf("got %d of %d bytes: %x: %v", got, n, b[:got], err)
	}
	return b
}

// wantClosed expects the server to close the connection without another byte.
func (p *peer) wantClosed() {
	p.t.Helper()
	b, err := io.ReadAll(p.conn)
	if len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatalf("the server sent %x (%v) instead of closing", b, err)
	}
}

// greet reads the greeting and sends flags.
func (p *peer) greet(flags uint32) *peer {
	p.t.Helper()
	want := append([]byte("NBDMAGICIHAVEOPT"), 0, 3)
	if got := p.read(18); !bytes.Equal(got, want) {
		p.t.Fatalf("greeting %x", got)
	}
	p.send(u32(flags))
	return p
}

func u16(v uint16) []byte    { return be.AppendUint16(nil, v) }
func u32(v uint32) []byte    { return be.AppendUint32(nil, v) }
func u64(v uint64) []byte    { return be.AppendUint64(nil, v) }
func text(s string) []byte   { return append(u32(uint32(len(s))), s...) }
func cat(b ...[]byte) []byte { return bytes.Join(b, nil) }

// goData is the data of INFO and GO.
func goData(name string, infos ...uint16) []byte {
	b := cat(text(name), u16(uint16(len(infos))))
	for _, i := range infos {
		b = append(b, u16(i)...)
	}
	return b
}

// metaData is the data of LIST and SET_META_CONTEXT.
func metaData(name string, queries ...string) []byte {
	b := cat(text(name), u32(uint32(len(queries))))
	for _, q := range queries {
		b = append(b, text(q)...)
	}
	return b
}

func optionBytes(opt option, data []byte) []byte {
	return cat(u64(magicOption), u32(uint32(opt)), u32(uint32(len(data))), data)
}

// option sends an option and reads its replies up to the last.
func (p *peer) option(opt option, data []byte) (kinds []optReply, datas [][]byte) {
	p.t.Helper()
	p.send(optionBytes(opt, data))
	for {
		h := p.read(optionReplyLen)
		if be.Uint64(h) != magicOptReply || option(be.Uint32(h[8:])) != opt {
			p.t.Fatalf("reply header %x", h)
		}
		kind := optReply(be.Uint32(h[12:]))
		kinds, datas = append(kinds, kind), append(datas, p.read(int(be.Uint32(h[16:]))))
		if kind == repAck || kind.isError() {
			return kinds, datas
		}
	}
}

// wantOption sends an option and expects these replies.
func (p *peer) wantOption(opt option, data []byte, want ...optReply) [][]byte {
	p.t.Helper()
	kinds, datas := p.option(opt, data)
	if fmt.Sprint(kinds) != fmt.Sprint(want) {
		p.t.Fatalf("option %d: replies %x, want %x (%q)", opt, kinds, want, datas)
	}
	return datas
}

// transmission goes through the handshake into mode; meta selects the allocation context.
func (p *peer) transmission(mode headers, meta bool, name string) *peer {
	p.t.Helper()
	p.greet(3)
	switch mode {
	case headersStructured:
		p.wantOption(optStructuredReply, nil, repAck)
	case headersExtended:
		p.wantOption(optExtendedHeaders, nil, repAck)
	}
	if meta {
		p.wantOption(optSetMeta, metaData(name, metaAllocation), repMeta, repAck)
	}
	kinds, _ := p.option(optGo, goData(name))
	if kinds[len(kinds)-1] != repAck {
		p.t.Fatalf("go: %x", kinds)
	}
	return p
}

// request sends a request in the form of mode.
func (p *peer) request(mode headers, h requestHeader, payload []byte) {
	p.t.Helper()
	b := make([]byte, requestExLen)
	p.send(b[:putRequest(b, mode, h)], payload)
}

// reply is a message of the server, whatever its form.
type message struct {
	cookie  uint64
	kind    uint16 // of a chunk; chunkNone for a simple reply
	done    bool
	errno   Errno
	payload []byte
}

// message reads one message; readLen is the payload of a simple reply without an error.
func (p *peer) message(mode headers, readLen int) message {
	p.t.Helper()
	magic := be.Uint32(p.read(4))
	switch {
	case magic == magicSimple && mode != headersExtended:
		b := p.read(simpleLen - 4)
		m := message{cookie: be.Uint64(b[4:]), errno: Errno(be.Uint32(b)), done: true}
		if m.errno == 0 && mode == headersSimple {
			m.payload = p.read(readLen)
		}
		return m
	case magic == magicStructure && mode == headersStructured:
		b := p.read(structuredLen - 4)
		return p.chunk(b[:12], uint64(be.Uint32(b[12:])))
	case magic == magicReplyEx && mode == headersExtended:
		b := p.read(extendedLen - 4)
		return p.chunk(b[:12], be.Uint64(b[20:]))
	}
	p.t.Fatalf("magic %#x of a reply", magic)
	return message{}
}

func (p *peer) chunk(b []byte, length uint64) message {
	p.t.Helper()
	m := message{cookie: be.Uint64(b[4:]), kind: be.Uint16(b[2:]), done: be.Uint16(b)&chunkDone != 0}
	m.payload = p.read(int(length))
	if m.kind == chunkError {
		m.errno = Errno(be.Uint32(m.payload))
		if int(be.Uint16(m.payload[4:])) != len(m.payload)-6 {
			p.t.Fatalf("error chunk %x", m.payload)
		}
	}
	return m
}

// authority makes certificates for tests.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	next int64
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t, pool: x509.NewCertPool(), next: 1}
	a.cert, a.key = a.make("authority", nil)
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) make(name string, ips []net.IP) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.next++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: ips,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: a.cert == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) pair(name string) tls.Certificate {
	cert, key := a.make(name, []net.IP{net.IPv4(127, 0, 0, 1)})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// server demands a client certificate; client shows one with name.
func (a *authority) server() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.pair("server")}, ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

func (a *authority) client(name string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.pair(name)}, RootCAs: a.pool, ServerName: "server"}
}

// saw gives the requests that reached the device.
func (d *fake) saw() []Request {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]Request(nil), d.seen...)
}
