package core

import (
	"slices"
	"time"

	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/storeproto"
)

// A snapshot S is deleted by a walk: what S has and its child N, the one that goes on from it,
// has not at the same place is looked for by comparing their trees, pages that both have are
// skipped; of that, what lies at or below the watermark of its parent belongs to that one, and
// the rest is dead. N is a snapshot, or the head as of a checkpoint: then what
// the head drops after that cut is noted beside the walk. Nothing is counted dead
// before the walk is over; then all at once, and S leaves the list. Of this nothing
// is written but the next checkpoint, which lists S no more and whose table has the
// new counts: who dies before leaves S as it was, and the next owner, who is told
// again, begins anew. Segments that died of it go when metad has such a checkpoint,
// as all dead segments do.

// walk is the deletion of one snapshot.
type walk struct {
	doomed *snapshot
	diff   *blockmap.Diff     // nil: the cut it compares with is not durable yet
	pinned bool               // it compares with the head: pages of that cut must stay
	freed  map[id.Segment]int // found so far
	pause  time.Duration      // after a page that could not be read: until then nothing is asked for
}

// walkPages bounds the pairs of pages compared in one step.
const walkPages = 32

// DropSnapshot asks for a snapshot to be deleted; it may be asked again. When nothing of
// it is left in any checkpoint in force, Effects.Gone names it.
func (c *Core) DropSnapshot(now time.Duration, x id.Raw, fx *Effects) {
	s := &c.snaps
	if c.state != stateServing || s.doomed[x] || slices.Contains(s.leaving, x) {
		return
	}
	if !slices.Contains(c.Snapshots(), x) {
		fx.Gone = append(fx.Gone, x)
		return
	}
	if s.doomed == nil {
		s.doomed = make(map[id.Raw]bool)
	}
	s.doomed[x] = true
	c.walkOn(now, fx)
	c.absorb(now, fx)
}

// note counts a location that the head dropped and the snapshot being deleted still has.
func (w *walk) note(c *Core, loc id.Location, n int) {
	if s := loc.Segment(); w != nil && w.doomed.ID == c.snaps.parent && s.Sequence() > w.doomed.above {
		w.freed[s] += n
	}
}

// beginWalk begins the next deletion that can be: of a snapshot with one child, or none. What
// only the head goes on from is compared with a cut of it; what nobody goes on from with its
// own parent, for what both have need not be looked at. One with several children waits until
// it has one: what one of them has not another may have.
func (c *Core) beginWalk() {
	s := &c.snaps
	for _, x := range s.list {
		n, child, head := s.children(x.ID)
		switch {
		case !s.doomed[x.ID] || n > 1 || n == 1 && head:
		case head:
			s.needCut = true
		default:
			target := c.rootOf(x.Parent)
			if n == 1 {
				target = child.Root
			}
			s.walk = newWalk(x)
			c.compare(s.walk, target)
			return
		}
	}
}

// rootOf is the tree of a snapshot; of none, what the volume began with.
func (c *Core) rootOf(x id.Raw) blockmap.Root {
	if p, ok := c.snapshot(x); ok {
		return p.Root
	}
	if c.origin != nil {
		return c.origin.Root
	}
	return blockmap.Root{}
}

// newWalk is the deletion of a snapshot.
func newWalk(x *snapshot) *walk { return &walk{doomed: x, freed: make(map[id.Segment]int)} }

// compare begins to compare the trees.
func (c *Core) compare(w *walk, target blockmap.Root) {
	d, err := blockmap.NewDiff(w.doomed.Root, target)
	if err != nil {
		panic("volume: the root of a snapshot: " + err.Error()) // all were checked
	}
	w.diff = d
}

// cutForWalk: a checkpoint is being cut. If the newest snapshot is to be deleted it is compared with this.
func (c *Core) cutForWalk(st *checkpointState) {
	s := &c.snaps
	s.needCut = false
	st.leaving = slices.Clone(s.leaving)
	x, ok := c.snapshot(s.parent)
	if s.walk != nil || !ok || !s.doomed[x.ID] || c.state != stateServing {
		return
	}
	if n, _, _ := s.children(x.ID); n == 0 && st.mark == nil {
		s.walk = newWalk(x)
		s.walk.pinned = true
		st.walk = s.walk
	}
}

// walkOn goes on with a deletion, or begins one.
func (c *Core) walkOn(now time.Duration, fx *Effects) {
	s := &c.snaps
	if c.state != stateServing {
		return
	}
	if s.walk == nil && len(s.doomed) > 0 {
		c.beginWalk()
	}
	if s.needCut {
		c.stir(now, fx)
	}
	w := s.walk
	if w == nil || w.diff == nil || now < w.pause {
		return
	}
	w.diff.Lost(walkPages, func(l id.Location) {
		if x := l.Segment(); x.Sequence() > w.doomed.above {
			w.freed[x]++
		}
	})
	if w.diff.Done() {
		c.endWalk(now, fx)
		return
	}
	var room [prefetchMax]blockmap.Miss
	misses := w.diff.Missing(room[:0])
	for _, m := range misses {
		c.wantPage(pageOwner{walk: true}, m, fx)
	}
	fx.Again = fx.Again || len(misses) == 0
}

// endWalk: all that only the snapshot has is known. While a checkpoint is on its way
// nothing is counted: it might be taken back.
func (c *Core) endWalk(now time.Duration, fx *Effects) {
	s, w := &c.snaps, c.snaps.walk
	if c.check.running != nil || c.counting() {
		return // the next tick comes back here
	}
	s.walk = nil
	for x, n := range w.freed {
		if n != 0 && c.counted(x) {
			c.addLive(x, -n)
		}
	}
	s.list = slices.DeleteFunc(s.list, func(x *snapshot) bool { return x == w.doomed })
	s.adopt(w.doomed)
	s.settle(c.floor())
	w.doomed.closeTree()
	delete(s.doomed, w.doomed.ID)
	s.leaving = append(s.leaving, w.doomed.ID)
	c.leftList(now)
	s.needCut = true
	c.usage.known = false
	c.walkOn(now, fx)
}

// stir makes a checkpoint possible, and wanted, where nothing has changed since the last one:
// a checkpoint stands for a position of the meta stream, and metad takes only a higher one.
func (c *Core) stir(now time.Duration, fx *Effects) {
	c.check.force = true
	if c.check.metaApplied != c.check.last || c.check.running != nil || len(c.meta.inflight) > 0 || len(c.apply) > 0 ||
		!c.journal.Room(storeproto.Meta) {
		return
	}
	a := &commitState{rec: &record.Commit{Covered: c.check.covered}}
	a.position = c.appendMeta(now, record.AppendCommit(nil, a.rec), metaEntry{commit: a}, fx)
}

// left: metad has a checkpoint without these.
func (c *Core) left(gone []id.Raw, fx *Effects) {
	for _, x := range gone {
		c.snaps.leaving = slices.DeleteFunc(c.snaps.leaving, func(y id.Raw) bool { return x == y })
		fx.Gone = append(fx.Gone, x)
	}
}
