package nbd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/errs"
)

// setup is what an option test does before its option.
type setup func(p *peer)

func structured(p *peer) { p.wantOption(optStructuredReply, nil, repAck) }
func extended(p *peer)   { p.wantOption(optExtendedHeaders, nil, repAck) }

// optionRows is every row of PROTOCOL.md's table of options, and what a bad client makes of it.
var optionRows = []struct {
	name  string
	setup setup
	opt   option
	data  []byte
	want  []optReply
}{
	{"list", nil, optList, nil, []optReply{repServer, repServer, repAck}},
	{"list with data", nil, optList, []byte{1}, []optReply{repErrInvalid}},
	{"abort", nil, optAbort, nil, []optReply{repAck}},
	{"abort with data", nil, optAbort, []byte("why"), []optReply{repAck}},
	{"withdrawn option", nil, 4, nil, []optReply{repErrUnsup}},
	{"unknown option", nil, 99, make([]byte, 1000), []optReply{repErrUnsup}},
	{"option too long", nil, optList, make([]byte, optionBytesMax+1), []optReply{repErrTooBig}},
	{"structured", nil, optStructuredReply, nil, []optReply{repAck}},
	{"structured again", structured, optStructuredReply, nil, []optReply{repAck}},
	{"structured with data", nil, optStructuredReply, []byte{0}, []optReply{repErrInvalid}},
	{"structured after extended", extended, optStructuredReply, nil, []optReply{repErrExtHeaderRequired}},
	{"extended", nil, optExtendedHeaders, nil, []optReply{repAck}},
	{"extended after structured", structured, optExtendedHeaders, nil, []optReply{repAck}},
	{"extended with data", nil, optExtendedHeaders, []byte{0}, []optReply{repErrInvalid}},
	{"tls not configured", nil, optStartTLS, nil, []optReply{repErrPolicy}},
	{"tls with data", nil, optStartTLS, []byte{0}, []optReply{repErrInvalid}},

	{"info", nil, optInfo, goData("disk"), []optReply{repInfo, repAck}},
	{"info of the default", nil, optInfo, goData(""), []optReply{repInfo, repAck}},
	{"info with all", nil, optInfo, goData("disk", infoBlockSize, infoName, infoDescription, infoExport, 500), []optReply{repInfo, repInfo, repInfo, repInfo, repAck}},
	{"info unknown export", nil, optInfo, goData("none"), []optReply{repErrUnknown}},
	{"info empty", nil, optInfo, nil, []optReply{repErrInvalid}},
	{"info name too long for its data", nil, optInfo, cat(u32(100), []byte("disk"), u16(0)), []optReply{repErrInvalid}},
	{"info huge name", nil, optInfo, cat(u32(1<<31), []byte("disk"), u16(0)), []optReply{repErrInvalid}},
	{"info list too short", nil, optInfo, cat(text("disk"), u16(3), u16(1)), []optReply{repErrInvalid}},
	{"info bytes left over", nil, optInfo, append(goData("disk"), 0), []optReply{repErrInvalid}},
	{"info too many", nil, optInfo, cat(text("disk"), u16(infosMax+1), make([]byte, 2*infosMax+2)), []optReply{repErrInvalid}},
	{"info name not text", nil, optInfo, goData("a\xff"), []optReply{repErrInvalid}},
	{"info name with zero byte", nil, optInfo, goData("a\x00b"), []optReply{repErrInvalid}},
	{"info name too long", nil, optInfo, goData(strings.Repeat("x", stringMax+1)), []optReply{repErrInvalid}},
	{"info name as long as may be", nil, optInfo, goData(strings.Repeat("x", stringMax)), []optReply{repErrUnknown}},
	{"go denied", nil, optGo, goData("denied"), []optReply{repErrPolicy}},
	{"go denied by rule", nil, optGo, goData("secret"), []optReply{repErrPolicy}},
	{"go wants tls", nil, optGo, goData("tls"), []optReply{repErrTLSRequired}},
	{"go shutting down", nil, optGo, goData("closed"), []optReply{repErrShutdown}},
	{"go unavailable", nil, optGo, goData("broken"), []optReply{repErrUnknown}},
	{"go with a reason", nil, optGo, goData("reason"), []optReply{repErrUnknown}},
	{"go malformed", nil, optGo, []byte{1, 2, 3}, []optReply{repErrInvalid}},
	{"go", nil, optGo, goData("disk", infoBlockSize), []optReply{repInfo, repInfo, repAck}},

	{"set meta too early", nil, optSetMeta, metaData("disk", metaAllocation), []optReply{repErrInvalid}},
	{"set meta", structured, optSetMeta, metaData("disk", metaAllocation), []optReply{repMeta, repAck}},
	{"set meta extended", extended, optSetMeta, metaData("disk", "x-y:z", metaAllocation), []optReply{repMeta, repAck}},
	{"set meta none", structured, optSetMeta, metaData("disk"), []optReply{repAck}},
	{"set meta wildcard", structured, optSetMeta, metaData("disk", "base:"), []optReply{repAck}},
	{"set meta unknown leaf", structured, optSetMeta, metaData("disk", "base:other"), []optReply{repAck}},
	{"set meta unknown namespace", structured, optSetMeta, metaData("disk", "qemu:dirty-bitmap:b"), []optReply{repAck}},
	{"set meta without colon", structured, optSetMeta, metaData("disk", "base"), []optReply{repErrInvalid}},
	{"set meta unknown export", structured, optSetMeta, metaData("none", metaAllocation), []optReply{repErrUnknown}},
	{"set meta too many", structured, optSetMeta, cat(text("disk"), u32(queriesMax+1)), []optReply{repErrTooBig}},
	{"set meta cut short", structured, optSetMeta, cat(text("disk"), u32(2), text(metaAllocation)), []optReply{repErrInvalid}},
	{"set meta bytes left over", structured, optSetMeta, append(metaData("disk", metaAllocation), 0), []optReply{repErrInvalid}},
	{"set meta query too long", structured, optSetMeta, metaData("disk", "x:"+strings.Repeat("y", stringMax)), []optReply{repErrInvalid}},
	{"list meta too early", nil, optListMeta, metaData("disk"), []optReply{repErrInvalid}},
	{"list meta all", structured, optListMeta, metaData("disk"), []optReply{repMeta, repAck}},
	{"list meta wildcard", structured, optListMeta, metaData("disk", "base:"), []optReply{repMeta, repAck}},
	{"list meta exact", structured, optListMeta, metaData("disk", metaAllocation), []optReply{repMeta, repAck}},
	{"list meta other", structured, optListMeta, metaData("disk", "qemu:"), []optReply{repAck}},
}

func rowConfig() Config {
	e := one(&fake{data: make([]byte, 1<<20), info: Info{Description: "a disk"}})
	e.errors = map[string]error{
		"denied": errs.ErrDenied, "tls": ErrTLSRequired, "closed": errs.ErrClosed, "broken": errors.New("internal: address 10.0.0.1"),
		"reason": &Error{EIO, "the disk is being deleted"},
	}
	return Config{Exports: e, Access: func(_ Peer, name string) error {
		if name == "secret" {
			return errs.ErrDenied
		}
		return nil
	}}
}

// Without this an option would get an answer that clients do not expect, or end the handshake.
func TestEveryOption(t *testing.T) {
	for _, row := range optionRows {
		t.Run(row.name, func(t *testing.T) {
			cfg := rowConfig()
			want := row.want
			if row.opt == optList && want[0] == repServer {
				want = want[1:] // one of the two is hidden by the rule
			}
			_, p := serve(t, cfg, Endpoint{})
			p.greet(3)
			if row.setup != nil {
				row.setup(p)
			}
			datas := p.wantOption(row.opt, row.data, want...)
			if last := want[len(want)-1]; last.isError() && bytes.Contains(datas[len(datas)-1], []byte("internal")) {
				t.Errorf("the client was told %q", datas[len(datas)-1])
			}
			switch {
			case row.opt == optAbort:
				p.wantClosed()
			case row.opt == optGo && want[len(want)-1] == repAck:
				p.request(headersSimple, requestHeader{op: OpFlush, cookie: 5}, nil)
				if m := p.message(headersSimple, 0); m.cookie != 5 || m.errno != 0 {
					t.Fatalf("flush: %+v", m)
				}
			default:
				p.wantOption(optInfo, goData("disk"), repInfo, repAck) // the handshake goes on
			}
		})
	}
}

// Without this clients would believe a wrong size, wrong limits or wrong abilities of an export.
func TestInfoTellsTheExport(t *testing.T) {
	d := &fake{data: make([]byte, 12345), info: Info{ReadOnly: true, MultiConn: true, Rotational: true, BlockMin: 512, BlockPreferred: 65536, PayloadMax: 1 << 20, Name: "canonical", Description: "words"}}
	_, p := serve(t, Config{Exports: one(d)}, Endpoint{})
	p.greet(3)
	p.wantOption(optStructuredReply, nil, repAck)
	datas := p.wantOption(optInfo, goData("disk", infoName, infoDescription), repInfo, repInfo, repInfo, repInfo, repAck)
	flags := HasFlags | ReadOnly | SendFlush | SendFUA | Rotational | SendDF | CanMultiConn | SendCache
	for i, want := range [][]byte{
		cat(u16(infoExport), u64(12345), u16(uint16(flags))),
		cat(u16(infoBlockSize), u32(512), u32(65536), u32(1<<20)), // not asked for, but not the default either
		cat(u16(infoName), []byte("canonical")),
		cat(u16(infoDescription), []byte("words")),
	} {
		if !bytes.Equal(datas[i], want) {
			t.Errorf("info %d: %x, want %x", i, datas[i], want)
		}
	}
	for mode, want := range map[headers]TransmissionFlags{
		headersSimple:     HasFlags | SendFlush | SendFUA | SendTrim | SendWriteZeroes | SendFastZero | SendCache,
		headersStructured: HasFlags | SendFlush | SendFUA | SendTrim | SendWriteZeroes | SendFastZero | SendCache | SendDF,
		headersExtended:   HasFlags | SendFlush | SendFUA | SendTrim | SendWriteZeroes | SendFastZero | SendCache | SendDF | BlockStatusPayload,
	} {
		if got := (Info{}).flags(mode, true); got != want {
			t.Errorf("mode %d: flags %#x, want %#x", mode, got, want)
		}
	}
}

// Without this the old way in would break old clients.
func TestExportNameEntersWithAndWithoutPadding(t *testing.T) {
	for _, c := range []struct {
		name   string
		flags  uint32
		export string
		before setup
		length int // of the answer; 0: the server hangs up
	}{
		{"padded", 1, "disk", nil, 134},
		{"short", 3, "disk", nil, 10},
		{"not fixed", 0, "disk", nil, 134},
		{"default export", 3, "", nil, 10},
		{"unknown export", 3, "none", nil, 0},
		{"denied", 3, "secret", nil, 0},
		{"not text", 3, "\xff", nil, 0},
		{"structured", 3, "disk", structured, 10},
		{"not with extended headers", 3, "disk", extended, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, p := serve(t, rowConfig(), Endpoint{})
			p.greet(c.flags)
			if c.before != nil {
				c.before(p)
			}
			p.send(optionBytes(optExportName, []byte(c.export)))
			if c.length == 0 {
				p.wantClosed()
				return
			}
			b := p.read(c.length)
			if be.Uint64(b) != 1<<20 || !bytes.Equal(b[10:], make([]byte, c.length-10)) {
				t.Fatalf("answer %x", b)
			}
			p.request(headersSimple, requestHeader{op: OpFlush, cookie: 9}, nil)
			mode := headersSimple
			if m := p.message(mode, 0); m.cookie != 9 {
				t.Fatalf("%+v", m)
			}
		})
	}
}

// Without this garbage would keep a connection, or worse.
func TestHandshakeViolationsCloseTheConnection(t *testing.T) {
	for name, send := range map[string]func(p *peer){
		"unknown client flags":     func(p *peer) { p.greet(1 << 7) },
		"option magic":             func(p *peer) { p.greet(3).send([]byte("IHAVEOPs"), make([]byte, 8)) },
		"option without fixed":     func(p *peer) { p.greet(0).send(optionBytes(optList, nil)) },
		"gigantic option":          func(p *peer) { p.greet(3).send(cat(u64(magicOption), u32(99), u32(1<<32-1))) },
		"gigantic export name":     func(p *peer) { p.greet(3).send(cat(u64(magicOption), u32(1), u32(optionBytesMax+1))) },
		"http":                     func(p *peer) { p.greet(0x47455420) },
		"export name without a go": func(p *peer) { p.greet(3).send(optionBytes(optExportName, []byte("tls"))) },
	} {
		t.Run(name, func(t *testing.T) {
			_, p := serve(t, rowConfig(), Endpoint{})
			send(p)
			p.wantClosed()
			<-p.over
		})
	}
}

// Without this a client could keep a connection busy with options for ever.
func TestOptionsAreCounted(t *testing.T) {
	_, p := serve(t, rowConfig(), Endpoint{})
	p.greet(3)
	for range optionsMax {
		p.wantOption(98, nil, repErrUnsup)
	}
	p.wantClosed()
}

// Without this clients that say nothing would hold connections for ever; nor may a slow Open count as the client's silence.
func TestHandshakeDeadline(t *testing.T) {
	t.Parallel()
	limits := Limits{HandshakeTimeout: 600 * time.Millisecond}
	e := one(&fake{data: make([]byte, 4096)})
	opening := make(chan struct{})
	e.slow = func(ctx context.Context) error {
		close(opening)
		timer := time.NewTimer(700 * time.Millisecond) // a volume that fails over meanwhile
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s, p := serve(t, Config{Exports: e, Limits: limits}, Endpoint{})
	p.greet(3)
	p.wantOption(optGo, goData("disk"), repInfo, repAck)
	p.request(headersSimple, requestHeader{op: OpFlush, cookie: 1}, nil)
	if m := p.message(headersSimple, 0); m.cookie != 1 {
		t.Fatalf("%+v", m)
	}
	<-opening
	for name, silent := range map[string]func(p *peer){
		"at once":      func(*peer) {},
		"after flags":  func(p *peer) { p.greet(3) },
		"in an option": func(p *peer) { p.greet(3).send(optionBytes(optInfo, make([]byte, 100))[:30]) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := meet(t, s, Endpoint{})
			silent(p)
			select {
			case <-p.over:
			case <-time.After(patience):
				t.Fatal("the connection is still open")
			}
		})
	}
}

// Without this a shutdown would wait for a volume that cannot open.
func TestShutdownEndsAnOpen(t *testing.T) {
	e := one(&fake{})
	opening := make(chan struct{})
	e.slow = func(ctx context.Context) error { close(opening); <-ctx.Done(); return ctx.Err() }
	s, p := serve(t, Config{Exports: e}, Endpoint{})
	p.greet(3).send(optionBytes(optGo, goData("disk")))
	<-opening
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	<-p.over
}

// Without this a volume would be opened twice, or left open, by one handshake.
func TestHandshakeHoldsOneHandle(t *testing.T) {
	a, b := &fake{data: make([]byte, 4096)}, &fake{data: make([]byte, 8192)}
	e := &fakes{devices: map[string]*fake{"a": a, "b": b}}
	_, p := serve(t, Config{Exports: e}, Endpoint{})
	p.greet(3)
	p.wantOption(optStructuredReply, nil, repAck)
	p.wantOption(optInfo, goData("a"), repInfo, repAck)
	p.wantOption(optSetMeta, metaData("a", metaAllocation), repMeta, repAck)
	p.wantOption(optInfo, goData("b"), repInfo, repAck)
	if a.closed != 1 || b.closed != 0 {
		t.Fatalf("closed a %d, b %d times", a.closed, b.closed)
	}
	p.wantOption(optGo, goData("b"), repInfo, repAck)
	p.request(headersStructured, requestHeader{op: OpBlockStatus, length: 4096, cookie: 1}, nil)
	if m := p.message(headersStructured, 0); m.errno != EINVAL {
		t.Fatalf("the context of another export is in force: %+v", m)
	}
	p.request(headersStructured, requestHeader{op: opDisconnect}, nil)
	p.wantClosed()
	<-p.over
	if fmt.Sprint(e.opens) != "[a b]" || a.closed != 1 || b.closed != 1 {
		t.Fatalf("opened %v, closed a %d, b %d", e.opens, a.closed, b.closed)
	}
	_, p = serve(t, Config{Exports: e}, Endpoint{})
	p.greet(3)
	p.wantOption(optInfo, goData("a"), repInfo, repAck)
	p.wantOption(optAbort, nil, repAck)
	<-p.over
	if a.closed != 2 {
		t.Fatal("an aborted handshake left its export open")
	}
}

// describing tells of exports without opening them.
type describing struct{ *fakes }

func (e describing) Describe(_ context.Context, name string, _ Peer) (uint64, Info, error) {
	if d := e.devices[name]; d != nil {
		return d.Size(), d.Info(), nil
	}
	return 0, Info{}, errs.ErrNotFound
}

// Without this looking at a disk would take it over from its owner.
func TestLookingDoesNotOpenWhereExportsDescribe(t *testing.T) {
	e := describing{one(&fake{data: make([]byte, 4096)})}
	_, p := serve(t, Config{Exports: e}, Endpoint{})
	p.greet(3)
	p.wantOption(optStructuredReply, nil, repAck)
	p.wantOption(optInfo, goData("disk"), repInfo, repAck)
	p.wantOption(optInfo, goData("none"), repErrUnknown)
	p.wantOption(optSetMeta, metaData("disk", metaAllocation), repMeta, repAck)
	if len(e.opens) != 0 {
		t.Fatalf("opened %v", e.opens)
	}
	p.wantOption(optGo, goData("disk"), repInfo, repAck)
	if fmt.Sprint(e.opens) != "[disk]" {
		t.Fatalf("opened %v", e.opens)
	}
}

// secure upgrades the client's end.
func (p *peer) secure(config *tls.Config) error {
	p.wantOption(optStartTLS, nil, repAck)
	conn := tls.Client(p.conn, config)
	p.conn = conn
	return conn.Handshake()
}

// aliceOnly lets alice have the disk.
func aliceOnly(p Peer, name string) error {
	if name == "disk" && (p.Certificate == nil || p.Certificate.Subject.CommonName != "alice") {
		return errs.ErrDenied
	}
	return nil
}

// Without this exports would be served in the clear where they must not be, or to a stranger.
func TestTLS(t *testing.T) {
	a := newAuthority(t)
	e := one(&fake{data: make([]byte, 1<<20)})
	_, p := serve(t, Config{Exports: e, Access: aliceOnly}, Endpoint{TLS: a.server(), TLSRequired: true})
	p.greet(3)
	for _, opt := range []option{optList, optInfo, optGo, optStructuredReply, optExtendedHeaders, optSetMeta, 77} {
		p.wantOption(opt, nil, repErrTLSRequired)
	}
	if err := p.secure(a.client("alice")); err != nil {
		t.Fatal(err)
	}
	p.wantOption(optStartTLS, nil, repErrInvalid)
	p.wantOption(optGo, goData("disk"), repInfo, repAck)
	data := bytes.Repeat([]byte("0123456789abcdef"), 5000)
	p.request(headersSimple, requestHeader{op: OpWrite, offset: 3, length: uint64(len(data)), cookie: 1}, data)
	if m := p.message(headersSimple, 0); m.errno != 0 {
		t.Fatalf("%+v", m)
	}
	p.request(headersSimple, requestHeader{op: OpRead, offset: 3, length: uint64(len(data)), cookie: 2}, nil)
	if m := p.message(headersSimple, len(data)); !bytes.Equal(m.payload, data) {
		t.Fatalf("read back %d bytes: errno %d", len(m.payload), m.errno)
	}
	if got := e.peers[len(e.peers)-1]; !got.TLS || got.Certificate.Subject.CommonName != "alice" || got.Process == nil {
		t.Fatalf("the peer was %+v", got)
	}
	p.request(headersSimple, requestHeader{op: opDisconnect}, nil)
	p.wantClosed() // with the goodbye of TLS, else an error
}

// Without this a stranger, or somebody in the middle, could get what is not theirs.
func TestTLSKeepsStrangersOut(t *testing.T) {
	a := newAuthority(t)
	e := one(&fake{data: make([]byte, 1<<20)})
	e.errors = map[string]error{"tls": ErrTLSRequired}
	cfg := Config{Exports: e, Access: aliceOnly}
	offered, required := Endpoint{TLS: a.server()}, Endpoint{TLS: a.server(), TLSRequired: true}
	s, _ := serve(t, cfg, required)
	t.Run("another name", func(t *testing.T) {
		p := meet(t, s, required).greet(3)
		if err := p.secure(a.client("mallory")); err != nil {
			t.Fatal(err)
		}
		p.wantOption(optGo, goData("disk"), repErrPolicy)
	})
	t.Run("no certificate", func(t *testing.T) {
		p := meet(t, s, required).greet(3)
		config := a.client("alice")
		config.Certificates = nil
		if err := p.secure(config); err == nil { // TLS 1.3 tells at the first read
			p.wantClosed2()
		}
	})
	t.Run("export name in the clear", func(t *testing.T) {
		p := meet(t, s, required).greet(3)
		p.send(optionBytes(optExportName, []byte("disk")))
		p.wantClosed()
	})
	t.Run("bytes before the handshake", func(t *testing.T) {
		p := meet(t, s, required).greet(3)
		p.send(optionBytes(optStartTLS, nil), optionBytes(optList, nil))
		p.wantClosed()
	})
	t.Run("what was agreed in the clear is void", func(t *testing.T) {
		p := meet(t, s, offered).greet(3)
		p.wantOption(optStructuredReply, nil, repAck)
		p.wantOption(optGo, goData("tls"), repErrTLSRequired)
		if err := p.secure(a.client("alice")); err != nil {
			t.Fatal(err)
		}
		p.wantOption(optSetMeta, metaData("disk", metaAllocation), repErrInvalid)
		p.wantOption(optGo, goData("tls"), repErrPolicy)
	})
	t.Run("silent in the TLS handshake", func(t *testing.T) {
		cfg := cfg
		cfg.Limits.HandshakeTimeout = 300 * time.Millisecond
		_, p := serve(t, cfg, required)
		p.greet(3).wantOption(optStartTLS, nil, repAck)
		<-p.over
	})
}

// wantClosed2 expects the end, with whatever error TLS makes of it.
func (p *peer) wantClosed2() {
	p.t.Helper()
	if n, err := p.conn.Read(make([]byte, 1)); err == nil {
		p.t.Fatalf("read %d bytes", n)
	}
}

// Without this a list would show what a peer may not see.
func TestListFailsInOrder(t *testing.T) {
	e := one(&fake{})
	e.errors = map[string]error{"list": errs.ErrDenied}
	_, p := serve(t, Config{Exports: e}, Endpoint{})
	p.greet(3)
	p.wantOption(optList, nil, repErrPolicy)
	p.wantOption(optInfo, goData("disk"), repInfo, repAck)
}
