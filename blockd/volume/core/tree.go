package core

import (
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
)

// The snapshots of a volume are a tree. Each goes on from its parent; the head, the disk
// itself, goes on from one, too. As long as nobody rolls back that is a line. A rollback
// makes the head go on from an older snapshot (rollback.go), after a mark that ends the
// branch which is left: so every range of ids between two watermarks was born on one branch,
// and what was born there is only in those that come after, on it.
//
// A location lies at its place for one unbroken stretch of the way down the tree. So those
// that may have what lies in a segment first are the snapshots at or above it whose parents
// are below: what none of them has nobody has.

// settle works out what follows from the list and its parents.
func (s *snapState) settle(floor id.Sequence) {
	mark := func(p id.Raw) id.Sequence {
		for _, x := range s.list {
			if x.ID == p {
				return x.Watermark
			}
		}
		return floor
	}
	s.newest = floor
	for _, x := range s.list {
		x.above, s.newest = mark(x.Parent), x.Watermark
	}
	s.watermark = mark(s.parent)
}

// children counts the snapshots that go on from x, and tells one of them; head: the disk does, too.
func (s *snapState) children(x id.Raw) (n int, one *snapshot, head bool) {
	for _, y := range s.list {
		if y.Parent == x {
			n, one = n+1, y
		}
	}
	return n, one, s.parent == x
}

// standsAt finds the snapshot with a watermark.
func (c *Core) standsAt(w id.Sequence) *snapshot {
	for _, s := range c.snaps.list {
		if s.Watermark == w {
			return s
		}
	}
	return nil
}

// first tells whether s is one of those that may have what was born at seq before others have.
func (s *snapshot) first(seq id.Sequence) bool { return seq <= s.Watermark && s.above < seq }

// owned tells whether the block at l, of the head or of a snapshot, is what lies at loc.
// What is dead here stays dead: the map takes a location in only once, from the commit
// that brought its segment, and a snapshot has only what the head had.
func (c *Core) owned(now time.Duration, l block.LBA, loc id.Location) (bool, pageOwner, blockmap.Miss) {
	return c.anyone(now, loc.Segment().Sequence(), func(m *blockmap.Map) (bool, blockmap.Miss) {
		if l >= m.Blocks() {
			return false, blockmap.Miss{}
		}
		var at [1]id.Location
		_, miss := m.Lookup(l, at[:])
		return at[0] == loc, miss
	})
}

// anyone asks the trees of those that may have first what was born at seq, until one has it; the
// head's is c.m.
func (c *Core) anyone(now time.Duration, seq id.Sequence, has func(*blockmap.Map) (bool, blockmap.Miss)) (bool, pageOwner, blockmap.Miss) {
	for _, s := range c.snaps.list {
		if !s.first(seq) {
			continue
		}
		if ok, miss := has(c.treeOf(now, s)); ok || !miss.None() {
			return ok, pageOwner{watermark: s.Watermark}, miss
		}
	}
	if seq <= c.snaps.watermark {
		return false, pageOwner{}, blockmap.Miss{}
	}
	ok, miss := has(c.m)
	return ok, pageOwner{}, miss
}

// adopt gives those that went on from a snapshot that is deleted to what that one went on from.
func (s *snapState) adopt(gone *snapshot) {
	for _, x := range s.list {
		if x.Parent == gone.ID {
			x.Parent = gone.Parent
		}
	}
	if s.parent == gone.ID {
		s.parent = gone.Parent
	}
}
