package record

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
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
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

func commitSegment(seq id.Sequence, entries ...segment.Entry) CommitSegment {
	s := id.MakeSegment(seq, 0xabc)
	return CommitSegment{Segment: s, Slots: entries, Entry: blockmap.Entry{
		Generation: id.Generation{Epoch: 7, N: 1}, PGVersion: 3, Slots: uint16(len(entries)), Live: uint16(len(entries) - 1),
		PG: s.PG(), K: 4, M: 2, Flags: blockmap.Pages}}
}

func sampleMeta() []Meta {
	seg := commitSegment(1000, segment.MakeData(5), segment.MakeData(6), segment.MakeData(7), 0, segment.MakePage(segment.MapPage, 1, 3))
	full := Checkpoint{
		Volume: id.Volume{1, 2, 15: 3}, Epoch: 7, Map: blockmap.Root{Location: id.MakeLocation(seg.Segment, 4), Height: 4},
		Table: blockmap.Root{Location: id.MakeLocation(seg.Segment, 5), Height: 2}, Covered: 1 << 33, Meta: 77,
		Watermark: 999, Blocks: 1 << 28, Pages: []PageSegment{{seg.Segment, seg.Entry}},
	}
	return []Meta{
		{Position: 40, Kind: MetaCommit, Commit: &Commit{Covered: 12}},
		{Position: 41, Kind: MetaCommit, Commit: &Commit{
			Covered: 1 << 40, Segments: []CommitSegment{seg, commitSegment(1001, segment.MakeData(1))},
			Zeros:  []block.Extent{{Start: 100, Count: 8}, {Start: 5, Count: 1 << 20}},
			Trims:  []block.Extent{{Start: block.LBAMax - 1, Count: 1}},
			Placed: []Placed{placed(4000, 10, 4086), placed(0, 1, 0)},
			Marks:  []SnapshotMark{{Snapshot: id.Raw{9}, Group: id.Raw{8}}},
		}},
		{Position: 42, Kind: MetaCheckpoint, Checkpoint: &full},
		{Position: 43, Kind: MetaCheckpoint, Checkpoint: &Checkpoint{Epoch: 1}},
		{Position: 44, Kind: MetaDeleted, Deleted: []storeproto.SegmentGeneration{
			{Segment: seg.Segment, Generation: seg.Entry.Generation}, {Segment: seg.Segment + 1<<12}}},
		{Position: 45, Kind: MetaDeleted, Deleted: []storeproto.SegmentGeneration{}},
		{Position: 46, Kind: MetaMoved, Moved: &Moved{
			CommitSegment: commitSegment(1002, segment.MakeData(5), segment.MakeData(70), segment.MakeData(71)),
			From:          []id.Location{id.MakeLocation(seg.Segment, 4095), id.MakeLocation(id.MakeSegment(3, 4), 0), id.MakeLocation(seg.Segment, 7)},
		}},
		{Position: 47, Kind: MetaRewritten, Rewritten: &Rewritten{Segment: seg.Segment, Entry: blockmap.Entry{
			Generation: id.Generation{Epoch: 9, N: 44}, PGVersion: 5, Slots: 4096, Live: 900, Kept: 1000, PG: seg.Segment.PG(), K: 2, M: 1}}},
	}
}

func encodeMeta(records []Meta) []byte {
	var b []byte
	for _, m := range records {
		switch m.Kind {
		case MetaCommit:
			b = AppendCommit(b, m.Commit)
		case MetaCheckpoint:
			b = AppendCheckpoint(b, m.Checkpoint)
		case MetaDeleted:
			b = AppendDeleted(b, m.Deleted)
		case MetaMoved:
			b = AppendMoved(b, m.Moved)
		case MetaRewritten:
			b = AppendRewritten(b, m.Rewritten)
		case MetaHydrated:
			b = AppendHydrated(b, m.Hydrated)
		}
	}
	return b
}

// Without this a volume could not be opened again, or with other blocks than it had.
func TestMetaRecordsSurviveTheirBytes(t *testing.T) {
	records := sampleMeta()
	b := encodeMeta(records)
	golden(t, "meta.golden", b)
	got, err := ReadMeta("test", b, 40, uint32(len(records)))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, records) {
		t.Errorf("came back as %+v", got)
	}
	c := records[2].Checkpoint
	alone := EncodeCheckpoint(c)
	golden(t, "checkpoint.golden", alone)
	back, err := DecodeCheckpoint("test", alone)
	if err != nil || !reflect.DeepEqual(back, c) {
		t.Errorf("%v: the checkpoint came back as %+v", err, back)
	}
}

// Without this a lie in the meta stream would be applied to the map.
func TestReadersRefuseDamage(t *testing.T) {
	records := sampleMeta()
	b := encodeMeta(records)
	n := uint32(len(records))
	for name, c := range map[string]struct {
		b []byte
		n uint32
	}{
		"one less": {b, n - 1}, "one more": {b, n + 1}, "very many": {b, 1 << 31}, "cut": {b[:len(b)-1], n}, "nothing": {nil, 1},
		"more bytes":               {append(b[:len(b):len(b)], 1), n},
		"the kind of a snapshot":   {append([]byte{4}, b[1:]...), n},
		"another version":          {append([]byte{1, 2}, b[2:]...), n},
		"a length that is not its": {append([]byte{1, 1, b[2] + 1}, b[3:]...), n},
	} {
		if _, err := ReadMeta("test", c.b, 40, c.n); !errors.Is(err, errs.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	alone := EncodeCheckpoint(records[2].Checkpoint)
	for i := range alone {
		bad := bytes.Clone(alone)
		bad[i] ^= 4
		if _, err := DecodeCheckpoint("test", bad); !errors.Is(err, errs.ErrCorrupt) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := DecodeCheckpoint("test", alone[:i]); !errors.Is(err, errs.ErrCorrupt) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
}

// Without this a batch of a few bytes could ask for all memory.
func TestSlotsOfABatchAreBounded(t *testing.T) {
	big := make([]segment.Entry, id.SlotsMax)
	for i := range big {
		big[i] = segment.MakeData(block.LBA(i))
	}
	c := Commit{Covered: 1}
	for i := range SlotsMax/id.SlotsMax + 1 {
		c.Segments = append(c.Segments, commitSegment(id.Sequence(i+1), big...))
	}
	if _, err := ReadMeta("test", AppendCommit(nil, &c), 1, 1); !errors.Is(err, errs.ErrCorrupt) {
		t.Errorf("%d segments: %v", len(c.Segments), err)
	}
	c.Segments = c.Segments[1:]
	if _, err := ReadMeta("test", AppendCommit(nil, &c), 1, 1); err != nil {
		t.Errorf("%d segments: %v", len(c.Segments), err)
	}
}

// Without this the commits of random writes would fill the meta stream.
func TestCommitOfRandomBlocksIsSmall(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	slots := make([]segment.Entry, id.SlotsMax)
	for i := range slots {
		slots[i] = segment.MakeData(block.LBA(r.Uint64N(1 << 28)))
	}
	slices.Sort(slots)
	b := AppendCommit(nil, &Commit{Covered: 1 << 40, Segments: []CommitSegment{commitSegment(1<<33, slots...)}})
	if len(b) > 4*len(slots) {
		t.Errorf("%d bytes for %d slots", len(b), len(slots))
	}
	t.Logf("%.2f bytes a slot", float64(len(b))/float64(len(slots)))
}

// Meta streams are read back after crashes: bytes of any kind must give records that were written so, or an error.
func FuzzReadMeta(f *testing.F) {
	f.Add(readGolden(f, "testdata/meta.golden"), uint32(6))
	for _, m := range sampleMeta() {
		f.Add(encodeMeta([]Meta{m}), uint32(1))
	}
	for _, h := range sampleHydrated() {
		f.Add(AppendHydrated(nil, &h), uint32(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, n uint32) {
		records, err := ReadMeta("fuzz", b, 40, n)
		if err != nil {
			if !errors.Is(err, errs.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		again, err := ReadMeta("fuzz", encodeMeta(records), 40, n)
		if err != nil || !reflect.DeepEqual(again, records) {
			t.Fatalf("%+v came back as %+v, %v", records, again, err)
		}
	})
}

// Checkpoints come from stores and metad: bytes of any kind must give one that is written the same again, or an error.
func FuzzDecodeCheckpoint(f *testing.F) {
	f.Add(readGolden(f, "testdata/checkpoint.golden"))
	f.Add(readGolden(f, "testdata/snapshots.golden"))
	c := sampleSnapshots()
	c.Archive = sampleArchive()
	f.Add(EncodeCheckpoint(c))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 4 { // else the sum would hide the decoder
			b = bytes.Clone(b[:len(b)-4])
			sum := codec.CRC(b)
			b = append(b, byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
		}
		c, err := DecodeCheckpoint("fuzz", b)
		if err != nil {
			if !errors.Is(err, errs.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		again, err := DecodeCheckpoint("fuzz", EncodeCheckpoint(c))
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("%+v came back as %+v, %v", c, again, err)
		}
	})
}

// Without this the first segments of a cluster, whose ids and numbers are the
// smallest there are, could be written and not read back.
func TestSmallestSegmentReadsBack(t *testing.T) {
	c := &Checkpoint{Epoch: 1, Blocks: 1, Pages: []PageSegment{{
		Segment: id.MakeSegment(1, 1), Entry: blockmap.Entry{Generation: id.Generation{Epoch: 1, N: 1}, PGVersion: 1, Slots: 1, Live: 1, PG: 1, K: 1, M: 1},
	}}}
	got, err := DecodeCheckpoint("test", EncodeCheckpoint(c))
	if err != nil || len(got.Pages) != 1 || got.Pages[0] != c.Pages[0] {
		t.Fatalf("%+v, %v", got, err)
	}
}
