package blockmap

import (
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/id"
)

// PageSize is the bytes of an encoded page; Fanout the entries in a map page or an inner page.
const (
	PageSize    = 4096
	fanoutShift = 9
	Fanout      = 1 << fanoutShift
)

// HeightMax is the height that covers block.LBAMax.
const HeightMax = 5

// Root is where a tree starts. Location 0: an empty tree. Height is its levels
// of pages: the root is at level Height-1, leaves are at level 0.
type Root struct {
	Location id.Location
	Height   uint8
}

// Valid tells whether r can be a root.
func (r Root) Valid() bool {
	return r.Height <= HeightMax && (r.Location == 0 || r.Height > 0 && r.Location.Segment().Valid())
}

// Page names a page: its level, and its place among all pages of the level.
type Page struct {
	Level uint8
	Index uint64
}

// Blocks are those that lie under the page, from first up to, and without, end.
func (p Page) Blocks() (start, end block.LBA) {
	return first(p.Level, p.Index), first(p.Level, p.Index+1)
}

// Miss is a page that an operation needs and that is not in memory.
type Miss struct {
	Page
	Location id.Location
}

// None tells that nothing was missing.
func (m Miss) None() bool { return m.Location == 0 }

// HeightFor is the height of a map of as many blocks.
func HeightFor(blocks block.LBA) uint8 {
	h := uint8(1)
	for h < HeightMax && blocks > 1<<(fanoutShift*uint(h)) {
		h++
	}
	return h
}
