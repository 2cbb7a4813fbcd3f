package blockmap

import (
	"encoding/binary"
	"fmt"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// visitsMax bounds the leaves that one call of Missing or NextRun looks at.
const visitsMax = 1024

// Missing appends to dst, up to its capacity, the pages not in memory that an
// operation on the extents will meet next, so that they can be read in parallel.
// Pages below a missing one show only when that one is filled. The extents
// should be sorted, and dst well below the budget.
func (m *Map) Missing(extents []block.Extent, dst []Miss) []Miss {
	visits := visitsMax
	for _, e := range extents {
		m.check(e.Start, uint64(e.Count))
		for l := e.Start; l < e.End() && visits > 0; visits-- {
			_, end, miss := m.find(l)
			l = end
			if miss.None() || len(dst) > 0 && dst[len(dst)-1] == miss {
				continue
			}
			if len(dst) == cap(dst) {
				return dst
			}
			dst = append(dst, miss)
		}
	}
	return dst
}

// Fill puts the page read for a miss into its place. b is not kept. A page that
// the map no longer misses there is ignored. The bytes must have been checked;
// a page that cannot be one gives an error of class errs.ErrCorrupt.
func (m *Map) Fill(miss Miss, b []byte) error {
	var p *node // parent; nil for the root
	if m.root == nil {
		if miss.Level != m.height-1 || miss.Index != 0 || miss.Location != m.rootLoc || miss.None() {
			return nil
		}
	} else if p = m.lacking(miss); p == nil {
		return nil
	}
	n := m.newNode(miss.Level, miss.Index)
	n.loc = miss.Location
	if err := n.decode(b); err != nil {
		m.release(n)
		return err
	}
	if p == nil {
		m.root, m.rootLoc = n, 0
		return nil
	}
	p.inner.kids[miss.Index&(Fanout-1)] = n
	p.inner.resident++
	m.settle(p)
	m.settle(n)
	m.evict(n)
	return nil
}

// lacking gives the node that lacks the page of miss; nil if none does.
func (m *Map) lacking(miss Miss) *node {
	l := first(miss.Level, miss.Index)
	n := m.root
	if miss.Level >= n.level || l >= first(n.level, 1) {
		return nil
	}
	for n != nil && n.level > miss.Level+1 {
		n = n.inner.kids[slot(l, n.level)]
	}
	if n == nil || n.inner.kids[slot(l, n.level)] != nil || n.entries[slot(l, n.level)] != miss.Location {
		return nil
	}
	return n
}

// decode reads a page's entries.
func (n *node) decode(b []byte) error {
	place := fmt.Sprintf("map page %d.%d at %s", n.level, n.index, n.loc)
	if len(b) != PageSize {
		return &errs.Corrupt{Place: place, Offset: -1, What: "bytes in a page", Want: PageSize, Got: uint64(len(b))}
	}
	for i := range n.entries {
		loc := id.Location(binary.LittleEndian.Uint64(b[i*8:]))
		if loc == 0 {
			continue
		}
		if !loc.Segment().Valid() {
			return &errs.Corrupt{Place: place, Offset: int64(i * 8), What: "location", Want: 1 << 24, Got: uint64(loc)}
		}
		n.entries[i] = loc
		n.count++
	}
	if n.count == 0 {
		return &errs.Corrupt{Place: place, Offset: -1, What: "entries that are not holes", Want: 1, Got: 0}
	}
	return nil
}

// NextRun gives the longest run of blocks from the start of e, within e and a
// bounded amount of work, that are all allocated or all holes. A miss means
// that not even the first block is known.
func (m *Map) NextRun(e block.Extent) (run block.Extent, allocated bool, miss Miss) {
	m.check(e.Start, uint64(e.Count))
	l := e.Start
	for visits := visitsMax; l < e.End() && visits > 0; visits-- {
		leaf, end, miss := m.find(l)
		if !miss.None() {
			if l == e.Start {
				return block.Extent{Start: l}, false, miss
			}
			break
		}
		if l == e.Start {
			allocated = leaf != nil && leaf.entries[slot(l, 0)] != 0
		}
		end = min(end, e.End())
		if leaf == nil && allocated {
			break
		}
		if leaf != nil {
			for l < end && (leaf.entries[slot(l, 0)] != 0) == allocated {
				l++
			}
			if l < end {
				break
			}
		}
		l = end
	}
	return block.Extent{Start: e.Start, Count: uint32(l - e.Start)}, allocated, Miss{}
}

// Walk calls fn for every allocated block of e in order, until fn gives false or a
// page is missing. Next is where to go on; it is e.End() when all is done. fn
// must not use the map.
func (m *Map) Walk(e block.Extent, fn func(block.LBA, id.Location) bool) (next block.LBA, miss Miss) {
	m.check(e.Start, uint64(e.Count))
	for l := e.Start; l < e.End(); {
		leaf, end, miss := m.find(l)
		if !miss.None() {
			return l, miss
		}
		end = min(end, e.End())
		for ; leaf != nil && l < end; l++ {
			if loc := leaf.entries[slot(l, 0)]; loc != 0 && !fn(l, loc) {
				return l + 1, Miss{}
			}
		}
		l = end
	}
	return e.End(), Miss{}
}

// PageAt gives the location at which a page of the head lies since the last
// commit; 0 if it is not in the tree, or new since.
func (m *Map) PageAt(p Page) (id.Location, Miss) {
	if p.Level >= m.height || p.Index>>(fanoutShift*uint(m.height-1-p.Level)) != 0 {
		return 0, Miss{}
	}
	if m.root == nil {
		if p.Level == m.height-1 || m.rootLoc == 0 {
			return m.rootLoc, Miss{}
		}
		return 0, Miss{Page: Page{Level: m.height - 1}, Location: m.rootLoc}
	}
	n := m.root
	for l := first(p.Level, p.Index); n.level > p.Level; {
		j := slot(l, n.level)
		kid := n.inner.kids[j]
		if kid == nil {
			loc := n.entries[j]
			if loc == 0 || n.level == p.Level+1 {
				return loc, Miss{}
			}
			return 0, Miss{Page: Page{Level: n.level - 1, Index: n.index<<fanoutShift | uint64(j)}, Location: loc}
		}
		n = kid
	}
	return n.loc, Miss{}
}
