package blockmap

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// load reads a table back; the store's pages in whatever order the loader wants them, in small lots.
func load(t fataler, s *pageStore, root Root) *Table {
	l, err := LoadTable(root)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for {
		missing := l.Missing(make([]Miss, 0, 3))
		if len(missing) == 0 {
			break
		}
		slices.Reverse(missing)
		for _, miss := range missing {
			if _, early := l.Table(); early {
				t.Fatalf("a table with pages missing")
			}
			for range 2 { // a page that comes twice does no harm
				if err := l.Fill(miss, s.read(t, miss)); err != nil {
					t.Fatalf("%v", err)
				}
			}
		}
	}
	table, ok := l.Table()
	if !ok {
		t.Fatalf("nothing is missing, but there is no table")
	}
	return table
}

func contents(t *Table) map[id.Segment]Entry {
	all := map[id.Segment]Entry{}
	var last id.Segment
	t.Range(0, func(s id.Segment, e Entry) bool {
		if s <= last {
			panic("out of order")
		}
		last = s
		all[s] = e
		return true
	})
	return all
}

type tableModel struct {
	t     *Table
	store *pageStore
	truth map[id.Segment]Entry

	f         *FrozenTable
	asOf      map[id.Segment]Entry
	committed []id.Location
}

func (m *tableModel) segment(t *rapid.T) id.Segment {
	base := rapid.SampledFrom([]uint64{1, 120, 1 << 16, 1<<16 + 3, 1 << 30, 1<<40 - 10}).Draw(t, "base")
	seq := id.Sequence(base + rapid.Uint64Range(0, 9).Draw(t, "off"))
	return id.MakeSegment(seq, id.PG(seq)&id.PGMax)
}

func (m *tableModel) entry(t *rapid.T) Entry {
	slots := rapid.Uint16Range(1, id.SlotsMax).Draw(t, "slots")
	kept := rapid.Uint16Range(0, slots-1).Draw(t, "kept")
	return Entry{
		Generation: id.Generation{Epoch: id.Epoch(rapid.Uint64Range(1, 1<<50).Draw(t, "epoch")), N: rapid.Uint32().Draw(t, "n")},
		PGVersion:  rapid.Uint32().Draw(t, "version"), Slots: slots, Kept: kept, Live: rapid.Uint16Range(0, Entry{Slots: slots, Kept: kept}.Stored()).Draw(t, "live"),
		K: 4, M: 2, Flags: Flags(rapid.IntRange(0, 7).Draw(t, "flags")),
	}
}

func (m *tableModel) put(t *rapid.T) {
	s := m.segment(t)
	e := m.entry(t)
	m.t.Put(s, e)
	e.PG = s.PG()
	m.truth[s] = e
}

func (m *tableModel) delete(t *rapid.T) {
	s := m.segment(t)
	_, there := m.truth[s]
	if m.t.Delete(s) != there {
		t.Fatalf("delete %s: there %v", s, there)
	}
	delete(m.truth, s)
}

func (m *tableModel) addLive(t *rapid.T) {
	s := m.segment(t)
	e, there := m.truth[s]
	delta := rapid.IntRange(-int(e.Live), int(e.Stored())-int(e.Live)).Draw(t, "delta")
	live, ok := m.t.AddLive(s, delta)
	if ok != there || ok && int(live) != int(e.Live)+delta {
		t.Fatalf("add %d to %s: %d, %v", delta, s, live, ok)
	}
	if there {
		e.Live = live
		m.truth[s] = e
	}
}

func (m *tableModel) freeze(*rapid.T) { m.f, m.asOf = m.t.Freeze(), maps.Clone(m.truth) }

func (m *tableModel) commit(t *rapid.T) {
	if m.f == nil {
		t.Skip("no freeze")
	}
	locs := m.store.write(m.f)
	var gone []id.Location
	m.t.Commit(m.f, func(loc id.Location) { gone = append(gone, loc) })
	slices.Sort(gone)
	slices.Sort(m.committed)
	if !slices.Equal(gone, m.committed) {
		t.Fatalf("displaced %v, want %v", gone, m.committed)
	}
	for _, loc := range gone {
		delete(m.store.pages, loc)
	}
	m.committed = locs
	again := load(t, m.store, m.f.Root())
	if got := contents(again); !maps.Equal(got, m.asOf) || again.Len() != len(m.asOf) {
		t.Fatalf("read back %d segments of %d, or other ones", len(got), len(m.asOf))
	}
	if rapid.Bool().Draw(t, "restart") {
		m.t, m.truth = again, maps.Clone(m.asOf)
	}
	m.f = nil
}

func (m *tableModel) check(t *rapid.T) {
	if !maps.Equal(contents(m.t), m.truth) || m.t.Len() != len(m.truth) {
		t.Fatalf("the table has %d segments, the truth %d, or they differ", m.t.Len(), len(m.truth))
	}
	var dead []id.Segment
	for s, e := range m.truth {
		if got, ok := m.t.Get(s); !ok || got != e {
			t.Fatalf("%s: %+v, want %+v", s, got, e)
		}
		if _, ok := m.t.Get(s ^ 1); ok {
			t.Fatalf("%s is found under another placement group", s)
		}
		if e.Live == 0 {
			dead = append(dead, s)
		}
	}
	slices.Sort(dead)
	dead = dead[:min(len(dead), 2)]
	if got := m.t.Dead(0, make([]id.Segment, 0, 2)); !slices.Equal(got, dead) {
		t.Fatalf("dead %v, want %v", got, dead)
	}
}

// Without this a segment's place could be lost with a checkpoint, or a live one deleted.
func TestTableIsAGoMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &tableModel{t: NewTable(), store: newPageStore(), truth: map[id.Segment]Entry{}}
		t.Repeat(map[string]func(*rapid.T){
			"put": m.put, "put more": m.put, "delete": m.delete, "live": m.addLive,
			"freeze": m.freeze, "commit": m.commit, "": m.check,
		})
	})
}

// Without this a wrong count would pass in silence until live data is deleted.
func TestTablePanicsAtABrokenPromise(t *testing.T) {
	good := Entry{Generation: id.Generation{Epoch: 1}, Slots: 10, Live: 1, K: 1, M: 2}
	s := id.MakeSegment(5, 1)
	for name, f := range map[string]func(*Table){
		"live below zero":       func(t *Table) { t.AddLive(s, -2) },
		"live above slots":      func(t *Table) { t.AddLive(s, 10) },
		"no epoch":              func(t *Table) { t.Put(s, Entry{Slots: 1, K: 1}) },
		"no sequence":           func(t *Table) { t.Put(5, good) },
		"a sequence of two PGs": func(t *Table) { t.Put(s+1, good) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			table := NewTable()
			table.Put(s, good)
			f(table)
		}()
	}
	if _, err := LoadTable(Root{Location: 1 << 30}); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("a root without height: %v", err)
	}
}
