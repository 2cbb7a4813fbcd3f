package nbd

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// fuzzServer feeds data to a server after prelude, and expects that it ends with nothing left over.
func fuzzServer(t *testing.T, prelude func(p *peer), data []byte) {
	d := &fake{data: make([]byte, 1<<16), status: []Extent{{4096, StateHole}, {8192, StateData}}, holes: nil}
	s, err := NewServer(Config{Exports: one(d), Limits: Limits{StallTimeout: time.Second, HandshakeTimeout: time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	near, far := socketPair(t)
	_ = near.SetDeadline(time.Now().Add(patience))
	over := make(chan struct{})
	go func() { defer close(over); s.ServeConn(far, Endpoint{}) }()
	p := &peer{t: t, conn: near, over: over}
	prelude(p)
	read := make(chan struct{})
	go func() { defer close(read); _, _ = io.Copy(io.Discard, near) }()
	_, _ = near.Write(data) // the server may close before it has read all
	_ = near.(interface{ CloseWrite() error }).CloseWrite()
	<-over
	_ = near.Close()
	<-read
	if st := s.Status(); st.Conns != 0 || st.RequestsInFlight != 0 || st.BytesInFlight != 0 {
		t.Fatalf("left over: %+v", st)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// Without this some bytes in a handshake would crash the server or hang a connection.
func FuzzServerHandshake(f *testing.F) {
	for _, row := range optionRows {
		f.Add(cat(u32(3), optionBytes(optStructuredReply, nil), optionBytes(row.opt, row.data)))
	}
	f.Add(cat(u32(1), optionBytes(optExportName, []byte("disk")), make([]byte, 28)))
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzServer(t, func(p *peer) { p.read(18) }, data)
	})
}

// Without this some bytes in a transmission would do the same.
func FuzzServerRequests(f *testing.F) {
	for _, row := range commandRows {
		for mode := range allModes {
			b := make([]byte, requestExLen)
			n := putRequest(b, headers(mode), row.h)
			f.Add(byte(mode), cat(b[:n], make([]byte, min(row.load, 6000)), b[:n]))
		}
	}
	f.Fuzz(func(t *testing.T, mode byte, data []byte) {
		m := headers(mode % 3)
		fuzzServer(t, func(p *peer) { p.transmission(m, m != headersSimple, "disk") }, data)
	})
}

// Without this a wrong server could crash or hang a client in the handshake.
func FuzzClientHandshake(f *testing.F) {
	greeting := cat(u64(magicInit), u64(magicOption), u16(3))
	reply := func(opt option, kind optReply, data []byte) []byte {
		return cat(u64(magicOptReply), u32(uint32(opt)), u32(uint32(kind)), u32(uint32(len(data))), data)
	}
	ack := reply(optExtendedHeaders, repAck, nil)
	meta := cat(reply(optSetMeta, repMeta, cat(u32(1), []byte(metaAllocation))), reply(optSetMeta, repAck, nil))
	info := reply(optGo, repInfo, cat(u16(infoExport), u64(1<<20), u16(3)))
	f.Add(false, cat(greeting, ack, meta, info, reply(optGo, repInfo, cat(u16(infoBlockSize), u32(1), u32(2), u32(3))), reply(optGo, repAck, nil)))
	f.Add(false, cat(greeting, ack, meta, reply(optGo, repErrUnknown, []byte("no\xff"))))
	f.Add(true, cat(greeting, reply(optList, repServer, text("name")), reply(optList, repAck, nil)))
	f.Fuzz(func(t *testing.T, list bool, data []byte) {
		near, far := socketPair(t)
		go func() { _, _ = io.Copy(io.Discard, far) }()
		_, _ = far.Write(data)
		_ = far.(interface{ CloseWrite() error }).CloseWrite()
		defer far.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if list {
			c, err := handshake(ctx, near, false, ClientOptions{}, func(c *Client) error { _, err := c.list(); return err })
			if err == nil {
				_ = c.raw.Close()
			}
			return
		}
		if c, err := NewClient(ctx, near, false, "disk", ClientOptions{}); err == nil {
			<-c.Done()
			c.Hangup()
		}
	})
}

// Without this a wrong server could crash or hang a client, or leave a request without its end.
func FuzzClientReplies(f *testing.F) {
	for _, mode := range allModes[1:] {
		kind, list := chunkStatus, cat(u32(42), u32(4096), u32(3))
		if mode == headersExtended {
			kind, list = chunkStatusEx, cat(u32(42), u32(1), u64(4096), u64(3))
		}
		f.Add(byte(mode), cat(chunkBytes(mode, chunkDone, chunkData, 1, u64(512), fillBytes(1, 1024)), chunkBytes(mode, chunkDone, kind, 2, list), chunkBytes(mode, chunkDone, chunkNone, 3)))
		f.Add(byte(mode), cat(chunkBytes(mode, 0, chunkHole, 1, u64(512), u32(512)), chunkBytes(mode, chunkDone, chunkHole, 1, u64(1024), u32(512))))
		f.Add(byte(mode), chunkBytes(mode, chunkDone, chunkErrorOffset, 2, u32(5), u16(2), []byte("hi"), u64(512)))
	}
	simple := make([]byte, simpleLen)
	putSimple(simple, 0, 1)
	f.Add(byte(0), cat(simple, make([]byte, 1024)))
	f.Fuzz(func(t *testing.T, mode byte, data []byte) {
		near, far := socketPair(t)
		m := headers(mode % 3)
		played := make(chan struct{})
		go func() {
			defer close(played)
			p := &peer{t: t, conn: far}
			p.export(m, 1<<20)
			n := 3
			if m == headersSimple {
				n = 2 // no block status
			}
			for range n {
				p.read(m.requestLen())
			}
			_, _ = far.Write(data)
			_ = far.(interface{ CloseWrite() error }).CloseWrite()
		}()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c, err := NewClient(ctx, near, false, "disk", ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ends := make(chan struct{}, 3)
		guard := make([]byte, 1024+64) // nothing may be written around the read
		for _, op := range []Op{OpRead, OpBlockStatus, OpTrim} {
			var p []byte
			if op == OpRead {
				p = guard[32 : 32+1024 : 32+1024]
			}
			c.Submit(NewRequest(op, 0, 512, 1024, p, CompleterFunc(func(r *Request, _ error) { r.FillHoles(); r.Recycle(); ends <- struct{}{} })))
		}
		for range 3 {
			<-ends
		}
		<-played
		c.Hangup()
		_ = far.Close()
		if !bytes.Equal(guard[:32], make([]byte, 32)) || !bytes.Equal(guard[1056:], make([]byte, 32)) {
			t.Fatal("bytes outside of the read")
		}
	})
}

// Without this an address could be read as another than the one it prints as.
func FuzzParseURI(f *testing.F) {
	for _, s := range []string{"nbd://host:1/x", "nbds+unix:///a%2Fb?socket=/x", "nbd+unix:///?socket=%3f", "nbd://[::1]/", "nBd://::", "nbd+unix:////x?socket=y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURI(s)
		if err != nil {
			return
		}
		if again, err := ParseURI(u.String()); err != nil || again != u {
			t.Fatalf("%q: %+v prints as %q, which is %+v (%v)", s, u, u.String(), again, err)
		}
	})
}

var _ net.Conn = (*taped)(nil)
