package volproto

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
)

var update = flag.Bool("update", false, "write golden files anew")

var (
	aTarget  = target{id.Volume{1}, Session{id.Raw{9}, 3}}
	aRequest = ioRequest{op: nbd.OpWrite, flags: nbd.FlagFUA, offset: 8192, length: 4096, sum: 0xdeadbeef}
	aStatus  = ioRequest{op: nbd.OpBlockStatus, offset: 4096, length: 1 << 30, context: nbd.ContextKey{5, 15: 6}}
	anInfo   = nbd.Info{MultiConn: true, BlockMin: 512, BlockPreferred: 4096, PayloadMax: 1 << 20, Name: "d-1", Description: "words"}
	someHole = []hole{{8192, 4096}, {16384, 512}}
)

// message is one encoder with its decoder: encode(decode(b)) must be b.
type message struct {
	name   string
	golden []byte
	again  func(r *codec.Reader) []byte
}

func status(err error) message {
	return message{golden: appendStatus(nil, err), again: func(r *codec.Reader) []byte { return appendStatus(nil, readStatus(r, id.Volume{1})) }}
}

func messages() []message {
	named := func(name string, m message) message { m.name = name; return m }
	return []message{
		{"attach", use(7).append(aTarget.append(nil)), func(r *codec.Reader) []byte { t := readTarget(r); return readUse(r).append(t.append(nil)) }},
		{"io", aRequest.append(aTarget.append(nil)), func(r *codec.Reader) []byte {
			t, q := readTarget(r), readIORequest(r)
			return q.append(t.append(nil))
		}},
		{"io-context", append(aStatus.append(aTarget.append(nil)), aStatus.context[:]...), func(r *codec.Reader) []byte {
			t, q := readTarget(r), readIORequest(r)
			r.Fill(q.context[:])
			return append(q.append(t.append(nil)), q.context[:]...)
		}},
		{"info", appendInfo(nil, 1<<30, anInfo), func(r *codec.Reader) []byte { size, i := readInfo(r); return appendInfo(nil, size, i) }},
		{"holes", appendHoles(nil, someHole), func(r *codec.Reader) []byte { return appendHoles(nil, readHoles(r, nil, 4096, 32768)) }},
		{"extents", appendExtents(nil, []nbd.Extent{{Length: 4096}, {Length: 8192, State: nbd.StateHole | nbd.StateZero}}), func(r *codec.Reader) []byte {
			var all []nbd.Extent
			readExtents(r, func(e nbd.Extent) { all = append(all, e) })
			return appendExtents(nil, all)
		}},
		named("ok", status(nil)),
		named("not-owner", status(&NotOwner{Volume: id.Volume{1}, Owner: "b3", Epoch: 17})),
		named("stale-session", status(ErrStaleSession)),
		named("errno", status(nbd.EOVERFLOW)),
		named("error", status(errs.FromCode(errs.NoSpace, "full"))),
	}
}

// Without this the bytes on the wire could change unnoticed, and hosts of two versions misread each other.
func TestMessagesAreGolden(t *testing.T) {
	path := filepath.Join("testdata", "messages.golden")
	var b strings.Builder
	for _, m := range messages() {
		fmt.Fprintf(&b, "%s %x\n", m.name, m.golden)
		if err := codec.Decode("test", m.golden, func(r *codec.Reader) {
			if again := m.again(r); string(again) != string(m.golden) {
				t.Errorf("%s reads back as %x", m.name, again)
			}
		}); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("messages differ from %s:\n%s", path, b.String())
	}
}

// Without this a cut message could be taken for a shorter one, and a hole lie outside of its read.
func TestBrokenMessagesAreRefused(t *testing.T) {
	for _, m := range messages() {
		for n := range m.golden {
			if err := codec.Decode("test", m.golden[:n], func(r *codec.Reader) { m.again(r) }); !errors.Is(err, errs.ErrCorrupt) {
				t.Errorf("%s cut to %d of %d bytes: %v", m.name, n, len(m.golden), err)
			}
		}
	}
	for name, holes := range map[string][]hole{
		"before": {{0, 4096}}, "beyond": {{32768, 8192}}, "far": {{1 << 63, 1}}, "overflow": {{4096, 1<<64 - 1}}, "empty": {{8192, 0}},
		"backwards": {{16384, 4096}, {8192, 4096}}, "overlapping": {{8192, 4096}, {8192, 4096}},
	} {
		if err := codec.Decode("test", appendHoles(nil, holes), func(r *codec.Reader) { readHoles(r, nil, 4096, 32768) }); !errors.Is(err, errs.ErrCorrupt) {
			t.Errorf("hole %s: %v", name, err)
		}
	}
	zero := aTarget
	zero.session.Number = 0
	if err := codec.Decode("test", zero.append(nil), func(r *codec.Reader) { readTarget(r) }); !errors.Is(err, errs.ErrCorrupt) {
		t.Errorf("session number zero: %v", err)
	}
}

// Messages come from peers: bytes of any kind must be read within limits, or be refused.
func FuzzMessages(f *testing.F) {
	all := messages()
	for i, m := range all {
		f.Add(uint8(i), m.golden)
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		m := all[int(kind)%len(all)]
		var first []byte
		if codec.Decode("fuzz", b, func(r *codec.Reader) { first = m.again(r) }) != nil {
			return
		}
		// What was understood is understood the same way again; texts of errors may grow.
		var second []byte
		if err := codec.Decode("fuzz", first, func(r *codec.Reader) { second = m.again(r) }); err != nil || len(second) < len(first) {
			t.Errorf("%s: %x, then %x, then %x: %v", m.name, b, first, second, err)
		}
	})
}
