package record

import (
	"errors"
	"fmt"
	"testing"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

func placed(start block.LBA, count uint32, slot uint16) Placed {
	s := id.MakeSegment(0x123456, 0xabc)
	return Placed{Extent: block.Extent{Start: start, Count: count}, Segment: s, FirstSlot: slot, Entry: blockmap.Entry{
		Generation: id.Generation{Epoch: 7, N: 2}, PGVersion: 300, Slots: 4096, Live: 4096, PG: s.PG(), K: 4, M: 2}}
}

// sample has a record of every kind, with what is hard about them.
func sample() []Journal {
	records := []Journal{
		{Kind: Write, Extent: block.Extent{Start: 1000, Count: 1}},
		{Kind: Write, Extent: block.Extent{Start: 1001, Count: 15}},
		{Kind: Write, Extent: block.Extent{Start: 7, Count: 16}},
		{Kind: Zero, Extent: block.Extent{Start: 0, Count: 1<<32 - 1}},
		{Kind: Zero, Extent: block.Extent{Start: block.LBAMax - 1, Count: 1}, NoHole: true},
		{Kind: Trim, Extent: block.Extent{Start: 0, Count: 3}},
		{Kind: Mark, Mark: SnapshotMark{Snapshot: id.Raw{1, 15: 2}}},
		{Kind: Mark, Mark: SnapshotMark{Snapshot: id.Raw{3}, Group: id.Raw{4}}},
		{Kind: Index, Extent: block.Extent{Start: 1 << 30, Count: 4000}, Placed: placed(1<<30, 4000, 96)},
		{Kind: Write, Extent: block.Extent{Start: 1<<30 + 4000, Count: 512}},
	}
	payload := 0
	for i := range records {
		r := &records[i]
		r.LSN = id.LSN(500 + i)
		if r.Kind == Write {
			r.Payload = payload
			payload += int(r.Extent.Count)
		}
	}
	return records
}

func encode(t testing.TB, records []Journal) ([]byte, *JournalWriter) {
	w := new(JournalWriter)
	var b []byte
	for i := range records {
		r := &records[i]
		switch r.Kind {
		case Write:
			b = w.Write(b, r.Extent)
		case Zero:
			b = w.Zero(b, r.Extent, r.NoHole)
		case Trim:
			b = w.Trim(b, r.Extent)
		case Mark:
			b = w.Mark(b, r.Mark)
		case Index:
			b = w.Index(b, r.Placed)
		default:
			t.Fatal("kind", r.Kind)
		}
	}
	return b, w
}

func decode(meta []byte, first id.LSN, count uint32, blocks int) ([]Journal, error) {
	r := ReadJournal("test", meta, first, count, blocks)
	var records []Journal
	for j := (Journal{Payload: 99, NoHole: true}); r.Next(&j); {
		records = append(records, j)
	}
	if r.Next(new(Journal)) {
		return nil, errors.New("a record after the end")
	}
	return records, r.Err()
}

// Without this a write would be replayed elsewhere, or not at all.
func TestJournalRecordsSurviveTheirBytes(t *testing.T) {
	records := sample()
	b, w := encode(t, records)
	if int(w.Count()) != len(records) || w.Blocks() != 1+15+16+512 {
		t.Fatalf("%d records, %d blocks", w.Count(), w.Blocks())
	}
	golden(t, "journal.golden", b)
	got, err := decode(b, 500, w.Count(), w.Blocks())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(records) {
		t.Fatalf("%d records came back", len(got))
	}
	for i := range got {
		if got[i] != records[i] {
			t.Errorf("%+v came back as %+v", records[i], got[i])
		}
	}
}

// Without this damage that keeps the batch's sum (our own mistake) would be replayed in part.
func TestJournalReaderWantsExactlyTheBatch(t *testing.T) {
	b, w := encode(t, sample())
	for name, c := range map[string]struct {
		meta   []byte
		count  uint32
		blocks int
	}{
		"one record less":  {b, w.Count() - 1, w.Blocks()},
		"one record more":  {b, w.Count() + 1, w.Blocks()},
		"one block less":   {b, w.Count(), w.Blocks() - 1},
		"one block more":   {b, w.Count(), w.Blocks() + 1},
		"cut":              {b[:len(b)-1], w.Count(), w.Blocks()},
		"more bytes":       {append(b[:len(b):len(b)], 0), w.Count(), w.Blocks()},
		"nothing":          {nil, w.Count(), w.Blocks()},
		"another version":  {append([]byte{2}, b[1:]...), w.Count(), w.Blocks()},
		"unknown kind":     {[]byte{1, 0x16, 2}, 1, 0},
		"kind zero":        {[]byte{1, 0x10, 2}, 1, 0},
		"flag on a trim":   {[]byte{1, 0x1b, 2}, 1, 0},
		"below block zero": {[]byte{1, 0x13, 1}, 1, 0},
		"empty extent":     {[]byte{1, 0x03, 0, 2}, 1, 0},
	} {
		if _, err := decode(c.meta, 500, c.count, c.blocks); !errors.Is(err, errs.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Without this a record could be acknowledged that nobody can read back.
func TestWriterPanicsAtWhatAReaderRefuses(t *testing.T) {
	for name, f := range map[string]func(*JournalWriter){
		"empty":       func(w *JournalWriter) { w.Write(nil, block.Extent{Start: 1}) },
		"beyond":      func(w *JournalWriter) { w.Trim(nil, block.Extent{Start: block.LBAMax - 1, Count: 2}) },
		"too long":    func(w *JournalWriter) { w.Index(nil, placed(1, 4000, 97)) },
		"bad segment": func(w *JournalWriter) { w.Index(nil, Placed{Extent: block.Extent{Count: 1}}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f(new(JournalWriter))
		}()
	}
}

// batch is a typical one: 32 writes of a block anywhere in 1 TiB.
func batch() []block.Extent {
	extents := make([]block.Extent, 32)
	x := uint64(1)
	for i := range extents {
		x = x*6364136223846793005 + 1442695040888963407
		extents[i] = block.Extent{Start: block.LBA(x >> 36), Count: 1}
	}
	return extents
}

// Without this the records would cost more of the log than they should, and the collector more than nothing.
func TestTypicalBatchIsSmallAndDoesNotAllocate(t *testing.T) {
	extents := batch()
	b := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() {
		var w JournalWriter
		b = b[:0]
		for _, e := range extents {
			b = w.Write(b, e)
		}
		r := ReadJournal("test", b, 1, w.Count(), w.Blocks())
		var j Journal
		for r.Next(&j) {
			if j.Extent != extents[j.Payload] {
				t.Fatal(j)
			}
		}
		if r.Err() != nil {
			t.Fatal(r.Err())
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if len(b) > 7*len(extents) {
		t.Errorf("%d bytes for %d writes", len(b), len(extents))
	}
}

// Journals are read back after crashes: bytes of any kind must give records that were written so, or an error.
func FuzzReadJournal(f *testing.F) {
	b := readGolden(f, "testdata/journal.golden")
	f.Add(b, uint32(10), 544)
	f.Add([]byte{1, 0x11, 2}, uint32(1), 1)
	f.Fuzz(func(t *testing.T, b []byte, count uint32, blocks int) {
		records, err := decode(b, 1, count, blocks&0xffff)
		if err != nil {
			if !errors.Is(err, errs.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if len(records) == 0 {
			return
		}
		again, w := encode(t, records)
		got, err := decode(again, 1, w.Count(), w.Blocks())
		if err != nil || fmt.Sprint(got) != fmt.Sprint(records) {
			t.Fatalf("%v came back as %v, %v", records, got, err)
		}
	})
}

func BenchmarkJournal32(b *testing.B) {
	extents := batch()
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		var w JournalWriter
		buf = buf[:0]
		for _, e := range extents {
			buf = w.Write(buf, e)
		}
	}
}
