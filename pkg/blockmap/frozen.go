package blockmap

import (
	"ashlar.dev/pkg/id"
)

// Frozen is the set of pages that a checkpoint must write: those that were dirty
// at the moment of Freeze, children before parents. The order of use is Assign
// for every page, then Encode in any order, then Root, and at the end Commit or
// Abandon. Its methods touch nothing that the Map changes; they may run beside
// the Map's, but one at a time among themselves.
type Frozen struct{}

// Freeze takes the dirty pages as of now. There is at most one freeze at a time:
// the one before must have been committed or abandoned.
func (m *Map) Freeze() *Frozen { panic("blockmap: being written") }

// Pages lists the pages, children before parents, ascending on a level. Not to be changed.
func (f *Frozen) Pages() []Page { panic("blockmap: being written") }

// Assign says that page i will lie at loc.
func (f *Frozen) Assign(i int, loc id.Location) { panic("blockmap: being written") }

// Encode writes page i (PageSize bytes) into dst. All pages below it must be assigned.
func (f *Frozen) Encode(i int, dst []byte) { panic("blockmap: being written") }

// Root is the root of the tree as of the freeze, once all pages are assigned.
func (f *Frozen) Root() Root { panic("blockmap: being written") }

// Commit says that the frozen tree is durable. Its pages that did not change
// since are clean; displaced (if not nil) is told every location of a page that
// the tree before had and this one has not. Call it when the checkpoint stands.
func (m *Map) Commit(f *Frozen, displaced func(id.Location)) { panic("blockmap: being written") }

// Abandon says that the frozen tree will never stand; its pages are dirty again.
func (m *Map) Abandon(f *Frozen) { panic("blockmap: being written") }
