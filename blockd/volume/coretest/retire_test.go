package coretest

import (
	"testing"

	"ashlar.dev/blockd/volume/core"
)

// The rules of disks that are deleted while snapshots of them are needed.

// retire deletes the stage's disk; what it holds is given back.
func (s *stage) retire(stay bool) {
	s.t.Helper()
	s.must(s.Retire(stay))
	s.must(s.Until(func() bool { return s.retired.emptied }))
	s.Quiesce()
	s.good()
}

// What only a deleted disk had comes back, whoever still needs a snapshot of it; and what that one
// has stays, through crashes, until nobody needs it.
func TestDeletedDiskGivesBackWhatOnlyItHad(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1, CleanPercent: -1})
	s.acked(0, 32)
	a := s.mark()
	s.acked(0, 16)
	b := s.mark()
	s.acked(8, 32)
	s.acked(300_000, 40)
	s.seal()
	s.clone(b)
	s.Drop(b) // hidden
	s.retire(true)
	if n := s.live(); n != 48 {
		t.Errorf("%d blocks live, 48 are the snapshots'", n)
	}
	s.crash()
	s.Drop(a)
	s.Quiesce()
	if n := s.live(); a.state != snapGone || b.state != snapHidden || n != 32 {
		t.Errorf("%d %d, %d blocks live, 32 are of the snapshot that a clone reads", a.state, b.state, n)
	}
	s.good()
}

// An owner that dies while it empties a deleted disk leaves that to the next one, and no snapshot is hurt.
func TestEmptyingIsDoneAgainByTheNextOwner(t *testing.T) {
	for n := 0; n < 60; n += 15 * shortened {
		s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1, CleanPercent: -1})
		s.acked(0, 16)
		x := s.mark()
		s.acked(8, 16)
		s.must(s.Retire(true))
		for range n {
			if !s.happen() {
				s.pass(50e6)
			}
		}
		s.crash()
		s.must(s.Until(func() bool { return s.retired.emptied }))
		s.Quiesce()
		if got := s.live(); got != 16 || s.first(8) != 0 || s.tagOf(x, 15) == 0 {
			t.Fatalf("died after %d events: %d blocks live", n, got)
		}
	}
}

// The chain of three, the oldest and the middle one deleted, is read by the youngest from the segments of all;
// with it all go.
func TestYoungestReadsItsDeletedAncestors(t *testing.T) {
	s := play(t, cleaning())
	s.acked(0, 64)
	a := s.mark()
	m := s.clone(a)
	m.acked(16, 32)
	b := m.mark()
	c := m.clone(b)
	c.acked(32, 8)
	want := []uint64{s.first(0), m.first(16), c.first(32), m.first(41), s.first(63)}
	m.retire(false)
	s.retire(false)
	for range 3 { // cleaners rewrite what is left
		s.Owner().Core.Force()
		m.Owner().Core.Force()
		s.Quiesce()
		m.Quiesce()
	}
	s.crash()
	m.crash()
	c.crash()
	for i, l := range []uint64{0, 16, 32, 41, 63} {
		if got := c.first(l); got != want[i] || got == 0 {
			t.Errorf("block %d of the youngest is %d, was %d", l, got, want[i])
		}
	}
	if a.state != snapHidden || b.state != snapHidden {
		t.Errorf("what it reads is %d and %d", a.state, b.state)
	}
	c.purge()
	s.must(s.Bury())
	if s.Buried != 1 || s.Needed() || len(s.kin) != 1 {
		t.Errorf("%d are purged, %d left", s.Buried, len(s.kin))
	}
}
