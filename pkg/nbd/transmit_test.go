package nbd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
)

var allModes = []headers{headersSimple, headersStructured, headersExtended}

func (m headers) String() string { return [...]string{"simple", "structured", "extended"}[m] }

const rowDisk = 1 << 20

// commandRows is every row of PROTOCOL.md's table of commands, and what a bad client makes of it.
var commandRows = []struct {
	name   string
	modes  []headers // nil: all
	info   Info
	noMeta bool
	h      requestHeader
	load   int // bytes of payload
	want   Errno
	reach  bool // the device hears of it
}{
	{name: "read", h: requestHeader{op: OpRead, offset: 100, length: 5000}, reach: true},
	{name: "read to the end", h: requestHeader{op: OpRead, offset: rowDisk - 1, length: 1}, reach: true},
	{name: "read past the end", h: requestHeader{op: OpRead, offset: rowDisk - 1, length: 2}, want: EINVAL},
	{name: "read far away", h: requestHeader{op: OpRead, offset: 1<<64 - 1, length: 2}, want: EINVAL},
	{name: "read nothing", h: requestHeader{op: OpRead, offset: 5}},
	{name: "read unfragmented", modes: allModes[1:], h: requestHeader{op: OpRead, flags: FlagDF, length: 65536}, reach: true},
	{name: "read unfragmented, simple", modes: allModes[:1], h: requestHeader{op: OpRead, flags: FlagDF, length: 512}, want: EINVAL},
	{name: "read with fua", h: requestHeader{op: OpRead, flags: FlagFUA, length: 512}, reach: true},
	{name: "read too much, simple", modes: allModes[:1], info: Info{PayloadMax: 65536}, h: requestHeader{op: OpRead, length: 65537}, want: EINVAL},
	{name: "read too much", modes: allModes[1:], info: Info{PayloadMax: 65536}, h: requestHeader{op: OpRead, length: 65537}, want: EOVERFLOW},
	{name: "read off the grid", info: Info{BlockMin: 512}, h: requestHeader{op: OpRead, offset: 512, length: 513}, want: EINVAL},
	{name: "read with payload", modes: allModes[2:], h: requestHeader{op: OpRead, flags: flagPayloadLen, length: 100}, load: 100, want: EINVAL},
	{name: "read with a flag of another", h: requestHeader{op: OpRead, flags: FlagNoHole, length: 512}, want: EINVAL},

	{name: "write", modes: allModes[:2], h: requestHeader{op: OpWrite, offset: 3, length: 5000}, load: 5000, reach: true},
	{name: "write with fua", modes: allModes[:2], h: requestHeader{op: OpWrite, flags: FlagFUA, length: 512}, load: 512, reach: true},
	{name: "write extended", modes: allModes[2:], h: requestHeader{op: OpWrite, flags: flagPayloadLen | FlagFUA, length: 5000}, load: 5000, reach: true},
	{name: "write extended as QEMU does", modes: allModes[2:], h: requestHeader{op: OpWrite, flags: FlagFUA, length: 5000}, load: 5000, reach: true},
	{name: "write with payload flag", modes: allModes[:2], h: requestHeader{op: OpWrite, flags: flagPayloadLen, length: 512}, load: 512, want: EINVAL},
	{name: "write nothing", modes: allModes[:2], h: requestHeader{op: OpWrite}},
	{name: "write past the end", modes: allModes[:2], h: requestHeader{op: OpWrite, offset: rowDisk - 511, length: 512}, load: 512, want: ENOSPC},
	{name: "write too much", modes: allModes[:2], info: Info{PayloadMax: 65536}, h: requestHeader{op: OpWrite, length: 65537}, load: 65537, want: EINVAL},
	{name: "write too much, extended", modes: allModes[2:], info: Info{PayloadMax: 65536}, h: requestHeader{op: OpWrite, flags: flagPayloadLen, length: 65537}, load: 65537, want: EINVAL},
	{name: "write read-only", modes: allModes[:2], info: Info{ReadOnly: true}, h: requestHeader{op: OpWrite, length: 512}, load: 512, want: EPERM},
	{name: "write off the grid", modes: allModes[:2], info: Info{BlockMin: 512}, h: requestHeader{op: OpWrite, offset: 1, length: 512}, load: 512, want: EINVAL},
	{name: "write with a flag of another", modes: allModes[:2], h: requestHeader{op: OpWrite, flags: FlagReqOne, length: 512}, load: 512, want: EINVAL},

	{name: "flush", h: requestHeader{op: OpFlush}, reach: true},
	{name: "flush with fua", h: requestHeader{op: OpFlush, flags: FlagFUA}, reach: true},
	{name: "flush read-only", info: Info{ReadOnly: true}, h: requestHeader{op: OpFlush}, reach: true},
	{name: "flush of a range", h: requestHeader{op: OpFlush, offset: 4096, length: 4096}, want: EINVAL},

	{name: "trim", h: requestHeader{op: OpTrim, flags: FlagFUA, length: rowDisk}, reach: true},
	{name: "trim nothing", h: requestHeader{op: OpTrim}},
	{name: "trim past the end", h: requestHeader{op: OpTrim, offset: 1, length: rowDisk}, want: EINVAL},
	{name: "trim read-only", info: Info{ReadOnly: true}, h: requestHeader{op: OpTrim, length: 512}, want: EPERM},

	{name: "zeroes", h: requestHeader{op: OpWriteZeroes, flags: FlagNoHole | FlagFastZero | FlagFUA, length: rowDisk}, reach: true},
	{name: "zeroes nothing", h: requestHeader{op: OpWriteZeroes}},
	{name: "zeroes past the end", h: requestHeader{op: OpWriteZeroes, length: rowDisk + 1}, want: ENOSPC},
	{name: "zeroes read-only", info: Info{ReadOnly: true}, h: requestHeader{op: OpWriteZeroes, length: 512}, want: EPERM},

	{name: "cache", h: requestHeader{op: OpCache, length: rowDisk}, reach: true},
	{name: "cache past the end", h: requestHeader{op: OpCache, length: rowDisk + 1}, want: EINVAL},
	{name: "cache with a flag", h: requestHeader{op: OpCache, flags: FlagDF, length: 512}, want: EINVAL},

	{name: "status", modes: allModes[1:], h: requestHeader{op: OpBlockStatus, length: rowDisk}, reach: true},
	{name: "status of one", modes: allModes[1:], h: requestHeader{op: OpBlockStatus, flags: FlagReqOne, offset: 7, length: 1000}, reach: true},
	{name: "status of nothing", modes: allModes[1:], h: requestHeader{op: OpBlockStatus}, want: EINVAL},
	{name: "status past the end", modes: allModes[1:], h: requestHeader{op: OpBlockStatus, length: rowDisk + 1}, want: EINVAL},
	{name: "status not agreed on", noMeta: true, h: requestHeader{op: OpBlockStatus, length: 512}, want: EINVAL},

	{name: "resize", h: requestHeader{op: 8, offset: 1 << 30}, want: EINVAL},
	{name: "unknown command", h: requestHeader{op: 77, length: 1 << 20}, want: EINVAL},
	{name: "unknown command with payload", modes: allModes[2:], h: requestHeader{op: 77, flags: flagPayloadLen, length: 1000}, load: 1000, want: EINVAL},
	{name: "unknown flag", h: requestHeader{op: OpRead, flags: 1 << 15, length: 512}, want: EINVAL},
}

// Without this a command would get a wrong answer in some form of messages, or its payload would be taken for the next request.
func TestEveryCommand(t *testing.T) {
	for _, row := range commandRows {
		modes := row.modes
		if modes == nil {
			modes = allModes
		}
		for _, mode := range modes {
			t.Run(row.name+"/"+mode.String(), func(t *testing.T) {
				d := &fake{data: make([]byte, rowDisk), info: row.info}
				_, p := serve(t, Config{Exports: one(d)}, Endpoint{})
				p.transmission(mode, mode != headersSimple && !row.noMeta, "disk")
				row.h.cookie = 0x1122334455667788
				p.request(mode, row.h, bytes.Repeat([]byte{7}, row.load))
				p.wantReply(mode, row.h, row.want)
				if reached := len(d.saw()) == 1; reached != row.reach {
					t.Fatalf("the device saw %+v", d.saw())
				}
				if row.reach && (d.saw()[0].Op != row.h.op || d.saw()[0].Flags != row.h.flags&^flagPayloadLen || d.saw()[0].Length != row.h.length) {
					t.Fatalf("the device saw %+v", d.saw()[0])
				}
				p.request(mode, requestHeader{op: OpFlush, cookie: 2}, nil) // the stream is in step
				p.wantReply(mode, requestHeader{op: OpFlush, cookie: 2}, 0)
			})
		}
	}
}

// wantReply reads the whole reply to h and expects want.
func (p *peer) wantReply(mode headers, h requestHeader, want Errno) (payload []byte) {
	p.t.Helper()
	readLen := 0
	if h.op == OpRead {
		readLen = int(h.length)
	}
	for {
		m := p.message(mode, readLen)
		if m.cookie != h.cookie || m.errno != want {
			p.t.Fatalf("reply %+v, want cookie %#x, %v", m, h.cookie, want)
		}
		switch {
		case m.kind == chunkData:
			if be.Uint64(m.payload) != h.offset+uint64(len(payload)) {
				p.t.Fatalf("data of %d after %d bytes", be.Uint64(m.payload), len(payload))
			}
			payload = append(payload, m.payload[8:]...)
		case m.kind == chunkHole:
			payload = append(payload, make([]byte, be.Uint32(m.payload[8:]))...)
		default:
			payload = append(payload, m.payload...)
		}
		if m.done {
			if want == 0 && h.op == OpRead && len(payload) != readLen {
				p.t.Fatalf("read %d bytes of %d", len(payload), readLen)
			}
			return payload
		}
	}
}

// Without this errors would lose their meaning on the way, tell the client internals, or end the session.
func TestDeviceErrorsReachTheClient(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Errno
		text string
	}{
		{errs.ErrDenied, EPERM, ""}, {errs.ErrNoSpace, ENOSPC, ""}, {errs.ErrInvalid, EINVAL, ""}, {block.ErrRange, EINVAL, ""},
		{errs.ErrClosed, ESHUTDOWN, ""}, {errs.ErrUnavailable, EIO, ""}, {&errs.Corrupt{Place: "f"}, EIO, ""},
		{errors.New("secret detail"), EIO, ""}, {fmt.Errorf("write: %w", errs.ErrNoSpace), ENOSPC, ""},
		{ErrNotSupported, ENOTSUP, ""}, {ENOMEM, ENOMEM, ""}, {fmt.Errorf("seal: %w", &Error{ENOSPC, "the pool is full"}), ENOSPC, "the pool is full"},
	} {
		for _, mode := range allModes {
			d := &fake{data: make([]byte, 4096), fail: c.err}
			_, p := serve(t, Config{Exports: one(d)}, Endpoint{})
			p.transmission(mode, false, "disk")
			for _, op := range []Op{OpRead, OpTrim} {
				h := requestHeader{op: op, length: 512, cookie: 9}
				p.request(mode, h, nil)
				m := p.message(mode, 0)
				if m.errno != c.want || m.cookie != 9 || !m.done {
					t.Fatalf("%v, %v: %+v", c.err, mode, m)
				}
				if mode != headersSimple && string(m.payload[6:]) != c.text {
					t.Fatalf("%v, %v: text %q", c.err, mode, m.payload[6:])
				}
			}
		}
	}
}

// Without this a guest would see I/O errors when its disk moves, instead of reconnecting.
func TestFencedDeviceHangsUp(t *testing.T) {
	for _, err := range []error{ErrHangup, fmt.Errorf("append: %w", errs.ErrStaleEpoch)} {
		d := &fake{data: make([]byte, 4096), fail: err}
		s, p := serve(t, Config{Exports: one(d)}, Endpoint{})
		p.transmission(headersExtended, false, "disk")
		p.request(headersExtended, requestHeader{op: OpTrim, length: 512}, nil)
		p.wantClosed()
		<-p.over
		if d.closed != 1 || s.Status().RequestsInFlight != 0 {
			t.Fatalf("closed %d times; %+v", d.closed, s.Status())
		}
	}
}

// Without this garbage, or a request too long to skip, would be taken for requests.
func TestTransmissionViolationsCloseTheConnection(t *testing.T) {
	header := func(mode headers, h requestHeader) []byte {
		b := make([]byte, requestExLen)
		return b[:putRequest(b, mode, h)]
	}
	for name, c := range map[string]struct {
		mode headers
		data []byte
	}{
		"garbage":                {headersSimple, []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")},
		"compact, not extended":  {headersExtended, cat(header(headersSimple, requestHeader{op: OpFlush}), make([]byte, 4))},
		"extended, not compact":  {headersStructured, header(headersExtended, requestHeader{op: OpFlush})},
		"write of gigabytes":     {headersSimple, header(headersSimple, requestHeader{op: OpWrite, length: 1<<32 - 1})},
		"write of exabytes":      {headersExtended, header(headersExtended, requestHeader{op: OpWrite, flags: flagPayloadLen, length: 1 << 60})},
		"payload of the unknown": {headersExtended, header(headersExtended, requestHeader{op: 99, flags: flagPayloadLen, length: skipMax + 1})},
	} {
		t.Run(name, func(t *testing.T) {
			d := &fake{data: make([]byte, 4096)}
			_, p := serve(t, Config{Exports: one(d)}, Endpoint{})
			p.transmission(c.mode, false, "disk")
			p.send(c.data)
			p.wantClosed()
			<-p.over
			if len(d.saw()) > 0 || d.closed != 1 {
				t.Fatalf("the device saw %+v and was closed %d times", d.saw(), d.closed)
			}
		})
	}
}

// Without this copies would move zeros that nobody wrote, or lose bytes between holes.
func TestHolesTravelAsHoles(t *testing.T) {
	data := bytes.Repeat([]byte{1}, 64<<10)
	holes := []hole{{8192, 4096}, {16384, 100}, {20480, 8192}, {40960, 24576}}
	want := bytes.Clone(data)
	for _, h := range holes {
		clear(want[h.offset : h.offset+h.length])
	}
	for _, c := range []struct {
		mode   headers
		flags  Flags
		chunks string
	}{
		{headersSimple, 0, "0"},
		{headersStructured, FlagDF, "1"},
		{headersStructured, 0, "1 2 1 2 1 2"}, // the short one is sent as data
		{headersExtended, 0, "1 2 1 2 1 2"},
	} {
		d := &fake{data: data, holes: holes}
		_, p := serve(t, Config{Exports: one(d)}, Endpoint{})
		p.transmission(c.mode, false, "disk")
		h := requestHeader{op: OpRead, flags: c.flags, length: 64 << 10, cookie: 3}
		p.request(c.mode, h, nil)
		if got := p.wantReply(c.mode, h, 0); !bytes.Equal(got, want) {
			t.Fatalf("%v: other bytes", c)
		}
		p.request(c.mode, h, nil)
		var kinds []string
		for done := false; !done; {
			m := p.message(c.mode, 64<<10)
			kinds, done = append(kinds, fmt.Sprint(m.kind)), m.done
		}
		if got := fmt.Sprint(kinds); got != "["+c.chunks+"]" {
			t.Errorf("%v, flags %d: chunks %v, want %s", c.mode, c.flags, got, c.chunks)
		}
	}
}

// Without this a map of the disk would have gaps, reach past its end or overflow 32 bits.
func TestBlockStatusOnTheWire(t *testing.T) {
	const huge = 10 << 30
	d := &fake{grown: huge, status: []Extent{{1000, StateData}, {0, StateHole}, {24, StateData}, {5 << 30, StateHole | StateZero}, {6 << 30, StateData}}}
	want := map[headers][]byte{
		headersStructured: cat(u32(1), u32(1024), u32(0), u32(extentMax32), u32(3)),
		headersExtended:   cat(u32(1), u32(3), u64(1024), u64(0), u64(5<<30), u64(3), u64(huge-1024-5<<30), u64(0)),
	}
	for mode, bytesWanted := range want {
		_, p := serve(t, Config{Exports: one(d)}, Endpoint{})
		p.transmission(mode, true, "disk")
		h := requestHeader{op: OpBlockStatus, length: 1<<32 - 1, cookie: 4}
		if mode == headersExtended {
			h.length = huge
		}
		p.request(mode, h, nil)
		if got := p.wantReply(mode, h, 0); !bytes.Equal(got, bytesWanted) {
			t.Errorf("%v: %x, want %x", mode, got, bytesWanted)
		}
		h = requestHeader{op: OpBlockStatus, flags: FlagReqOne, length: 10, cookie: 5}
		p.request(mode, h, nil)
		one := map[headers][]byte{headersStructured: cat(u32(1), u32(10), u32(0)), headersExtended: cat(u32(1), u32(1), u64(10), u64(0))}[mode]
		if got := p.wantReply(mode, h, 0); !bytes.Equal(got, one) {
			t.Errorf("%v, one: %x, want %x", mode, got, one)
		}
	}
}

// Without this a client that narrows a block status to contexts would be refused, or believed too much.
func TestBlockStatusWithPayload(t *testing.T) {
	for name, c := range map[string]struct {
		payload []byte
		want    Errno
	}{
		"the context":     {cat(u64(4096), u32(metaAllocationID)), 0},
		"another context": {cat(u64(4096), u32(77)), EINVAL},
		"twice":           {cat(u64(4096), u32(metaAllocationID), u32(metaAllocationID)), EINVAL},
		"none":            {u64(4096), EINVAL},
		"too long":        {cat(u64(1<<40), u32(metaAllocationID)), EINVAL},
		"cut short":       {[]byte{1, 2, 3}, EINVAL},
	} {
		d := &fake{data: make([]byte, 8192)}
		_, p := serve(t, Config{Exports: one(d)}, Endpoint{})
		p.transmission(headersExtended, true, "disk")
		h := requestHeader{op: OpBlockStatus, flags: flagPayloadLen, length: uint64(len(c.payload)), cookie: 6}
		p.request(headersExtended, h, c.payload)
		got := p.wantReply(headersExtended, h, c.want)
		if c.want == 0 && !bytes.Equal(got, cat(u32(1), u32(1), u64(4096), u64(0))) {
			t.Errorf("%s: %x", name, got)
		}
		p.request(headersExtended, requestHeader{op: OpFlush, cookie: 2}, nil)
		p.wantReply(headersExtended, requestHeader{op: OpFlush, cookie: 2}, 0)
	}
}

// Without this extended headers would be of no use on long ranges.
func TestEffectsBeyond32Bits(t *testing.T) {
	d := &fake{grown: 1 << 50}
	_, p := serve(t, Config{Exports: one(d)}, Endpoint{})
	p.transmission(headersExtended, true, "disk")
	for i, op := range []Op{OpTrim, OpWriteZeroes, OpCache, OpBlockStatus} {
		h := requestHeader{op: op, offset: 4096, length: 1 << 49, cookie: uint64(i)}
		p.request(headersExtended, h, nil)
		p.wantReply(headersExtended, h, 0)
		if d.saw()[i].Length != 1<<49 {
			t.Fatalf("the device saw %+v", d.saw()[i])
		}
	}
	h := requestHeader{op: OpRead, length: 1 << 40, cookie: 9}
	p.request(headersExtended, h, nil)
	p.wantReply(headersExtended, h, EOVERFLOW)
}

// Without this a disk that was made larger would need a reconnect.
func TestGrowthShowsWhileConnected(t *testing.T) {
	d := &fake{data: make([]byte, 4096)}
	_, p := serve(t, Config{Exports: one(d)}, Endpoint{})
	p.transmission(headersSimple, false, "disk")
	h := requestHeader{op: OpRead, offset: 4096, length: 4096, cookie: 1}
	p.request(headersSimple, h, nil)
	p.wantReply(headersSimple, h, EINVAL)
	d.mu.Lock()
	d.grown = 8192
	d.mu.Unlock()
	p.request(headersSimple, h, nil)
	p.wantReply(headersSimple, h, 0)
}

// Without this a disconnect would lose requests in flight.
func TestDisconnectWaitsForWhatIsInFlight(t *testing.T) {
	held := make(chan *Request, 1)
	d := &fake{data: make([]byte, 4096), hold: func(r *Request) bool { held <- r; return true }}
	_, p := serve(t, Config{Exports: one(d)}, Endpoint{})
	p.transmission(headersSimple, false, "disk")
	h := requestHeader{op: OpWrite, length: 3, cookie: 1}
	p.request(headersSimple, h, []byte("abc"))
	p.request(headersSimple, requestHeader{op: opDisconnect}, nil)
	r := <-held
	select {
	case <-p.over:
		t.Fatal("closed before the write was done")
	case <-time.After(20 * time.Millisecond):
	}
	if d.closed != 0 {
		t.Fatal("the handle was closed with a request in flight")
	}
	r.Complete(nil)
	p.wantReply(headersSimple, h, 0)
	p.wantClosed()
	<-p.over
	if d.closed != 1 {
		t.Fatalf("closed %d times", d.closed)
	}
}

// Without this slow requests would hold up fast ones.
func TestRepliesComeInAnyOrder(t *testing.T) {
	var held []*Request
	d := &fake{data: bytes.Repeat([]byte{5}, 65536)}
	all := make(chan struct{})
	d.hold = func(r *Request) bool {
		if held = append(held, r); len(held) == 8 {
			close(all)
		}
		return true
	}
	for _, mode := range allModes {
		held, all = nil, make(chan struct{})
		_, p := serve(t, Config{Exports: one(d)}, Endpoint{})
		p.transmission(mode, false, "disk")
		for i := range 8 {
			p.request(mode, requestHeader{op: OpRead, offset: uint64(i) * 512, length: 512, cookie: uint64(i)}, nil)
		}
		<-all
		for i := 7; i >= 0; i-- {
			d.do(held[i])
			held[i].Complete(nil)
			h := requestHeader{op: OpRead, offset: uint64(i) * 512, length: 512, cookie: uint64(i)}
			if got := p.wantReply(mode, h, 0); got[0] != 5 {
				t.Fatalf("read %x", got)
			}
		}
	}
}

// Without this a payload cut off by the end of the connection would be written.
func TestPartialWriteIsDropped(t *testing.T) {
	d := &fake{data: make([]byte, 1<<20)}
	s, p := serve(t, Config{Exports: one(d)}, Endpoint{})
	p.transmission(headersSimple, false, "disk")
	p.request(headersSimple, requestHeader{op: OpWrite, length: 300000}, make([]byte, 299999))
	_ = p.conn.Close()
	<-p.over
	if len(d.saw()) > 0 || d.closed != 1 {
		t.Fatalf("the device saw %+v, closed %d times", d.saw(), d.closed)
	}
	if st := s.Status(); st.RequestsInFlight != 0 || st.BytesInFlight != 0 || st.Conns != 0 {
		t.Fatalf("left over: %+v", st)
	}
}

// Without this a half-closed connection would not get its last replies.
func TestEndOfStreamStillAnswers(t *testing.T) {
	d := &fake{data: make([]byte, 4096)}
	_, p := serve(t, Config{Exports: one(d)}, Endpoint{})
	p.transmission(headersSimple, false, "disk")
	h := requestHeader{op: OpRead, length: 4096, cookie: 8}
	p.request(headersSimple, h, nil)
	if err := p.conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	p.wantReply(headersSimple, h, 0)
	if b, err := io.ReadAll(p.conn); len(b) > 0 || err != nil {
		t.Fatalf("%x, %v", b, err)
	}
}
