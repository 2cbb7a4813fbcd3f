package blockmap

import "sync/atomic"

// Budget limits the pages that maps hold in memory, together. A leaf counts one,
// an inner page two. Dirty pages count but are never evicted: their number is
// bounded by forcing checkpoints (Map.Stats). A map that needs a page while the
// budget is overdrawn evicts its own until it holds its even share or less, so
// the excess is what idle maps still hold (Map.Shrink) and what is dirty.
// Safe for concurrent use.
type Budget struct {
	limit int64
	min   int // see pagesMin
	used  atomic.Int64
	maps  atomic.Int64
}

// pagesMin is what a map may always keep of pages that could be evicted: more
// than one descent needs, so that a retry after Fill always gets further.
const pagesMin = 64

// NewBudget gives a budget of limit pages.
func NewBudget(limit int) *Budget { return &Budget{limit: int64(max(limit, pagesMin)), min: pagesMin} }

// Limit is the limit in pages.
func (b *Budget) Limit() int { return int(b.limit) }

// Used is the pages held now.
func (b *Budget) Used() int { return int(b.used.Load()) }

// account adds to what the map holds.
func (m *Map) account(pages int) {
	m.pages += pages
	m.budget.used.Add(int64(pages))
}

// Shrink evicts clean pages if the budget is overdrawn and this map holds more
// than its share. Maps do so by themselves when they read; an idle one needs to be told.
func (m *Map) Shrink() { m.evict(nil) }

// evict makes room, but keeps one page.
func (m *Map) evict(keep *node) {
	b := m.budget
	for b.used.Load() > b.limit && len(m.ring) > b.min && int64(m.pages) > b.limit/max(b.maps.Load(), 1) {
		n := m.victim(keep)
		parent := m.parent(n)
		j := n.index & (Fanout - 1)
		if parent.entries[j] != n.loc || parent.inner.kids[j] != n {
			panic("blockmap: a clean page is not where its parent says")
		}
		parent.inner.kids[j] = nil
		parent.inner.resident--
		m.release(n)
		m.settle(parent)
	}
}

// victim picks a page by the clock: one that was not used since the hand came by.
// The ring has more than one page, so one that is not kept is found in two rounds.
func (m *Map) victim(keep *node) *node {
	for {
		if m.hand >= len(m.ring) {
			m.hand = 0
		}
		n := m.ring[m.hand]
		if n != keep && !n.used {
			return n
		}
		n.used = n == keep
		m.hand++
	}
}

// settle puts n into the ring of pages that may be evicted, or takes it out.
func (m *Map) settle(n *node) {
	may := !n.dirty && !n.frozen && n != m.root && (n.inner == nil || n.inner.resident == 0)
	switch {
	case may && n.ring < 0:
		n.ring = len(m.ring)
		m.ring = append(m.ring, n)
	case !may && n.ring >= 0:
		m.unring(n)
	}
}

func (m *Map) unring(n *node) {
	if n.ring < 0 {
		return
	}
	last := m.ring[len(m.ring)-1]
	m.ring[n.ring], last.ring = last, n.ring
	m.ring[len(m.ring)-1] = nil
	m.ring = m.ring[:len(m.ring)-1]
	n.ring = -1
}
