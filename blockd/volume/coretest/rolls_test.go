package coretest

import (
	"errors"
	"testing"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/errs"
)

// The rules of rollbacks, each with the schedule that it forbids. DESIGN.md says how each was broken.

// rollTo rolls back and lets everything happen that can.
func (s *stage) rollTo(x *Snap) *Snap {
	s.t.Helper()
	safety, err := s.Rollback(x)
	s.must(err)
	s.must(s.Until(s.Rolled))
	s.Quiesce()
	s.must(s.Err())
	return safety
}

// After a rollback the disk is the snapshot, what it was before is in the safety snapshot, and
// both stay so whatever is written, packed and overwritten then, through crashes.
func TestRollbackMakesTheDiskItsSnapshot(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1})
	s.acked(0, 16)
	s.acked(5000, 8)
	a := s.mark()
	s.acked(0, 8)
	b := s.mark()
	s.acked(4, 8)
	s.Trim(s.Owner(), 5000*blk, 4*blk)
	s.acked(300_000, 8)
	before := []uint64{s.first(0), s.first(4), s.first(12), s.first(5000), s.first(300_000)}
	safety := s.rollTo(a)
	for l, want := range map[uint64]uint64{0: s.tagOf(a, 0), 12: s.tagOf(a, 12), 5000: s.tagOf(a, 5000), 300_000: 0} {
		if got := s.first(l); got != want {
			t.Errorf("block %d is %d, was %d in the snapshot", l, got, want)
		}
	}
	s.good()
	s.acked(0, 4)
	s.acked(5000, 2)
	s.seal()
	s.crash()
	for i, l := range []uint64{0, 4, 12, 5000, 300_000} {
		if got := s.tagOf(safety, l); got != before[i] {
			t.Errorf("block %d of the safety snapshot is %d, was %d", l, got, before[i])
		}
	}
	s.tagOf(b, 0)
	s.crash()
}

// A crash at any moment leaves the disk as it was or as it is to be, never in between, and the next
// owner goes on with it.
func TestRollbackSurvivesTheDeathOfItsOwner(t *testing.T) {
	for n := 0; n < 60; n += 5 * shortened {
		s := play(t, core.Limits{SealBlocks: 8, CleanPercent: -1})
		s.acked(0, 8)
		a := s.mark()
		s.acked(0, 4)
		safety, err := s.Rollback(a)
		s.must(err)
		for i := range n {
			if s.happen(); i%3 == 0 {
				s.pass(100e6)
			}
		}
		if s.Rolled() && n < 5 {
			t.Fatal("the test tests nothing")
		}
		s.Owner().Kill()
		s.open()
		s.must(s.Settle())
		s.must(s.Until(s.Rolled))
		s.good()
		if s.first(0) != s.tagOf(a, 0) || s.tagOf(safety, 0) == s.tagOf(a, 0) {
			t.Fatalf("killed after %d events: the disk is %d, the snapshot %d, before %d", n, s.first(0), s.tagOf(a, 0), s.tagOf(safety, 0))
		}
		s.acked(0, 2)
		s.seal()
		s.crash()
		if got := s.live(); got != 8+4+2 {
			t.Fatalf("killed after %d events: %d blocks live", n, got)
		}
	}
}

// A volume that was opened to be rolled back takes no writes until metad has heard that it is
// done: they would be lost, or be rolled back by an order that is given again.
func TestNoWriteBetweenTheSafetySnapshotAndTheRollback(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	s.acked(0, 8)
	a := s.mark()
	_, err := s.Rollback(a)
	s.must(err)
	s.MayFail = true
	r := s.write(0, 1)
	if !r.Ended() || !errors.Is(r.Err, errs.ErrUnavailable) {
		t.Fatalf("a write while it is rolled back: ended %t, %v", r.Ended(), r.Err)
	}
	s.MayFail = false
	s.must(s.Until(s.Rolled))
	s.acked(0, 1)
	s.good()
}

// Rollback then deletion, in every order: of the abandoned branch, of the snapshot rolled back to,
// of what came after. A snapshot with two children stays until it has one; in the end only the disk
// is left, and all space is back.
func TestRollbackThenDeletionInEveryOrder(t *testing.T) {
	for _, order := range [][]int{{3, 0, 2, 1}, {1, 2, 0, 3}, {0, 1, 2, 3}}[:max(3/shortened, 1)] {
		s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1, CleanPercent: -1})
		s.acked(0, 16)
		a := s.mark()
		s.acked(4, 8)
		s.acked(100, 8)
		b := s.mark()
		s.acked(8, 4)
		s.acked(200, 8)
		c := s.rollTo(a)
		s.acked(0, 2)
		d := s.mark()
		s.acked(14, 2)
		s.seal()
		s.good()
		all := []*Snap{a, b, c, d}
		for _, i := range order {
			s.Drop(all[i])
			s.Quiesce()
			s.must(s.Err())
			s.good()
		}
		for range 20 { // those that waited for others
			s.Quiesce()
			s.acked(1000, 1)
			s.seal()
		}
		for i, x := range all {
			if x.state != snapGone {
				t.Errorf("%v: snapshot %d is %d", order, i, x.state)
			}
		}
		if n := s.live(); n != 16+1 {
			t.Errorf("%v: %d blocks live", order, n)
		}
		s.crash()
	}
}

// What a deleted snapshot had belongs to the one that goes on from it, which need not be the next in
// time: the cleaner that asks that one drops what another branch still has.
func TestCleanerAsksTheRightBranch(t *testing.T) {
	s := play(t, cleaning())
	s.hold("clean")
	s.acked(0, 64)
	a := s.mark() // s1
	s.acked(64, 64)
	b := s.mark() // s2, goes on from s1
	s.acked(128, 8)
	c := s.rollTo(a) // s3 ends that branch; the head goes on from s1
	s.acked(0, 8)
	d := s.rollTo(b) // s4 ends that one; the head goes on from s2
	s.drop(c)
	s.Drop(b) // only the head goes on from it now; s4 is next in time
	s.Quiesce()
	if b.state != snapGone {
		t.Fatalf("it is %d", b.state)
	}
	s.acked(64, 16)
	s.acked(0, 16)
	s.seal()
	s.hold()
	for i := range uint64(20) {
		s.Quiesce()
		s.acked(1000+i, 1)
		s.seal()
	}
	if st := s.stats(); st.SegmentsRewritten+st.SegmentsMerged == 0 || st.CleanProblem != "" {
		t.Fatalf("nothing is cleaned: %+v", s.stats())
	}
	s.good()
	s.tagOf(d, 0)
	s.crash()
}

// A rollback to a snapshot that is deleted, or not there, is refused, and so is one of a volume in use.
func TestRollbackThatCannotBeIsRefused(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	s.acked(0, 8)
	a, b := s.mark(), s.mark()
	var fx core.Effects
	if err := s.Owner().Core.Rollback(s.now(), core.Rollback{To: a.ID, Safety: b.ID}, &fx); !errors.Is(err, errs.ErrConflict) {
		t.Errorf("a volume that takes writes: %v", err)
	}
	s.roll = &roll{}
	s.Owner().Kill()
	s.open()
	s.must(s.Settle())
	for _, r := range []core.Rollback{{To: a.ID, Safety: a.ID}, {To: [16]byte{9}, Safety: b.ID}, {To: a.ID, Safety: [16]byte{9}}} {
		if err := s.Owner().Core.Rollback(s.now(), r, &fx); !errors.Is(err, errs.ErrNotFound) {
			t.Errorf("%x: %v", r, err)
		}
	}
}
