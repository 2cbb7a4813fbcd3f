package blockmap

import (
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/id"
)

// Difference tells how a block of a map relates to the same block of an older tree of its lineage.
type Difference uint8

// Same: at the same place, or a hole in both. Written: somewhere, and elsewhere in the
// older tree or nowhere. Cleared: a hole now, and not one in the older tree.
const (
	Same Difference = iota
	Written
	Cleared
)

func difference(base, now id.Location) Difference {
	switch {
	case base == now:
		return Same
	case now == 0:
		return Cleared
	}
	return Written
}

// Compare gives the longest run of blocks from the start of e, within e and a bounded
// amount of work, that all relate to base alike. Beyond its end base has holes. What
// both have at the same place is not looked into, and not read. Unlike Diff it
// looks anywhere, and at a map that is being written. A miss, of the map told with
// it, means that not even the first block is known. Both maps must be used by one
// goroutine at a time.
func (m *Map) Compare(base *Map, e block.Extent) (run block.Extent, how Difference, of *Map, miss Miss) {
	m.check(e.Start, uint64(e.Count))
	l := e.Start
	for visits := visitsMax; l < e.End() && visits > 0; visits-- {
		p := pair{now: m, base: base}
		if of, miss = p.descend(l); of != nil {
			if l == e.Start {
				return block.Extent{Start: l}, Same, of, miss
			}
			break
		}
		if l == e.Start {
			how = p.at(l)
		}
		end := min(p.end, e.End())
		for l < end && p.at(l) == how {
			if l++; p.same {
				l = end
			}
		}
		if l < end {
			break
		}
	}
	return block.Extent{Start: e.Start, Count: uint32(l - e.Start)}, how, nil, Miss{}
}

// pair is where two maps have been followed down to.
type pair struct {
	now, base *Map
	end       block.LBA // the first block that this says nothing about
	same      bool      // all blocks up to end are the same
	leaves    [2]*locations
}

// at compares one block; it is within the pair.
func (p *pair) at(l block.LBA) Difference {
	if p.same {
		return Same
	}
	j := slot(l, 0)
	return difference(p.leaves[1][j], p.leaves[0][j])
}

// descend follows both maps towards l as long as they differ. A map is given with the page that it lacks.
func (p *pair) descend(l block.LBA) (of *Map, miss Miss) {
	for level := max(p.now.height, p.base.height) - 1; ; level-- {
		p.end = first(level, uint64(l>>(fanoutShift*uint(level+1)))+1)
		a, b := p.now.pageOver(l, level), p.base.pageOver(l, level)
		if a.known && b.known && a.loc == b.loc {
			p.same = true
			return nil, Miss{}
		}
		if !a.miss.None() {
			return p.now, a.miss
		}
		if !b.miss.None() {
			return p.base, b.miss
		}
		if level > 0 {
			continue
		}
		for i, x := range []overview{a, b} {
			switch {
			case x.node != nil:
				p.leaves[i] = x.node.entries
			case x.loc == 0: // a hole
				p.leaves[i] = &noEntries
			default:
				return []*Map{p.now, p.base}[i], Miss{Page: Page{Index: uint64(l >> fanoutShift)}, Location: x.loc}
			}
		}
		return nil, Miss{}
	}
}

// overview is what a map knows of one page.
type overview struct {
	known bool        // the page is what lies at loc; 0: all holes
	loc   id.Location // if known
	node  *node       // if in memory
	miss  Miss        // a page above it is not in memory
}

// pageOver looks at the page of a level that covers l. One that was changed since the last commit is
// not known, nor is one above the root.
func (m *Map) pageOver(l block.LBA, level uint8) overview {
	switch {
	case l >= first(m.height-1, 1) || m.root == nil && m.rootLoc == 0:
		return overview{known: true}
	case level >= m.height:
		return overview{}
	case m.root == nil && level == m.height-1:
		return overview{known: true, loc: m.rootLoc}
	case m.root == nil:
		return overview{miss: Miss{Page: Page{Level: m.height - 1}, Location: m.rootLoc}}
	}
	n := m.root
	for n.level > level {
		j := slot(l, n.level)
		kid := n.inner.kids[j]
		if kid == nil {
			loc := n.entries[j]
			if loc == 0 || n.level == level+1 {
				return overview{known: true, loc: loc}
			}
			return overview{miss: Miss{Page: Page{Level: n.level - 1, Index: n.index<<fanoutShift | uint64(j)}, Location: loc}}
		}
		n = kid
	}
	n.used = true
	return overview{known: !n.dirty && !n.frozen, loc: n.loc, node: n}
}
