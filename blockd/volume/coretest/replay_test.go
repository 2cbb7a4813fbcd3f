package coretest

import (
	"slices"
	"strings"
	"testing"

	"ashlar.dev/blockd/volume/core"
)

// The rules of what an opening replays and of what packing may do, each with the schedule that
// it forbids; the random worlds meet them too, but not by name.

// Zeros and trims have no segment: their commit alone says that they are. Were the journal released before
// it is durable, or the commit not replayed, a crash before the next checkpoint would bring back what was there.
func TestZerosAndTrimsOutliveTheirRelease(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	s.hold(" checkpoint")
	s.acked(0, 8)
	s.acked(20, 2)
	s.seal()
	trim, zero := s.Trim(s.Owner(), 0, 3*blk), s.submit(s.Owner(), core.OpZero, 20*blk, blk)
	s.Quiesce()
	if !trim.Ended() || !zero.Ended() {
		t.Fatal("the trim or the zeros hang")
	}
	s.seal()
	s.acked(100, 1) // its append carries the release of all before
	if at := s.stats(); at.UnpackedBytes != blk || at.CheckpointAt != 0 || s.Metad.Record(s.volume).Checkpoint != nil {
		t.Fatalf("committed, released, and no checkpoint of it: %+v", at)
	}
	s.crash()
}

// What is committed is not taken from the journal again. Were it, an older write would come
// back over a newer one that was committed apart from it.
func TestOpeningReplaysNothingThatIsCommitted(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	s.hold(" checkpoint")
	s.acked(0, 4)
	s.seal()
	s.acked(1, 2)
	s.seal() // nothing is appended after: both writes still lie in the journal
	s.Owner().Kill()
	s.Hold = nil
	s.open()
	s.must(s.Until(func() bool { return s.Owner().Opened }))
	if n := s.stats().UnpackedBytes; n != 0 {
		t.Fatalf("%d bytes of what is committed wait to be packed", n)
	}
	s.good()
}

// An opening is on record before it serves, also of a disk that nobody writes to. Schedule: a write reaches one store
// only and is never acknowledged; that store is away while the disk is opened, and reads show that the write is not there.
// Then metad is restored from a backup, and names the ensemble again that has it. Only a record of the later epoch tells
// that the write was discarded (blockd/journal, TestTailThatAnOpeningDiscardedIsNotMissed).
func TestOpeningIsOnRecordBeforeItServes(t *testing.T) {
	s := play(t, core.Limits{})
	s.Owner().Kill()
	e := s.open()
	s.must(s.Until(func() bool { return e.opener == nil })) // metad's list is replaced
	s.hold(" append")
	for range 20 {
		s.Quiesce()
		s.pass(100e6)
	}
	if e.Opened || s.appends() < 2 {
		t.Fatalf("it serves: %t, with %d appends on their way", e.Opened, s.appends())
	}
	s.hold()
	s.must(s.Until(func() bool { return s.Owner().Opened }))
	s.good()
}

// Writes of the same blocks that are under way together end in one order: that of their places in the
// journal, for readers, in the segment, and after a crash.
func TestOverlappingWritesEndInTheOrderOfTheirPlaces(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 64})
	s.hold(" append")
	o := s.Owner()
	all := []*Request{s.Write(o, 0, 4*blk), s.Trim(o, 2*blk, 4*blk), s.Write(o, blk, 2*blk), s.Write(o, blk+Cell, Cell), s.submit(o, core.OpZero, 0, blk), s.Write(o, 3*blk, blk)}
	s.Quiesce()
	if slices.ContainsFunc(all, (*Request).Ended) {
		t.Fatal("one is acknowledged, and nothing is on a disk")
	}
	s.hold()
	s.Quiesce()
	for i, r := range all {
		if !r.Ended() || r.Err != nil {
			t.Fatalf("request %d: ended %t, %v", i, r.Ended(), r.Err)
		}
	}
	s.must(s.ReadAll()) // the model takes what it reads for the order, and holds all later reads against it
	s.seal()
	s.must(s.ReadAll())
	s.crash()
}

// Blocks are packed from memory. Were they read back, packing would cost what it is to save, and stop where a
// store does not answer.
func TestPackingReadsNothingBack(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 16, LongBlocksMin: 8})
	s.acked(0, 4)
	s.acked(2, 4)
	s.acked(100, 8) // straight into a segment
	s.hold(" read")
	s.seal()
	if at := s.stats(); at.UnpackedBytes != 0 || at.SegmentsPacked != 1 {
		t.Fatalf("packed while nothing can be read: %+v", at)
	}
	s.hold()
	s.good()
}

// Slots of a segment lie in the order of their blocks, each block once: a later read of a range finds them
// together, and a block that was overwritten before it was packed takes no room.
func TestPackedBlocksLieInOrder(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 16})
	var job *core.PackJob
	s.watch = func(j *core.PackJob) {
		if j.Lane == core.LanePack {
			job = j
		}
	}
	for _, l := range []uint64{9, 3, 7, 3, 100, 8, 9} {
		s.acked(l, 1)
	}
	s.seal()
	if job == nil || len(job.Blocks) != 5 {
		t.Fatalf("five blocks in a segment: %+v", job)
	}
	if !slices.IsSortedFunc(job.Blocks, func(a, b core.PackBlock) int { return int(int64(a.Entry) - int64(b.Entry)) }) {
		t.Fatalf("slots out of order: %v", job.Blocks)
	}
	s.good()
}

// What comes while appends are under way shares the next one. Were each write an append of its own, a deep queue
// would cost three stores a message and a sync for each.
func TestWritesThatWaitShareAnAppend(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 64})
	s.Hold = func(name string) bool { return strings.HasSuffix(name, " append") } // not their answers
	for l := range uint64(3) {
		s.Write(s.Owner(), l*blk, blk)
		s.atOnce()
	}
	for l := range uint64(20) {
		s.Write(s.Owner(), (50+l)*blk, blk)
		s.atOnce()
	}
	under := s.appends()
	for _, l := range s.links { // those arrive
		now := l.requests
		l.requests = nil
		for _, x := range now {
			x.do()
		}
	}
	s.atOnce()
	if next := s.appends(); under != 9 || next != 3 {
		t.Fatalf("%d appends under way of three writes, then %d of twenty: want one for each of three stores", under, next)
	}
	s.hold()
	s.Quiesce()
	s.good()
}

// atOnce lets everything happen that takes no time.
func (s *stage) atOnce() {
	s.calm = true
	defer func() { s.calm = false }()
	for s.Err() == nil && s.happen() {
	}
	s.must(s.Err())
}

// appends counts those that are on their way to a store.
func (s *stage) appends() (n int) {
	for _, l := range s.links {
		for _, x := range l.requests {
			if strings.HasSuffix(x.name, " append") {
				n++
			}
		}
	}
	return n
}
