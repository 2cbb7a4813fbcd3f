package core

import (
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
)

// Which snapshots of a clone read its ancestors is not written down either: the tree of each is looked
// through, once by each owner, beside that of one that is known to have nothing of them, so that
// what both have is passed by. A snapshot never changes, so an answer stays true.

// flattenSnaps is what is known of the snapshots.
type flattenSnaps struct {
	own     []id.Raw // have nothing of ancestors
	foreign []id.Raw // have
	look    *flattenLook
	pause   time.Duration // after a page that could not be read
}

// flattenLook is the look through one tree.
type flattenLook struct {
	of   *snapshot
	diff *blockmap.Diff
}

// snapshotsFlat tells that no snapshot has anything of ancestors; until that is known it looks.
func (c *Core) snapshotsFlat(now time.Duration, fx *Effects) bool {
	f := &c.flatten.snaps
	gone := func(x id.Raw) bool { _, ok := c.snapshot(x); return !ok }
	f.own, f.foreign = slices.DeleteFunc(f.own, gone), slices.DeleteFunc(f.foreign, gone)
	if f.look != nil && gone(f.look.of.ID) {
		f.look = nil
	}
	if now < f.pause {
		return false
	}
	if f.look == nil && !c.beginLook() {
		return len(f.foreign) == 0
	}
	x, foreign := f.look, false
	x.diff.Lost(walkPages, func(l id.Location) { foreign = foreign || c.origin.Has(l.Segment()) })
	switch {
	case foreign || x.diff.Done():
		c.flatten.problem = ""
	}
	switch {
	case foreign:
		f.foreign, f.look, fx.Again = append(f.foreign, x.of.ID), nil, true
	case x.diff.Done():
		f.own, f.look, fx.Again = append(f.own, x.of.ID), nil, true
	default:
		var room [prefetchMax]blockmap.Miss
		misses := x.diff.Missing(room[:0])
		for _, m := range misses {
			c.wantPage(pageOwner{look: true}, m, fx)
		}
		fx.Again = fx.Again || len(misses) == 0
	}
	return false
}

// beginLook begins with a snapshot of which nothing is known; false: there is none.
func (c *Core) beginLook() bool {
	f := &c.flatten.snaps
	base := blockmap.Root{}
	for _, s := range c.snaps.list {
		if slices.Contains(f.own, s.ID) {
			base = s.Root
			continue
		}
		if slices.Contains(f.foreign, s.ID) {
			continue
		}
		d, err := blockmap.NewDiff(s.Root, base)
		if err != nil {
			panic("volume: the root of a snapshot: " + err.Error()) // all were checked
		}
		f.look = &flattenLook{s, d}
		return true
	}
	return false
}

// lookPage takes a page for the look that is under way.
func (c *Core) lookPage(now time.Duration, p PageRead, data []byte, err error) {
	f := &c.flatten.snaps
	if f.look == nil {
		return // it was of one that is over
	}
	if err == nil {
		err = f.look.diff.Fill(p.Miss, data)
	}
	if err != nil {
		f.look, f.pause = nil, now+hydrateShyFor
		if passing(err) {
			f.pause = now + pageRetryAfter
		}
		c.flatten.problem = fmt.Sprintf("a snapshot cannot be looked through: %v", err)
	}
}
