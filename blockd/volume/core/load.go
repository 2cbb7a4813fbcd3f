package core

import (
	"fmt"
	"slices"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// loadState is what a volume needs until it serves.
type loadState struct {
	check   *record.Checkpoint // the higher of metad's and the meta stream's; nil: none yet
	inMetad bool               // it is metad's
	commits []*commitState     // durable after it, in order
	covered id.LSN
	loader  *blockmap.TableLoader
	run     []*storeproto.Batch
	dead    []id.Segment // already dead at the checkpoint's cut
	// founding: metad has no checkpoint yet that says what the volume began with.
	founding bool
	inRecord bool // metad had one at the opening
	// proof is the journal's record that this opening ended; served: it is durable, and Effects.Opened was given.
	proof  id.LSN
	served bool
}

// New makes the core of a volume that is being opened. checkpoint is metad's, as
// record.EncodeCheckpoint gave it; empty: there is none.
func New(cfg Config, checkpoint []byte) (*Core, error) {
	cfg.Limits.EnsureDefaults()
	if err := cfg.Limits.Validate(); err != nil {
		return nil, err
	}
	c := &Core{
		cfg: cfg, blocks: cfg.Blocks,
		pageWaiters: make(map[pageKey][]*Op), pageBusy: make(map[pageKey]bool),
		pageSegs: make(map[id.Segment]blockmap.Entry), deletes: make(map[id.Segment]bool),
	}
	c.reap.wanted = cfg.Leftovers
	c.groups.lively = make(map[id.PG]group)
	c.groups.suspects = make(map[id.Store]time.Duration)
	c.groups.versions, c.groups.down = make(map[id.PG]uint32), make(map[id.Store]bool)
	c.long.known = make(map[id.Segment]*longSegment)
	if len(checkpoint) > 0 {
		k, err := record.DecodeCheckpoint("metad's checkpoint of "+cfg.Volume.String(), checkpoint)
		if err != nil {
			return nil, err
		}
		if k.Volume != cfg.Volume {
			return nil, fmt.Errorf("checkpoint of %s given for %s: %w", k.Volume, cfg.Volume, errs.ErrCorrupt)
		}
		c.load.check, c.load.inMetad, c.load.inRecord = k, true, true
	}
	return c, nil
}

// MetaFrom is where the meta run must start: after metad's checkpoint.
func (c *Core) MetaFrom() id.LSN {
	if c.load.check == nil {
		return 0
	}
	return c.load.check.Meta
}

// LoadMeta decodes the recovered meta run. The journal is needed after the LSN it gives.
func (c *Core) LoadMeta(run *journal.MetaRun) (covered id.LSN, err error) {
	l := &c.load
	for _, b := range run.Batches {
		recs, err := record.ReadMeta("meta stream of "+c.cfg.Volume.String(), b.Meta, b.First, b.Count)
		if err != nil {
			return 0, err
		}
		for i := range recs {
			r := &recs[i]
			if r.Commit != nil {
				l.commits = append(l.commits, &commitState{rec: r.Commit, position: r.Position})
			}
			if r.Moved != nil {
				a := &commitState{position: r.Position}
				a.take(r.Moved)
				l.commits = append(l.commits, a)
			}
			if r.Rewritten != nil {
				l.commits = append(l.commits, &commitState{rec: new(record.Commit), rewritten: r.Rewritten, position: r.Position})
			}
			if r.Hydrated != nil {
				l.commits = append(l.commits, &commitState{rec: new(record.Commit), hydrated: r.Hydrated, position: r.Position})
			}
			if k := r.Checkpoint; k != nil && (l.check == nil || k.Epoch > l.check.Epoch || k.Epoch == l.check.Epoch && k.Meta > l.check.Meta) {
				l.check, l.inMetad = k, false
			}
		}
	}
	if k := l.check; k != nil {
		l.covered = k.Covered
		n := 0
		for _, a := range l.commits {
			if a.position > k.Meta {
				l.commits[n] = a
				n++
			}
		}
		l.commits = l.commits[:n]
	}
	for _, a := range l.commits {
		l.covered = max(l.covered, a.rec.Covered)
	}
	return l.covered, nil
}

// Start takes the journal of a finished opening: the tables are read, the commits
// replayed, the run put into memory, the opening put on record; then Effects.Opened.
func (c *Core) Start(now time.Duration, o *journal.Opened, fx *Effects) error {
	l := &c.load
	c.journal = o.Core
	c.assigned, c.acked = o.Next[storeproto.Journal]-1, o.Next[storeproto.Journal]-1
	c.taken = c.assigned
	c.meta.acked = o.Next[storeproto.Meta] - 1
	c.reap.run, c.reap.hasty = c.acked, now+c.cfg.Limits.ReapRetry
	l.run = o.Journal
	for _, b := range o.Meta {
		b.Release()
	}
	opts := blockmap.Options{Blocks: c.blocks, Budget: c.cfg.Budget}
	table, err := c.begin(&opts)
	if err != nil {
		return fmt.Errorf("open %s: %w", c.cfg.Volume, err)
	}
	if k := l.check; k != nil {
		for _, p := range k.Pages {
			c.pageSegs[p.Segment] = p.Entry
		}
		c.check.root = k.Map
		c.check.metaApplied, c.check.last, c.check.covered = k.Meta, k.Meta, k.Covered
		for _, s := range k.Snapshots {
			c.snaps.list = append(c.snaps.list, &snapshot{Snapshot: s})
		}
		c.snaps.parent = k.Parent
		c.snaps.settle(c.floor())
		if l.inMetad {
			c.check.committed = k.Meta
		} else {
			c.check.asking = &checkpointState{rec: k}
			c.askCheckpoint(fx)
		}
	}
	if c.m, err = blockmap.New(opts); err != nil {
		return fmt.Errorf("open the map of %s: %w", c.cfg.Volume, err)
	}
	if l.loader, err = blockmap.LoadTable(table); err != nil {
		return fmt.Errorf("open the segment table of %s: %w", c.cfg.Volume, err)
	}
	c.active = newMemtable(l.covered+1, nil)
	c.hurried = now
	c.loadTable(now, fx)
	c.absorb(now, fx)
	return nil
}

// loadTable reads the segment table, many pages at a time.
func (c *Core) loadTable(now time.Duration, fx *Effects) {
	if now < c.pageRetryAt {
		return
	}
	var misses [prefetchMax]blockmap.Miss
	want := c.load.loader.Missing(misses[:0])
	if len(want) > 0 {
		for _, m := range want {
			c.wantPage(pageOwner{}, m, fx)
		}
		return
	}
	t, ok := c.load.loader.Table()
	if !ok {
		return // pages are on their way
	}
	c.table, c.load.loader = t, nil
	c.load.dead = c.deadNow()
	if c.load.check != nil {
		c.findOlder(c.load.check.Meta)
	}
	if err := c.checkCommits(); err != nil {
		fx.Broken = err
		return
	}
	c.apply = c.load.commits
	c.load.commits = nil
	c.continueApply(now, fx)
}

// tablePage takes a page of the segment table.
func (c *Core) tablePage(now time.Duration, p PageRead, data []byte, err error, fx *Effects) {
	if c.load.loader == nil {
		return
	}
	if err == nil {
		err = c.load.loader.Fill(p.Miss, data)
	}
	switch {
	case err == nil:
		c.loadTable(now, fx)
	case passing(err):
		c.stats.Problem = fmt.Sprintf("the segment table cannot be read: %v", err)
		c.pageRetryAt = now + pageRetryAfter
	default:
		fx.Broken = fmt.Errorf("read the segment table of %s: %w", c.cfg.Volume, err)
	}
}

// checkCommits refuses commits that no engine of this volume can have written:
// they would be applied to what is not there.
func (c *Core) checkCommits() error {
	if err := c.checkHydrated(); err != nil {
		return err
	}
	for _, a := range c.load.commits {
		a.rec.Zeros, a.rec.Trims = append(a.rec.Zeros, a.rec.Trims...), nil
		bad := block.Extent{}
		look := func(e block.Extent) {
			if e.End() > c.blocks {
				bad = e
			}
		}
		for _, e := range a.rec.Zeros {
			look(e)
		}
		for i := range a.rec.Placed {
			look(a.rec.Placed[i].Extent)
		}
		for i := range a.rec.Segments {
			for _, e := range a.rec.Segments[i].Slots {
				if e.Kind() == segment.Data {
					look(block.Extent{Start: e.LBA(), Count: 1})
				}
			}
		}
		if bad.Count > 0 {
			return fmt.Errorf("commit %d of %s: %v of %d blocks: %w", a.position, c.cfg.Volume, bad, c.blocks, errs.ErrCorrupt)
		}
		if c.marking() && (a.from != nil || len(a.rec.Segments)+len(a.rec.Zeros)+len(a.rec.Placed)+len(a.rec.Marks) > 0) {
			return fmt.Errorf("commit %d of %s after a mark that is not passed: %w", a.position, c.cfg.Volume, errs.ErrCorrupt)
		}
		for _, m := range a.rec.Marks {
			if err := c.recoverMark(m); err != nil {
				return fmt.Errorf("commit %d of %s: %w", a.position, c.cfg.Volume, err)
			}
		}
	}
	return nil
}

// recoverMark takes in a mark that an older owner took.
func (c *Core) recoverMark(m record.SnapshotMark) error {
	if slices.Contains(c.Snapshots(), m.Snapshot) || len(c.Snapshots()) >= record.SnapshotsMax {
		return fmt.Errorf("the mark of snapshot %x, the second one or one too many: %w", m.Snapshot, errs.ErrCorrupt)
	}
	c.noteMark(m)
	return nil
}

// loaded: all commits are replayed; the recovered run goes into memory, and the volume serves.
func (c *Core) loaded(now time.Duration, fx *Effects) {
	c.state = stateServing // so that full memtables start to pack
	for i, b := range c.load.run {
		err := c.replay(now, b, fx)
		b.Release()
		c.load.run[i] = nil
		if err != nil {
			fx.Broken = err
			return
		}
	}
	c.load.run = nil
	c.deleteLeftOver(fx)
	c.opened(now, fx)
	c.startPacks(now, fx)
}

// deleteLeftOver deletes what was dead in the checkpoint already and is still
// there, for the one who cut it did not come to it: when metad has the checkpoint.
func (c *Core) deleteLeftOver(fx *Effects) {
	for _, s := range c.load.dead {
		e, ok := c.table.Get(s)
		if !ok {
			e = c.pageSegs[s]
		}
		if e.Live != 0 || c.long.known[s] != nil {
			continue // commits or the run know it
		}
		if c.check.asking != nil {
			c.check.asking.dead = append(c.check.asking.dead, s)
		} else {
			c.delete(s, fx)
		}
	}
	c.load.dead = nil
	if c.check.asking == nil {
		c.deleteOlder(c.check.committed, fx)
	}
}

// replay puts a recovered batch into the active memtable, but for records that are covered.
func (c *Core) replay(now time.Duration, b *storeproto.Batch, fx *Effects) error {
	payload := buf.Get(max(b.PayloadBytes(), 1))
	at := 0
	for _, p := range b.Payload {
		at += copy(payload.Bytes()[at:], p)
	}
	defer payload.Release()
	r := record.ReadJournal("journal of "+c.cfg.Volume.String(), b.Meta, b.First, b.Count, len(b.Sums))
	var j record.Journal
	for r.Next(&j) {
		if j.LSN <= c.load.covered {
			continue
		}
		if err := c.replayOne(now, &j, b, payload, fx); err != nil {
			return err
		}
	}
	if err := r.Err(); err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	c.touched = now
	c.sealIfFull(now, fx)
	return nil
}

func (c *Core) replayOne(now time.Duration, j *record.Journal, b *storeproto.Batch, payload *buf.Buffer, fx *Effects) error {
	if j.Extent.End() > c.blocks {
		return fmt.Errorf("replay record %d of %s: %v of %d blocks: %w", j.LSN, c.cfg.Volume, j.Extent, c.blocks, errs.ErrCorrupt)
	}
	if j.Kind == record.Write && !c.active.fits(int(j.Extent.Count), c.cfg.Limits.SealBlocks) {
		c.seal(now, fx)
	}
	m := c.active
	m.recovered = true
	switch j.Kind {
	case record.Write:
		m.keep(payload)
		m.write(j.Extent, payload, uint32(j.Payload)*block.Size, b.Sums[j.Payload:])
		n := int64(j.Extent.Count) * block.Size
		m.journalled += n
		c.charge(n)
	case record.Zero, record.Trim:
		m.zero(j.Extent)
	case record.Index:
		m.place(j.Extent, j.Placed.Segment, j.Placed.Entry, j.Placed.FirstSlot)
		c.know(j.Placed.Segment, j.Placed.Entry, 1)
	case record.Mark:
		if j.Mark == (record.SnapshotMark{}) {
			return nil // it only carried a release
		}
		if err := c.recoverMark(j.Mark); err != nil {
			return fmt.Errorf("replay record %d of %s: %w", j.LSN, c.cfg.Volume, err)
		}
		m.mark = c.snaps.marks[len(c.snaps.marks)-1]
	}
	m.last = j.LSN
	if m.mark != nil {
		c.seal(now, fx)
	}
	return nil
}
