package blockmap

import (
	"encoding/binary"
	"fmt"

	"ashlar.dev/pkg/id"
)

// Frozen is the set of pages that a checkpoint must write: those that were dirty
// at the moment of Freeze, children before parents. The order of use is Assign
// for every page, then Encode in any order, then Root, and at the end Commit or
// Abandon. Its methods touch nothing that the Map changes and may run beside the
// Map's own; Encode, which changes nothing, beside itself too.
type Frozen struct {
	names []Page
	pages []frozenPage
	root  Root          // if no page is dirty
	gone  []id.Location // pages of the commit before that had left the tree
	done  bool
}

// frozenPage is one page as of the freeze. Its kids that are frozen too are pages
// kids…kids+kidCount-1.
type frozenPage struct {
	entries  *locations
	node     *node // not touched by Frozen's methods
	loc      id.Location
	kids     int
	kidCount int
}

// Freeze takes the dirty pages as of now. There is at most one freeze at a time:
// the one before must have been committed or abandoned.
func (m *Map) Freeze() *Frozen {
	if m.frozen != nil {
		panic("blockmap: a freeze while one is in progress")
	}
	f := &Frozen{root: Root{Location: m.rootLoc, Height: m.height}, gone: m.gone}
	m.gone, m.frozen = nil, f
	if m.root == nil {
		return f
	}
	f.root.Location = m.root.loc
	if !m.root.dirty {
		return f
	}
	// From the root down by level, each in order; then the levels in reverse, so
	// that kids come first and those of one page stand together.
	levels := make([][]frozenPage, m.height)
	levels[m.root.level] = []frozenPage{{node: m.root}}
	for level := m.root.level; level > 0; level-- {
		for i := range levels[level] {
			p := &levels[level][i]
			p.kids = len(levels[level-1])
			p.node.dirtyKids(func(kid *node) {
				levels[level-1] = append(levels[level-1], frozenPage{node: kid})
			})
			p.kidCount = len(levels[level-1]) - p.kids
		}
	}
	f.pages = make([]frozenPage, 0, m.dirty)
	f.names = make([]Page, 0, m.dirty)
	below := 0
	for level := range levels {
		start := len(f.pages)
		for _, p := range levels[level] {
			p.kids += below
			p.entries = p.node.entries
			f.pages = append(f.pages, p)
			f.names = append(f.names, p.node.page())
		}
		below = start
	}
	if len(f.pages) != m.dirty {
		panic(fmt.Sprintf("blockmap: %d dirty pages found of %d", len(f.pages), m.dirty))
	}
	for i := range f.pages {
		n := f.pages[i].node
		n.dirty, n.frozen, n.shared = false, true, true
		if n.inner != nil {
			clear(n.inner.dirty[:])
		}
	}
	m.dirty = 0
	return f
}

// Pages lists the pages, children before parents, ascending on a level. Not to be changed.
func (f *Frozen) Pages() []Page { return f.names }

// Assign says that page i will lie at loc.
func (f *Frozen) Assign(i int, loc id.Location) {
	if !loc.Segment().Valid() {
		panic(fmt.Sprintf("blockmap: page %v at location %#x", f.names[i], uint64(loc)))
	}
	f.pages[i].loc = loc
}

// Encode writes page i (PageSize bytes) into dst. All pages below it must be assigned.
func (f *Frozen) Encode(i int, dst []byte) {
	if f.done {
		panic("blockmap: a page of a freeze that is over")
	}
	_ = dst[PageSize-1]
	p := &f.pages[i]
	for j, loc := range p.entries {
		binary.LittleEndian.PutUint64(dst[j*8:], uint64(loc))
	}
	for k := p.kids; k < p.kids+p.kidCount; k++ {
		if f.pages[k].loc == 0 {
			panic(fmt.Sprintf("blockmap: page %v has no location yet", f.names[k]))
		}
		binary.LittleEndian.PutUint64(dst[f.names[k].Index&(Fanout-1)*8:], uint64(f.pages[k].loc))
	}
}

// Root is the root of the tree as of the freeze, once all pages are assigned.
func (f *Frozen) Root() Root {
	r := f.root
	if n := len(f.pages); n > 0 {
		r.Location = f.pages[n-1].loc
	}
	return r
}

// Displaced calls fn for the place of every page that the tree of the last commit
// has and the frozen one has not: those that Commit will tell. Unlike the other
// methods it reads the Map.
func (f *Frozen) Displaced(fn func(id.Location)) {
	for _, loc := range f.gone {
		fn(loc)
	}
	for i := range f.pages {
		if loc := f.pages[i].node.loc; loc != 0 {
			fn(loc)
		}
	}
}

// Commit says that the frozen tree is durable. Its pages that did not change
// since are clean; displaced (if not nil) is told every location of a page that
// the tree before had and this one has not. Call it when the checkpoint stands.
func (m *Map) Commit(f *Frozen, displaced func(id.Location)) {
	m.end(f)
	old := f.gone
	for i := range f.pages {
		p := &f.pages[i]
		n := p.node
		if p.loc == 0 {
			panic(fmt.Sprintf("blockmap: commit with page %v nowhere", f.names[i]))
		}
		if n.loc != 0 {
			old = append(old, n.loc)
		}
		n.frozen = false
		if n.removed { // since the freeze: the next commit displaces it
			m.gone = append(m.gone, p.loc)
			continue
		}
		n.shared = false
		n.loc = p.loc
		if n != m.root {
			m.parent(n).entries[n.index&(Fanout-1)] = p.loc
		}
		m.settle(n)
	}
	m.evict(nil)
	if displaced != nil {
		for _, loc := range old {
			displaced(loc)
		}
	}
}

// Abandon says that the frozen tree will never stand; its pages are dirty again.
func (m *Map) Abandon(f *Frozen) {
	m.end(f)
	m.gone = append(f.gone, m.gone...)
	for i := range f.pages {
		n := f.pages[i].node
		n.frozen = false
		if n.removed {
			if n.loc != 0 {
				m.gone = append(m.gone, n.loc)
			}
			continue
		}
		n.shared = false
		if !n.dirty {
			m.mark(n)
		}
		if n != m.root {
			j := n.index & (Fanout - 1)
			m.parent(n).inner.dirty[j/64] |= 1 << (j % 64)
		}
	}
}

// end checks that f is the freeze in progress and ends it.
func (m *Map) end(f *Frozen) {
	if f != m.frozen || f.done {
		panic("blockmap: the end of a freeze that is not in progress")
	}
	f.done = true
	m.frozen = nil
	m.account(-m.kept)
	m.kept = 0
}
