package blockmap

import (
	"fmt"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Change is a block whose location is not the same in two trees; 0 is a hole.
type Change struct {
	LBA          block.LBA
	Base, Target id.Location
}

// Diff compares two committed trees of one lineage, block by block in ascending order.
// Pages that both have are neither read nor looked into: the cost follows what changed. It
// does no I/O: take changes with Next; when it gives none, read what Missing
// lists, hand it to Fill, and go on, until Done. Not safe for concurrent use.
type Diff struct {
	stack []diffItem // the next one last
	pages map[id.Location]*locations
}

// diffItem is a pair of subtrees still to be compared, at one page of the address space.
type diffItem struct {
	page Page
	side [2]subtree
}

// subtree is a page and the level it lies on. A tree of less height than the other
// is found below entries 0 of pages that are not there.
type subtree struct {
	loc   id.Location
	level uint8
}

// NewDiff starts a comparison. An error is of class errs.ErrInvalid.
func NewDiff(base, target Root) (*Diff, error) {
	d := &Diff{pages: map[id.Location]*locations{}}
	top := diffItem{}
	for i, r := range []Root{base, target} {
		if !r.Valid() {
			return nil, fmt.Errorf("compare trees at %v and %v: %w", base, target, errs.ErrInvalid)
		}
		if r.Location != 0 {
			top.side[i] = subtree{r.Location, r.Height - 1}
			top.page.Level = max(top.page.Level, r.Height-1)
		}
	}
	d.push(top)
	return d, nil
}

// push adds a pair unless both are the same.
func (d *Diff) push(i diffItem) {
	if i.side[0].loc != i.side[1].loc {
		d.stack = append(d.stack, i)
	}
}

// Done tells that all was compared.
func (d *Diff) Done() bool { return len(d.stack) == 0 }

// Next appends changes to dst as far as its capacity and the pages at hand allow.
// dst needs room for Fanout changes to be sure of progress.
func (d *Diff) Next(dst []Change) []Change {
	for len(d.stack) > 0 {
		if d.stack[len(d.stack)-1].page.Level == 0 && cap(dst)-len(dst) < Fanout {
			return dst
		}
		i, entries, ok := d.pop()
		if !ok {
			return dst
		}
		if i.page.Level > 0 {
			d.descend(i, entries, false)
			continue
		}
		for j := range Fanout {
			if a, b := entries[0][j], entries[1][j]; a != b {
				dst = append(dst, Change{first(0, i.page.Index) + block.LBA(j), a, b})
			}
		}
	}
	return dst
}

// Lost is used instead of Next by who only wants to know what the base alone has. It
// compares up to a number of pairs of pages and tells fn of every location, of a
// block or of a page, that the base has and the target has not at the same place. It
// stops at a page that is not at hand; what only the target has is not read.
func (d *Diff) Lost(pages int, fn func(id.Location)) {
	for ; pages > 0 && len(d.stack) > 0; pages-- {
		if top := d.stack[len(d.stack)-1]; top.side[0].loc == 0 { // only of the pair of roots
			d.stack = d.stack[:0]
			return
		}
		i, entries, ok := d.pop()
		if !ok {
			return
		}
		if i.side[0].level == i.page.Level {
			fn(i.side[0].loc)
		}
		if i.page.Level > 0 {
			d.descend(i, entries, true)
			continue
		}
		for j := range Fanout {
			if a, b := entries[0][j], entries[1][j]; a != b && a != 0 {
				fn(a)
			}
		}
	}
}

// pop takes the next pair if both pages are at hand.
func (d *Diff) pop() (i diffItem, entries [2]*locations, ok bool) {
	i = d.stack[len(d.stack)-1]
	for s, t := range i.side {
		if entries[s], ok = d.entries(i.page.Level, t); !ok {
			return i, entries, false
		}
	}
	d.stack = d.stack[:len(d.stack)-1]
	for _, t := range i.side {
		if t.level == i.page.Level {
			delete(d.pages, t.loc) // each is met once
		}
	}
	return i, entries, true
}

// descend pushes the pairs below i; baseOnly: those of which the base has something.
func (d *Diff) descend(i diffItem, entries [2]*locations, baseOnly bool) {
	for j := Fanout - 1; j >= 0; j-- {
		kid := diffItem{page: Page{Level: i.page.Level - 1, Index: i.page.Index<<fanoutShift | uint64(j)}}
		for s, t := range i.side {
			kid.side[s] = t.kid(i.page.Level, j, entries[s])
		}
		if !baseOnly || kid.side[0].loc != 0 {
			d.push(kid)
		}
	}
}

// kid is the subtree below entry j of a page of the level.
func (t subtree) kid(level uint8, j int, entries *locations) subtree {
	switch {
	case t.level == level && entries[j] != 0:
		return subtree{entries[j], level - 1}
	case t.level < level && j == 0: // only ever at index 0
		return t
	}
	return subtree{}
}

// noEntries stands for a page that is not there.
var noEntries locations

// entries gives those of a subtree's page on a level; false if it has to be read.
func (d *Diff) entries(level uint8, t subtree) (*locations, bool) {
	if t.loc == 0 || t.level != level {
		return &noEntries, true
	}
	e, ok := d.pages[t.loc]
	return e, ok
}

// Missing appends to dst, up to its capacity, pages to read next. Pages read ahead
// are kept until they are used: no more than twice that capacity.
func (d *Diff) Missing(dst []Miss) []Miss {
	for k := len(d.stack) - 1; k >= max(0, len(d.stack)-cap(dst)); k-- {
		i := d.stack[k]
		for _, t := range i.side {
			if _, ok := d.entries(i.page.Level, t); !ok && len(dst) < cap(dst) {
				dst = append(dst, Miss{Page: i.page, Location: t.loc})
			}
		}
	}
	return dst
}

// Fill hands in a page; b is not kept. Errors are of class errs.ErrCorrupt.
func (d *Diff) Fill(miss Miss, b []byte) error {
	n := node{level: miss.Level, index: miss.Index, loc: miss.Location, entries: new(locations)}
	if err := n.decode(b); err != nil {
		return err
	}
	d.pages[miss.Location] = n.entries
	return nil
}
