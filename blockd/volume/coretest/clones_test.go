package coretest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
)

// The rules of clones, each with the schedule that it forbids. DESIGN.md says how each was broken.

// clone makes a stage of a clone of a snapshot.
func (s *stage) clone(x *Snap) *stage {
	s.t.Helper()
	w, err := s.Clone(x)
	s.must(err)
	c := &stage{w, s.t}
	c.must(c.Settle())
	c.Quiesce()
	return c
}

// purge deletes the volume and its kin's snapshots with it.
func (s *stage) purge() {
	s.t.Helper()
	s.must(s.Purge())
}

// first is the tag of the first cell of block l.
func (s *stage) first(l uint64) uint64 {
	s.t.Helper()
	r := s.Read(s.Owner(), l*blk, blk)
	s.Quiesce()
	s.must(s.Err())
	if !r.Ended() || r.Err != nil {
		s.t.Fatalf("read: ended %t, %v", r.Ended(), r.Err)
	}
	return tagIn(r.data)
}

func tagIn(b []byte) (t uint64) {
	for i := range 8 {
		t |= uint64(b[i]) << (8 * i)
	}
	return t
}

// A clone is the snapshot, and then its own: what it writes is not in the parent, what the
// parent writes is not in it, through packing, checkpoints and crashes of either.
func TestCloneBeginsAsItsSnapshotWas(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1})
	s.acked(0, 16)
	s.acked(5000, 8)
	x := s.mark()
	s.acked(0, 4)
	c := s.clone(x)
	c.acked(8, 4)
	c.acked(300_000, 8)
	c.seal()
	s.acked(8, 8)
	s.seal()
	for range 2 {
		s.good()
		c.good()
		if c.first(0) != s.tagOf(x, 0) || c.first(8) == s.tagOf(x, 8) || c.first(5000) != s.first(5000) || s.first(300_000) != 0 {
			t.Fatal("the clone is not its snapshot with what was written")
		}
		c.crash()
		s.crash()
	}
	if n := c.live(); n != 12 {
		t.Errorf("the clone counts %d blocks of its own", n)
	}
}

// Of what its ancestors have a clone deletes nothing, whatever it overwrites, trims or cleans: not
// by its counts, nor as leftovers, nor when it is deleted itself.
func TestCloneDeletesNothingOfItsAncestors(t *testing.T) {
	s := play(t, cleaning())
	s.acked(0, 64)
	x := s.mark()
	c := s.clone(x)
	for range 3 {
		c.acked(0, 60)
		c.seal()
	}
	c.Trim(c.Owner(), 0, 64*blk)
	c.seal()
	for range 20 {
		c.Quiesce()
	}
	c.crash()
	s.good()
	if s.tagOf(x, 63) == 0 {
		t.Fatal("the snapshot is gone")
	}
	c.purge()
	s.crash()
	if s.first(63) == 0 {
		t.Fatal("the parent lost its blocks")
	}
}

// The owner of the parent rewrites segments that a clone reads: slots that the snapshot has
// stay, whoever else has dropped them, and the clone finds the new generation.
func TestAncestorsSegmentIsRewrittenUnderTheClone(t *testing.T) {
	s := play(t, cleaning())
	s.hold("clean")
	s.acked(0, 64)
	s.acked(0, 16) // a quarter of the segment is dead already
	x := s.mark()
	s.acked(16, 44)
	s.seal()
	c := s.clone(x)
	c.acked(0, 2)
	s.hold()
	for i := range uint64(20) {
		s.Quiesce()
		s.acked(1000+i, 1)
		s.Owner().Core.Force()
		s.seal()
	}
	if s.stats().SegmentsRewritten == 0 || s.stats().GenerationsDeleted == 0 {
		t.Fatalf("nothing is rewritten: %+v", s.stats())
	}
	c.good()
	c.crash()
	s.good()
}

// A deleted snapshot stays as long as a clone reads it, and goes with the last one; the space
// that only it needed comes back then.
func TestSnapshotUnderACloneIsHiddenUntilTheCloneIsGone(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1, CleanPercent: -1})
	s.acked(0, 32)
	x := s.mark()
	s.acked(0, 32)
	s.seal()
	c := s.clone(x)
	s.Drop(x)
	s.Quiesce()
	c.good()
	if x.state != snapHidden || s.stats().SnapshotsLeaving != 0 {
		t.Fatalf("it is %d: %+v", x.state, s.stats())
	}
	s.crash()
	c.crash()
	if n := s.live(); n != 64 {
		t.Fatalf("%d blocks live", n)
	}
	c.purge()
	s.Quiesce()
	if n := s.live(); x.state != snapGone || n != 32 {
		t.Fatalf("it is %d, %d blocks live", x.state, n)
	}
	s.good()
}

// A clone of a clone reads both its ancestors, the middle one deleted or not: its snapshot is
// hidden, and what the middle one wrote after it comes back.
func TestCloneOfACloneWithTheMiddleDeleted(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1, CleanPercent: -1})
	s.acked(0, 8)
	s.acked(8, 8)
	a := s.mark()
	m := s.clone(a)
	m.acked(8, 8)
	m.acked(16, 8)
	b := m.mark()
	c := m.clone(b)
	c.acked(16, 4)
	want := []uint64{s.first(0), m.first(8), c.first(16), m.first(20)}
	m.acked(0, 24)
	m.seal()
	m.Drop(b) // hidden: c reads it
	m.Trim(m.Owner(), 0, 24*blk)
	m.seal()
	s.Drop(a) // hidden: m and so c read it
	s.acked(0, 16)
	s.seal()
	s.crash()
	m.crash()
	c.crash()
	for i, l := range []uint64{0, 8, 16, 20} {
		if got := c.first(l); got != want[i] {
			t.Errorf("block %d of the grandchild is %d, was %d", l, got, want[i])
		}
	}
	if n := m.live(); n != 16 {
		t.Errorf("%d blocks of the middle live, 16 are its snapshot's", n)
	}
	if b.state != snapHidden || a.state != snapHidden {
		t.Errorf("%d %d", a.state, b.state)
	}
	c.purge()
	m.Quiesce()
	if b.state != snapGone {
		t.Fatalf("the middle's snapshot is %d", b.state)
	}
	m.good()
	m.purge()
	s.Quiesce()
	if a.state != snapGone || s.live() != 16 {
		t.Fatalf("the first snapshot is %d, %d blocks live", a.state, s.live())
	}
	s.good()
}

// A clone writes down what it began with before it acknowledges anything: whoever finds only
// what is on the stores must not find its writes beside an empty map.
func TestCloneIsFoundedBeforeItServes(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	s.acked(0, 8)
	x := s.mark()
	w, err := s.Clone(x)
	s.must(err)
	c := &stage{w, t}
	c.hold("checkpoint", " append")
	for range 20 {
		c.happen()
		c.pass(100e6)
	}
	if c.Owner().Opened {
		t.Fatal("it serves, and nothing says what it began with")
	}
	c.hold()
	c.must(c.Settle())
	c.acked(20, 1)
	c.Metad.Forget(c.volume) // metad is an older one, and has learned of the volume from its stores
	rec := c.Metad.Record(c.volume)
	k, err := record.DecodeCheckpoint("of the stores", rec.Checkpoint.Opaque)
	if err != nil || k.Origin == nil || k.Origin.Snapshot != id.Snapshot(x.ID) {
		t.Fatalf("the checkpoint says %+v, %v", k, err)
	}
	c.crash()
	if c.first(0) != s.first(0) {
		t.Fatal("it began empty")
	}
}

// Schedule: metad is lost, and each store tells the restored one what it has, before the first checkpoint of
// a clone reaches it. Had the clone served by then, nobody would know any more that it is one, and
// the snapshot that it reads could be deleted (bench/sim, seed 691).
func TestCloneServesWhenMetadHasItsFounding(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	s.acked(0, 8)
	x := s.mark()
	for _, crash := range []bool{false, true} {
		w, err := s.Clone(x)
		s.must(err)
		c := &stage{w, t}
		c.hold("checkpoint")
		for n := range 40 {
			c.Quiesce()
			c.pass(100e6)
			if crash && n == 20 { // the next owner finds the checkpoint in the meta stream
				c.Owner().Kill()
				c.open()
			}
		}
		if c.Owner().Opened {
			t.Fatalf("crash %t: it serves, and metad has nothing that says what it began with", crash)
		}
		if n := c.stats().Checkpoints; n > 1 {
			t.Errorf("crash %t: %d checkpoints while metad does not answer", crash, n)
		}
		c.hold()
		c.must(c.Settle())
		c.acked(20, 1)
		c.crash()
		c.purge()
	}
}

// An owner that dies while it founds the clone leaves it to the next one.
func TestFoundingIsDoneAgainByTheNextOwner(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	s.acked(0, 8)
	x := s.mark()
	for n := 0; n < 40; n += 3 * shortened {
		w, err := s.Clone(x)
		s.must(err)
		c := &stage{w, t}
		for range n {
			c.happen()
		}
		c.crash()
		if c.first(3) != s.tagOf(x, 3) {
			t.Fatalf("died after %d events: the clone is not its snapshot", n)
		}
		c.acked(3, 1)
		c.crash()
		c.purge()
	}
}

// What a segment's id says of whose it is holds for a clone with another owner, opened at any time: its
// ids are all above the watermark of the snapshot, for they were given out after it was committed.
func TestIdsOfACloneAreAboveItsOrigin(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	s.acked(0, 8)
	x, _ := s.Mark(s.Owner())
	s.hold(" checkpoint")
	s.Quiesce()
	if _, ok := s.OriginOf(x); ok {
		t.Fatal("a clone could be made before metad has the watermark")
	}
	s.hold()
	s.Quiesce()
	o, ok := s.OriginOf(x)
	if !ok {
		t.Fatal("metad has no watermark")
	}
	c := s.clone(x)
	c.acked(0, 32)
	c.seal()
	for name, v := range c.segments.of {
		if v == c.volume && name.Sequence() <= o.Watermark {
			t.Errorf("segment %s is the clone's, the watermark is %x", name, o.Watermark)
		}
	}
	for name := range c.Owner().Core.Segments() {
		if c.segments.of[name] != c.volume {
			t.Errorf("segment %s is in the clone's table", name)
		}
	}
}

// Forget makes a record as one who knows only what stores have would make it.
func (f *Metad) Forget(v id.Volume) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.volumes[v]
	r.Origin = nil
	f.volumes[v] = (*cluster.Volume)(r)
}

// Without this nothing would try whether clones, their parents and their snapshots stay apart,
// whatever is written, packed, cleaned, taken, rolled back and deleted in each of them, in any order.
func TestClonesInEveryOrderOfEvents(t *testing.T) {
	from, to := seeds(t, 1)
	made, purged, buried, flattened := 0, 0, 0, 0
	for seed := from; seed < to; seed++ {
		before := buf.Outstanding().Buffers
		cfg := small(seed)
		cfg.Leases, cfg.Snapshots, cfg.CheckEvery = true, 0.05, 100
		if seed%2 == 1 {
			cfg.PackFails, cfg.PageFails, cfg.ReadFails, cfg.MetadFails, cfg.TakesOver = 0.1, 0.05, 0.02, 0.05, 0.001
		}
		root := New(cfg)
		for round := range max(7/shortened, 3) {
			w := root.kin[root.rng.IntN(len(root.kin))]
			if err := w.breed(round % 3); err != nil {
				t.Fatal(err)
			}
			for range 1200 / shortened {
				if err := root.kin[root.rng.IntN(len(root.kin))].Run(1); err != nil {
					t.Fatal(err)
				}
			}
			if err := root.Bury(); err != nil {
				t.Fatal(err)
			}
		}
		made, buried = made+root.born, buried+root.Buried
		family := slices.Clone(root.kin)
		alone := 0
		for i := len(family) - 1; i >= 0; i-- { // the youngest first, in the end
			w := family[i]
			if err := w.finish(); err != nil {
				t.Fatal(err)
			}
			if w.Flattened > 0 {
				alone++
			} else {
				purged++
			}
		}
		for _, w := range root.kin { // those that stand alone outlive all that they began with
			for w.happen() {
			}
			w.Owner().Kill()
		}
		flattened += alone
		if n := buf.Outstanding().Buffers; n != before {
			t.Fatalf("seed %d: %d buffers are not released", seed, n-before)
		}
	}
	t.Logf("%d clones made, %d flattened, %d purged at the end, %d when they were deleted and nobody needed them", made, flattened, purged, buried)
}

// breed makes a clone of some snapshot that stands, rolls back to one, deletes a volume that nobody needs, or one that is
// needed and is kept for that.
func (w *World) breed(how int) error {
	if err := w.settleAll(); err != nil {
		return err
	}
	for _, x := range w.kin {
		if x.from != nil && x.retired == nil && w.rng.IntN(4) == 0 {
			x.Flatten(!x.flat.on)
		}
	}
	if how == 2 && w.from != nil && w.childless() && w.rng.IntN(2) == 0 {
		return w.finish()
	}
	switch {
	case w.retired != nil && w.retired.trash:
		w.Untrash(w.rng.IntN(2) == 0)
		return w.settleAll()
	case how == 2 && w.retired == nil && w.rng.IntN(4) == 0:
		w.Trash()
		return nil
	case how == 2 && w.retired == nil:
		return w.Retire(w.rng.IntN(2) == 0)
	}
	if how == 0 && w.retired == nil && !w.Needed() {
		_, r := w.Mark(w.Owner())
		if err := w.Until(func() bool { return r.ended }); err != nil {
			return err
		}
	}
	for _, s := range w.Snaps {
		switch {
		case s.state != snapMade:
		case how == 1 && w.retired == nil:
			if _, err := w.Rollback(s); err != nil {
				return err
			}
			return w.Until(w.Rolled)
		case len(w.kin) < 6:
			_, err := w.Clone(s)
			return err
		}
	}
	return nil
}

func (w *World) childless() bool {
	for _, s := range w.Snaps {
		if s.clones > 0 {
			return false
		}
	}
	return true
}

func (w *World) settleAll() error {
	for _, x := range w.kin {
		if x.Owner() == nil {
			x.open()
		}
		if err := x.Settle(); err != nil {
			return fmt.Errorf("volume %x: %w", x.volume[0], err)
		}
	}
	return nil
}

// finish looks at everything of a volume, deletes its snapshots and, of a clone, itself; then at all its kin.
func (w *World) finish() error {
	if err := errors.Join(w.settleAll(), w.ReadAll(), w.StatusAll(), w.ReadSnapshots()); err != nil {
		return fmt.Errorf("volume %x: %w", w.volume[0], err)
	}
	if err := w.dropAll(); err != nil {
		return fmt.Errorf("volume %x: %w", w.volume[0], err)
	}
	if w.from != nil && w.retired == nil && w.childless() && w.rng.IntN(2) == 0 {
		w.Flatten(true)
		if err := errors.Join(w.Until(func() bool { return w.from == nil }), w.settleAll(), w.ReadAll()); err != nil {
			return fmt.Errorf("volume %x is flattened: %w", w.volume[0], err)
		}
	}
	if w.Flattened == 0 || w.retired != nil {
		if err := w.Purge(); err != nil {
			return fmt.Errorf("volume %x: %w", w.volume[0], err)
		}
	}
	for _, x := range w.kin {
		if x == w {
			continue
		}
		if err := errors.Join(x.settleAll(), x.ReadAll(), x.ReadSnapshots()); err != nil {
			return fmt.Errorf("volume %x after %x is gone: %w", x.volume[0], w.volume[0], err)
		}
		if x.Check(); x.Err() != nil {
			return x.Err()
		}
	}
	return nil
}
