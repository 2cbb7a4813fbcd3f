package coretest

import (
	"testing"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/id"
)

// The tests of this file are named after the rules of long writes.

// Without this a write that came later could be hidden by a long one that was acknowledged after it.
func TestOverlappingWritesWaitForALongWrite(t *testing.T) {
	s := play(t, core.Limits{LongBlocksMin: 16})
	s.hold(" packed")
	long := s.write(0, 32)
	over := s.write(8, 1)
	part := s.Write(s.Owner(), 20*blk+512, 512)
	beside := s.write(100, 1)
	s.Quiesce()
	if long.Ended() || over.Ended() || part.Ended() || !beside.Ended() {
		t.Fatalf("ended: long %t, overlapping %t, part of a block %t, beside %t", long.Ended(), over.Ended(), part.Ended(), beside.Ended())
	}
	s.hold()
	s.Quiesce()
	if !long.Ended() || !over.Ended() || !part.Ended() {
		t.Fatal("they still wait")
	}
	s.good()
	s.crash()
}

// Without this a long write would be lost, or refused, when its segment cannot be put.
func TestLongWriteThatFailsGoesThroughTheJournal(t *testing.T) {
	s := play(t, core.Limits{LongBlocksMin: 16})
	s.cfg.PackFails = 1
	r := s.Write(s.Owner(), 0, 32*blk)
	for i := 0; i < 200 && !r.Ended(); i++ {
		s.happen()
	}
	s.cfg.PackFails = 0
	if !r.Ended() || r.Err != nil || s.stats().SegmentsLong != 0 {
		t.Fatalf("%t %v %+v", r.Ended(), r.Err, s.stats())
	}
	s.crash()
}

// Without this a segment would be deleted whose slots lie in a memtable that is not committed yet.
func TestLongSegmentSplitOverMemtablesIsNotDeleted(t *testing.T) {
	s := play(t, core.Limits{LongBlocksMin: 16, SealBlocks: 25, LongInFlight: 1, CheckpointDead: 1})
	s.hold(" pack")
	all := []*Request{
		s.Write(s.Owner(), 1000*blk, 16*blk), // takes the only lane
		s.Write(s.Owner(), 0, 24*blk),
		s.Write(s.Owner(), 100*blk, 24*blk), // shares the segment of the one before
	}
	for i := range uint64(3) { // wait for the first's range, and get their place before the second's record
		all = append(all, s.Write(s.Owner(), i*8*blk, 8*blk))
	}
	s.Quiesce()
	s.hold()
	s.Quiesce()
	for i, r := range all {
		if !r.Ended() || r.Err != nil {
			t.Fatalf("write %d: %t %v", i, r.Ended(), r.Err)
		}
	}
	if at := s.stats(); at.SegmentsLong != 2 || at.Checkpoints == 0 || at.CheckpointAt == 0 {
		t.Fatalf("not the schedule that is meant: %+v", at)
	}
	s.good()
	s.crash()
}

// Without this every long write would be a segment of its own, however many wait. The second goes beside the first when it has
// half as much: of one at a time both cores were idle for a fifth.
func TestLongWritesGatherWhileASegmentIsOnItsWay(t *testing.T) {
	const n = id.SlotsMax / 4
	s := play(t, core.Limits{LongBlocksMin: n})
	s.hold(" pack")
	var all []*Request
	for i, want := range []int{1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3} { // of 1, 1, 4 writes, and 5 that wait
		all = append(all, s.Write(s.Owner(), uint64(i)*n*blk, n*blk))
		s.Quiesce()
		if got := s.Owner().longs; got != want {
			t.Fatalf("%d writes: %d segments on their way, want %d", i+1, got, want)
		}
	}
	s.hold()
	s.Quiesce()
	for i, r := range all {
		if !r.Ended() || r.Err != nil {
			t.Fatalf("write %d: %t %v", i, r.Ended(), r.Err)
		}
	}
	s.good()
}

// Without this the space of long writes that were overwritten would never come back.
func TestOverwrittenLongSegmentComesBack(t *testing.T) {
	for _, crash := range []bool{false, true} {
		s := play(t, core.Limits{LongBlocksMin: 16, CheckpointDead: 1 << 40})
		s.acked(0, 32)
		r := s.Trim(s.Owner(), 0, 32*blk)
		s.Quiesce()
		if !r.Ended() || s.Segments() != 1 {
			t.Fatalf("%d segments", s.Segments())
		}
		s.seal() // the commit names it
		if crash {
			s.crash()
		}
		s.acked(0, 1)
		s.Owner().Drain()
		s.must(s.Until(func() bool { return s.Owner().Drained }))
		if n := s.Segments(); n > 3 { // the block, a map page, a table page
			t.Fatalf("crash %t: %d segments are left", crash, n)
		}
	}
}
