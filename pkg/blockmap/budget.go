package blockmap

// Budget limits the pages that maps hold in memory, together. A leaf counts one,
// an inner page two. Dirty pages count but are never evicted: their number is
// bounded by forcing checkpoints (Map.Stats). Safe for concurrent use.
type Budget struct{}

// NewBudget gives a budget of limit pages.
func NewBudget(limit int) *Budget { panic("blockmap: being written") }

// Limit is the limit in pages.
func (b *Budget) Limit() int { panic("blockmap: being written") }

// Used is the pages held now.
func (b *Budget) Used() int { panic("blockmap: being written") }
