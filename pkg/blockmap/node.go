package blockmap

import (
	"fmt"
	"math/bits"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/id"
)

// locations are the entries of a page: of blocks in a leaf, of pages above.
type locations [Fanout]id.Location

// node is a page in memory.
//
// Invariants: a node's parent is in memory. The parent of a dirty node is dirty
// and has its bit set. An entry of an inner node whose kid is not dirty is the
// kid's loc; that of a dirty kid is whatever it was, and is put right by Encode
// and Commit. count is never zero but for a node being made.
type node struct {
	entries *locations
	inner   *inner      // nil in a leaf
	loc     id.Location // where it lies since the last commit; 0: nowhere yet
	index   uint64
	ring    int // place in Map.ring, or -1
	count   int // entries that are not holes
	level   uint8
	used    bool // since the clock's hand came by
	dirty   bool // changed since the last freeze
	frozen  bool // a page of the freeze in progress
	shared  bool // entries are the freeze's too: copy before writing
	removed bool // no longer in the tree; only looked at when frozen
}

// inner is what a page above the leaves has besides its entries.
type inner struct {
	kids     [Fanout]*node       // nil where not in memory
	dirty    [Fanout / 64]uint64 // kids that are dirty
	resident int                 // kids in memory
}

func (n *node) cost() int {
	if n.inner != nil {
		return 2
	}
	return 1
}

func (n *node) page() Page { return Page{Level: n.level, Index: n.index} }

// slot is the entry of a node of the level that covers l.
func slot(l block.LBA, level uint8) int {
	return int(l>>(fanoutShift*uint(level))) & (Fanout - 1)
}

// first is the first block of page i of a level.
func first(level uint8, i uint64) block.LBA {
	return block.LBA(i) << (fanoutShift * uint(level+1))
}

// find gives the leaf of block l. Without one, either a page is missing, or it is
// a hole. The answer is the same for all blocks from l to end.
func (m *Map) find(l block.LBA) (leaf *node, end block.LBA, miss Miss) {
	n := m.root
	if n == nil {
		if m.rootLoc != 0 {
			miss = Miss{Page: Page{Level: m.height - 1}, Location: m.rootLoc}
		}
		return nil, first(m.height-1, 1), miss
	}
	for n.level > 0 {
		j := slot(l, n.level)
		kid := n.inner.kids[j]
		if kid == nil {
			index := n.index<<fanoutShift | uint64(j)
			if loc := n.entries[j]; loc != 0 {
				miss = Miss{Page: Page{Level: n.level - 1, Index: index}, Location: loc}
			}
			return nil, first(n.level-1, index+1), miss
		}
		n = kid
	}
	if !n.used {
		n.used = true
	}
	return n, first(0, n.index+1), miss
}

// parent gives the parent of a node of the tree that is not its root.
func (m *Map) parent(n *node) *node {
	at := m.root
	l := first(n.level, n.index)
	for at.level > n.level+1 {
		at = at.inner.kids[slot(l, at.level)]
	}
	return at
}

// newNode makes a node that is not yet in the tree.
func (m *Map) newNode(level uint8, index uint64) *node {
	n := &node{level: level, index: index, ring: -1, used: true}
	if k := len(m.spare); k > 0 {
		n.entries, m.spare = m.spare[k-1], m.spare[:k-1]
		*n.entries = locations{}
	} else {
		n.entries = new(locations)
	}
	if level > 0 {
		n.inner = new(inner)
	}
	m.account(n.cost())
	return n
}

// spareMax bounds the entries of evicted pages that a map keeps for the next ones.
const spareMax = 16

// release gives back what a node that has left the tree holds.
func (m *Map) release(n *node) {
	m.unring(n)
	m.account(-n.cost())
	if n.shared { // the freeze keeps the entries
		m.keep(1)
	} else if len(m.spare) < spareMax {
		m.spare = append(m.spare, n.entries)
	}
	n.entries, n.inner = nil, nil
}

// keep accounts for pages that only the freeze in progress holds.
func (m *Map) keep(pages int) {
	m.kept += pages
	m.account(pages)
}

// makeLeaf makes the leaf of l where there is a hole, and what is missing above
// it. The caller gives it its first entry right away.
func (m *Map) makeLeaf(l block.LBA) {
	if m.root == nil {
		m.root = m.newNode(m.height-1, 0)
		m.mark(m.root)
	}
	var made *node
	for n := m.root; n.level > 0; {
		if !n.dirty {
			m.mark(n)
		}
		j := slot(l, n.level)
		kid := n.inner.kids[j]
		if kid == nil {
			kid = m.newNode(n.level-1, n.index<<fanoutShift|uint64(j))
			n.inner.kids[j] = kid
			n.inner.resident++
			n.count++
			m.mark(kid)
			m.settle(n)
			made = kid
		}
		n.inner.dirty[j/64] |= 1 << (j % 64)
		n = kid
	}
	m.evict(made)
}

// mark makes one node dirty.
func (m *Map) mark(n *node) {
	n.dirty = true
	m.dirty++
	m.unring(n)
}

// write makes a leaf ready to be changed: dirty, up to the root, and its own.
func (m *Map) write(leaf *node) {
	if !leaf.dirty {
		m.markPath(leaf)
	}
	m.own(leaf)
}

// own gives n entries that no freeze shares.
func (m *Map) own(n *node) {
	if n.shared {
		e := *n.entries
		n.entries, n.shared = &e, false
		m.keep(1)
	}
}

// remove takes a dirty node that has no entries left out of the tree, and those
// above it that have none then.
func (m *Map) remove(n *node) {
	var path [HeightMax]*node
	l := first(n.level, n.index)
	for at := m.root; at != n; at = at.inner.kids[slot(l, at.level)] {
		path[at.level] = at
	}
	for n.count == 0 {
		if !n.dirty {
			panic(fmt.Sprintf("blockmap: clean page %v is empty", n.page()))
		}
		m.dirty--
		switch {
		case n.frozen:
			n.removed = true // Commit or Abandon knows what becomes of its place
		case n.loc != 0:
			m.gone = append(m.gone, n.loc)
		}
		if n == m.root {
			m.root, m.rootLoc = nil, 0
			m.release(n)
			return
		}
		p, j := path[n.level+1], n.index&(Fanout-1)
		m.own(p)
		p.entries[j] = 0
		p.inner.kids[j] = nil
		p.inner.resident--
		p.inner.dirty[j/64] &^= 1 << (j % 64)
		p.count--
		m.release(n)
		n = p
	}
}

// dirtyKids calls fn for the dirty kids of n, ascending.
func (n *node) dirtyKids(fn func(*node)) {
	for w, word := range n.inner.dirty {
		for ; word != 0; word &= word - 1 {
			fn(n.inner.kids[w*64+bits.TrailingZeros64(word)])
		}
	}
}
