package core

import (
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
)

// A snapshot is a mark in the journal. Its record seals the memtable, so blocks before
// and after it are packed apart; the checkpoint that is cut when the commit with the
// mark is applied, and nothing after it, holds the snapshot's tree, and when that is
// durable in the meta stream the snapshot stands: it is passed. From the mark until
// then no segment id is given to anything that may be committed after the mark. So
// every id at or below the snapshot's watermark, the highest one issued by then, was
// committed before the mark, or is of the tree's own pages, or never counts; and
// whatever the head drops that lies at or below the newest watermark still belongs
// to a snapshot. Writes do not pause for any of it: they are acknowledged from the
// journal and wait in memtables to be packed.
//
// Snapshots that stand are listed in every checkpoint. How they go is in snapdrop.go.

// snapState is what the core knows of snapshots.
type snapState struct {
	list      []*snapshot // those that stand, the oldest first; their watermarks rise
	parent    id.Raw      // the one that the head goes on from; zero: none
	watermark id.Sequence // of that one; if there is none, the origin's, or 0
	newest    id.Sequence // of the newest, likewise
	marks     []*mark     // taken and not passed yet, in the order of the journal
	taken     uint64      // marks ever taken
	passing   *mark       // the first of marks, once its commit is applied: nothing else is, until it is passed
	waiting   []*Op       // reads of snapshots that are not passed yet

	roll    *rollState
	doomed  map[id.Raw]bool // to be deleted
	walk    *walk
	leaving []id.Raw // out of the list, but perhaps in the checkpoint that metad has
	needCut bool     // a checkpoint is wanted for the sake of one that goes
}

// snapshot is one that stands.
type snapshot struct {
	record.Snapshot
	above id.Sequence   // watermark of its parent; if there is none, the origin's, or 0
	tree  *blockmap.Map // nil: nobody looks into it
	used  time.Duration // when somebody did last
}

// mark is a snapshot on its way.
type mark struct{ record.SnapshotMark }

// marking tells that a mark is taken and not passed.
func (c *Core) marking() bool { return len(c.snaps.marks) > 0 }

// errTooMany is the answer to one snapshot too many.
var errTooMany = fmt.Errorf("a disk has %d snapshots at most; delete one first: %w", record.SnapshotsMax, errs.ErrConflict)

// takeMark gives the mark of a snapshot its place in the order of writes. A second
// one with the same id is the first one: it ends when that is durable.
func (c *Core) takeMark(now time.Duration, op *Op, fx *Effects) {
	s := &c.snaps
	_, standing := c.snapshot(op.Snapshot)
	known := slices.ContainsFunc(s.marks, func(m *mark) bool { return m.Snapshot == op.Snapshot })
	switch {
	case op.Snapshot == id.Raw{}:
		c.finish(op, errs.ErrInvalid, fx)
	case s.doomed[op.Snapshot] || slices.Contains(s.leaving, op.Snapshot):
		c.finish(op, fmt.Errorf("snapshot is deleted: %w", errs.ErrNotFound), fx)
	case standing:
		c.finish(op, nil, fx)
	case known:
		c.wait(now, op, c.taken, fx)
	case len(s.list)+len(s.marks) >= record.SnapshotsMax:
		c.finish(op, errTooMany, fx)
	case op.Hold > 0 && c.keep.until != 0:
		c.finish(op, errHeld, fx)
	default:
		op.mark = c.noteMark(record.SnapshotMark{Snapshot: op.Snapshot})
		c.add(op)
		c.beginHold(now, op)
		c.pump(now, fx)
	}
}

// noteMark puts a mark at the end of those that are to be passed.
func (c *Core) noteMark(m record.SnapshotMark) *mark {
	k := &mark{m}
	c.snaps.marks = append(c.snaps.marks, k)
	c.snaps.taken++
	return k
}

// snapshot finds one that stands.
func (c *Core) snapshot(x id.Raw) (*snapshot, bool) {
	for _, s := range c.snaps.list {
		if s.ID == x {
			return s, true
		}
	}
	return nil, false
}

// late tells whether a segment was named before a mark that it can no longer come
// before: were it committed after, its id would be below the watermark, and what the
// head drops of it would seem to belong to the snapshot.
func (j *PackJob) late(c *Core) bool {
	return j.marks != c.snaps.taken && (j.long != nil || j.flatten != nil || j.clean != nil && !j.clean.Rewrite)
}

// errMarked: a job was under way when a mark was taken.
var errMarked = fmt.Errorf("a snapshot was taken meanwhile: %w", errs.ErrUnavailable)

// reachMark: the commit with a mark is applied. It is the first of those taken, or was
// taken by an older owner.
func (c *Core) reachMark(m record.SnapshotMark) {
	s := &c.snaps
	if len(s.marks) == 0 || s.marks[0].Snapshot != m.Snapshot {
		panic(fmt.Sprintf("volume %s: the mark of snapshot %x is not the next one", c.cfg.Volume, m.Snapshot))
	}
	s.passing = s.marks[0]
}

// passMark: the checkpoint of a mark is durable in the meta stream, so the snapshot stands.
func (c *Core) passMark(now time.Duration, st *checkpointState, fx *Effects) {
	s := &c.snaps
	news := st.rec.Snapshots[len(st.rec.Snapshots)-1]
	s.list = append(s.list, &snapshot{Snapshot: news, used: now})
	s.parent = news.ID
	s.settle(c.floor())
	s.marks, s.passing = slices.Delete(s.marks, 0, 1), nil
	waiting := s.waiting
	s.waiting = nil
	for _, op := range waiting {
		c.resolve(now, op, fx)
	}
}

// snapshotRecords are the snapshots that a checkpoint lists: those that stand and the
// one that stands with it.
func (c *Core) snapshotRecords(st *checkpointState) (out []record.Snapshot) {
	for _, s := range c.snaps.list {
		out = append(out, s.Snapshot)
	}
	if st.mark != nil {
		out = append(out, record.Snapshot{ID: st.mark.Snapshot, Root: st.rec.Map, Watermark: st.watermark, Blocks: st.blocks, Parent: c.snaps.parent})
	}
	return out
}

// dropped: the head no longer has what lies at loc. It is dead if no snapshot has it: if it was
// born after the one that the head goes on from.
func (c *Core) dropped(loc id.Location) {
	s := loc.Segment()
	if s.Sequence() > c.snaps.watermark {
		if c.counted(s) {
			c.addLive(s, -1)
		}
		return
	}
	c.snaps.walk.note(c, loc, 1)
}

// undropped takes a dropped back.
func (c *Core) undropped(loc id.Location) {
	s := loc.Segment()
	if s.Sequence() > c.snaps.watermark {
		if c.counted(s) {
			c.addLive(s, 1)
		}
		return
	}
	c.snaps.walk.note(c, loc, -1)
}

// treeOf opens the map of a snapshot.
func (c *Core) treeOf(now time.Duration, s *snapshot) *blockmap.Map {
	s.used = now
	if s.tree == nil {
		m, err := blockmap.New(blockmap.Options{Blocks: s.Blocks, Root: s.Root, Budget: c.cfg.Budget})
		if err != nil {
			panic(fmt.Sprintf("volume %s: the tree of a snapshot: %v", c.cfg.Volume, err)) // its record was checked
		}
		s.tree = m
	}
	return s.tree
}

// treeIdle is how long a snapshot's pages stay in memory after the last look.
const treeIdle = 30 * time.Second

// closeTrees lets go of the pages of snapshots that nobody reads.
func (c *Core) closeTrees(now time.Duration) {
	for _, s := range c.snaps.list {
		if s.tree == nil {
			continue
		}
		if now-s.used >= treeIdle {
			s.closeTree()
			continue
		}
		s.tree.Shrink()
	}
}

func (s *snapshot) closeTree() {
	if s.tree != nil {
		s.tree.Close()
		s.tree = nil
	}
}

// resolveSnapshot finds the pieces of a read of a snapshot. It needs no lease: what a
// snapshot holds never changes, whoever owns the volume.
func (c *Core) resolveSnapshot(now time.Duration, op *Op, fx *Effects) {
	s, ok := c.snapshot(op.Snapshot)
	switch {
	case !ok && slices.ContainsFunc(c.snaps.marks, func(m *mark) bool { return m.Snapshot == op.Snapshot }):
		c.snaps.waiting = append(c.snaps.waiting, op)
		return
	case !ok || c.snaps.doomed[op.Snapshot]:
		c.finish(op, fmt.Errorf("snapshot: %w", errs.ErrNotFound), fx)
		return
	case op.Extent.End() > s.Blocks:
		c.finish(op, fmt.Errorf("%v of a snapshot of %d blocks: %w", op.Extent, s.Blocks, errs.ErrInvalid), fx)
		return
	}
	m := c.treeOf(now, s)
	op.Pieces, op.Runs = op.Pieces[:0], op.Runs[:0]
	var miss blockmap.Miss
	if op.Kind == OpStatus {
		miss = op.statusOf(m, nil)
	} else {
		miss = c.locate(op, m)
	}
	switch {
	case !miss.None():
		op.Pieces = op.Pieces[:0] // none of them is in memory
		c.awaitPage(op, pageOwner{watermark: s.Watermark}, miss, fx)
	case op.Kind == OpStatus:
		c.finish(op, nil, fx)
	default:
		fx.Reads = append(fx.Reads, op)
	}
}

// Snapshots are the ids of those that stand and of those whose mark is durable.
func (c *Core) Snapshots() (out []id.Raw) {
	for _, s := range c.snaps.list {
		out = append(out, s.ID)
	}
	for _, m := range c.snaps.marks {
		out = append(out, m.Snapshot)
	}
	return out
}

// takePage hands a page to whoever wanted it: the head's map, a snapshot's, or a walk.
func (c *Core) takePage(now time.Duration, p PageRead, data []byte, err error) error {
	switch {
	case p.of.walk:
		w := c.snaps.walk
		if w == nil || w.diff == nil {
			return nil // it was of one that is over
		}
		if err == nil {
			err = w.diff.Fill(p.Miss, data)
		}
		if err != nil {
			w.pause = now + pageRetryAfter
		}
		return err
	case p.of.look:
		c.lookPage(now, p, data, err)
		return nil // nobody waits for it
	case p.of.watermark != 0:
		s := c.standsAt(p.of.watermark)
		if s == nil || s.tree == nil {
			return nil // deleted or closed; who still wants it asks again
		}
		if err == nil {
			err = s.tree.Fill(p.Miss, data)
		}
		if err != nil {
			c.unreadable(now, s)
		}
		return err
	case err != nil:
		return err
	}
	return c.m.Fill(p.Miss, data)
}

// unreadable: a page of a snapshot cannot be read now. The cleaner leaves its victim alone for a while.
func (c *Core) unreadable(now time.Duration, s *snapshot) {
	if j := c.clean.job; j != nil && j.phase == cleanJudging && j.victim < len(j.Victims) && s.first(j.Victims[j.victim].Segment.Sequence()) {
		c.leaveAlone(now, j.Victims[j.victim].Segment)
		c.endClean(now, cleanRetry)
	}
}
