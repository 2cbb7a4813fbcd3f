package blockmap

import (
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/id"
)

// Options say what map to open.
type Options struct {
	Blocks block.LBA // size of the volume
	Root   Root      // of the last checkpoint; zero for a new volume
	Budget *Budget   // nil: a budget of its own of BudgetDefault pages
}

// BudgetDefault is the limit of a map opened without a budget, in pages: 64 MiB.
const BudgetDefault = 16 << 10

// Map is the block map of one volume, LBA to location.
type Map struct{}

// New opens a map. An error is of class errs.ErrInvalid.
func New(o Options) (*Map, error) { panic("blockmap: being written") }

// Blocks is the size of the volume.
func (m *Map) Blocks() block.LBA { panic("blockmap: being written") }

// Grow makes room for a larger volume. A smaller size changes nothing.
func (m *Map) Grow(blocks block.LBA) { panic("blockmap: being written") }

// Lookup writes the locations of consecutive blocks from start on into dst and
// gives how many it could; when it stops short, at the miss, the caller fills
// that page and goes on from start+n. The whole range must lie in the volume.
func (m *Map) Lookup(start block.LBA, dst []id.Location) (n int, miss Miss) {
	panic("blockmap: being written")
}

// Displaced is told of a location that an insert or clear took the place of.
type Displaced func(lba block.LBA, old id.Location)

// Insert sets the locations of consecutive blocks, 0 for a hole, and tells
// displaced (if not nil) of every location that was there and is another now.
// It does as much as it can, gives how many, and where it stopped; repeating a
// part already done is harmless. A hole makes no pages; a page that has become
// all holes goes.
func (m *Map) Insert(start block.LBA, locs []id.Location, displaced Displaced) (n int, miss Miss) {
	panic("blockmap: being written")
}

// Clear makes holes of a whole extent, quickly where there are holes already. n is in blocks.
func (m *Map) Clear(e block.Extent, displaced Displaced) (n int, miss Miss) {
	panic("blockmap: being written")
}

// Missing appends to dst, up to its capacity, the pages not in memory that an
// operation on the extents will meet next, so that they can be read in parallel.
// Pages below a missing one show only when that one is filled.
func (m *Map) Missing(extents []block.Extent, dst []Miss) []Miss { panic("blockmap: being written") }

// Fill puts the page read for a miss into its place. b is not kept. A page that
// the map no longer misses there is ignored. The bytes must have been checked;
// a page that cannot be one gives an error of class errs.ErrCorrupt.
func (m *Map) Fill(miss Miss, b []byte) error { panic("blockmap: being written") }

// NextRun gives the longest run of blocks from the start of e, within e and a
// bounded amount of work, that are all allocated or all holes. A miss means
// that not even the first block is known.
func (m *Map) NextRun(e block.Extent) (run block.Extent, allocated bool, miss Miss) {
	panic("blockmap: being written")
}

// Walk calls fn for every allocated block of e in order, until fn gives false or a
// page is missing. Next is where to go on; it is e.End() when all is done.
func (m *Map) Walk(e block.Extent, fn func(block.LBA, id.Location) bool) (next block.LBA, miss Miss) {
	panic("blockmap: being written")
}

// PageAt gives the location at which a page of the head lies since the last
// checkpoint; 0 if it has none (not there, or new since).
func (m *Map) PageAt(p Page) (id.Location, Miss) { panic("blockmap: being written") }

// Stats counts pages in memory.
type Stats struct {
	Pages  int // all, as the budget counts them
	Dirty  int // changed since the last freeze: what the next checkpoint must write
	Frozen int // held by the freeze in progress
}

// Stats gives the counts.
func (m *Map) Stats() Stats { panic("blockmap: being written") }

// Shrink evicts clean pages if the budget is overdrawn and this map holds more
// than its share. Maps do so by themselves when they read; an idle one needs to be told.
func (m *Map) Shrink() { panic("blockmap: being written") }

// Close gives all pages back to the budget. The map must not be used any more.
func (m *Map) Close() { panic("blockmap: being written") }
