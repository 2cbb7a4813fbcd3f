package blockmap

import (
	"slices"

	"ashlar.dev/pkg/id"
)

// Holds tells whether a page of the committed tree lies at loc: also one that has left
// the head since, for the next freeze has yet to tell that it is displaced. It must not be
// asked while a freeze is in progress.
func (m *Map) Holds(p Page, loc id.Location) (bool, Miss) {
	if m.frozen != nil {
		panic("blockmap: a page is asked for while a freeze is in progress")
	}
	if slices.Contains(m.gone, loc) {
		return true, Miss{}
	}
	at, miss := m.PageAt(p)
	return at == loc, miss
}
