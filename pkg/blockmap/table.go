package blockmap

import "ashlar.dev/pkg/id"

// Flags of a segment's entry.
type Flags uint8

// The flags. Values are part of the format.
const (
	// Foreign: restored from the archive and not yet rewritten; readers check its
	// shards under the archived id. No code sets it yet; the bit is taken.
	Foreign Flags = 1 << iota
	// Pages: its slots hold pages, not data.
	Pages
	flagsAll = Foreign | Pages
)

// Entry is what a volume knows of one of its segments. Generation's epoch is never zero.
type Entry struct {
	Generation id.Generation
	PGVersion  uint32 // of the placement group it was coded under
	Slots      uint16
	Live       uint16 // slots that the head still refers to
	PG         id.PG  // set by the table from the segment's id
	K, M       uint8
	Flags      Flags
}

// ShardsMax bounds K+M of an entry.
const ShardsMax = 32

// Valid tells whether e can be an entry of a table.
func (e Entry) Valid() bool {
	return e.Generation.Epoch != 0 && e.Slots >= 1 && e.Slots <= id.SlotsMax && e.Live <= e.Slots &&
		e.PG <= id.PGMax && e.K >= 1 && int(e.K)+int(e.M) <= ShardsMax && e.Flags&^flagsAll == 0
}

// Table has the entries of a volume's segments, all in memory (32 bytes for each
// segment and some for sparse ranges of ids).
type Table struct{}

// NewTable gives an empty table.
func NewTable() *Table { panic("blockmap: being written") }

// Len is the number of segments.
func (t *Table) Len() int { panic("blockmap: being written") }

// Get gives the entry of s.
func (t *Table) Get(s id.Segment) (Entry, bool) { panic("blockmap: being written") }

// Put sets the entry of s. It panics if s or e is not valid.
func (t *Table) Put(s id.Segment, e Entry) { panic("blockmap: being written") }

// Delete removes s; false if it was not there.
func (t *Table) Delete(s id.Segment) bool { panic("blockmap: being written") }

// AddLive changes the live count of s and gives the new one; false if s is not in
// the table. It panics if the count would leave 0…Slots: a count that is too low
// would have live data deleted.
func (t *Table) AddLive(s id.Segment, delta int) (live uint16, ok bool) {
	panic("blockmap: being written")
}

// Range calls fn for all segments from sequence from on, ascending, until fn gives false.
// fn must not change the table.
func (t *Table) Range(from id.Sequence, fn func(id.Segment, Entry) bool) {
	panic("blockmap: being written")
}

// Dead appends to dst, up to its capacity, segments from sequence from on with no live slot.
func (t *Table) Dead(from id.Sequence, dst []id.Segment) []id.Segment {
	panic("blockmap: being written")
}

// FrozenTable is all pages of the table as of a freeze; to be used like Frozen.
type FrozenTable struct{}

// Freeze takes the whole table as of now: every checkpoint writes all of it.
// A frozen table that will not be used is simply forgotten.
func (t *Table) Freeze() *FrozenTable { panic("blockmap: being written") }

// Pages lists the pages, children before parents. Not to be changed.
func (f *FrozenTable) Pages() []Page { panic("blockmap: being written") }

// Assign says that page i will lie at loc.
func (f *FrozenTable) Assign(i int, loc id.Location) { panic("blockmap: being written") }

// Encode writes page i (PageSize bytes) into dst. All pages below it must be assigned.
func (f *FrozenTable) Encode(i int, dst []byte) { panic("blockmap: being written") }

// Root is the root of the frozen table, once all pages are assigned.
func (f *FrozenTable) Root() Root { panic("blockmap: being written") }

// Commit says that the checkpoint with f stands; displaced (if not nil) is told
// the locations of all pages of the table that stood before.
func (t *Table) Commit(f *FrozenTable, displaced func(id.Location)) {
	panic("blockmap: being written")
}

// TableLoader reads a table back from its root, step by step.
type TableLoader struct{}

// LoadTable starts reading. An error is of class errs.ErrInvalid.
func LoadTable(root Root) (*TableLoader, error) { panic("blockmap: being written") }

// Missing appends to dst, up to its capacity, pages to read next; none: all is read.
func (l *TableLoader) Missing(dst []Miss) []Miss { panic("blockmap: being written") }

// Fill hands in a page; b is not kept. Errors are of class errs.ErrCorrupt.
func (l *TableLoader) Fill(miss Miss, b []byte) error { panic("blockmap: being written") }

// Table gives the table when all pages were filled.
func (l *TableLoader) Table() (*Table, bool) { panic("blockmap: being written") }
