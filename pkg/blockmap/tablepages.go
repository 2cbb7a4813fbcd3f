package blockmap

import (
	"encoding/binary"
	"fmt"
	"slices"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// FrozenTable is all pages of the table as of a freeze; to be used like Frozen.
type FrozenTable struct {
	names  []Page
	pages  []tablePage
	height uint8
}

// tablePage is a leaf, or a page above with pages kids…kids+kidCount-1 below it.
type tablePage struct {
	leaf     *tableLeaf
	loc      id.Location
	kids     int
	kidCount int
}

// Freeze takes the whole table as of now: every checkpoint writes all of it.
// A frozen table that will not be used is simply forgotten.
func (t *Table) Freeze() *FrozenTable {
	t.era++ // whoever writes to a leaf from now on copies it first
	f := new(FrozenTable)
	for _, l := range t.leaves {
		f.names = append(f.names, Page{Index: l.index})
		f.pages = append(f.pages, tablePage{leaf: l})
	}
	if len(t.leaves) == 0 {
		return f
	}
	top := t.leaves[len(t.leaves)-1].index
	f.height = 1
	for start := 0; top > 0; f.height++ {
		top >>= fanoutShift
		end := len(f.names)
		for i := start; i < end; i++ {
			p := Page{Level: f.height, Index: f.names[i].Index >> fanoutShift}
			if n := len(f.names); n == end || f.names[n-1] != p {
				f.names = append(f.names, p)
				f.pages = append(f.pages, tablePage{kids: i})
			}
			f.pages[len(f.pages)-1].kidCount++
		}
		start = end
	}
	return f
}

// Pages lists the pages, children before parents. Not to be changed.
func (f *FrozenTable) Pages() []Page { return f.names }

// Assign says that page i will lie at loc.
func (f *FrozenTable) Assign(i int, loc id.Location) {
	if !loc.Segment().Valid() {
		panic(fmt.Sprintf("blockmap: table page %v at location %#x", f.names[i], uint64(loc)))
	}
	f.pages[i].loc = loc
}

// Encode writes page i (PageSize bytes) into dst. All pages below it must be assigned.
func (f *FrozenTable) Encode(i int, dst []byte) {
	dst = dst[:PageSize]
	p := &f.pages[i]
	clear(dst)
	if p.leaf != nil {
		for j := range p.leaf.entries {
			if e := &p.leaf.entries[j]; e.Generation.Epoch != 0 {
				e.encode(dst[j*entrySize:])
			}
		}
		return
	}
	for k := p.kids; k < p.kids+p.kidCount; k++ {
		if f.pages[k].loc == 0 {
			panic(fmt.Sprintf("blockmap: table page %v has no location yet", f.names[k]))
		}
		binary.LittleEndian.PutUint64(dst[f.names[k].Index&(Fanout-1)*8:], uint64(f.pages[k].loc))
	}
}

func (e *Entry) encode(dst []byte) {
	le := binary.LittleEndian
	le.PutUint64(dst[0:], uint64(e.Generation.Epoch))
	le.PutUint32(dst[8:], e.Generation.N)
	le.PutUint32(dst[12:], e.PGVersion)
	le.PutUint16(dst[16:], e.Slots)
	le.PutUint16(dst[18:], e.Live)
	le.PutUint16(dst[20:], uint16(e.PG))
	dst[22], dst[23], dst[24] = e.K, e.M, uint8(e.Flags)
	le.PutUint16(dst[25:], e.Kept)
	clear(dst[27:entrySize])
}

// Root is the root of the frozen table, once all pages are assigned.
func (f *FrozenTable) Root() Root {
	if len(f.pages) == 0 {
		return Root{}
	}
	return Root{Location: f.pages[len(f.pages)-1].loc, Height: f.height}
}

// Commit says that the checkpoint with f stands; displaced (if not nil) is told
// the locations of all pages of the table that stood before.
func (t *Table) Commit(f *FrozenTable, displaced func(id.Location)) {
	old := t.pages
	t.pages = make([]id.Location, len(f.pages))
	for i := range f.pages {
		if t.pages[i] = f.pages[i].loc; t.pages[i] == 0 {
			panic(fmt.Sprintf("blockmap: commit with table page %v nowhere", f.names[i]))
		}
	}
	if displaced != nil {
		for _, loc := range old {
			displaced(loc)
		}
	}
}

// TableLoader reads a table back from its root, step by step: Missing, Fill what
// it says, until nothing is missing.
type TableLoader struct {
	t       *Table
	pending []Miss
}

// LoadTable starts reading. An error is of class errs.ErrInvalid.
func LoadTable(root Root) (*TableLoader, error) {
	if !root.Valid() {
		return nil, fmt.Errorf("load table at %v: %w", root, errs.ErrInvalid)
	}
	l := &TableLoader{t: NewTable()}
	if root.Location != 0 {
		l.pending = []Miss{{Page: Page{Level: root.Height - 1}, Location: root.Location}}
	}
	return l, nil
}

// Missing appends to dst, up to its capacity, pages to read next; none: all is read.
func (l *TableLoader) Missing(dst []Miss) []Miss {
	return append(dst, l.pending[:min(len(l.pending), cap(dst)-len(dst))]...)
}

// Fill hands in a page; b is not kept. A page that is not missing is ignored.
// Errors are of class errs.ErrCorrupt; nothing has changed then.
func (l *TableLoader) Fill(miss Miss, b []byte) error {
	at := slices.Index(l.pending, miss)
	if at < 0 {
		return nil
	}
	place := fmt.Sprintf("table page %d.%d at %s", miss.Level, miss.Index, miss.Location)
	if len(b) != PageSize {
		return &errs.Corrupt{Place: place, Offset: -1, What: "bytes in a page", Want: PageSize, Got: uint64(len(b))}
	}
	if miss.Level == 0 {
		leaf, err := decodeLeaf(place, miss.Index, b)
		if err != nil {
			return err
		}
		i, found := l.t.find(leaf.index)
		if found {
			panic("blockmap: a leaf of the table was missing twice")
		}
		l.t.leaves = slices.Insert(l.t.leaves, i, leaf)
		l.t.len += leaf.count
	} else {
		kids, err := decodeInner(place, miss.Page, b)
		if err != nil {
			return err
		}
		l.pending = append(l.pending, kids...)
	}
	l.pending = slices.Delete(l.pending, at, at+1)
	l.t.pages = append(l.t.pages, miss.Location)
	return nil
}

// Table gives the table when all pages were filled.
func (l *TableLoader) Table() (*Table, bool) {
	if len(l.pending) > 0 {
		return nil, false
	}
	return l.t, true
}

func decodeLeaf(place string, index uint64, b []byte) (*tableLeaf, error) {
	leaf := &tableLeaf{index: index}
	err := codec.Decode(place, b, func(r *codec.Reader) {
		for i := range leaf.entries {
			e := &leaf.entries[i]
			e.Generation = id.Generation{Epoch: id.Epoch(r.U64()), N: r.U32()}
			e.PGVersion = r.U32()
			e.Slots, e.Live, e.PG = r.U16(), r.U16(), id.PG(r.U16())
			e.K, e.M, e.Flags = r.U8(), r.U8(), Flags(r.U8())
			e.Kept = r.U16()
			r.Zero(5)
			if *e == (Entry{}) {
				continue
			}
			if seq := index<<leafShift | uint64(i); !e.Valid() || seq == 0 || seq > uint64(id.SequenceMax) {
				r.Fail("entry of sequence", 0, seq)
			}
			leaf.count++
		}
		if leaf.count == 0 {
			r.Fail("entries in a page", 1, 0)
		}
	})
	if err != nil {
		return nil, err
	}
	return leaf, nil
}

func decodeInner(place string, p Page, b []byte) ([]Miss, error) {
	var kids []Miss
	for i := range Fanout {
		loc := id.Location(binary.LittleEndian.Uint64(b[i*8:]))
		if loc == 0 {
			continue
		}
		kid := Page{Level: p.Level - 1, Index: p.Index<<fanoutShift | uint64(i)}
		highest := uint64(id.SequenceMax) >> (leafShift + fanoutShift*uint(kid.Level))
		if !loc.Segment().Valid() || kid.Index > highest {
			return nil, &errs.Corrupt{Place: place, Offset: int64(i * 8), What: "location", Want: 1 << 24, Got: uint64(loc)}
		}
		kids = append(kids, Miss{Page: kid, Location: loc})
	}
	if len(kids) == 0 {
		return nil, &errs.Corrupt{Place: place, Offset: -1, What: "entries that are not holes", Want: 1, Got: 0}
	}
	return kids, nil
}
