package blockmap

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/id"
)

// pageStore is where the tests' checkpoints lie.
type pageStore struct {
	pages map[id.Location][]byte
	next  uint64
}

func newPageStore() *pageStore { return &pageStore{pages: map[id.Location][]byte{}, next: 1 << 12} }

func (s *pageStore) allot() id.Location {
	s.next++
	return id.MakeLocation(id.MakeSegment(id.Sequence(s.next>>12), 7), uint16(s.next&4095))
}

// frozen is what Frozen and FrozenTable have in common.
type frozen interface {
	Pages() []Page
	Assign(i int, loc id.Location)
	Encode(i int, dst []byte)
	Root() Root
}

// write gives every page a place and stores it; the places.
func (s *pageStore) write(f frozen) []id.Location {
	var locs []id.Location
	for i := range f.Pages() {
		loc := s.allot()
		f.Assign(i, loc)
		locs = append(locs, loc)
	}
	for i, loc := range locs {
		b := bytes.Repeat([]byte{0xee}, PageSize)
		f.Encode(i, b)
		s.pages[loc] = b
	}
	return locs
}

func (s *pageStore) read(t fataler, miss Miss) []byte {
	b, ok := s.pages[miss.Location]
	if !ok {
		t.Fatalf("page %v wanted at %s, which was displaced", miss.Page, miss.Location)
	}
	return b
}

type fataler interface{ Fatalf(string, ...any) }

// reachable gives all pages of the map tree at root.
func (s *pageStore) reachable(t fataler, root Root) map[id.Location]Page {
	all := map[id.Location]Page{}
	var visit func(p Page, loc id.Location)
	visit = func(p Page, loc id.Location) {
		if was, twice := all[loc]; twice {
			t.Fatalf("%s is both %v and %v", loc, was, p)
		}
		all[loc] = p
		if p.Level == 0 {
			return
		}
		n := &node{level: p.Level, index: p.Index, entries: new(locations)}
		if err := n.decode(s.read(t, Miss{Page: p, Location: loc})); err != nil {
			t.Fatalf("%v", err)
		}
		for j, kid := range n.entries {
			if kid != 0 {
				visit(Page{Level: p.Level - 1, Index: p.Index<<fanoutShift | uint64(j)}, kid)
			}
		}
	}
	if root.Location != 0 {
		visit(Page{Level: root.Height - 1}, root.Location)
	}
	return all
}

// model is a map beside the truth: a Go map of locations.
type model struct {
	m         *Map
	budget    *Budget
	store     *pageStore
	truth     map[block.LBA]id.Location
	committed Root
	loc       uint64

	late []lateFill

	f        *Frozen
	asOf     map[block.LBA]id.Location // the truth at the freeze
	blocks   block.LBA                 // and the size
	written  []id.Location
	displace map[block.LBA]id.Location

	renewed, renewing []id.Location // since the freeze, and before it
}

// lateFill is a page that was read once and may come again at any time.
type lateFill struct {
	miss Miss
	page []byte
}

func (s *model) fill(t *rapid.T, miss Miss) {
	page := s.store.read(t, miss)
	if err := s.m.Fill(miss, page); err != nil {
		t.Fatal(err)
	}
	s.late = append(s.late, lateFill{miss, page})
}

// fillLate hands in pages again that were missing some time ago.
func (s *model) fillLate(t *rapid.T) {
	for range min(len(s.late), 4) {
		l := rapid.SampledFrom(s.late).Draw(t, "late")
		if err := s.m.Fill(l.miss, l.page); err != nil {
			t.Fatal(err)
		}
	}
}

// lba draws addresses close together in a few places far apart, so that pages of
// all levels are shared, split and emptied.
func (s *model) lba(t *rapid.T) block.LBA {
	base := rapid.SampledFrom([]block.LBA{0, 500, 1 << 18, 1<<18 - 3, 1<<27 + 77, 3 << 27}).Draw(t, "base")
	l := base + block.LBA(rapid.IntRange(0, 5).Draw(t, "leaf"))*300 + block.LBA(rapid.IntRange(0, 8).Draw(t, "off"))
	return l % s.m.Blocks()
}

func (s *model) extent(t *rapid.T) block.Extent {
	l := s.lba(t)
	n := rapid.SampledFrom([]uint32{1, 2, 7, 300, 513, 2000, 1 << 29}).Draw(t, "count")
	return block.Extent{Start: l, Count: uint32(min(block.LBA(n), s.m.Blocks()-l))}
}

func (s *model) displaced(lba block.LBA, old id.Location) {
	if _, twice := s.displace[lba]; twice || old == 0 {
		panic(fmt.Sprintf("block %d displaced twice, or from a hole", lba))
	}
	s.displace[lba] = old
}

func (s *model) insert(t *rapid.T) {
	start := s.lba(t)
	n := min(rapid.SampledFrom([]int{1, 1, 1, 3, 40, 700}).Draw(t, "n"), int(s.m.Blocks()-start))
	kind := rapid.IntRange(0, 3).Draw(t, "kind") // all new, some holes, all holes, some as they were
	locs := make([]id.Location, n)
	want := map[block.LBA]id.Location{}
	for i := range locs {
		l := start + block.LBA(i)
		old := s.truth[l]
		switch {
		case kind == 2 || kind == 1 && i%3 != 0:
		case kind == 3 && i%2 == 0:
			locs[i] = old
		default:
			s.loc++
			locs[i] = id.MakeLocation(id.MakeSegment(id.Sequence(s.loc), 3), uint16(i))
		}
		if old != 0 && old != locs[i] {
			want[l] = old
		}
		s.set(l, locs[i])
	}
	s.displace = map[block.LBA]id.Location{}
	for done := 0; ; {
		k, miss := s.m.Insert(start+block.LBA(done), locs[done:], s.displaced)
		if done += k; miss.None() {
			if done != n {
				t.Fatalf("insert stopped at %d of %d without a miss", done, n)
			}
			break
		}
		s.fill(t, miss)
	}
	if !maps.Equal(s.displace, want) {
		t.Fatalf("displaced %v, want %v", s.displace, want)
	}
}

func (s *model) set(l block.LBA, loc id.Location) {
	if loc == 0 {
		delete(s.truth, l)
	} else {
		s.truth[l] = loc
	}
}

func (s *model) clear(t *rapid.T) {
	e := s.extent(t)
	want := map[block.LBA]id.Location{}
	for l, loc := range s.truth {
		if e.Contains(l) {
			want[l] = loc
			delete(s.truth, l)
		}
	}
	s.displace = map[block.LBA]id.Location{}
	for rest := e; ; {
		n, miss := s.m.Clear(rest, s.displaced)
		rest = block.Extent{Start: rest.Start + block.LBA(n), Count: rest.Count - uint32(n)}
		if miss.None() {
			if rest.Count != 0 {
				t.Fatalf("clear left %v without a miss", rest)
			}
			break
		}
		s.fill(t, miss)
	}
	if !maps.Equal(s.displace, want) {
		t.Fatalf("displaced %v, want %v", s.displace, want)
	}
}

// lookup reads a range in the way of the engine: all that is missing at once.
func (s *model) lookup(t *rapid.T) {
	e := s.extent(t)
	e.Count = min(e.Count, 3000)
	for range HeightMax {
		for _, miss := range s.m.Missing([]block.Extent{e}, make([]Miss, 0, 5)) {
			s.fill(t, miss)
		}
	}
	dst := make([]id.Location, e.Count)
	for done := 0; done < len(dst); {
		n, miss := s.m.Lookup(e.Start+block.LBA(done), dst[done:])
		if done += n; !miss.None() {
			s.fill(t, miss)
		}
	}
	for i, loc := range dst {
		if l := e.Start + block.LBA(i); loc != s.truth[l] {
			t.Fatalf("block %d is at %s, want %s", l, loc, s.truth[l])
		}
	}
}

func (s *model) walk(t *rapid.T) { s.same(t, s.m, s.truth) }

// same compares a whole map with the truth by Walk, and by NextRun.
func (s *model) same(t *rapid.T, m *Map, truth map[block.LBA]id.Location) {
	got := map[block.LBA]id.Location{}
	for l := block.LBA(0); l < m.Blocks(); {
		e := block.Extent{Start: l, Count: uint32(min(m.Blocks()-l, 1<<32-1))}
		next, miss := m.Walk(e, func(l block.LBA, loc id.Location) bool {
			got[l] = loc
			return len(got)%1000 != 0
		})
		if l = next; !miss.None() {
			if err := m.Fill(miss, s.store.read(t, miss)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !maps.Equal(got, truth) {
		t.Fatalf("the map has %d blocks, the truth %d, or they differ", len(got), len(truth))
	}
	allocated := 0
	for l := block.LBA(0); l < m.Blocks(); {
		run, is, miss := m.NextRun(block.Extent{Start: l, Count: uint32(min(m.Blocks()-l, 1<<32-1))})
		if !miss.None() {
			if err := m.Fill(miss, s.store.read(t, miss)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if run.Start != l || run.Count == 0 {
			t.Fatalf("run %v from block %d", run, l)
		}
		if is {
			allocated += int(run.Count)
			for ; l < run.End(); l++ {
				if truth[l] == 0 {
					t.Fatalf("block %d is said to be allocated", l)
				}
			}
		}
		l = run.End()
	}
	if allocated != len(truth) {
		t.Fatalf("%d blocks are said to be allocated, want %d", allocated, len(truth))
	}
}

// renew has a page written again that the committed tree has, or asks for one that it has not there.
func (s *model) renew(t *rapid.T) {
	all := s.store.reachable(t, s.committed)
	if len(all) == 0 {
		t.Skip("no pages")
	}
	loc := rapid.SampledFrom(slices.Sorted(maps.Keys(all))).Draw(t, "page")
	p := all[loc]
	if rapid.IntRange(0, 5).Draw(t, "wrong") == 0 {
		p.Index += uint64(rapid.IntRange(1, 600).Draw(t, "off"))
	}
	dirty := s.m.dirty
	for range 10 {
		renewed, miss := s.m.Renew(p, loc)
		if !miss.None() {
			s.fill(t, miss)
			continue
		}
		if renewed != (s.m.dirty > dirty) || renewed && p != all[loc] {
			t.Fatalf("renewed %v: page %v, %d pages are dirty, %d before", renewed, p, s.m.dirty, dirty)
		}
		if again, _ := s.m.Renew(p, loc); again {
			t.Fatalf("page %v is renewed twice", p)
		}
		if renewed {
			s.renewed = append(s.renewed, loc)
		}
		return
	}
	t.Fatalf("page %v is still missing", p)
}

func (s *model) freeze(t *rapid.T) {
	if s.f != nil {
		t.Skip("one is in progress")
	}
	s.renewing, s.renewed = s.renewed, nil
	s.f, s.asOf, s.blocks = s.m.Freeze(), maps.Clone(s.truth), s.m.Blocks()
	s.written = nil
	for i, p := range s.f.Pages() {
		if i > 0 {
			before := s.f.Pages()[i-1]
			if p.Level < before.Level || p.Level == before.Level && p.Index <= before.Index {
				t.Fatalf("page %v comes after %v", p, before)
			}
		}
	}
}

func (s *model) write(t *rapid.T) {
	if s.f == nil || s.written != nil {
		t.Skip("nothing to write")
	}
	s.written = s.store.write(s.f)
}

func (s *model) commit(t *rapid.T) {
	if s.f == nil {
		t.Skip("no freeze")
	}
	if s.written == nil {
		s.written = s.store.write(s.f)
	}
	before := s.store.reachable(t, s.committed)
	root := s.f.Root()
	after := s.store.reachable(t, root)
	for _, loc := range s.renewing {
		if p, stays := after[loc]; stays {
			t.Fatalf("page %v was renewed and is still at %s", p, loc)
		}
	}
	gone := map[id.Location]bool{}
	s.m.Commit(s.f, func(loc id.Location) {
		if gone[loc] {
			t.Fatalf("%s displaced twice", loc)
		}
		gone[loc] = true
	})
	for loc, p := range before {
		if _, stays := after[loc]; stays == gone[loc] {
			t.Fatalf("page %v at %s: still there %v, displaced %v", p, loc, stays, gone[loc])
		}
		delete(gone, loc)
	}
	if len(gone) != 0 {
		t.Fatalf("displaced, but not of the tree before: %v", gone)
	}
	for loc := range before {
		if _, stays := after[loc]; !stays {
			delete(s.store.pages, loc)
		}
	}
	s.committed = root
	again, err := New(Options{Blocks: s.blocks, Root: root, Budget: tight(4)})
	if err != nil {
		t.Fatal(err)
	}
	s.same(t, again, s.asOf)
	for loc, p := range after {
		for {
			got, miss := again.PageAt(p)
			if miss.None() {
				if got != loc && again.height == root.Height {
					t.Fatalf("page %v is at %s, want %s", p, got, loc)
				}
				break
			}
			if err := again.Fill(miss, s.store.read(t, miss)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.f = nil
}

func (s *model) abandon(t *rapid.T) {
	if s.f == nil {
		t.Skip("no freeze")
	}
	s.m.Abandon(s.f)
	s.renewed, s.renewing = append(s.renewed, s.renewing...), nil
	for _, loc := range s.written {
		delete(s.store.pages, loc)
	}
	s.f = nil
}

// reload goes back to the last commit, as after a crash.
func (s *model) reload(t *rapid.T) {
	if st := s.m.Stats(); st.Dirty+st.Gone+st.Frozen != 0 {
		t.Skip("not all is committed")
	}
	if s.f != nil {
		s.commit(t)
	}
	blocks := s.m.Blocks()
	s.m.Close()
	if s.budget.Used() != 0 {
		t.Fatalf("a closed map holds %d pages", s.budget.Used())
	}
	m, err := New(Options{Blocks: blocks, Root: s.committed, Budget: s.budget})
	if err != nil {
		t.Fatal(err)
	}
	s.m = m
}

func (s *model) grow(t *rapid.T) {
	s.m.Grow(rapid.SampledFrom([]block.LBA{1, 512, 513, 5000, 1 << 18, 1<<18 + 1, 1 << 27, 1 << 29}).Draw(t, "blocks"))
}

func tight(limit int64) *Budget { return &Budget{limit: limit, min: 2} }

// check looks at what node promises.
func (s *model) check(t *rapid.T) {
	m := s.m
	pages, dirty, ring := m.kept, 0, 0
	var visit func(n *node)
	visit = func(n *node) {
		pages += n.cost()
		if n.dirty {
			dirty++
		}
		evictable := !n.dirty && !n.frozen && n != m.root
		count, resident := 0, 0
		for j := range n.entries {
			if n.inner == nil || n.inner.kids[j] == nil {
				if n.entries[j] != 0 {
					count++
				}
				continue
			}
			kid := n.inner.kids[j]
			count++
			resident++
			evictable = false
			if kid.level+1 != n.level || kid.index != n.index<<fanoutShift|uint64(j) {
				t.Fatalf("page %v is kid %d of %v", kid.page(), j, n.page())
			}
			if bit := n.inner.dirty[j/64]>>(j%64)&1 == 1; bit != kid.dirty || bit && !n.dirty {
				t.Fatalf("page %v: dirty %v, its bit %v, its parent %v", kid.page(), kid.dirty, bit, n.dirty)
			}
			if !kid.dirty && n.entries[j] != kid.loc && !kid.frozen {
				t.Fatalf("page %v at %s, its parent says %s", kid.page(), kid.loc, n.entries[j])
			}
			visit(kid)
		}
		if count != n.count || count == 0 || n.inner != nil && resident != n.inner.resident {
			t.Fatalf("page %v has %d entries and %d kids, counted otherwise", n.page(), count, resident)
		}
		if evictable != (n.ring >= 0) || evictable && m.ring[n.ring] != n {
			t.Fatalf("page %v: evictable %v, but place %d in the ring", n.page(), evictable, n.ring)
		}
		if n.shared && s.f == nil {
			t.Fatalf("page %v is shared with no freeze", n.page())
		}
		if evictable {
			ring++
		}
	}
	if m.root != nil {
		visit(m.root)
	}
	if s.f == nil && m.kept != 0 {
		t.Fatalf("%d pages are kept for no freeze", m.kept)
	}
	if pages != m.pages || pages != s.budget.Used() || dirty != m.dirty || ring != len(m.ring) {
		t.Fatalf("%d pages, %d dirty, %d in the ring; counted %d (%d), %d, %d",
			pages, dirty, ring, m.pages, s.budget.Used(), m.dirty, len(m.ring))
	}
}

// Without this a checkpoint could lose blocks, hand out blocks of another moment,
// or name pages as garbage that it needs: after every commit the committed tree
// is read back and compared with the array as of its freeze, and what was
// displaced is deleted.
func TestMapIsAnArray(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]int64{1, 6, 20, 1000}).Draw(t, "budget")
		s := &model{budget: tight(limit), store: newPageStore(), truth: map[block.LBA]id.Location{}}
		m, err := New(Options{Blocks: rapid.SampledFrom([]block.LBA{1, 600, 1 << 18, 1 << 29}).Draw(t, "blocks"), Budget: s.budget})
		if err != nil {
			t.Fatal(err)
		}
		s.m = m
		t.Repeat(map[string]func(*rapid.T){
			"insert": s.insert, "insert more": s.insert, "clear": s.clear, "lookup": s.lookup, "walk": s.walk,
			"freeze": s.freeze, "renew": s.renew, "write": s.write, "commit": s.commit, "abandon": s.abandon,
			"reload": s.reload, "grow": s.grow, "fill late": s.fillLate, "shrink": func(*rapid.T) { s.m.Shrink() }, "": s.check,
		})
		if s.f != nil {
			s.commit(t)
		}
		s.freeze(t)
		s.commit(t)
		s.walk(t)
	})
}
