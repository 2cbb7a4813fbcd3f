package coretest

import (
	"strings"
	"testing"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
)

// The rules of flattening, each with the schedule that it forbids. DESIGN.md says how each was broken.

// family makes a parent of 64 blocks, a snapshot of it and a clone of that, which writes two of them.
func family(t *testing.T) (parent, clone *stage, of *Snap) {
	t.Helper()
	s := play(t, core.Limits{SealBlocks: 16, CheckpointBytes: 1, CleanPercent: -1})
	s.acked(0, 32)
	s.acked(5000, 32)
	x := s.mark()
	c := s.clone(x)
	c.acked(4, 2)
	c.seal()
	return s, c, x
}

// flatten orders it, and insists that the clone needs nobody then.
func (s *stage) flatten() {
	s.t.Helper()
	s.Flatten(true)
	s.until(func() bool { return s.from == nil })
}

func (s *stage) until(f func() bool) {
	s.t.Helper()
	s.must(s.Until(f))
}

// A clone that is flattened has all it reads itself, through the purge of its ancestors and its owner's death.
func TestFlattenedCloneOutlivesItsAncestors(t *testing.T) {
	s, c, x := family(t)
	want := c.first(5031)
	c.flatten()
	if n := c.live(); n != 64 {
		t.Errorf("the clone counts %d blocks of its own", n)
	}
	s.drop(x)
	s.purge()
	c.crash()
	if got := c.first(5031); got != want {
		t.Errorf("block 5031 is %d, was %d", got, want)
	}
	c.acked(0, 64)
	c.seal()
	c.crash()
}

// A write or a trim that comes while a copy is on its way wins, in whatever order their records are durable.
func TestNewerWriteWinsOverACopy(t *testing.T) {
	for _, held := range []string{"flatten reads", "flatten pack", "flatten packed", " append"} {
		s, c, x := family(t)
		c.hold(held)
		c.Flatten(true)
		c.Quiesce()
		if held == " append" {
			c.hold()
		}
		w := c.Write(c.Owner(), 10*blk, 4*blk)
		c.Trim(c.Owner(), 5010*blk, 4*blk)
		for range 30 {
			c.Quiesce()
			if held != " append" {
				c.hold(held)
			}
		}
		c.seal()
		tag := c.first(10)
		c.hold()
		c.until(func() bool { return w.Ended() && c.from == nil })
		c.good()
		if got := c.first(10); got != tag || c.first(5010) != 0 {
			t.Errorf("%s: block 10 is %d, was %d; the trimmed one is %d", held, got, tag, c.first(5010))
		}
		s.drop(x)
		s.purge()
		c.crash()
	}
}

// A snapshot that reads an ancestor keeps the origin, and the clone says so; with the last of them that goes.
// One that is taken when all is copied does not.
func TestSnapshotsKeepTheOriginOfAFlattenedClone(t *testing.T) {
	s, c, x := family(t)
	a := c.mark()
	c.acked(8, 1)
	b := c.mark()
	c.Flatten(true)
	c.until(func() bool { return len(c.stats().FlattenHeld) == 2 })
	late := c.mark()
	c.Quiesce()
	if st := c.stats(); c.from == nil || st.Flatten != core.FlattenSnapshot || st.FlattenLeft != 0 || len(st.FlattenHeld) != 2 {
		t.Fatalf("origin forgotten: %t; %+v", c.from == nil, st)
	}
	c.drop(a)
	c.crash() // the next owner looks for itself
	c.until(func() bool { return c.stats().Flatten == core.FlattenSnapshot && len(c.stats().FlattenHeld) == 1 })
	if c.from == nil || c.stats().FlattenHeld[0] != b.ID {
		t.Fatalf("%+v", c.stats())
	}
	c.drop(b)
	c.until(func() bool { return c.from == nil })
	s.drop(x)
	s.purge()
	c.crash()
	if c.tagOf(late, 31) != c.first(31) {
		t.Error("the snapshot that was taken last is not the disk")
	}
}

// The origin goes when metad has a checkpoint without it, and not before: whoever opens the clone with an older one
// reads the ancestors.
func TestOriginStaysUntilMetadHasACheckpointWithoutIt(t *testing.T) {
	_, c, _ := family(t)
	c.Hold = func(name string) bool { return strings.HasSuffix(name, " checkpoint") }
	c.Flatten(true)
	for range 5 {
		c.Quiesce()
	}
	if st := c.stats(); c.from == nil || st.Flatten != core.FlattenForgets {
		t.Fatalf("origin forgotten: %t; %+v", c.from == nil, st)
	}
	k, err := record.DecodeCheckpoint("metad's", c.Metad.Record(c.volume).Checkpoint.Opaque)
	c.must(err)
	if k.Origin == nil {
		t.Fatal("metad's checkpoint knows of no origin")
	}
	c.crash()
	c.until(func() bool { return c.from == nil })
	c.crash()
}

// Metad was told and did not hear, or the owner died before: the next one says it.
func TestNextOwnerSaysThatTheCloneIsFlat(t *testing.T) {
	_, c, _ := family(t)
	c.hold("is flat")
	c.Flatten(true)
	c.until(func() bool { return strings.Contains(c.waiting(), "is flat") })
	c.Flatten(false) // the order is done: it is not asked for again
	c.Owner().Kill()
	c.Quiesce()
	c.Hold = func(name string) bool { return strings.HasPrefix(name, "engine 2 ") }
	c.open()
	c.until(func() bool { return c.from == nil })
	c.Hold = nil
	c.good()
}

// What cannot be read is not copied and not zeroed: the rest is, the clone says which, and keeps its origin. Were it
// to be found again, all is copied.
func TestUnreadableBlocksOfAncestorsKeepTheOrigin(t *testing.T) {
	s, c, _ := family(t)
	c.flat.lost = make(map[id.Segment]bool)
	for name, v := range s.segments.of {
		if v == s.volume && len(c.flat.lost) == 0 && s.Owner().Core.Segments()[name].Slots > 0 {
			for _, k := range s.segments.at[name] {
				if k.entry.Flags == 0 {
					c.flat.lost[name] = true
				}
			}
		}
	}
	c.Flatten(true)
	c.until(func() bool { return strings.Contains(c.stats().FlattenProblem, "cannot be read") })
	for range 40 {
		c.Quiesce()
	}
	st := c.stats()
	if c.from == nil || st.FlattenLeft == 0 || st.FlattenLeft >= 62 || st.FlattenCopied+st.FlattenLeft != 62 {
		t.Fatalf("origin forgotten: %t; %+v", c.from == nil, st)
	}
	c.good()
	c.flat.lost = nil
	c.pass(flattenLong)
	c.until(func() bool { return c.from == nil })
	c.crash()
}

// flattenLong is longer than any pause.
const flattenLong = 3600e9

// A copy that is under way when a snapshot is marked is dropped: its id would seem to be the snapshot's.
func TestCopyUnderWayAtAMarkIsDropped(t *testing.T) {
	s, c, x := family(t)
	c.hold("flatten pack")
	c.Flatten(true)
	c.Quiesce()
	m := c.mark()
	c.hold()
	c.until(func() bool { return len(c.stats().FlattenHeld) == 1 })
	c.good()
	c.acked(0, 32)
	c.seal()
	c.drop(m)
	c.until(func() bool { return c.from == nil })
	c.good()
	s.drop(x)
	s.purge()
	c.crash()
}

// Nothing is copied into stores that have no room, and the clone says so.
func TestFlattenWaitsForRoom(t *testing.T) {
	_, c, _ := family(t)
	for _, x := range c.Stores {
		c.Metad.MarkFull(x.ID(), true)
	}
	c.Quiesce()
	c.Flatten(true)
	c.Quiesce()
	if st := c.stats(); st.FlattenCopied > 0 || !strings.Contains(st.FlattenProblem, "full") {
		t.Fatalf("%+v", st)
	}
	for _, x := range c.Stores {
		c.Metad.MarkFull(x.ID(), false)
	}
	c.until(func() bool { return c.from == nil })
	c.good()
}

// An order that is taken back stops the copying, at whatever point it is, and harms nothing; the next goes on from there.
func TestFlattenCanBeStoppedAndGoesOn(t *testing.T) {
	s, c, x := family(t)
	for i := 0; c.from != nil; i++ {
		c.Flatten(i%2 == 0)
		for range 3 * (i + 1) {
			c.happen()
			c.pass(50e6)
		}
		if i%7 == 3 {
			c.crash()
		}
		c.must(c.Err())
	}
	s.drop(x)
	s.purge()
	c.crash()
}

// A rollback brings back what the snapshot reads of ancestors: it is copied once more.
func TestRolledBackCloneIsFlattenedAnew(t *testing.T) {
	s, c, x := family(t)
	m := c.mark()
	c.Flatten(true)
	c.until(func() bool { return len(c.stats().FlattenHeld) == 1 })
	safety, err := c.Rollback(m)
	c.must(err)
	c.until(c.Rolled)
	c.until(func() bool { return c.stats().Flatten == core.FlattenSnapshot && len(c.stats().FlattenHeld) >= 1 })
	if c.tagOf(safety, 31) != c.first(31) || c.first(4) != c.tagOf(m, 4) {
		t.Error("the clone is not what its snapshot was")
	}
	c.drop(safety)
	c.drop(m)
	c.until(func() bool { return c.from == nil })
	s.drop(x)
	s.purge()
	c.crash()
}
