package blockmap

import (
	"encoding/binary"
	"errors"
	"testing"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// checkpoint gives the bytes of all pages of a freeze in order.
func checkpoint(f frozen) []byte {
	b := make([]byte, len(f.Pages())*PageSize)
	for i := range f.Pages() {
		f.Assign(i, id.MakeLocation(id.MakeSegment(99, 7), uint16(100+i)))
		f.Encode(i, b[i*PageSize:])
	}
	return b
}

// Without this a later version could not open a volume of an earlier one.
func TestPagesKeepTheirBytes(t *testing.T) {
	m, err := New(Options{Blocks: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range []block.LBA{0, 1, 511, 512, 70000, 1<<20 - 1} {
		m.Insert(l, []id.Location{id.MakeLocation(id.MakeSegment(id.Sequence(0x1234500+i), 0xabc), uint16(i))}, nil)
	}
	golden(t, "map.golden", checkpoint(m.Freeze()))

	table := NewTable()
	for i, seq := range []id.Sequence{1, 2, 127, 128, 70000, 1 << 30} {
		table.Put(id.MakeSegment(seq, id.PG(i)), Entry{
			Generation: id.Generation{Epoch: id.Epoch(10 + i), N: uint32(i)}, PGVersion: uint32(20 + i),
			Slots: uint16(4096 - i), Live: uint16(1000 * i % 4000), K: 4, M: 2, Flags: Flags(i % 4),
		})
	}
	golden(t, "table.golden", checkpoint(table.Freeze()))
}

// Without this a map could have a level too few for its blocks.
func TestHeightFollowsTheSize(t *testing.T) {
	for _, c := range []struct {
		blocks block.LBA
		want   uint8
	}{{0, 1}, {1, 1}, {512, 1}, {513, 2}, {1 << 18, 2}, {1<<18 + 1, 3}, {1 << 28, 4}, {block.LBAMax, 5}} {
		if got := HeightFor(c.blocks); got != c.want {
			t.Errorf("%d blocks: height %d, want %d", c.blocks, got, c.want)
		}
	}
}

// Without this a page of something else could be taken for a part of the map.
func TestFillRefusesWhatCannotBeAPage(t *testing.T) {
	root := Root{Location: id.MakeLocation(id.MakeSegment(1, 1), 0), Height: 1}
	m, err := New(Options{Blocks: 100, Root: root})
	if err != nil {
		t.Fatal(err)
	}
	_, miss := m.Lookup(0, make([]id.Location, 1))
	if miss.Location != root.Location || miss.Level != 0 {
		t.Fatalf("the root is missing, said %+v", miss)
	}
	bad := make([]byte, PageSize)
	bad[8] = 1 // a location without a sequence
	for name, b := range map[string][]byte{"short": bad[:100], "empty": make([]byte, PageSize), "no location": bad} {
		if err := m.Fill(miss, b); !errors.Is(err, errs.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st := m.Stats(); st.Pages != 0 {
		t.Errorf("%d pages are held after refusals", st.Pages)
	}
	good := make([]byte, PageSize)
	binary.LittleEndian.PutUint64(good, uint64(root.Location)+1)
	if err := m.Fill(miss, good); err != nil {
		t.Fatal(err)
	}
	if err := m.Fill(miss, bad); err != nil {
		t.Errorf("a page that is not missing any more: %v", err)
	}
	if _, err := New(Options{Blocks: block.LBAMax + 1}); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("too many blocks: %v", err)
	}
}

// Without this maps of many volumes would together hold more than the process may.
func TestMapsShareABudget(t *testing.T) {
	const limit = 256
	budget := NewBudget(limit)
	store := newPageStore()
	var ms [2]*Map
	for i := range ms {
		m, err := New(Options{Blocks: 1 << 20, Budget: budget})
		if err != nil {
			t.Fatal(err)
		}
		for l := range block.LBA(1 << 11) { // every leaf
			m.Insert(l<<9, []id.Location{id.Location(1<<24 + l)}, nil)
		}
		f := m.Freeze()
		store.write(f)
		m.Commit(f, nil)
		ms[i] = m
	}
	ms[0].Shrink()
	if used := budget.Used(); used > limit {
		t.Errorf("%d pages are held, limit %d", used, limit)
	}
	for l := range block.LBA(1 << 11) {
		var dst [1]id.Location
		for {
			n, miss := ms[0].Lookup(l<<9, dst[:])
			if n == 1 {
				break
			}
			if err := ms[0].Fill(miss, store.read(t, miss)); err != nil {
				t.Fatal(err)
			}
		}
		if dst[0] != id.Location(1<<24+l) {
			t.Fatalf("block %d is at %s", l<<9, dst[0])
		}
		if used := budget.Used(); used > limit+4 {
			t.Fatalf("%d pages are held, limit %d", used, limit)
		}
	}
	if pages := ms[0].Stats().Pages; pages < limit/4 {
		t.Errorf("the busy map holds only %d pages of %d", pages, limit)
	}
	for _, m := range ms {
		m.Close()
	}
	if budget.Used() != 0 {
		t.Errorf("closed maps hold %d pages", budget.Used())
	}
}

// Without this every lookup would feed the collector.
func TestLookupAndInsertDoNotAllocate(t *testing.T) {
	m, err := New(Options{Blocks: 1 << 28})
	if err != nil {
		t.Fatal(err)
	}
	var loc [1]id.Location
	next := id.Location(1 << 24)
	displaced := func(block.LBA, id.Location) {}
	if n := testing.AllocsPerRun(100, func() {
		next++
		loc[0] = next
		m.Insert(12345678, loc[:], displaced)
		m.Lookup(12345678, loc[:])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Without this the shell could not encode a checkpoint while the volume serves
// writes (run under -race).
func TestEncodeRunsBesideInserts(t *testing.T) {
	m, err := New(Options{Blocks: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	locs := make([]id.Location, 1<<14)
	for i := range locs {
		locs[i] = id.Location(1<<24 + i)
	}
	m.Insert(0, locs, nil)
	f := m.Freeze()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := checkpoint(f)
		for i := range 1 << 14 {
			if got := binary.LittleEndian.Uint64(b[i*8:]); got != uint64(1<<24+i) {
				t.Errorf("block %d is frozen at %#x", i, got)
				return
			}
		}
	}()
	for i := range locs {
		m.Insert(block.LBA(i), []id.Location{0}, nil)
	}
	m.Insert(5, locs[:100], nil)
	<-done
	m.Commit(f, nil)
}

// Pages come from stores: bytes of any kind must fill a map within its bounds, or be refused.
func FuzzFill(f *testing.F) {
	for page := range 3 {
		f.Add(readGolden(f, "testdata/map.golden", 16*PageSize)[page*PageSize:][:PageSize], uint8(page))
	}
	f.Fuzz(func(t *testing.T, b []byte, level uint8) {
		m, err := New(Options{Blocks: block.LBAMax, Root: Root{Location: 1 << 24, Height: HeightMax}})
		if err != nil {
			t.Fatal(err)
		}
		for range HeightMax { // the same page on every level: a tree of any shape
			n, miss := m.Lookup(0, make([]id.Location, 1))
			if n == 1 {
				break
			}
			if err := m.Fill(miss, b); err != nil {
				if !errors.Is(err, errs.ErrCorrupt) {
					t.Fatal(err)
				}
				return
			}
		}
		m.NextRun(block.Extent{Count: 1 << 20})
	})
}

// Tables of segments come from stores: bytes of any kind must be taken within bounds, or be refused.
func FuzzFillTable(f *testing.F) {
	b := readGolden(f, "testdata/table.golden", 16*PageSize)
	for page := range 8 {
		f.Add(b[page*PageSize:][:PageSize], uint8(page))
	}
	f.Fuzz(func(t *testing.T, b []byte, level uint8) {
		l, err := LoadTable(Root{Location: 1 << 24, Height: level%HeightMax + 1})
		if err != nil {
			t.Fatal(err)
		}
		for _, miss := range l.Missing(make([]Miss, 0, 8)) {
			if err := l.Fill(miss, b); err != nil && !errors.Is(err, errs.ErrCorrupt) {
				t.Fatal(err)
			}
		}
		if table, ok := l.Table(); ok && level%HeightMax == 0 && table.Len() > 0 {
			again := make([]byte, PageSize)
			fz := table.Freeze()
			if fz.Encode(0, again); string(again) != string(b) {
				t.Fatal("a leaf of the table is not written as it was read")
			}
		}
	})
}
