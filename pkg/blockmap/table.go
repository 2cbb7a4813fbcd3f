package blockmap

import (
	"fmt"
	"slices"

	"ashlar.dev/pkg/id"
)

// Flags of a segment's entry.
type Flags uint8

// The flags. Values are part of the format.
const (
	// Foreign is taken and never set: a segment that lies in an archive is in no table.
	Foreign Flags = 1 << iota
	// Pages: its slots hold pages, not data.
	Pages
	// Older: shards of an older generation may still be there; whoever opens the volume deletes them.
	Older
	flagsAll = Foreign | Pages | Older
)

// Entry is what a volume knows of one of its segments. Generation's epoch is never zero.
type Entry struct {
	Generation id.Generation
	PGVersion  uint32 // of the placement group it was coded under
	Slots      uint16
	Live       uint16 // slots that the head still refers to
	Kept       uint16 // slots that this generation has blocks of; 0: all
	PG         id.PG  // set by the table from the segment's id
	K, M       uint8
	Flags      Flags
}

// ShardsMax bounds K+M of an entry.
const ShardsMax = 32

// Stored is the slots that the generation has blocks of.
func (e Entry) Stored() uint16 {
	if e.Kept > 0 {
		return e.Kept
	}
	return e.Slots
}

// Valid tells whether e can be an entry of a table.
func (e Entry) Valid() bool {
	return e.Generation.Epoch != 0 && e.Slots >= 1 && e.Slots <= id.SlotsMax && e.Live <= e.Stored() && e.Kept < e.Slots &&
		e.PG <= id.PGMax && e.K >= 1 && int(e.K)+int(e.M) <= ShardsMax && e.Flags&^flagsAll == 0
}

const (
	leafShift = 7
	leafSize  = 1 << leafShift // entries of a leaf
	entrySize = PageSize / leafSize
)

// TableLeafEntries is how many segments share a leaf of the table.
const TableLeafEntries = leafSize

// tableLeaf has the entries of leafSize sequences in a row. An absent one is zero.
type tableLeaf struct {
	index   uint64
	era     uint64 // of the table when it was made or copied: frozen if the table's is later
	count   int
	entries [leafSize]Entry
}

// Table has the entries of a volume's segments, all in memory (32 bytes for each
// segment and some for sparse ranges of ids).
type Table struct {
	leaves []*tableLeaf // ascending, none empty
	last   int          // where find found one last
	len    int
	era    uint64        // counts freezes
	pages  []id.Location // where the committed table lies
}

// NewTable gives an empty table.
func NewTable() *Table { return new(Table) }

// Len is the number of segments.
func (t *Table) Len() int { return t.len }

// find gives the place of the leaf of an index, or where it would have to be.
func (t *Table) find(index uint64) (int, bool) {
	if t.last < len(t.leaves) && t.leaves[t.last].index == index {
		return t.last, true
	}
	lo, hi := 0, len(t.leaves)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if t.leaves[mid].index < index {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(t.leaves) || t.leaves[lo].index != index {
		return lo, false
	}
	t.last = lo
	return lo, true
}

func split(s id.Segment) (index uint64, slot int) {
	seq := uint64(s.Sequence())
	return seq >> leafShift, int(seq & (leafSize - 1))
}

// lookup gives the leaf of s and the entry's place there, if s is in the table.
func (t *Table) lookup(s id.Segment) (leaf, slot int, ok bool) {
	index, slot := split(s)
	leaf, ok = t.find(index)
	if !ok {
		return 0, 0, false
	}
	e := &t.leaves[leaf].entries[slot]
	return leaf, slot, e.Generation.Epoch != 0 && e.PG == s.PG()
}

// Get gives the entry of s.
func (t *Table) Get(s id.Segment) (Entry, bool) {
	leaf, slot, ok := t.lookup(s)
	if !ok {
		return Entry{}, false
	}
	return t.leaves[leaf].entries[slot], true
}

// own gives a leaf that no freeze has.
func (t *Table) own(i int) *tableLeaf {
	if t.leaves[i].era != t.era {
		l := *t.leaves[i]
		l.era = t.era
		t.leaves[i] = &l
	}
	return t.leaves[i]
}

// Put sets the entry of s. It panics if s or e is not valid.
func (t *Table) Put(s id.Segment, e Entry) {
	e.PG = s.PG()
	if !s.Valid() || !e.Valid() {
		panic(fmt.Sprintf("blockmap: put segment %s with entry %+v", s, e))
	}
	index, slot := split(s)
	i, ok := t.find(index)
	if !ok {
		t.leaves = slices.Insert(t.leaves, i, &tableLeaf{index: index, era: t.era})
	}
	l := t.own(i)
	switch was := &l.entries[slot]; {
	case was.Generation.Epoch == 0:
		l.count++
		t.len++
	case was.PG != e.PG:
		panic(fmt.Sprintf("blockmap: put segment %s, but its sequence is in placement group %d", s, was.PG))
	}
	l.entries[slot] = e
}

// Delete removes s; false if it was not there.
func (t *Table) Delete(s id.Segment) bool {
	i, slot, ok := t.lookup(s)
	if !ok {
		return false
	}
	l := t.own(i)
	l.entries[slot] = Entry{}
	l.count--
	t.len--
	if l.count == 0 {
		t.leaves = slices.Delete(t.leaves, i, i+1)
	}
	return true
}

// AddLive changes the live count of s and gives the new one; false if s is not in
// the table. It panics if the count would leave 0…Stored: a count that is too low
// would have live data deleted.
func (t *Table) AddLive(s id.Segment, delta int) (live uint16, ok bool) {
	i, slot, ok := t.lookup(s)
	if !ok {
		return 0, false
	}
	e := &t.own(i).entries[slot]
	n := int(e.Live) + delta
	if n < 0 || n > int(e.Stored()) {
		panic(fmt.Sprintf("blockmap: segment %s with %d live of %d slots", s, n, e.Stored()))
	}
	e.Live = uint16(n)
	return e.Live, true
}

// Range calls fn for all segments from sequence from on, ascending, until fn gives false.
// fn must not change the table.
func (t *Table) Range(from id.Sequence, fn func(id.Segment, Entry) bool) {
	i, _ := t.find(uint64(from) >> leafShift)
	for _, l := range t.leaves[i:] {
		for slot := range l.entries {
			e := &l.entries[slot]
			seq := id.Sequence(l.index<<leafShift | uint64(slot))
			if seq < from || e.Generation.Epoch == 0 {
				continue
			}
			if !fn(id.MakeSegment(seq, e.PG), *e) {
				return
			}
		}
	}
}

// Dead appends to dst, up to its capacity, segments from sequence from on with no live slot.
func (t *Table) Dead(from id.Sequence, dst []id.Segment) []id.Segment {
	if len(dst) == cap(dst) {
		return dst
	}
	t.Range(from, func(s id.Segment, e Entry) bool {
		if e.Live == 0 {
			dst = append(dst, s)
		}
		return len(dst) < cap(dst)
	})
	return dst
}
