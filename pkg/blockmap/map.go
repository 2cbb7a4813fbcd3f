package blockmap

import (
	"fmt"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
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
type Map struct {
	blocks  block.LBA
	height  uint8
	root    *node       // nil: not in memory, or the tree is empty
	rootLoc id.Location // while root is nil: where it lies, 0 for an empty tree

	dirty  int           // dirty nodes
	frozen *Frozen       // the freeze in progress
	gone   []id.Location // pages of the last commit that left the tree since the last freeze

	budget *Budget
	pages  int          // held, by cost
	kept   int          // of these, held by the freeze alone
	ring   []*node      // pages that may be evicted
	hand   int          // the clock's
	spare  []*locations // for new nodes
}

// New opens a map. An error is of class errs.ErrInvalid.
func New(o Options) (*Map, error) {
	if !o.Root.Valid() || o.Blocks > block.LBAMax {
		return nil, fmt.Errorf("open map of %d blocks at %v: %w", o.Blocks, o.Root, errs.ErrInvalid)
	}
	if o.Budget == nil {
		o.Budget = NewBudget(BudgetDefault)
	}
	m := &Map{budget: o.Budget, height: 1, rootLoc: o.Root.Location}
	if o.Root.Location != 0 {
		m.height = o.Root.Height
	}
	m.budget.maps.Add(1)
	m.Grow(o.Blocks)
	return m, nil
}

// Close gives all pages back to the budget. The map must not be used any more.
func (m *Map) Close() {
	m.account(-m.pages)
	m.budget.maps.Add(-1)
	*m = Map{budget: m.budget}
}

// Blocks is the size of the volume.
func (m *Map) Blocks() block.LBA { return m.blocks }

// Grow makes room for a larger volume. A smaller size changes nothing.
func (m *Map) Grow(blocks block.LBA) {
	m.blocks = max(m.blocks, blocks)
	for m.height < HeightFor(m.blocks) {
		m.height++
		if m.root == nil && m.rootLoc == 0 {
			continue
		}
		old := m.root
		top := m.newNode(m.height-1, 0)
		top.count = 1
		m.mark(top)
		m.root = top
		if old == nil {
			top.entries[0], m.rootLoc = m.rootLoc, 0
			continue
		}
		top.entries[0] = old.loc
		top.inner.kids[0] = old
		top.inner.resident = 1
		if old.dirty {
			top.inner.dirty[0] = 1
		}
		m.settle(old)
	}
}

// check panics at a range beyond the volume: bounds are the caller's to check.
func (m *Map) check(start block.LBA, count uint64) {
	if start > m.blocks || count > uint64(m.blocks-start) {
		panic(fmt.Sprintf("blockmap: %d blocks at %d of a volume of %d", count, start, m.blocks))
	}
}

// Lookup writes the locations of consecutive blocks from start on into dst and
// gives how many it could; when it stops short, at the miss, the caller fills
// that page and goes on from start+n. The whole range must lie in the volume.
func (m *Map) Lookup(start block.LBA, dst []id.Location) (n int, miss Miss) {
	m.check(start, uint64(len(dst)))
	for n < len(dst) {
		l := start + block.LBA(n)
		leaf, end, miss := m.find(l)
		if !miss.None() {
			return n, miss
		}
		part := dst[n:min(len(dst), n+int(end-l))]
		if leaf != nil {
			copy(part, leaf.entries[slot(l, 0):])
		} else {
			clear(part)
		}
		n += len(part)
	}
	return n, Miss{}
}

// Displaced is told of a location that an insert or clear took the place of. It
// must not use the map.
type Displaced func(lba block.LBA, old id.Location)

// Insert sets the locations of consecutive blocks, 0 for a hole, and tells
// displaced (if not nil) of every location that was there and is another now.
// It does as much as it can, gives how many, and where it stopped; repeating a
// part already done is harmless. A hole makes no pages; a page that has become
// all holes goes.
func (m *Map) Insert(start block.LBA, locs []id.Location, displaced Displaced) (n int, miss Miss) {
	m.check(start, uint64(len(locs)))
	for n < len(locs) {
		l := start + block.LBA(n)
		leaf, end, miss := m.find(l)
		if !miss.None() {
			return n, miss
		}
		part := locs[n:min(len(locs), n+int(end-l))]
		if leaf != nil {
			m.set(leaf, l, part, displaced)
			n += len(part)
			continue
		}
		holes := 0
		for holes < len(part) && part[holes] == 0 {
			holes++
		}
		if n += holes; holes < len(part) {
			m.makeLeaf(l + block.LBA(holes))
		}
	}
	return n, Miss{}
}

// allHoles is what Clear sets.
var allHoles [Fanout]id.Location

// Clear makes holes of a whole extent, quickly where there are holes already. n is in blocks.
func (m *Map) Clear(e block.Extent, displaced Displaced) (n int, miss Miss) {
	m.check(e.Start, uint64(e.Count))
	for l := e.Start; l < e.End(); {
		leaf, end, miss := m.find(l)
		if !miss.None() {
			return int(l - e.Start), miss
		}
		end = min(end, e.End())
		if leaf != nil {
			m.set(leaf, l, allHoles[:end-l], displaced)
		}
		l = end
	}
	return int(e.Count), Miss{}
}

// set writes locs into a leaf from block l on.
func (m *Map) set(leaf *node, l block.LBA, locs []id.Location, displaced Displaced) {
	at := slot(l, 0)
	changed := false
	for i, loc := range locs {
		old := leaf.entries[at+i]
		if old == loc {
			continue
		}
		if !changed {
			changed = true
			m.write(leaf)
		}
		leaf.entries[at+i] = loc
		if old == 0 {
			leaf.count++
			continue
		}
		if loc == 0 {
			leaf.count--
		}
		if displaced != nil {
			displaced(l+block.LBA(i), old)
		}
	}
	if leaf.count == 0 {
		m.remove(leaf)
	}
}

// Stats counts pages. The head differs from the last commit if Dirty, Gone or
// Frozen is not zero: trims may leave nothing dirty and still want a checkpoint.
type Stats struct {
	Pages  int // in memory, as the budget counts them
	Dirty  int // changed since the last freeze: what the next checkpoint must write
	Gone   int // left the tree since the last freeze
	Frozen int // in the freeze in progress
}

// Stats gives the counts.
func (m *Map) Stats() Stats {
	s := Stats{Pages: m.pages, Dirty: m.dirty, Gone: len(m.gone)}
	if m.frozen != nil {
		s.Frozen = len(m.frozen.pages) + len(m.frozen.gone)
	}
	return s
}
