package coretest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
)

// The rules of disks that were made from an archive, each with the schedule that it forbids.

// Without this nothing would try whether a disk that was made from an archive holds what lay
// there, and what was written since, while it is brought in, written to, trimmed,
// snapshotted, cleaned and taken over.
func TestRestoredDiskInEveryOrderOfEvents(t *testing.T) {
	from, to := seeds(t, 2)
	hydrated := 0
	for s := from; s < to; s++ {
		cfg := small(s)
		cfg.Archived = someRuns(s, 60)
		cfg.Snapshots = 0.03
		cfg.Limits.HydrateRate = 1 << 20
		if s%2 == 0 {
			cfg.PackFails, cfg.PageFails, cfg.ReadFails = 0.1, 0.05, 0.02
			cfg.MetadFails, cfg.StoreFails, cfg.TakesOver, cfg.ToZombies = 0.05, 0.0005, 0.002, 0.1
		}
		hydrated += len(live(t, cfg, 2000).archive.segments)
	}
	t.Logf("%d segments brought in", hydrated)
}

// someRuns are blocks here and there, most of them where the worlds write.
func someRuns(seed uint64, n int) (out []block.Extent) {
	rng := rand.New(rand.NewPCG(seed, 12))
	for range n {
		start := block.LBA(rng.IntN(1<<19 - 64))
		if rng.IntN(4) > 0 {
			start %= 4096
		}
		out = append(out, block.Extent{Start: start, Count: uint32(1 + rng.IntN(64))})
	}
	return out
}

// bringIn waits until nothing lies in the archive any more, and looks at everything there.
func (w *World) bringIn() error {
	if w.archive == nil {
		return nil
	}
	if err := w.Until(func() bool { return w.archive.whole }); err != nil {
		return fmt.Errorf("%d of %d segments are still in the archive (%s): %w", w.Owner().Core.Stats().ArchiveLeft, len(w.archive.segments), w.Owner().Core.Stats().HydrateProblem, err)
	}
	w.Check()
	return errors.Join(w.Err(), w.ReadAll())
}

// restored opens a volume that begins with blocks 0 to 99 and 5000 to 5049 in an archive.
// Nothing is brought in until the stage lets go of "hydrate".
func restored(t *testing.T, limits core.Limits) *stage {
	t.Helper()
	return restoredWith(t, limits, block.Extent{Start: 0, Count: 100}, block.Extent{Start: 5000, Count: 50})
}

func restoredWith(t *testing.T, limits core.Limits, archived ...block.Extent) *stage {
	t.Helper()
	if limits.SealBlocks == 0 {
		limits.SealBlocks = 8
	}
	s := stageWith(t, Config{Limits: limits, Archived: archived, Holds: []string{"hydrate"}})
	if st := s.stats(); st.ArchiveLeft != uint32(len(s.archive.segments)) || st.ArchiveLeft < 5 {
		t.Fatalf("%d segments, left are %+v", len(s.archive.segments), st)
	}
	return s
}

// release lets everything be brought in.
func (s *stage) release() {
	s.t.Helper()
	s.hold()
	for range 20 { // a failure leaves a segment alone for a while
		s.Quiesce()
		s.pass(30 * time.Second)
	}
	s.must(s.Err())
}

// whole insists that everything is brought in, and that nothing needs the archive any more.
func (s *stage) whole() {
	s.t.Helper()
	s.release()
	s.good()
	if !s.archive.whole {
		s.t.Fatalf("not whole: %+v", s.stats())
	}
	s.crash()
}

// cell is the first cell of a block.
func (s *stage) cell(l uint64) uint64 {
	s.t.Helper()
	r := s.Read(s.Owner(), l*blk, blk)
	s.must(s.Until(func() bool { return r.ended }))
	if r.Err != nil {
		s.t.Fatal(r.Err)
	}
	return binary.LittleEndian.Uint64(r.data)
}

// A restored disk is there at once: what lies in the archive is read from there, written
// over and trimmed, by this owner and by the next one, though nothing is brought in.
func TestRestoredDiskIsServedFromTheArchive(t *testing.T) {
	s := restored(t, core.Limits{CheckpointBytes: 1})
	s.good()
	if s.cell(3) == 0 || s.cell(200) != 0 || s.archive.reads == 0 {
		t.Fatalf("block 3 is %d, block 200 %d, after %d reads of the archive", s.cell(3), s.cell(200), s.archive.reads)
	}
	for range 3 {
		s.acked(10, 8)
		s.Trim(s.Owner(), 5000*blk, 4*blk)
		s.seal()
	}
	s.good()
	s.Owner().Kill()
	s.open()
	s.good()
	if left := s.stats().ArchiveLeft; left != uint32(len(s.archive.segments)) {
		t.Fatalf("%d segments are left, of %d of which none was brought in", left, len(s.archive.segments))
	}
	s.whole()
}

// A write, a trim, or a page of the map that is written anew, while a segment is on its way: the
// newer one stays, and what the segment has of it is not counted as living.
func TestHydrationRacesAnOverwriteAndATrim(t *testing.T) {
	for _, where := range []string{"hydrate lists", "hydrate reads", "hydrate pack", "hydrate packed"} {
		s := restored(t, core.Limits{CheckpointBytes: 1})
		s.hold(where)
		s.Quiesce()
		s.acked(0, 8)
		s.Trim(s.Owner(), 5000*blk, 40*blk)
		s.seal()
		was := s.cell(0)
		s.release()
		if got := s.cell(0); got != was || s.cell(5003) != 0 {
			t.Errorf("%s: block 0 was %d and is %d, block 5003 is %d", where, was, got, s.cell(5003))
		}
		s.whole()
		if got := s.live(); got != 100+10 {
			t.Errorf("%s: %d blocks live", where, got)
		}
	}
}

// Segments of which nothing lives are not fetched.
func TestDeadSegmentsAreNotBroughtIn(t *testing.T) {
	s := restored(t, core.Limits{})
	s.Trim(s.Owner(), 0, 4096*blk)
	s.seal()
	puts := s.Puts
	s.whole()
	if n := s.Puts - puts; n > 2+1+4 { // of 50 blocks, pages, checkpoints
		t.Fatalf("%d segments were put for 50 blocks", n)
	}
}

// A snapshot that is taken while segments are on their way has what was in them at its mark,
// whatever is written after, and they are brought in for its sake though the head has nothing of them.
func TestSnapshotOfADiskInTheArchive(t *testing.T) {
	for _, where := range []string{"hydrate", "hydrate packed"} {
		s := restored(t, core.Limits{CheckpointBytes: 1})
		s.hold(where)
		s.Quiesce()
		was := s.cell(7)
		x := s.mark()
		s.acked(0, 100)
		s.Trim(s.Owner(), 0, 8192*blk)
		s.seal()
		s.good()
		s.whole()
		if got := s.tagOf(x, 7); got != was {
			t.Fatalf("%s: block 7 of the snapshot was %d and is %d", where, was, got)
		}
		if got := s.live(); got != 150 {
			t.Fatalf("%s: %d blocks live, the snapshot has 150", where, got)
		}
		s.drop(x)
		s.Quiesce()
		if got := s.live(); got != 0 {
			t.Fatalf("%s: %d blocks live, and nobody has any", where, got)
		}
		s.good()
	}
}

// A snapshot is deleted while segments are on their way that only it has something of: what was
// counted for it is given back, and what was not counted is not.
func TestSnapshotIsDeletedDuringHydration(t *testing.T) {
	for _, where := range []string{"hydrate", "hydrate reads", "hydrate packed"} {
		s := restored(t, core.Limits{CheckpointBytes: 1})
		x := s.mark()
		s.acked(0, 60)
		s.seal()
		s.hold(where, " page")
		s.Quiesce()
		s.Drop(x)
		s.Quiesce()
		s.hold(where)
		s.Quiesce()
		s.whole()
		if got := s.live(); got != 150 || x.state != snapGone {
			t.Errorf("%s: %d blocks live of 150, the snapshot is %d", where, got, x.state)
		}
	}
}

// Who dies between the put of a segment and its commit leaves a generation that counts for
// nothing. The next owner brings the segment in under another one, and that takes the first away.
func TestCrashBetweenPutAndCommitOfAHydratedSegment(t *testing.T) {
	s := restored(t, core.Limits{})
	s.hold("hydrate packed")
	s.Quiesce()
	if s.Segments() == 0 || s.stats().SegmentsHydrated != 0 {
		t.Fatalf("%d segments are put: %+v", s.Segments(), s.stats())
	}
	s.crash()
	s.whole()
	for name, generations := range s.segments.at {
		if len(generations) > 1 {
			t.Errorf("%d generations of segment %s", len(generations), name)
		}
	}
}

// A record that was durable when its owner died counts: the segment is not fetched again, and
// not counted again.
func TestHydratedSegmentIsCountedOnceAfterACrash(t *testing.T) {
	s := restored(t, core.Limits{})
	n := 0
	s.Hold = func(name string) bool { // two segments, and no checkpoint that knows of them
		if strings.Contains(name, "hydrate packed") {
			n++
			return n > 200
		}
		return strings.Contains(name, "checkpoint") || strings.Contains(name, "engine 1 pack")
	}
	s.Quiesce()
	before := s.stats()
	if before.SegmentsHydrated == 0 {
		t.Fatalf("nothing is brought in: %+v", before)
	}
	s.Owner().Kill()
	s.hold("hydrate")
	s.open()
	s.must(s.Settle())
	if got := s.stats().ArchiveLeft; got != before.ArchiveLeft {
		t.Fatalf("%d segments are left, the last owner had %d", got, before.ArchiveLeft)
	}
	s.good()
	s.whole()
}

// The archive is given up when a checkpoint that says that nothing lies there is committed in
// metad, and not before: who opens the volume from an older one needs it.
func TestArchiveIsNeededUntilMetadHasACheckpointWithoutIt(t *testing.T) {
	s := restored(t, core.Limits{})
	s.hold("checkpoint")
	for range 20 {
		s.Quiesce()
	}
	if st := s.stats(); st.ArchiveLeft != 0 || s.archive.whole {
		t.Fatalf("given up: %t, %+v", s.archive.whole, st)
	}
	s.crash()
	s.whole()
}

// What was allotted is in the volume's own checkpoints: a metad that comes from a backup older than
// the disk does not know it, and must not make it again.
func TestAllotmentIsInTheCheckpoint(t *testing.T) {
	s := restored(t, core.Limits{})
	rec := s.Metad.Record(s.volume)
	if rec.Checkpoint == nil {
		t.Fatal("no checkpoint of a disk that was opened")
	}
	k, err := record.DecodeCheckpoint("test", rec.Checkpoint.Opaque)
	if err != nil || k.Archive == nil || k.Archive.First != s.archive.given.First || k.Archive.Manifest != s.archive.given.Manifest {
		t.Fatalf("%v: %+v", err, k.Archive)
	}
	s.archive.forgotten = true
	s.Owner().Kill()
	s.open()
	s.good()
	s.release()
	if st := s.stats(); st.ArchiveLeft != 0 {
		t.Fatalf("%+v", st)
	}
}

// The ids of segments in the archive are below every other one of the volume, so also below the
// watermark of every snapshot: the first one has what is in them.
func TestAllottedIdsAreBelowEveryWatermark(t *testing.T) {
	s := restored(t, core.Limits{})
	s.mark()
	rec := s.Metad.Record(s.volume)
	k, err := record.DecodeCheckpoint("test", rec.Checkpoint.Opaque)
	if last := s.archive.given.First + id.Sequence(s.archive.given.Segments) - 1; err != nil || k.Watermark <= last {
		t.Fatalf("%v: watermark %d, allotted up to %d", err, k.Watermark, last)
	}
	s.whole()
}

// A damaged object fails the reads of what lies in it, with a reason that the disk shows; the rest is
// served and brought in, and when it is back all is.
func TestDamagedSegmentFailsItsReadsAlone(t *testing.T) {
	s := restored(t, core.Limits{})
	s.MayFail = true
	s.archive.Damaged[0] = true // blocks 0 to 39 or so
	s.hold()
	for range 10 {
		s.Quiesce()
	}
	r := s.Read(s.Owner(), 3*blk, blk)
	s.Quiesce()
	if !r.Ended() || !errors.Is(r.Err, errs.ErrCorrupt) {
		t.Fatalf("read of a damaged segment: ended %t, %v", r.Ended(), r.Err)
	}
	if st := s.stats(); st.ArchiveLeft != 1 || !strings.Contains(st.HydrateProblem, "segment 1 of") || s.archive.whole {
		t.Fatalf("%+v", st)
	}
	if s.cell(5010) == 0 {
		t.Fatal("the rest is not served")
	}
	s.acked(3, 1) // what is written there is there
	if s.cell(3) == 0 {
		t.Fatal("zeros")
	}
	s.archive.Damaged[0] = false
	s.whole()
}

// While the archive cannot be reached reads wait for it, as they do for stores, and go on when it is back.
func TestReadsWaitForTheArchive(t *testing.T) {
	s := restored(t, core.Limits{})
	s.archive.Away = true
	r := s.Read(s.Owner(), 5000*blk, blk)
	s.Quiesce()
	if r.Ended() {
		t.Fatalf("ended: %v", r.Err)
	}
	s.archive.Away = false
	s.Quiesce()
	if !r.Ended() || r.Err != nil {
		t.Fatalf("ended %t, %v", r.Ended(), r.Err)
	}
	s.whole()
}

// Full stores are not filled further by what can as well stay in the archive.
func TestNothingIsBroughtIntoFullStores(t *testing.T) {
	s := restored(t, core.Limits{})
	s.Metad.MarkUsed(s.Stores[0].ID(), 90, 100)
	s.Quiesce()
	s.hold()
	s.Quiesce()
	if st := s.stats(); st.SegmentsHydrated > hydratesUnderWay || !strings.Contains(st.HydrateProblem, "full") {
		t.Fatalf("%+v", st)
	}
	s.Metad.MarkUsed(s.Stores[0].ID(), 10, 100)
	s.whole()
}

// hydratesUnderWay are as many as may have begun before the stores were full.
const hydratesUnderWay = 2

// A segment that could not be put is put again under another generation: what is there of the first
// may be there on some stores, and is being deleted.
func TestFailedHydrationTakesAnotherGeneration(t *testing.T) {
	s := restored(t, core.Limits{})
	s.Owner().suspects = []id.Store{s.Stores[4].ID()}
	s.hold()
	s.Quiesce()
	if st := s.stats(); st.PackRetries == 0 {
		t.Fatalf("nothing failed: %+v", st)
	}
	s.whole()
}

// What an attempt of an earlier owner left goes also when the segment was brought in before
// anybody looked for leftovers: then it is known, and is none.
func TestEarlierAttemptGoesWithTheSegmentThatTookItsPlace(t *testing.T) {
	s := restored(t, core.Limits{})
	s.hold("hydrate packed")
	s.Quiesce()
	s.Owner().Kill()
	s.hold("reap", "delete") // it dies, too, before it comes to anything of that
	s.open()
	s.must(s.Settle())
	for range 20 {
		s.Quiesce()
		s.pass(30 * time.Second)
	}
	s.Owner().Kill()
	s.hold("reap")
	s.open()
	s.must(s.Settle())
	s.Quiesce()
	s.Check()
	s.must(s.Err())
	if st := s.stats(); st.ArchiveLeft != 0 {
		t.Fatalf("%+v", st)
	}
	for name, generations := range s.segments.at {
		if len(generations) > 1 {
			t.Errorf("%d generations of segment %s", len(generations), name)
		}
	}
	s.whole()
}

// What lives of a segment is counted between two checkpoints. While one is under way it is not told
// yet which pages the head has dropped, and if it fails it has dropped none.
func TestHydratedSegmentIsNotCountedInACheckpoint(t *testing.T) {
	s := restored(t, core.Limits{})
	s.acked(0, 8)
	s.seal()
	s.hold("engine 1 packed", "hydrate packed")
	s.Owner().Core.Force()
	s.Quiesce()
	s.hold("engine 1 packed")
	s.Quiesce()
	if st := s.stats(); st.SegmentsHydrated != 0 || st.ArchiveLeft == 0 {
		t.Fatalf("counted: %+v", st)
	}
	s.whole()
}

// Nor while a snapshot that has something of the segment leaves the list: half of it would be
// counted with the snapshot, and half without.
func TestSnapshotDoesNotGoWhileASegmentIsCounted(t *testing.T) {
	var both []block.Extent // every segment has blocks under two leaves
	for i := range block.LBA(8) {
		both = append(both, block.Extent{Start: 10 * i, Count: 10}, block.Extent{Start: 5000 + 10*i, Count: 10})
	}
	s := restoredWith(t, core.Limits{}, both...)
	x := s.mark()
	s.acked(0, 100)
	s.Trim(s.Owner(), 5000*blk, 200*blk)
	s.seal()
	s.mark() // the walk compares with this one, and needs no cut
	s.hold("hydrate packed")
	s.Quiesce()
	s.pass(40 * time.Second) // nobody has looked into the snapshot for so long
	s.pass(40 * time.Second)
	s.hold("engine 1 page")
	s.Quiesce()
	for s.pages() == 1 { // the root, and what is below it; then two leaves are wanted
		s.onePage()
	}
	if s.pages() != 2 {
		t.Fatalf("no segment over two leaves is being counted: %s", s.waiting())
	}
	s.onePage()
	var late []task
	for _, x := range s.tasks {
		if x.name == "engine 1 page" {
			late = append(late, x)
		}
	}
	s.tasks = nil
	s.hold()
	s.Drop(x)
	s.Quiesce()
	s.tasks = append(s.tasks, late...)
	s.whole()
	if got := s.live(); got != 100 || x.state != snapGone {
		t.Fatalf("%d blocks live of 100, the snapshot is %d", got, x.state)
	}
}

// pages counts the pages that are wanted; onePage reads the first of them.
func (s *stage) pages() (n int) {
	for i := range s.tasks {
		if s.tasks[i].name == "engine 1 page" {
			n++
		}
	}
	return n
}

func (s *stage) onePage() {
	for i, x := range s.tasks {
		if x.name == "engine 1 page" {
			s.tasks = append(s.tasks[:i:i], s.tasks[i+1:]...)
			x.do()
			break
		}
	}
	s.Quiesce()
}

// A snapshot that has left the list, but not metad's checkpoint, may be found again by the next owner: what
// only it has is brought in all the same, or its deletion would count down what was never counted.
func TestNothingIsLeftOutForASnapshotThatIsNotWrittenOff(t *testing.T) {
	s := restored(t, core.Limits{})
	x := s.mark()
	s.Trim(s.Owner(), 0, 8192*blk)
	s.seal()
	s.mark()                          // the walk needs no cut
	s.Hold = func(name string) bool { // no page of a checkpoint becomes durable
		return strings.HasSuffix(name, " pack") && !strings.Contains(name, "hydrate")
	}
	s.Drop(x)
	s.Quiesce()
	s.must(s.Err())
	s.crash()
	s.whole()
	if x.state != snapGone {
		t.Fatalf("the snapshot is %d", x.state)
	}
	if got := s.live(); got != 0 {
		t.Fatalf("%d blocks live, and nobody has any", got)
	}
}

// Without this somebody who wants the rest of a disk sooner would wait for the pause of the rate that it had before.
func TestHigherRateOfBringingInCountsAtOnce(t *testing.T) {
	s := restored(t, core.Limits{HydrateRate: 1})
	s.hold()
	s.Quiesce()
	s.pass(30 * time.Second)
	if st := s.stats(); st.ArchiveLeft == 0 {
		t.Fatal("a byte a second brought everything in")
	}
	s.Owner().Core.SetHydrateRate(1 << 40)
	for range 10 {
		s.Quiesce()
		s.pass(time.Second)
	}
	if st := s.stats(); st.ArchiveLeft != 0 {
		t.Errorf("%d segments are left: %+v", st.ArchiveLeft, st)
	}
}
