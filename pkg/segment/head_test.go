package segment

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares b with testdata/name, hexadecimal in lines of 32 bytes.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		var text strings.Builder
		for line := range slices.Chunk(b, 32) {
			text.WriteString(hex.EncodeToString(line) + "\n")
		}
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := readGolden(t, path); !bytes.Equal(want, b) {
		t.Errorf("%s differs: the format changed; see STYLE and FORMAT.md before -update", name)
	}
}

func readGolden(t testing.TB, path string) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// head gives a header with entries of the kind, by shard index.
func head(k, m, index uint8, slots uint16, entry func(slot int) Entry) *storeproto.ShardHead {
	l := Layout{K: k, Slots: slots}
	h := &storeproto.ShardHead{
		Volume: id.Volume{1, 2, 3, 15: 16}, Segment: id.MakeSegment(0x123456789, 0xabc),
		Generation: id.Generation{Epoch: 17, N: 3}, Index: index, K: k, M: m, PGVersion: 9,
		Slots: slots, Blocks: l.Blocks(),
	}
	for s := range slots {
		if shard, _ := l.Place(s); index >= k || shard == index {
			h.Entries = append(h.Entries, uint64(entry(int(s))))
		}
	}
	for b := range h.Blocks {
		h.Sums = append(h.Sums, storeproto.BlockSum(uint32(b), h.Segment, index, b))
	}
	return h
}

func mixed(slot int) Entry {
	switch {
	case slot < 20:
		return MakeData(block.LBA(1000 + slot))
	case slot < 60:
		return MakeData(block.LBA(slot * slot * 977))
	case slot < 70:
		return MakeData(block.LBA(5000 - slot)) // descending
	}
	return MakeData(block.LBAMax - 1 - block.LBA(200-slot))
}

// keeping is the header of a generation that has dropped some slots.
func keeping(k, m, index uint8, slots uint16) *storeproto.ShardHead {
	h := head(k, m, index, slots, mixed)
	h.Entries = nil
	for s := range int(slots) {
		e := mixed(s)
		if s%7 == 6 || s >= 40 && s < 60 {
			e = 0
		}
		h.Entries = append(h.Entries, uint64(e))
	}
	h.Blocks = Layout{K: k, Slots: MakeKept(h.Entries).Count()}.Blocks()
	h.Sums = h.Sums[:h.Blocks]
	return h
}

func pages(slot int) Entry {
	switch {
	case slot < 50:
		return MakePage(MapPage, 0, uint64(slot*3))
	case slot < 60:
		return MakePage(MapPage, uint8(slot-49), uint64(slot/4))
	case slot < 90:
		return MakePage(TablePage, 0, uint64(slot)+1<<33)
	}
	return MakePage(TablePage, LevelMax, 1<<40-1)
}

// Without this a store could not tell what it holds, and headers written by one
// version could not be read by the next.
func TestHeadSurvivesItsBytes(t *testing.T) {
	for name, h := range map[string]*storeproto.ShardHead{
		"head-data.golden":   head(4, 2, 1, 100, mixed),
		"head-parity.golden": head(4, 2, 5, 100, mixed),
		"head-pages.golden":  head(1, 2, 0, 100, pages),
		"head-kept.golden":   keeping(4, 2, 1, 100),
	} {
		b := AppendHead([]byte("before"), h)
		got, err := DecodeHead("test", b[6:])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(got, h) {
			t.Errorf("%s: came back as %+v", name, got)
		}
		golden(t, name, b[6:])
	}
}

// Without this a flipped bit or a lie in a header would be believed.
func TestHeadRefusesDamage(t *testing.T) {
	refusesDamage(t, AppendHead(nil, head(4, 2, 1, 100, mixed)))
	refusesDamage(t, AppendHead(nil, keeping(4, 2, 5, 100)))
}

func refusesDamage(t *testing.T, good []byte) {
	t.Helper()
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1 << (i % 8)
		if _, err := DecodeHead("test", b); !errors.Is(err, errs.ErrCorrupt) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if _, err := DecodeHead("test", good[:i]); !errors.Is(err, errs.ErrCorrupt) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
	}
	for i := range good[:headFixed] { // the same, with the sum made right again
		b := bytes.Clone(good)
		b[i] ^= 0x80
		b = reseal(b)
		h, err := DecodeHead("test", b)
		if err == nil && !bytes.Equal(AppendHead(nil, h), b) {
			t.Fatalf("byte %d changed: accepted, but not as it was written", i)
		}
		if err != nil && !errors.Is(err, errs.ErrCorrupt) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
}

func reseal(b []byte) []byte {
	b = b[:len(b)-4]
	sum := codec.CRC(b)
	return append(b, byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
}

// Without this the headers, and the commits that use the same lists, would grow
// the index and the meta stream beyond their budget.
func TestEntriesAreSmall(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := make([]Entry, 4096)
	for i := range random {
		random[i] = MakeData(block.LBA(r.Uint64N(1 << 28)))
	}
	slices.Sort(random)
	sequential := make([]Entry, 4096)
	for i := range sequential {
		sequential[i] = MakeData(block.LBA(1<<30 + i))
	}
	for name, c := range map[string]struct {
		entries []Entry
		max     int
	}{"random in 1 TiB": {random, 3 * 4096}, "sequential": {sequential, 16}, "empty": {make([]Entry, 4096), 3}} {
		b := AppendEntries(nil, c.entries)
		got := make([]Entry, len(c.entries))
		if err := codec.Decode("test", b, func(r *codec.Reader) { DecodeEntries(r, got) }); err != nil || !slices.Equal(got, c.entries) {
			t.Fatalf("%s: %v", name, err)
		}
		if len(b) > c.max {
			t.Errorf("%s: %d bytes, want at most %d", name, len(b), c.max)
		}
	}
}

// Without this a page of the map could be taken for a block of the disk.
func TestEntriesSayWhatTheyAre(t *testing.T) {
	d := MakeData(block.LBAMax - 1)
	p := MakePage(TablePage, 3, 1<<40-1)
	if d.Kind() != Data || d.LBA() != block.LBAMax-1 || !d.Valid() {
		t.Errorf("data: %v", d)
	}
	if p.Kind() != TablePage || p.Level() != 3 || p.Index() != 1<<40-1 || !p.Valid() {
		t.Errorf("page: %v", p)
	}
	for _, e := range []Entry{1, d | 1<<40, d | 1<<50, p | 1<<50, MakePage(MapPage, 16, 0), 4 << 56, 1 << 63} {
		if e.Valid() {
			t.Errorf("%#x is valid", uint64(e))
		}
	}
}

// Heads come from stores: bytes of any kind must give one that is written the same again, or an error.
func FuzzDecodeHead(f *testing.F) {
	names, err := filepath.Glob("testdata/*.golden")
	if err != nil || len(names) == 0 {
		f.Fatal("no golden files: ", err)
	}
	for _, name := range names {
		f.Add(readGolden(f, name))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 4 {
			b = reseal(bytes.Clone(b)) // else the sum would hide the decoder
		}
		h, err := DecodeHead("fuzz", b)
		if err != nil {
			if !errors.Is(err, errs.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		for _, e := range h.Entries {
			if !Entry(e).Valid() {
				t.Fatalf("entry %#x", e)
			}
		}
		again, err := DecodeHead("fuzz", AppendHead(nil, h))
		if err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("%v: came back as %+v", err, again)
		}
	})
}
