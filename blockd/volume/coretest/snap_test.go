package coretest

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// The rules of snapshots, each with the schedule that it forbids. DESIGN.md says how each was broken.

// mark takes a snapshot and lets everything happen that can.
func (s *stage) mark() *Snap {
	s.t.Helper()
	x, r := s.Mark(s.Owner())
	s.Quiesce()
	s.must(s.Err())
	if !r.Ended() || r.Err != nil {
		s.t.Fatalf("mark: ended %t, %v", r.Ended(), r.Err)
	}
	return x
}

// tagOf reads the first cell of block l of a snapshot.
func (s *stage) tagOf(x *Snap, l uint64) uint64 {
	s.t.Helper()
	r := s.ReadSnapshot(s.Owner(), x, l*blk, blk)
	s.Quiesce()
	s.must(s.Err())
	if !r.Ended() || r.Err != nil {
		s.t.Fatalf("read of a snapshot: ended %t, %v", r.Ended(), r.Err)
	}
	return binary.LittleEndian.Uint64(r.data)
}

// drop deletes a snapshot and insists that nothing is left.
func (s *stage) drop(x *Snap) {
	s.t.Helper()
	s.Drop(x)
	s.Quiesce()
	s.must(s.Err())
	if x.state != snapGone {
		s.t.Fatalf("not deleted: %+v", s.stats())
	}
}

// live is the blocks of data that live, by the owner's counts.
func (s *stage) live() uint64 {
	s.pass(2e9)
	return s.stats().LiveBytes / blk
}

// A snapshot has what was taken before its mark and nothing of what was taken after,
// though none of it was acknowledged when the mark was taken, and though the owner dies
// before anything is packed.
func TestSnapshotHasExactlyWhatWasBeforeItsMark(t *testing.T) {
	for _, dies := range []bool{false, true} {
		s := play(t, core.Limits{SealBlocks: 8})
		a := s.Write(s.Owner(), 0, 3*blk)
		x, r := s.Mark(s.Owner())
		b := s.Write(s.Owner(), blk, 5*blk)
		if dies {
			s.hold(" pack", " checkpoint")
		}
		s.Quiesce()
		if !a.Ended() || !b.Ended() || !r.Ended() || r.Err != nil {
			t.Fatal("marks and writes wait for packing")
		}
		if dies {
			s.crash()
		}
		for l, want := range []uint64{a.write.Tag, a.write.Tag, a.write.Tag, 0} {
			if got := s.tagOf(x, uint64(l)); got != want {
				t.Errorf("dies %t: block %d of the snapshot is %d, want %d", dies, l, got, want)
			}
		}
		s.good()
		s.crash()
	}
}

// From a mark until the snapshot stands no segment is made for what comes after it: its
// id would be below the watermark, and the first overwriting would leave it to a
// snapshot that does not have it, or delete what one has.
func TestNothingAfterAMarkIsPackedBeforeItStands(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	s.acked(0, 4)
	s.hold(" packed")
	x := s.mark()
	puts := s.Puts
	for i := range uint64(5) {
		s.acked(100+8*i, 8)
	}
	if s.Puts != puts {
		t.Fatalf("%d segments for what comes after the mark", s.Puts-puts)
	}
	s.hold()
	s.Quiesce()
	if s.Puts < puts+5 || s.stats().Snapshots != 1 {
		t.Fatalf("%d segments: %+v", s.Puts-puts, s.stats())
	}
	s.tagOf(x, 0)
	s.good()
}

// A long write that is under way at a mark has an id from before it and would be
// committed after: it goes through the journal.
func TestLongWriteUnderWayAtAMarkGoesThroughTheJournal(t *testing.T) {
	s := play(t, core.Limits{LongBlocksMin: 16})
	s.acked(300, 1)
	s.hold(" packed")
	long := s.write(0, 32)
	x, r := s.Mark(s.Owner())
	s.Quiesce()
	if long.Ended() || !r.Ended() {
		t.Fatalf("long write %t, mark %t", long.Ended(), r.Ended())
	}
	during := s.write(100, 32) // nor does one begin
	if !during.Ended() {
		t.Fatal("a long write waits for a snapshot")
	}
	s.hold()
	s.Quiesce()
	if !long.Ended() || s.stats().SegmentsLong != 0 || s.tagOf(x, 0) != 0 || s.tagOf(x, 100) != 0 {
		t.Fatalf("%t %+v", long.Ended(), s.stats())
	}
	s.acked(0, 32) // displaces it: its place is dead now
	s.seal()
	s.good()
	s.crash()
	if s.acked(400, 32); s.stats().SegmentsLong == 0 {
		t.Fatal("no long writes any more")
	}
	s.good()
}

// A merge that is under way at a mark is given up, for the same reason; a block that it
// moved would leave what the snapshot has for dead.
func TestMergeUnderWayAtAMarkIsDropped(t *testing.T) {
	s := play(t, cleaning())
	s.hold("clean")
	for i := range uint64(4) {
		s.acked(i*64, 64)
		s.seal()
		s.acked(i*64+8, 56)
		s.seal()
	}
	s.hold("clean packed")
	s.Quiesce()
	if !strings.Contains(s.waiting(), "clean packed") {
		t.Fatalf("nothing is merged: %s %+v", s.waiting(), s.stats())
	}
	s.mark()
	s.hold()
	s.Quiesce()
	if st := s.stats(); st.SegmentsMerged != 0 {
		t.Fatalf("%+v", st)
	}
	s.acked(0, 64)
	s.seal()
	s.good()
	s.crash()
}

func (s *stage) waiting() (names string) {
	for i := range s.tasks {
		names += s.tasks[i].name + "; "
	}
	return names
}

// What the head drops and a snapshot has lives on, through checkpoints and deletions.
func TestWhatASnapshotHasIsNotDead(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1})
	s.acked(0, 16)
	x := s.mark()
	for range 3 {
		s.acked(0, 16)
		s.seal()
	}
	s.Trim(s.Owner(), 0, 16*blk)
	s.seal()
	if s.stats().SegmentsDeleted == 0 {
		t.Fatalf("the test deletes nothing: %+v", s.stats())
	}
	s.good()
	s.crash()
	if s.tagOf(x, 3) == 0 {
		t.Fatal("the snapshot reads as zeros")
	}
}

// The cleaner asks the oldest snapshot that can have a block before it drops it: asking
// the head, it would drop what only snapshots have. And of segments that a snapshot has
// something in it moves nothing.
func TestCleanerKeepsWhatASnapshotHas(t *testing.T) {
	s := play(t, cleaning())
	s.hold("clean")
	s.acked(0, 64)
	s.acked(0, 16) // a quarter of the segment is dead already
	first := s.mark()
	s.acked(16, 16)
	second := s.mark()
	s.acked(0, 60)
	s.seal()
	s.hold()
	for range 20 {
		s.Quiesce()
	}
	if s.stats().SegmentsRewritten == 0 {
		t.Fatalf("nothing is rewritten: %+v", s.stats())
	}
	s.good()
	s.drop(first)
	s.good()
	s.drop(second)
	s.good()
	s.crash()
}

// The deletion of a snapshot, the newest, the oldest or one between, frees what only it
// has, of data and of pages, and nothing else; what the head drops meanwhile is not forgotten.
func TestDeletedSnapshotGivesItsSpaceBack(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}} {
		s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1, CleanPercent: -1})
		var all []*Snap
		for i := range uint64(3) {
			s.acked(0, 8)            // each has its own
			s.acked(100+8*i, 8)      // and this is everybody's from now on
			s.acked(200+4*i, 12-4*i) // some is of two
			all = append(all, s.mark())
		}
		s.acked(0, 8)
		s.seal()
		segments := s.Segments()
		for _, i := range order {
			s.drop(all[i])
			s.good()
		}
		s.seal()
		if n := s.live(); n != 8+24+12 {
			t.Errorf("%v: %d blocks live", order, n)
		}
		if s.Segments() >= segments {
			t.Errorf("%v: %d segments of %d are left", order, s.Segments(), segments)
		}
		s.crash()
	}
}

// While the newest snapshot is compared with a cut of the head, the head goes on: what it
// drops after the cut is of the snapshot until that is gone, and dead then.
func TestHeadDropsWhileItsSnapshotIsDeleted(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CleanPercent: -1})
	s.acked(0, 8)
	s.acked(5000, 8)
	s.acked(100_000, 8)
	x := s.mark()
	s.acked(0, 4)
	s.seal()
	s.hold(" page")
	s.Drop(x)
	s.Quiesce()
	s.acked(5000, 8) // the walk does not see this
	s.seal()
	s.Check()
	if x.state != snapDropping {
		t.Fatal("the walk needs no page: the test tests nothing")
	}
	s.hold()
	s.Quiesce()
	s.good()
	if n := s.live(); n != 24 || x.state != snapGone {
		t.Fatalf("%d blocks live: %+v", n, s.stats())
	}
	s.crash()
}

// A mark that is passed while the snapshot before it is being deleted is its child
// from then on, and keeps what both have.
func TestMarkWhileTheNewestIsDeleted(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CleanPercent: -1})
	s.acked(0, 8)
	s.acked(5000, 8)
	x := s.mark()
	s.acked(0, 4)
	s.seal()
	s.hold(" page")
	s.Drop(x)
	s.Quiesce()
	s.acked(0, 6)
	y := s.mark()
	s.acked(0, 8)
	s.acked(5000, 2)
	s.seal()
	s.hold()
	s.Quiesce()
	if x.state != snapGone {
		t.Fatalf("%+v", s.stats())
	}
	s.good()
	if n := s.live(); n != 8+8+8+2 {
		t.Errorf("%d blocks live", n)
	}
	s.drop(y)
	if n := s.live(); n != 16 {
		t.Errorf("%d blocks live", n)
	}
	s.crash()
}

// The pages of the cut that a walk compares with are replaced by later checkpoints, and
// stay until it is over: deleted, the walk would never end.
func TestTreeOfACutStaysForTheWalk(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1, CleanPercent: -1})
	for i := range uint64(4) {
		s.acked(i*1000, 8)
	}
	x := s.mark()
	s.hold(" page")
	for i := range uint64(4) {
		s.acked(i*1000, 8)
	}
	s.seal()
	s.Drop(x)
	s.Quiesce()
	for range 3 {
		for i := range uint64(4) {
			s.acked(i*1000, 8)
			s.seal()
		}
	}
	s.hold()
	s.Quiesce()
	if x.state != snapGone {
		t.Fatalf("not deleted: %+v", s.stats())
	}
	s.good()
	s.crash()
}

// Nothing of a snapshot goes before metad has a checkpoint that does not list it: who
// opened the volume from the one before would find it without its blocks.
func TestDeletedSnapshotStaysUntilMetadHasACheckpointWithoutIt(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1})
	s.acked(0, 8)
	x := s.mark()
	s.acked(0, 8)
	s.seal()
	s.hold(" checkpoint")
	s.Drop(x)
	s.Quiesce()
	s.seal()
	if x.state != snapDropping || s.stats().Snapshots != 0 {
		t.Fatalf("state %d: %+v", x.state, s.stats())
	}
	s.Check()
	s.must(s.Err())
	s.crash() // the next one is told again
	s.Quiesce()
	if x.state != snapGone {
		t.Fatalf("not deleted: %+v", s.stats())
	}
	s.good()
}

// A deletion that its owner did not live to end has changed nothing; the next one begins anew.
func TestDeletionBeginsAnewWithTheNextOwner(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CleanPercent: -1})
	s.acked(0, 8)
	x := s.mark()
	s.acked(0, 4)
	s.seal()
	s.hold(" page")
	s.Drop(x)
	s.Quiesce()
	s.acked(4, 2)
	s.crash()
	s.Quiesce()
	if x.state != snapGone || s.live() != 8 {
		t.Fatalf("%d blocks live: %+v", s.live(), s.stats())
	}
	s.good()
}

// The watermarks of two snapshots differ though nothing was written between them, or ever:
// were they one, the second would be refused with the whole volume at the next opening.
func TestSnapshotsOfAnEmptyDisk(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	a, b := s.mark(), s.mark()
	s.crash()
	c := s.mark()
	s.acked(0, 8)
	s.seal()
	for _, x := range []*Snap{a, b, c} {
		if s.tagOf(x, 0) != 0 {
			t.Error("not empty")
		}
	}
	s.crash()
	for _, x := range []*Snap{b, c, a} {
		s.drop(x)
	}
	s.good()
	if s.live() != 8 {
		t.Errorf("%d blocks live", s.live())
	}
}

// The checkpoint of a mark that fails is cut again, and the snapshot is as it would have been.
func TestFailedCheckpointOfAMarkIsCutAgain(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CleanPercent: -1})
	s.acked(0, 8)
	s.seal()
	old := s.mark()
	w := s.Write(s.Owner(), 0, 4*blk)
	s.hold(" pack")
	x := s.mark()
	s.acked(0, 8)
	s.hold()
	for i := 0; i < 300 && s.stats().PackRetries < 12; i++ { // data goes through in the end, pages fail
		s.Owner().suspects = []id.Store{s.Stores[0].ID()}
		if !s.happen() {
			s.pass(100e6)
		}
	}
	s.Owner().suspects = nil
	s.Quiesce()
	if s.tagOf(x, 0) != w.write.Tag || s.tagOf(x, 4) == 0 || s.tagOf(x, 0) == s.tagOf(old, 0) || s.stats().PackRetries == 0 {
		t.Fatalf("%+v", s.stats())
	}
	s.good()
	s.drop(old)
	s.drop(x)
	if s.live() != 8 {
		t.Errorf("%d blocks live", s.live())
	}
	s.crash()
}

// A mark that is asked for again, by a client that heard no answer, is the first one.
func TestMarkCountsOnce(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	a := s.write(0, 1)
	s.hold(" packed")
	x := s.mark()
	s.acked(0, 1)
	s.markAgain(s.Owner(), x)
	s.crash()
	r := s.markAgain(s.Owner(), x)
	s.Quiesce()
	if !r.Ended() || r.Err != nil || s.stats().Snapshots != 1 || s.tagOf(x, 0) != a.write.Tag {
		t.Fatalf("%t %v %+v", r.Ended(), r.Err, s.stats())
	}
	s.good()
}

// A disk has a limited number of snapshots, for all of them are in one checkpoint.
func TestSnapshotsAreLimited(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	for i := range 256 {
		if _, r := s.Mark(s.Owner()); i%8 == 7 {
			s.must(s.Until(func() bool { return r.Ended() && s.stats().Memtables == 1 }))
		}
	}
	s.Quiesce()
	_, r := s.Mark(s.Owner())
	if !r.Ended() || !errors.Is(r.Err, errs.ErrConflict) {
		t.Fatalf("the 257th: ended %t, %v", r.Ended(), r.Err)
	}
	s.Snaps = s.Snaps[:256]
	s.Owner().Kill()
	s.open()
	s.must(s.Settle())
	if n := len(s.Owner().Core.Snapshots()); n != 256 {
		t.Fatalf("%d snapshots", n)
	}
}

// Detach passes the marks that are taken: the next owner finds snapshots, not marks.
func TestDetachPassesMarks(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	s.acked(0, 8)
	x, _ := s.Mark(s.Owner())
	s.Write(s.Owner(), 0, 8*blk)
	o := s.Owner()
	o.Drain()
	s.must(s.Until(func() bool { return o.Drained }))
	s.crash()
	if s.tagOf(x, 0) == 0 {
		t.Fatal("empty")
	}
}

// A disk that grew has its snapshots in their size.
func TestSnapshotKeepsItsSize(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	s.acked(0, 8)
	x := s.mark()
	s.Owner().Core.Resize(1 << 28)
	s.cfg.Blocks = 1 << 28
	s.acked(1<<27, 8)
	s.seal()
	if s.tagOf(x, 0) == 0 {
		t.Fatal("empty")
	}
	r := &Request{snap: x, op: core.Op{Kind: core.OpRead, Snapshot: x.ID, Extent: block.Extent{Start: 1 << 27, Count: 1}}}
	x.state = snapAsked // an error is expected
	s.send(s.Owner(), r)
	if !errors.Is(r.Err, errs.ErrInvalid) {
		t.Fatalf("read beyond the end: %v", r.Err)
	}
	s.drop(x)
	s.Check()
	s.must(s.Err())
}
