package coretest

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// The rules of cleaning, each with the schedule that it forbids. DESIGN.md says how each was broken.

// cleaning are limits under which the cleaner works as soon as something is dead.
func cleaning() core.Limits {
	return core.Limits{SealBlocks: 64, MergeBelow: 16, CleanPercent: 3, CleanSlack: 1, CleanRate: 1 << 40, CheckpointTrifle: 1 << 40, CheckpointIdle: 1}
}

// halfDead makes segments of 64 blocks of which 32 are dead, and lets the cleaner do what the test lets it.
func (s *stage) halfDead(n uint64, hold ...string) {
	s.t.Helper()
	s.hold("clean")
	for i := range n {
		s.acked(i*64, 64)
	}
	s.seal()
	for i := range n {
		s.acked(i*64+16, 32)
	}
	s.seal()
	s.hold(hold...)
	s.Quiesce()
	s.must(s.Err())
}

// generations lists the segments that have one of which slots were dropped.
func (s *stage) generations() (out []id.Segment) {
	for name, gens := range s.segments.at {
		for _, k := range gens {
			if k.entry.Kept > 0 {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// A rewritten segment keeps the numbers of its slots: were they counted anew, the map
// would point at other blocks.
func TestRewrittenSegmentKeepsItsSlots(t *testing.T) {
	s := play(t, cleaning())
	s.halfDead(4)
	st := s.stats()
	if st.SegmentsRewritten < 4 || len(s.generations()) < 4 {
		t.Fatalf("%d generations: %+v", len(s.generations()), st)
	}
	s.good()
	s.crash()
	if len(s.generations()) < 4 {
		t.Fatal("the next engine does not know of them")
	}
}

// The trees of the checkpoint that metad has know the older generation: whoever
// opens the volume after a crash may find it there.
func TestOldGenerationStaysUntilMetadHasACheckpoint(t *testing.T) {
	s := play(t, cleaning())
	s.halfDead(4, " checkpoint")
	for _, name := range s.generations() {
		if n := len(s.segments.at[name]); n != 2 {
			t.Fatalf("segment %s has %d generations before the checkpoint", name, n)
		}
	}
	s.crash()
	for range 4 {
		s.Owner().Core.Force()
		s.Quiesce()
	}
	for name, gens := range s.segments.at {
		if len(gens) != 1 {
			t.Fatalf("segment %s has %d generations after the checkpoint", name, len(gens))
		}
	}
	s.crash()
}

// A client that writes while its blocks are being moved wins: the move counts only for
// blocks that are still where they were.
func TestNewerWriteWinsOverAMove(t *testing.T) {
	s := play(t, cleaning())
	s.hold("clean")
	for i := range uint64(10) {
		s.acked(i*100, 8)
		s.seal()
	}
	s.hold("clean packed") // the new segment is durable, its record not written
	s.Quiesce()
	for i := range uint64(10) {
		s.acked(i*100+2, 3)
	}
	s.Trim(s.Owner(), 306*blk, 2*blk)
	s.seal() // and committed
	s.hold()
	s.Quiesce()
	if st := s.stats(); st.SegmentsMerged < 10 {
		t.Fatalf("nothing was merged: %+v", st)
	}
	s.good()
	s.crash()
}

// A rewriting that fails takes nothing with it: deleting its name would delete the
// generation that the map needs.
func TestFailedRewritingDeletesNothing(t *testing.T) {
	s := play(t, cleaning())
	s.halfDead(1, "clean pack")
	s.Owner().suspects = []id.Store{s.Stores[4].ID()} // the job fails
	s.hold()
	s.Quiesce()
	s.good()
	s.Quiesce()
	if st := s.stats(); st.SegmentsRewritten == 0 || st.PackRetries == 0 {
		t.Fatalf("it was not tried again: %+v", st)
	}
	s.crash()
}

// What a rewriting that failed has put is found at last: a dead segment goes with all its generations.
func TestDeadSegmentGoesWithAllItsGenerations(t *testing.T) {
	s := play(t, cleaning())
	s.halfDead(2, "clean packed") // the first is put, and nobody hears of it
	if n := len(s.generations()); n != 1 {
		t.Fatalf("%d generations are put", n)
	}
	s.Owner().Kill()
	s.hold("clean")
	s.open()
	s.must(s.Settle())
	s.Trim(s.Owner(), 0, 1000*blk)
	s.seal()
	for range 3 {
		s.Owner().Core.Force()
		s.Quiesce()
	}
	if n := len(s.generations()); n != 0 {
		t.Fatalf("%d generations of dead segments are left", n)
	}
	s.good()
}

// An owner that dies between a rewriting and the deletion of what it replaced leaves
// that to the next one: the table says where to look.
func TestNextEngineDeletesOlderGenerations(t *testing.T) {
	s := play(t, cleaning())
	s.halfDead(4, " delete")
	s.Owner().Core.Force()
	s.Quiesce()
	s.Owner().Kill()
	s.tasks = nil // the deletions die with their process
	s.hold("clean")
	s.open()
	s.must(s.Settle())
	s.Quiesce()
	if len(s.generations()) == 0 {
		t.Fatal("nothing was rewritten")
	}
	for name, gens := range s.segments.at {
		if len(gens) != 1 {
			t.Fatalf("segment %s still has %d generations", name, len(gens))
		}
	}
	s.good()
}

// A read that has looked its blocks up before a generation went looks again.
func TestReadLooksAgainWhenItsGenerationWent(t *testing.T) {
	s := play(t, cleaning())
	s.halfDead(4, "clean")
	s.hold(" read")
	r := s.Read(s.Owner(), 0, 256*blk)
	for range 4 {
		s.Quiesce()
		s.Owner().Core.Force()
	}
	s.Quiesce()
	for name, gens := range s.segments.at {
		if len(gens) != 1 {
			t.Fatalf("segment %s has %d generations", name, len(gens))
		}
	}
	s.hold()
	s.Quiesce()
	if !r.Ended() || r.Err != nil {
		t.Fatalf("the read: ended %t, %v", r.Ended(), r.Err)
	}
	s.good()
}

// Of a segment that an index record names the map does not have all blocks yet: to the
// cleaner these would be dead.
func TestCleanerLeavesSegmentsOfIndexRecordsAlone(t *testing.T) {
	l := cleaning()
	l.LongBlocksMin, l.LongInFlight, l.SealBlocks = 24, 1, 32
	s := play(t, l)
	s.hold(" pack")
	for i := range uint64(3) { // the second and the third share a segment, and not a memtable
		s.Write(s.Owner(), i*100*blk, 24*blk)
	}
	s.Quiesce()
	s.hold()
	s.Quiesce()
	if st := s.stats(); st.SegmentsLong != 2 || st.LiveBytes != 48*blk || st.DeadBytes != 24*blk {
		t.Fatalf("the third write should be in no map yet: %+v", st)
	}
	s.seal()
	s.good()
	s.crash()
}

// At the end of a volume the job under way is waited for: else its shards would stay for ever.
func TestDetachWaitsForTheCleaner(t *testing.T) {
	s := play(t, cleaning())
	s.halfDead(1, "clean packed")
	o := s.Owner()
	o.Drain()
	s.Quiesce()
	if o.Drained {
		t.Fatal("drained while a generation is being put")
	}
	s.hold()
	s.must(s.Until(func() bool { return o.Drained }))
	for name, gens := range s.segments.at {
		for g, k := range gens {
			if len(gens) > 1 && k.entry.Kept > 0 {
				t.Logf("%s %s", name, g)
			}
		}
	}
	s.crash()
}

// A group that lacks a store gets no new generation until it has one again; one that is
// only full does.
func TestCleanerRewritesOnlyInHealthyGroups(t *testing.T) {
	s := play(t, cleaning())
	s.halfDead(4, "clean")
	before := s.stats().SegmentsRewritten
	for _, x := range s.Stores {
		s.Metad.Mark(x.ID(), 2) // down, says metad
	}
	s.pass(0)
	s.hold()
	s.Quiesce()
	if n := s.stats().SegmentsRewritten; n > before+1 {
		t.Fatalf("%d segments rewritten in groups without stores", n-before)
	}
	for _, x := range s.Stores {
		s.Metad.Mark(x.ID(), 1)
		s.Metad.MarkFull(x.ID(), true)
	}
	s.Quiesce()
	s.Quiesce()
	if n := s.stats().SegmentsRewritten; n < before+4 {
		t.Fatalf("%d segments rewritten on a full cluster", n-before)
	}
	s.good()
}

// A small volume that is overwritten at random for ever takes a bounded multiple of what
// lives in it, in bytes and in segments.
func TestSpaceStaysBoundedUnderRandomOverwrites(t *testing.T) {
	l := cleaning()
	l.CleanPercent, l.CheckpointTrifle, l.CheckpointDeadMin, l.CheckpointDead = 25, 64*blk, 64*blk, 1<<40
	l.MergeBelow, l.SealBytes = 8, 1<<20
	s := play(t, l)
	const blocks = 2048
	rng := rand.New(rand.NewPCG(5, 5))
	for i := uint64(0); i < blocks; i += 64 {
		s.acked(i, 64)
	}
	worst, segments, writes := 0, 0, 0
	for range 400 / min(shortened, 4) {
		for range 32 {
			s.Write(s.Owner(), rng.Uint64N(blocks)*blk, blk)
			writes++
		}
		for s.Err() == nil && s.happen() {
			s.steps++
		}
		s.pass(100 * 1e6)
		for s.Err() == nil && s.happen() {
			s.steps++
		}
		worst, segments = max(worst, s.Slots()), max(segments, s.Segments())
	}
	s.must(s.Err())
	st := s.stats()
	t.Logf("%d writes into %d blocks: at most %d slots and %d segments; %d blocks moved", writes, blocks, worst, segments, st.BlocksCleaned)
	if worst > blocks*147/100 { // 2.2 with 4+2
		t.Errorf("%d slots for %d live blocks", worst, blocks)
	}
	if most := 8*blocks/64 + 8; segments > most/2 {
		t.Errorf("%d segments for %d live blocks", segments, blocks)
	}
	if st.BlocksCleaned > uint64(2*writes) {
		t.Errorf("%d blocks moved for %d written", st.BlocksCleaned, writes)
	}
	s.good()
	s.crash()
}

// Without this the errors of the stage above would not be seen: a job of nobody.
func TestFencedCleanerLetsGo(t *testing.T) {
	for _, at := range []string{"clean lists", "clean reads", "clean pack", "clean packed"} {
		s := play(t, cleaning())
		s.halfDead(2, at)
		s.Owner().Kill()
		s.crash()
		s.Quiesce()
		s.must(s.Err())
		if err := s.Owner().Err; err != nil && errs.CodeOf(err) != errs.StaleEpoch {
			t.Fatal(err)
		}
	}
}

// Of a commit that is applied in part the map has not all blocks yet: to the cleaner
// those that are missing would be dead.
func TestCleaningBeginsBetweenCommits(t *testing.T) {
	l := cleaning()
	l.SealBlocks = 2048
	s := play(t, l)
	s.hold(" packed")
	for i := range uint64(4) {
		s.acked(i*512, 512)
	}
	run := func(words ...string) {
		s.hold(words...)
		for s.Err() == nil && s.happen() {
			s.steps++
		}
	}
	run(" continue") // the commit is durable, and a quarter of it applied
	s.pass(100 * time.Millisecond)
	run(" continue") // the cleaner would list, and judge
	if st := s.stats(); st.Cleaning || st.Memtables != 2 {
		t.Fatalf("cleaning begins inside a commit: %+v", st)
	}
	s.hold()
	s.Quiesce()
	s.good()
	s.crash()
}

// One volume of a process cleans at a time: each job holds up to a segment in memory.
func TestVolumesCleanInTurn(t *testing.T) {
	m := core.NewMemory(64 << 20)
	l := cleaning()
	var stages []*stage
	for range 2 {
		s := stageOf(t, l, m)
		s.halfDead(2, "clean reads")
		stages = append(stages, s)
	}
	a, b := stages[0], stages[1]
	if !a.stats().Cleaning || b.stats().Cleaning {
		t.Fatalf("cleaning: %t and %t", a.stats().Cleaning, b.stats().Cleaning)
	}
	a.Owner().Kill() // whatever becomes of one, the other gets its turn
	b.hold()
	b.Quiesce()
	if st := b.stats(); st.SegmentsRewritten < 2 {
		t.Fatalf("the other does not get its turn: %+v", st)
	}
	a.crash()
	a.Quiesce()
	a.good()
}

// The fuller the stores, the less may lie dead: at five sixths what was fine before is cleaned.
func TestFullStoresAreCleanedHarder(t *testing.T) {
	l := cleaning()
	l.CleanPercent, l.MergeBelow = 200, 8
	s := play(t, l)
	s.halfDead(8)
	if st := s.stats(); st.SegmentsRewritten != 0 || st.DeadBytes == 0 {
		t.Fatalf("cleaned for a third: %+v", st)
	}
	for i, fill := range []uint64{60, 90} {
		for _, x := range s.Stores {
			s.Metad.MarkUsed(x.ID(), fill, 100)
		}
		s.Quiesce()
		if st := s.stats(); (st.SegmentsRewritten > 0) != (i == 1) {
			t.Fatalf("at %d %%: %+v", fill, st)
		}
	}
	s.good()
}

// Headers that do not name all that the map has of a segment are not understood: a
// generation made by them would lack blocks.
func TestHeadersThatNameTooLittleAreNotBelieved(t *testing.T) {
	s := play(t, cleaning())
	s.halfDead(2, "clean lists")
	for _, gens := range s.segments.at {
		for _, k := range gens {
			k.entries = slices.Clone(k.entries)
			k.entries[0] = 0 // a block of the volume, or a page
		}
	}
	s.hold()
	s.Quiesce()
	if st := s.stats(); st.SegmentsRewritten != 0 || st.CleanProblem == "" {
		t.Fatalf("rewritten all the same: %+v", st)
	}
	s.good()
}

// A full cluster is cleaned: it takes from the reserve less than it gives back.
func TestFullClusterIsCleaned(t *testing.T) {
	s := play(t, cleaning())
	s.hold("clean")
	for i := range uint64(10) {
		s.acked(i*100, 8)
		s.seal()
	}
	for _, x := range s.Stores {
		s.Metad.MarkFull(x.ID(), true)
	}
	s.pass(0)
	s.hold()
	s.Quiesce()
	if st := s.stats(); st.SegmentsMerged < 8 {
		t.Fatalf("nothing was merged: %+v", st)
	}
	s.good()
}
