package blockmap

import "ashlar.dev/pkg/id"

// Renew has the page p written again by the next freeze, somewhere else, if the tree has
// it at loc and would leave it there: so a segment of which few pages live is emptied.
// What the map says of any block stays. It tells whether the page was there; one that is not in
// memory, or lies below one that is not, is a miss: fill it and ask again.
func (m *Map) Renew(p Page, loc id.Location) (renewed bool, miss Miss) {
	if p.Level >= m.height || loc == 0 {
		return false, Miss{}
	}
	if m.root == nil {
		switch {
		case m.rootLoc == 0 || p.Level == m.height-1 && (p.Index != 0 || m.rootLoc != loc):
			return false, Miss{}
		}
		return false, Miss{Page: Page{Level: m.height - 1}, Location: m.rootLoc}
	}
	l := first(p.Level, p.Index)
	if l >= first(m.height-1, 1) {
		return false, Miss{}
	}
	n := m.root
	for n.level > p.Level {
		j := slot(l, n.level)
		kid := n.inner.kids[j]
		if kid == nil {
			at := n.entries[j]
			if at == 0 || n.level == p.Level+1 && at != loc {
				return false, Miss{}
			}
			return false, Miss{Page: Page{Level: n.level - 1, Index: n.index<<fanoutShift | uint64(j)}, Location: at}
		}
		n = kid
	}
	if n.loc != loc || n.frozen || n.dirty {
		return false, Miss{} // it lies elsewhere, or goes from there anyway
	}
	m.markPath(n)
	return true, Miss{}
}

// markPath makes a node dirty, and those above it.
func (m *Map) markPath(n *node) {
	l := first(n.level, n.index)
	for at := m.root; at != n; {
		if !at.dirty {
			m.mark(at)
		}
		j := slot(l, at.level)
		at.inner.dirty[j/64] |= 1 << (j % 64)
		at = at.inner.kids[j]
	}
	m.mark(n)
}
