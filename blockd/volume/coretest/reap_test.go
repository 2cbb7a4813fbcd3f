package coretest

import (
	"testing"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/id"
)

// older are the segments that there are of epochs before the owner's.
func (s *stage) older() (out []id.Segment) {
	for _, x := range s.segments.leftovers() {
		if x.Generation.Epoch < s.Owner().epoch {
			out = append(out, x.Segment)
		}
	}
	return out
}

// orphaned leaves a segment that is put and never committed, and its blocks in the
// journal; then another engine opens the volume.
func orphaned(t *testing.T) *stage {
	s := play(t, core.Limits{SealBlocks: 64})
	s.acked(0, 8)
	s.seal()
	s.hold(" packed")
	s.acked(100, 8)
	s.seal()
	s.Owner().Kill()
	s.hold()
	s.open()
	s.Quiesce()
	if st := s.stats(); len(s.older()) != 2 || st.Leftovers != 0 || len(s.Metad.Spans(s.volume)) == 0 {
		t.Fatalf("%d segments, %d spans, %+v", len(s.older()), len(s.Metad.Spans(s.volume)), st)
	}
	return s
}

func (s *stage) checkpoint() {
	s.t.Helper()
	s.Owner().Core.Force()
	s.seal()
}

// Without it every crash of an owner would cost the space of what it had under way, for ever.
func TestLeftoversOfADeadOwnerAreReaped(t *testing.T) {
	s := orphaned(t)
	s.seal()
	s.checkpoint()
	s.seal()
	if st := s.stats(); st.Leftovers != 1 {
		t.Fatalf("%d leftovers found", st.Leftovers)
	}
	for _, x := range s.Metad.Spans(s.volume) {
		if x.Epoch < s.Owner().epoch {
			t.Fatalf("metad still keeps the span %+v", x)
		}
	}
	s.good()
	s.crash()
	if n := s.stats().Leftovers; n != 0 {
		t.Fatalf("%d more", n)
	}
}

// A disk that nobody writes to is never due for a checkpoint. Without one for this alone what a
// dead owner left there would never be looked for, and its group would keep an older code for as
// long (bench/sim, seed 82). One is enough: a quiet disk is not to wear its stores.
func TestOwnerOfAQuietDiskFindsLeftovers(t *testing.T) {
	s := orphaned(t)
	s.seal()
	s.seal()
	if st := s.stats(); st.Leftovers != 1 || st.Checkpoints != 1 || len(s.older()) != 1 {
		t.Fatalf("%d segments, %+v", len(s.older()), st)
	}
	for range 5 {
		s.seal()
	}
	if n := s.stats().Checkpoints; n != 1 {
		t.Errorf("%d checkpoints of a quiet disk", n)
	}
	s.good()
	s.crash() // nothing is recovered now that a checkpoint does not cover, and nothing was left
	for range 5 {
		s.seal()
	}
	if st := s.stats(); st.Leftovers != 0 || st.Checkpoints > 1 {
		t.Errorf("%+v", st)
	}
	for _, x := range s.Metad.Spans(s.volume) {
		if x.Epoch < s.Owner().epoch {
			t.Errorf("metad still keeps the span %+v", x)
		}
	}
}

// Before a checkpoint of the own epoch covers the recovered run, a segment may be named by
// records that are not in the table yet: nothing is judged.
func TestLeftoversWaitForACheckpointThatCoversTheRun(t *testing.T) {
	s := orphaned(t)
	s.Owner().Core.Force()
	s.Quiesce()
	s.pass(time.Second)
	s.Quiesce()
	if st := s.stats(); st.Checkpoints == 0 || st.Leftovers != 0 || len(s.older()) != 2 {
		t.Fatalf("%d segments left, %+v", len(s.older()), st)
	}
	s.good()
}

// And that checkpoint must be in metad: whoever opens the volume next begins there, and not before.
func TestLeftoversWaitForMetad(t *testing.T) {
	s := orphaned(t)
	s.hold(" checkpointed")
	s.seal()
	s.checkpoint()
	if st := s.stats(); st.Checkpoints == 0 || st.Leftovers != 0 {
		t.Fatalf("%+v", st)
	}
	s.hold()
	s.seal()
	if n := s.stats().Leftovers; n != 1 {
		t.Fatalf("%d leftovers found", n)
	}
	s.good()
}

// A put of the present epoch may be followed by its commit at any time: it is no leftover,
// however old it is.
func TestNothingOfThePresentEpochIsALeftover(t *testing.T) {
	s := orphaned(t)
	s.hold(" reap lists")
	s.seal()
	s.checkpoint()
	s.hold(" reap lists", " packed")
	s.acked(200, 8)
	s.seal() // put, and not committed
	s.hold(" packed")
	s.Quiesce()
	s.hold()
	s.seal()
	if n := s.stats().Leftovers; n != 1 {
		t.Fatalf("%d leftovers found", n)
	}
	s.good()
	s.crash()
}

// While a store cannot be asked it may have some: metad must not forget that there were any.
func TestSpansStayUntilEveryStoreWasAsked(t *testing.T) {
	s := orphaned(t)
	s.hold(" reap lists")
	s.seal()
	s.checkpoint()
	s.unlisted = true
	s.hold()
	s.Quiesce()
	s.unlisted = false
	if s.Metad.Spans(s.volume)[0].Epoch == s.Owner().epoch {
		t.Fatal("forgotten")
	}
	s.seal()
	s.seal()
	if s.Metad.Spans(s.volume)[0].Epoch != s.Owner().epoch {
		t.Fatal("not forgotten when all had answered")
	}
	s.good()
}

// A delete may wait for a store that is gone for as long as its group remembers that store,
// and the group may wait for a leftover that a partial listing did not show: the search goes
// on beside it, and what it finds again is not deleted twice.
func TestPendingDeleteOfALeftoverDoesNotStopTheSearch(t *testing.T) {
	s := orphaned(t)
	s.hold(" reap lists")
	s.seal()
	s.checkpoint()
	s.hold(" delete")
	s.unlisted, s.partly = true, 1<<20 // all is found, but one store was not asked
	s.Quiesce()
	if st := s.stats(); st.Leftovers != 1 {
		t.Fatalf("%d leftovers found", st.Leftovers)
	}
	before := s.listings
	s.unlisted = false
	s.pass(time.Minute)
	s.Quiesce()
	s.pass(time.Second)
	s.Quiesce()
	if st := s.stats(); s.listings == before || st.Leftovers != 1 {
		t.Fatalf("%d listings, then %d; %d leftovers found", before, s.listings, st.Leftovers)
	}
	s.hold()
	s.seal()
	if s.Metad.Spans(s.volume)[0].Epoch != s.Owner().epoch {
		t.Fatal("not forgotten when all was deleted")
	}
	s.good()
}

// Segments that only index records of the run name are not leftovers.
func TestSegmentsOfTheRunAreNoLeftovers(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 64, LongBlocksMin: 24})
	s.acked(0, 32) // straight into a segment, and its record in the journal only
	s.Owner().Kill()
	s.open()
	s.Quiesce()
	s.Owner().Core.Leftovers(s.segments.leftovers(), &core.Effects{})
	if n := s.stats().Leftovers; n != 0 {
		t.Fatalf("%d of the run's segments are taken for leftovers", n)
	}
	s.good()
}
