package nbd

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ashlar.dev/pkg/errs"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// script plays a server: it answers the client's handshake by hand.
func script(t *testing.T, play func(p *peer)) net.Conn {
	t.Helper()
	client, server := socketPair(t)
	p := &peer{t: t, conn: server, over: make(chan struct{})}
	_ = server.SetDeadline(time.Now().Add(patience))
	go func() {
		defer close(p.over)
		defer server.Close()
		play(p)
	}()
	t.Cleanup(func() { _ = client.Close(); <-p.over })
	return client
}

// hear reads one option of the client, which must be opt.
func (p *peer) hear(opt option) []byte {
	h := p.read(optionLen)
	if be.Uint64(h) != magicOption || option(be.Uint32(h[8:])) != opt {
		p.t.Errorf("option %x, want %d", h, opt)
		return nil
	}
	return p.read(int(be.Uint32(h[12:])))
}

func (p *peer) answer(opt option, kind optReply, data []byte) {
	p.send(u64(magicOptReply), u32(uint32(opt)), u32(uint32(kind)), u32(uint32(len(data))), data)
}

func (p *peer) welcome(flags uint16) {
	p.send(u64(magicInit), u64(magicOption), u16(flags))
	p.read(4)
}

// export plays the handshake of a server of size bytes that accepts extended headers, or else
// structured replies, or neither.
func (p *peer) export(mode headers, size uint64) {
	p.welcome(3)
	p.hear(optExtendedHeaders)
	if mode == headersExtended {
		p.answer(optExtendedHeaders, repAck, nil)
	} else {
		p.answer(optExtendedHeaders, repErrUnsup, nil)
		p.hear(optStructuredReply)
		if mode == headersStructured {
			p.answer(optStructuredReply, repAck, nil)
		} else {
			p.answer(optStructuredReply, repErrUnsup, nil)
		}
	}
	if mode != headersSimple {
		p.hear(optSetMeta)
		p.answer(optSetMeta, repMeta, cat(u32(42), []byte(metaAllocation)))
		p.answer(optSetMeta, repAck, nil)
	}
	p.hear(optGo)
	p.answer(optGo, repInfo, cat(u16(infoExport), u64(size), u16(uint16(HasFlags|SendDF))))
	p.answer(optGo, repInfo, cat(u16(500), []byte("of a later version")))
	p.answer(optGo, repAck, nil)
}

func open(t *testing.T, conn net.Conn, o ClientOptions) (*Client, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := NewClient(ctx, conn, false, "disk", o)
	if err == nil {
		t.Cleanup(c.Hangup)
	}
	return c, err
}

// Without this the client could not talk to older servers.
func TestClientTakesWhatTheServerHas(t *testing.T) {
	for _, mode := range allModes {
		c, err := open(t, script(t, func(p *peer) { p.export(mode, 4096) }), ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if c.mode != mode || c.Headers() != mode.String() || c.Size() != 4096 || c.HasBlockStatus() != (mode != headersSimple) || c.Flags()&SendDF == 0 {
			t.Fatalf("%v: %v, %d bytes", mode, c.Headers(), c.Size())
		}
	}
}

// Without this a wrong server would hang the client, or be believed.
func TestClientRefusesBadHandshakes(t *testing.T) {
	info := func(p *peer, b []byte) {
		p.welcome(3)
		p.hear(optGo)
		p.send(u64(magicOptReply), u32(uint32(optGo)), u32(uint32(repInfo)), u32(uint32(len(b))), b, // in one, for the client may leave in the middle
			u64(magicOptReply), u32(uint32(optGo)), u32(uint32(repAck)), u32(0))
	}
	for name, c := range map[string]struct {
		want error
		play func(p *peer)
	}{
		"not a server":       {ErrProtocol, func(p *peer) { p.send([]byte("HTTP/1.1 400 Bad Request\r\n")) }},
		"oldstyle":           {ErrProtocol, func(p *peer) { p.send(u64(magicInit), u64(magicOldstyle), make([]byte, 136)) }},
		"not fixed":          {ErrProtocol, func(p *peer) { p.send(u64(magicInit), u64(magicOption), u16(0)) }},
		"closes at once":     {io.ErrUnexpectedEOF, func(p *peer) {}},
		"unknown export":     {errs.ErrNotFound, func(p *peer) { p.welcome(3); p.hear(optGo); p.answer(optGo, repErrUnknown, []byte("no such disk")) }},
		"denied":             {errs.ErrDenied, func(p *peer) { p.welcome(3); p.hear(optGo); p.answer(optGo, repErrPolicy, nil) }},
		"shutting down":      {errs.ErrClosed, func(p *peer) { p.welcome(3); p.hear(optGo); p.answer(optGo, repErrShutdown, nil) }},
		"wants tls":          {ErrTLSRequired, func(p *peer) { p.welcome(3); p.hear(optGo); p.answer(optGo, repErrTLSRequired, nil) }},
		"finds it invalid":   {errs.ErrInvalid, func(p *peer) { p.welcome(3); p.hear(optGo); p.answer(optGo, repErrInvalid, nil) }},
		"another option":     {ErrProtocol, func(p *peer) { p.welcome(3); p.hear(optGo); p.answer(optList, repAck, nil) }},
		"tells nothing":      {ErrProtocol, func(p *peer) { p.welcome(3); p.hear(optGo); p.answer(optGo, repAck, nil) }},
		"a long reply":       {ErrProtocol, func(p *peer) { p.welcome(3); p.hear(optGo); p.send(u64(magicOptReply), u32(7), u32(3), u32(1<<31)) }},
		"short info":         {ErrProtocol, func(p *peer) { info(p, cat(u16(infoExport), u64(1))) }},
		"no info type":       {ErrProtocol, func(p *peer) { info(p, []byte{1}) }},
		"odd block size":     {ErrProtocol, func(p *peer) { info(p, cat(u16(infoBlockSize), u32(3), u32(4096), u32(1<<20))) }},
		"server among infos": {ErrProtocol, func(p *peer) { p.welcome(3); p.hear(optGo); p.answer(optGo, repServer, text("x")) }},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := open(t, script(t, c.play), ClientOptions{NoStructured: true}); !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
		})
	}
	t.Run("silent until the context ends", func(t *testing.T) {
		near, far := socketPair(t)
		defer far.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		if _, err := NewClient(ctx, near, false, "", ClientOptions{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	})
}

// chunk makes one chunk of a reply to cookie at offset 512.
func chunkBytes(mode headers, flags, kind uint16, cookie uint64, payload ...[]byte) []byte {
	all := cat(payload...)
	b := make([]byte, mode.chunkLen())
	putChunk(b, mode, flags, kind, cookie, 512, len(all))
	return append(b, all...)
}

func fillBytes(v byte, n int) []byte { return bytes.Repeat([]byte{v}, n) }

func bad(why string) string { return "bad: " + why }

// replyRows are what a server may answer to a request for 1024 bytes at 512, and what the client makes of it: the
// bytes of a read, the text of an error, or a violation.
var replyRows = map[string]struct {
	op      Op
	replies func(m headers) []byte // to cookie 1: 1024 bytes at 512
	want    string
}{
	"in pieces out of order": {OpRead, func(m headers) []byte {
		return cat(chunkBytes(m, 0, chunkData, 1, u64(1024), fillBytes(2, 512)), chunkBytes(m, 0, chunkHole, 1, u64(768), u32(256)),
			chunkBytes(m, 0, chunkData, 1, u64(512), fillBytes(1, 256)), chunkBytes(m, chunkDone, chunkNone, 1))
	}, "1×256 0×256 2×512"},
	"overlap": {OpRead, func(m headers) []byte {
		return cat(chunkBytes(m, 0, chunkData, 1, u64(512), fillBytes(1, 512)), chunkBytes(m, chunkDone, chunkData, 1, u64(1023), fillBytes(2, 513)))
	}, bad("overlap")},
	"gap":            {OpRead, func(m headers) []byte { return chunkBytes(m, chunkDone, chunkData, 1, u64(512), fillBytes(1, 1023)) }, bad("gap")},
	"before":         {OpRead, func(m headers) []byte { return chunkBytes(m, chunkDone, chunkData, 1, u64(511), fillBytes(1, 1024)) }, bad("before")},
	"beyond":         {OpRead, func(m headers) []byte { return chunkBytes(m, chunkDone, chunkData, 1, u64(512), fillBytes(1, 1025)) }, bad("beyond")},
	"wraps":          {OpRead, func(m headers) []byte { return chunkBytes(m, chunkDone, chunkHole, 1, u64(1<<64-1), u32(1024)) }, bad("wraps")},
	"hole of zero":   {OpRead, func(m headers) []byte { return chunkBytes(m, chunkDone, chunkHole, 1, u64(512), u32(0)) }, bad("hole of zero")},
	"empty data":     {OpRead, func(m headers) []byte { return chunkBytes(m, chunkDone, chunkData, 1, u64(512)) }, bad("empty")},
	"unknown chunk":  {OpRead, func(m headers) []byte { return chunkBytes(m, chunkDone, 99, 1) }, bad("unknown")},
	"wrong cookie":   {OpRead, func(m headers) []byte { return chunkBytes(m, chunkDone, chunkData, 2, u64(512), fillBytes(1, 1024)) }, bad("cookie")},
	"none not done":  {OpRead, func(m headers) []byte { return chunkBytes(m, 0, chunkNone, 1) }, bad("none")},
	"garbage":        {OpRead, func(m headers) []byte { return []byte(strings.Repeat("garbage!", 8)) }, bad("garbage")},
	"data to a trim": {OpTrim, func(m headers) []byte { return chunkBytes(m, chunkDone, chunkData, 1, u64(512), fillBytes(1, 1024)) }, bad("data")},
	"error":          {OpRead, func(m headers) []byte { return chunkBytes(m, chunkDone, chunkError, 1, u32(5), u16(3), []byte("why")) }, "input/output error: why"},
	"error at an offset, then data": {OpRead, func(m headers) []byte {
		return cat(chunkBytes(m, 0, chunkErrorOffset, 1, u32(28), u16(0), u64(600)), chunkBytes(m, chunkDone, chunkData, 1, u64(512), fillBytes(1, 1024)))
	}, "no space left"},
	"error of a later kind": {OpTrim, func(m headers) []byte { return chunkBytes(m, chunkDone, 1<<15+77, 1, u32(22), u16(0), []byte("more")) }, "invalid argument"},
	"error text too long": {OpTrim, func(m headers) []byte {
		return chunkBytes(m, chunkDone, chunkError, 1, u32(22), u16(500), []byte("more"))
	}, bad("text")},
	"error cut short":       {OpTrim, func(m headers) []byte { return chunkBytes(m, chunkDone, chunkError, 1, u32(22)) }, bad("cut")},
	"done":                  {OpTrim, func(m headers) []byte { return chunkBytes(m, chunkDone, chunkNone, 1) }, ""},
	"status without extent": {OpBlockStatus, func(m headers) []byte { return chunkBytes(m, chunkDone, chunkNone, 1) }, bad("no extent")},
	"status of another context": {OpBlockStatus, func(m headers) []byte {
		if m == headersExtended {
			return chunkBytes(m, chunkDone, chunkStatusEx, 1, u32(41), u32(1), u64(1), u64(0))
		}
		return chunkBytes(m, chunkDone, chunkStatus, 1, u32(41), u32(1), u32(0))
	}, bad("context")},
	"status of the other form": {OpBlockStatus, func(m headers) []byte {
		if m == headersStructured {
			return chunkBytes(m, chunkDone, chunkStatusEx, 1, u32(42), u32(1), u64(1), u64(0))
		}
		return chunkBytes(m, chunkDone, chunkStatus, 1, u32(42), u32(1), u32(0))
	}, bad("form")},
}

// Without this a wrong server could make the client believe bytes that nobody sent, or write outside of a buffer.
func TestClientChecksEveryReply(t *testing.T) {
	for name, c := range replyRows {
		for _, mode := range allModes[1:] {
			t.Run(name+"/"+mode.String(), func(t *testing.T) {
				client, err := open(t, script(t, func(p *peer) {
					p.export(mode, 1<<20)
					p.read(mode.requestLen())
					p.send(c.replies(mode))
					_, _ = io.Copy(io.Discard, p.conn)
				}), ClientOptions{})
				if err != nil {
					t.Fatal(err)
				}
				got := fillBytes(9, 1024)
				r, err := client.do(c.op, 0, 512, 1024, got)
				r.FillHoles()
				r.Recycle()
				switch {
				case strings.HasPrefix(c.want, "bad"):
					if !errors.Is(err, ErrProtocol) {
						t.Fatalf("%v, want a violation", err)
					}
					if err := client.Flush(); !errors.Is(err, ErrProtocol) {
						t.Fatalf("after the violation: %v", err)
					}
				case c.op == OpRead && err == nil:
					if runs(got) != c.want {
						t.Fatalf("read %s, want %s", runs(got), c.want)
					}
				case err == nil && c.want != "" || err != nil && err.Error() != c.want:
					t.Fatalf("%v, want %q", err, c.want)
				}
			})
		}
	}
}

// runs says what b holds.
func runs(b []byte) string {
	var out []string
	for i := 0; i < len(b); {
		n := 1
		for i+n < len(b) && b[i+n] == b[i] {
			n++
		}
		out = append(out, fmt.Sprintf("%d×%d", b[i], n))
		i += n
	}
	return strings.Join(out, " ")
}

// Without this a broken connection would leave callers waiting for ever, or look like success.
func TestLostConnectionFailsWhatIsInFlight(t *testing.T) {
	c, err := open(t, script(t, func(p *peer) {
		p.export(headersExtended, 1<<20)
		for range 3 {
			p.read(requestExLen)
		}
	}), ClientOptions{RequestsMax: 3})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 5 { // two of them wait for a place
		group.Go(func() {
			if err := c.Trim(0, 512, 0); !errors.Is(err, errs.ErrUnavailable) {
				t.Errorf("trim: %v", err)
			}
		})
	}
	group.Wait()
	<-c.Done()
	if err := c.Flush(); !errors.Is(err, errs.ErrUnavailable) || !errors.Is(c.Err(), errs.ErrUnavailable) {
		t.Fatalf("flush: %v, %v", err, c.Err())
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// Without this closing would cut off requests, or not take leave.
func TestCloseWaitsAndTakesLeave(t *testing.T) {
	d := newHolder(4096)
	s, err := NewServer(Config{Exports: single{&d.fake}})
	if err != nil {
		t.Fatal(err)
	}
	near, far := socketPair(t)
	over := make(chan struct{})
	go func() { defer close(over); s.ServeConn(far, Endpoint{}) }()
	c, err := open(t, near, ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Flush() }()
	d.wait(t, 1)
	closed := make(chan struct{})
	go func() { defer close(closed); _ = c.Close() }()
	select {
	case <-closed:
		t.Fatal("closed with a flush in flight")
	case <-time.After(10 * time.Millisecond):
	}
	d.take(1)[0].Complete(nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	<-closed
	<-over
	if got := s.Status().Counts.Requests["disconnect"]; got != 1 {
		t.Fatalf("%d disconnects", got)
	}
	if err := c.Flush(); !errors.Is(err, errs.ErrClosed) {
		t.Fatalf("after close: %v", err)
	}
}

// Without this long transfers and ends of disks would behave unlike files.
func TestClientReadsLikeAFile(t *testing.T) {
	d := &fake{data: make([]byte, 3<<20), info: Info{PayloadMax: 1 << 20}}
	_, p := serve(t, Config{Exports: single{d}}, Endpoint{})
	c, err := open(t, p.conn, ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(i >> 9)
	}
	if n, err := c.WriteAt(data, 0); n != len(data) || err != nil {
		t.Fatal(n, err)
	}
	got := make([]byte, 4<<20)
	if n, err := c.ReadAt(got, 0); n != len(data) || err != io.EOF || !bytes.Equal(got[:n], data) {
		t.Fatal(n, err)
	}
	if n, err := c.ReadAt(got, 1<<40); n != 0 || err != io.EOF {
		t.Fatal(n, err)
	}
	if n, err := c.WriteAt(data[:10], 3<<20-5); n != 0 || !errors.Is(err, errs.ErrNoSpace) {
		t.Fatal(n, err)
	}
	if _, err := c.ReadAt(got, -1); !errors.Is(err, errs.ErrInvalid) {
		t.Fatal(err)
	}
	if _, err := c.WriteAt(got, -1); !errors.Is(err, errs.ErrInvalid) {
		t.Fatal(err)
	}
	extents, err := c.BlockStatus(0, 3<<20, 0)
	if err != nil || len(extents) != 1 || extents[0] != (Extent{3 << 20, StateData}) {
		t.Fatal(extents, err)
	}
}

// Without this an address that other tools take would not work here, or go somewhere else.
func TestParseURI(t *testing.T) {
	for in, want := range map[string]URI{
		"nbd://host":                                           {Address: "host:10809"},
		"nbd://host:1234/disk":                                 {Address: "host:1234", Export: "disk"},
		"nbds://[::1]:5/a/b%20c":                               {TLS: true, Address: "[::1]:5", Export: "a/b c"},
		"nbd+unix:///?socket=/run/x.sock":                      {Unix: true, Address: "/run/x.sock"},
		"nbd+unix:///disk?socket=x":                            {Unix: true, Address: "x", Export: "disk"},
		"nbds+unix:///d?socket=/a%26b&tls-certificates=/etc/c": {TLS: true, Unix: true, Address: "/a&b", Export: "d", TLSCertificates: "/etc/c"},
	} {
		got, err := ParseURI(in)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", in, got, err)
			continue
		}
		if again, err := ParseURI(got.String()); err != nil || again != want {
			t.Errorf("%s: became %s: %+v, %v", in, got, again, err)
		}
	}
	for _, in := range []string{"", "http://host", "nbd://", "nbd:///x", "nbd+unix:///x", "nbd+unix://host/x?socket=y", "nbd://host/%ff", "nbd://host/%00", "nbd://%zz"} {
		if got, err := ParseURI(in); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}

// Without this tools could not reach a server that demands certificates.
func TestDialAndListOverTCPWithCertificates(t *testing.T) {
	a := newAuthority(t)
	d := &fake{data: make([]byte, 1<<20)}
	s, err := NewServer(Config{Exports: one(d)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	endpoint := Endpoint{TLS: a.server(), TLSRequired: true}
	go func() { over <- s.Serve(l, endpoint) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	pair := a.pair("client")
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"ca-cert.pem": {Type: "CERTIFICATE", Bytes: a.cert.Raw}, "client-cert.pem": {Type: "CERTIFICATE", Bytes: pair.Certificate[0]},
		"client-key.pem": {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	uri := URI{TLS: true, Address: l.Addr().String(), Export: "disk", TLSCertificates: dir}.String()
	names, err := List(ctx, uri, ClientOptions{})
	if err != nil || len(names) != 2 || names[0] != (ExportName{"disk", "a disk"}) {
		t.Fatal(names, err)
	}
	c, err := Dial(ctx, uri, ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("ashlar"), 100000)
	if _, err := c.WriteFlags(data, 7, FlagFUA); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(data))
	if _, err := c.ReadAt(got, 7); err != nil || !bytes.Equal(got, data) {
		t.Fatal("read back other bytes", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	plain := URI{Address: l.Addr().String(), Export: "disk"}.String()
	if _, err := Dial(ctx, plain, ClientOptions{NoStructured: true}); !errors.Is(err, ErrTLSRequired) {
		t.Fatalf("in the clear: %v", err)
	}
	if _, err := Dial(ctx, "nbd+unix:///?socket=/nonexistent", ClientOptions{}); !errors.Is(err, errs.ErrUnavailable) {
		t.Fatal(err)
	}
}

// taped is a connection that writes down what passes, for the golden files.
type taped struct {
	net.Conn
	mu   sync.Mutex
	tape []byte
	last byte
}

func (c *taped) note(who byte, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range b {
		if who != c.last {
			c.tape, c.last = append(c.tape, '\n', who), who
		}
		c.tape = fmt.Appendf(c.tape, " %02x", v)
	}
}

func (c *taped) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.note('S', p[:n])
	return n, err
}

func (c *taped) Write(p []byte) (int, error) {
	c.note('C', p)
	return c.Conn.Write(p)
}

// Without this a change could alter bytes on the wire unseen: client and server would still understand each other.
func TestGoldenBytes(t *testing.T) {
	for name, o := range map[string]ClientOptions{"simple": {NoStructured: true}, "structured": {NoExtended: true}, "extended": {}, "exportname": {NoStructured: true, ExportName: true}} {
		d := &fake{data: bytes.Repeat([]byte{0xd5}, 64<<10), holes: []hole{{8192, 4096}}, status: []Extent{{8192, 0}, {4096, 3}, {52 << 10, 0}}, info: Info{MultiConn: true, Description: "gold"}}
		_, p := serve(t, Config{Exports: one(d)}, Endpoint{})
		tape := &taped{Conn: p.conn}
		c, err := open(t, tape, o)
		if err != nil {
			t.Fatal(err)
		}
		var failures []error
		_, err = c.WriteFlags([]byte("stone"), 16, FlagFUA)
		failures = append(failures, err)
		_, err = c.ReadAt(make([]byte, 8), 14)
		failures = append(failures, err)
		failures = append(failures, c.Flush(), c.Trim(4096, 4096, 0), c.WriteZeroes(512, 512, FlagNoHole), c.Cache(0, 65536))
		if c.HasBlockStatus() {
			_, err = c.BlockStatus(0, 65536, 0)
			failures = append(failures, err)
			r, err := c.do(OpRead, 0, 8191, 4098, nil) // one byte, a hole, one byte
			r.Recycle()
			failures = append(failures, err)
		}
		if err := errors.Join(failures...); err != nil {
			t.Fatal(err)
		}
		if err := c.Trim(1<<20, 1, 0); !errors.Is(err, errs.ErrInvalid) {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", "golden_"+name+".txt")
		got := append(bytes.TrimPrefix(tape.tape, []byte("\n")), '\n')
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: other bytes on the wire:\n%s", file, got)
		}
	}
}
