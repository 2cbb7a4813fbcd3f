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

// A volume that was made from an archive begins with the tree that lies there. Its segments
// got ids of this volume with the volume itself, below every other id it will ever have, and
// the shell translates: whatever reaches the core, pages of the map too, speaks of these. A
// segment of them that is still left in the archive is foreign: it is not in the table, its
// slots are read from the archive, and nothing of it is counted, whoever drops it. It is born
// before every snapshot of the volume, so that a snapshot or the head has it for one
// unbroken stretch, as with any other segment. How it becomes one of ours is in hydrate.go.
//
// What is left is part of every checkpoint, until nothing is: then the volume has forgotten
// that it came from an archive.

// Restored says that a volume was made from an archive, and what was allotted to it.
type Restored struct {
	Manifest string
	First    id.Sequence
	Segments uint32
	PGs      []id.PG
	// Root is that of the archived tree, translated; only a volume without a checkpoint needs it.
	Root blockmap.Root
}

// archive gives what a checkpoint says of it before anything is hydrated; nil: of a tree without segments.
func (r *Restored) archive() (*record.Archive, error) {
	if r.Segments == 0 {
		return nil, nil
	}
	a := &record.Archive{
		Manifest: r.Manifest, First: r.First, Segments: r.Segments, PGs: r.PGs, Left: []record.ArchiveRun{{From: 0, Count: r.Segments}},
	}
	if what := a.Check(); what != "" {
		return nil, fmt.Errorf("allotment of %d segments from %d on: wrong %s", r.Segments, r.First, what)
	}
	return a, nil
}

// foreignState is what lies in an archive, and what is on its way from there.
type foreignState struct {
	*record.Archive // nil: nothing
	jobs            []*HydrateJob
	next            time.Duration            // no job begins before
	from            uint32                   // where the next job is looked for
	shy             map[uint32]time.Duration // could not be read: left alone until then
	problem         string
	forgotten       bool // metad has a checkpoint without an archive, and was told
	segments        uint64
	blocks          uint64
}

// Archive is what of the volume lies in an archive; nil: nothing.
func (c *Core) Archive() *record.Archive { return c.archiveRecord() }

// foreign tells whether a segment lies in the archive.
func (c *Core) foreign(s id.Segment) bool {
	_, ok := c.archive.Index(s)
	return ok
}

// counted tells whether the table counts what lives of a segment.
func (c *Core) counted(s id.Segment) bool { return !c.foreign(s) }

// takeAway notes that the i-th segment has left the archive. false: too many runs would be left.
func takeAway(a *record.Archive, i uint32) bool {
	at := slices.IndexFunc(a.Left, func(r record.ArchiveRun) bool { return r.From <= i && i < r.From+r.Count })
	if at < 0 {
		return false
	}
	r := a.Left[at]
	var rest []record.ArchiveRun
	if i > r.From {
		rest = append(rest, record.ArchiveRun{From: r.From, Count: i - r.From})
	}
	if end := r.From + r.Count; i+1 < end {
		rest = append(rest, record.ArchiveRun{From: i + 1, Count: end - i - 1})
	}
	if len(a.Left)-1+len(rest) > record.ArchiveRunsMax {
		return false
	}
	a.Left = slices.Concat(a.Left[:at:at], rest, a.Left[at+1:])
	return true
}

// archiveRecord is the archive as a checkpoint has it; nil: there is none any more.
func (c *Core) archiveRecord() *record.Archive {
	if c.archive.Archive == nil || len(c.archive.Left) == 0 {
		return nil
	}
	a := *c.archive.Archive
	a.Left = slices.Clone(a.Left)
	return &a
}

// held tells whether what lies in a slot of a segment that is counted from now on lives:
// whether the head or a snapshot has it. No checkpoint may be under way.
func (c *Core) held(now time.Duration, e slotEntry, loc id.Location) (bool, pageOwner, blockmap.Miss) {
	if !e.page {
		if e.lba >= c.blocks {
			return false, pageOwner{}, blockmap.Miss{}
		}
		return c.owned(now, e.lba, loc)
	}
	return c.anyone(now, loc.Segment().Sequence(), func(m *blockmap.Map) (bool, blockmap.Miss) {
		if m == c.m {
			return m.Holds(e.name, loc)
		}
		at, miss := m.PageAt(e.name)
		return at == loc, miss
	})
}

// beginArchive gives a volume that has no checkpoint yet the tree of its archive.
func (c *Core) beginArchive(root *blockmap.Root) error {
	r := c.cfg.Restored
	if r == nil {
		return nil
	}
	a, err := r.archive()
	if err != nil {
		return fmt.Errorf("%w: %w", err, errs.ErrInvalid)
	}
	*root, c.archive.Archive = r.Root, a
	c.load.founding = true
	return nil
}

// checkHydrated refuses records of segments that were not in the archive any more.
func (c *Core) checkHydrated() error {
	seen := make(map[id.Segment]bool)
	for _, a := range c.load.commits {
		if a.hydrated == nil {
			continue
		}
		s := a.hydrated.Segment
		if !c.foreign(s) || seen[s] {
			return fmt.Errorf("record %d of %s: segment %s is not in the archive: %w", a.position, c.cfg.Volume, s, errs.ErrCorrupt)
		}
		seen[s] = true
	}
	return nil
}

// archiveOpened: the volume serves. Perhaps nobody came to tell metad that nothing lies in the archive.
func (c *Core) archiveOpened(fx *Effects) {
	if k := c.load.check; k != nil && c.load.inMetad {
		c.tellWhole(k, fx)
		c.tellFlat(k.Origin != nil, fx)
	}
}

// tellWhole: metad has a checkpoint. It may forget the archive when that has.
func (c *Core) tellWhole(k *record.Checkpoint, fx *Effects) {
	if c.cfg.Restored != nil && !c.archive.forgotten && k.Archive == nil {
		c.archive.forgotten = true
		fx.Whole = true
	}
}

// counting tells that a segment from the archive is counted in part: no count may change meanwhile.
func (c *Core) counting() bool {
	return len(c.apply) > 0 && c.apply[0].hydrated != nil && c.apply[0].begun
}

func (c *Core) archiveStats(s *Stats) {
	f := &c.archive
	s.SegmentsHydrated, s.BlocksHydrated, s.HydrateProblem = f.segments, f.blocks, f.problem
	if f.Archive != nil {
		s.ArchiveSegments, s.ArchiveLeft = f.Segments, f.Remaining()
	}
}
