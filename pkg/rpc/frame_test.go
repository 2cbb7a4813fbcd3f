package rpc

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

var update = flag.Bool("update", false, "write golden files anew")

var goldenHeaders = []struct {
	name string
	h    header
}{
	{"request", header{head: 112, payload: 4096, total: 4096, op: 1, kind: kindRequest, id: 7<<16 | 3, timeout: 10000, headCRC: 0xdeadbeef}},
	{"first-of-long", header{head: 64, payload: FragmentMax, total: 1 << 20, op: 6, kind: kindRequest, id: 9, timeout: 60000, headCRC: 1}},
	{"continued", header{payload: FragmentMax, total: 1 << 20, kind: kindRequest, flags: flagContinued, id: 9}},
	{"abort", header{total: 1 << 20, kind: kindRequest, flags: flagContinued | flagAbort, id: 9}},
	{"reply", header{head: 8, kind: kindReply, id: 7<<16 | 3, headCRC: 2}},
	{"error", header{head: 5, op: uint16(errs.NoSpace), kind: kindReply, id: 8, headCRC: 3}},
	{"beat", header{kind: kindBeat}},
}

var (
	goldenClient = clientHello{versionMin: 1, versionMax: 2, features: 5, class: ClassBulk, serviceMin: 1, serviceMax: 3,
		beat: 250 * time.Millisecond, dead: time.Second, self: pki.Identity{Cluster: "c-1", Role: pki.RoleBlockd, Name: "b1"}}
	goldenServer = serverHello{version: 1, service: 1, inFlight: 4096, payloadMax: 32 << 20,
		beat: 250 * time.Millisecond, dead: time.Second, self: pki.Identity{Cluster: "c-1", Role: pki.RoleBlockd, Name: "b2"}}
	goldenRefusal = serverHello{code: errs.Denied, text: "of another cluster"}
)

func goldenText(t testing.TB) string {
	var b strings.Builder
	for _, g := range goldenHeaders {
		fmt.Fprintf(&b, "%s %x\n", g.name, g.h.append(nil))
	}
	hello := func(name string, body []byte) {
		var w bytes.Buffer
		if err := writeHello(&w, body); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %x\n", name, w.Bytes())
	}
	hello("client-hello", goldenClient.append(nil))
	hello("server-hello", goldenServer.append(nil))
	hello("refusal", goldenRefusal.append(nil))
	return b.String()
}

// Without this the bytes on the wire could change unnoticed, and peers of two versions misread each other.
func TestFramesAreGolden(t *testing.T) {
	path := filepath.Join("testdata", "frames.golden")
	got := goldenText(t)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("frames differ from %s:\n%s", path, got)
	}
	for _, g := range goldenHeaders {
		if h, err := decodeHeader("test", g.h.append(nil)); err != nil || h != g.h {
			t.Errorf("%s: read back as %+v, %v", g.name, h, err)
		}
	}
}

// Without this two sides could agree on something else than they said.
func TestHelloReadsBack(t *testing.T) {
	if h, err := decodeClientHello("test", goldenClient.append(nil)); err != nil || h.class != goldenClient.class || h.self.Name != "b1" || h.dead != time.Second {
		t.Errorf("%+v, %v", h, err)
	}
	if h, err := decodeClientHello("test", append(goldenClient.append(nil), 1, 2, 3)); err != nil {
		t.Errorf("a later version's longer hello: %+v, %v", h, err)
	}
	for _, want := range []serverHello{goldenServer, goldenRefusal} {
		if h, err := decodeServerHello("test", want.append(nil)); err != nil || h.text != want.text || h.inFlight != want.inFlight || h.code != want.code {
			t.Errorf("%+v, %v", h, err)
		}
	}
}

// Without this a damaged or hostile frame could make a peer allocate or wait for what never comes.
func TestHeaderRefuses(t *testing.T) {
	ok := header{head: 10, payload: 100, total: 100, op: 1, kind: kindRequest, id: 1}
	for name, change := range map[string]func(h *header){
		"kind zero":               func(h *header) { h.kind = 0 },
		"kind unknown":            func(h *header) { h.kind = 4 },
		"unknown flag":            func(h *header) { h.flags = 4 },
		"abort of nothing":        func(h *header) { h.flags = flagAbort },
		"head too long":           func(h *header) { h.head = HeadMax + 1 },
		"head in a continued one": func(h *header) { h.flags = flagContinued },
		"payload above total":     func(h *header) { h.total = 99 },
		"payload too long":        func(h *header) { h.payload, h.total = FragmentMax+1, FragmentMax+1 },
		"message too long":        func(h *header) { h.total = PayloadMax + 1 },
		"no progress":             func(h *header) { h.payload = 0 },
		"empty continued":         func(h *header) { h.head, h.payload, h.total, h.flags = 0, 0, 0, flagContinued },
		"abort with payload":      func(h *header) { h.head, h.flags = 0, flagContinued|flagAbort },
		"beat with an id":         func(h *header) { *h = header{kind: kindBeat, id: 1} },
	} {
		h := ok
		change(&h)
		if _, err := decodeHeader("test", h.append(nil)); !errors.Is(err, errs.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := ok.append(nil)
	for i := range b {
		b[i] ^= 0x10
		if _, err := decodeHeader("test", b); !errors.Is(err, errs.ErrCorrupt) {
			t.Errorf("bit flipped in byte %d: %v", i, err)
		}
		b[i] ^= 0x10
	}
	if _, err := decodeHeader("test", b[:headerSize-1]); !errors.Is(err, errs.ErrCorrupt) {
		t.Errorf("short: %v", err)
	}
}

func seedGolden(f *testing.F) {
	raw, err := os.ReadFile(filepath.Join("testdata", "frames.golden"))
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		_, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		b, err := hex.DecodeString(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// Headers come from the wire: bytes of any kind must be within all limits, or be refused.
func FuzzHeader(f *testing.F) {
	seedGolden(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= headerSize { // most inputs would fail the sum
			b = bytes.Clone(b[:headerSize])
			binary.LittleEndian.PutUint32(b[32:], codec.CRC(b[:32]))
		}
		h, err := decodeHeader("fuzz", b)
		if err != nil {
			return
		}
		if h.payload > FragmentMax || h.total > PayloadMax || h.head > HeadMax || h.payload > h.total {
			t.Errorf("let through %+v", h)
		}
		if got := h.append(nil); !bytes.Equal(got, b) {
			t.Errorf("%x is written as %x", b, got)
		}
	})
}

// Hellos come from strangers: bytes of any kind must be read within limits, or be refused.
func FuzzHello(f *testing.F) {
	f.Add(goldenClient.append(nil))
	f.Add(goldenServer.append(nil))
	f.Add(goldenRefusal.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := decodeClientHello("fuzz", b); err == nil {
			if again, err := decodeClientHello("fuzz", h.append(nil)); err != nil || fmt.Sprint(again) != fmt.Sprint(h) {
				t.Errorf("%+v reads back as %+v, %v", h, again, err)
			}
		}
		if h, err := decodeServerHello("fuzz", b); err == nil && h.code == errs.OK {
			if again, err := decodeServerHello("fuzz", h.append(nil)); err != nil || fmt.Sprint(again) != fmt.Sprint(h) {
				t.Errorf("%+v reads back as %+v, %v", h, again, err)
			}
		}
		var framed bytes.Buffer
		if err := writeHello(&framed, b); err != nil {
			t.Fatal(err)
		}
		if got, err := readHello("fuzz", &framed); err == nil != (len(b) <= helloMax) || err == nil && !bytes.Equal(got, b) {
			t.Errorf("hello of %d bytes: %v", len(b), err)
		}
	})
}
