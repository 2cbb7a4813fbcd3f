package coretest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	storecore "ashlar.dev/pkg/storeproto/core"
)

// The tests of this file are named after the rules of packing, commits,
// checkpoints and reads; each plays the schedule that its rule forbids.

const blk = block.Size

// stage is a world without chance, on which a test plays one schedule.
type stage struct {
	*World
	t *testing.T
}

// play opens a volume of limits on a quiet world; nothing is packed by itself.
func play(t *testing.T, limits core.Limits) *stage { return stageOf(t, limits, nil) }

// stageOf is play with the memory of a process that has other volumes, too.
func stageOf(t *testing.T, limits core.Limits, m *core.Memory) *stage {
	return stageWith(t, Config{Limits: limits, Memory: m})
}

// stageWith is play with what else a world may have.
func stageWith(t *testing.T, cfg Config) *stage {
	t.Helper()
	limits := cfg.Limits
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	def(&limits.UnpackedBytesMax, 64<<20)
	def(&limits.SealBytes, 16<<20)
	if limits.SealBlocks == 0 {
		limits.SealBlocks = 1024
	}
	if limits.SealIdle == 0 {
		limits.SealIdle = time.Hour
	}
	if limits.LongBlocksMin == 0 {
		limits.LongBlocksMin = -1
	}
	cfg.Seed, cfg.Stores, cfg.Blocks, cfg.Limits, cfg.Journal = 1, 5, 1<<19, limits, journal.Limits{ReplaceAfter: 300 * time.Millisecond}
	w := New(cfg)
	s := &stage{w, t}
	s.hold(cfg.Holds...)
	w.open()
	s.must(w.Settle())
	s.Quiesce() // ids are in hand
	return s
}

func (s *stage) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// hold keeps back what has one of these words in its name; none: nothing.
func (s *stage) hold(words ...string) {
	s.Hold = func(name string) bool {
		for _, x := range words {
			if strings.Contains(name, x) {
				return true
			}
		}
		return false
	}
}

// write writes n blocks at block l and lets everything happen that can.
func (s *stage) write(l, n uint64) *Request {
	s.t.Helper()
	r := s.Write(s.Owner(), l*blk, n*blk)
	s.Quiesce()
	s.must(s.Err())
	return r
}

// acked writes and insists on the acknowledgement.
func (s *stage) acked(l, n uint64) {
	s.t.Helper()
	if r := s.write(l, n); !r.Ended() || r.Err != nil {
		s.t.Fatalf("write of %d blocks at %d: ended %t, %v", n, l, r.Ended(), r.Err)
	}
}

// seal makes the owner pack what it has: it lets the idle time pass.
func (s *stage) seal() {
	s.t.Helper()
	s.pass(2 * time.Hour)
	s.Quiesce()
	s.must(s.Err())
}

// crash kills the owner, opens another engine and reads everything.
func (s *stage) crash() {
	s.t.Helper()
	s.Hold = nil
	s.Owner().Kill()
	s.open()
	s.good()
}

// good settles, reads and counts everything.
func (s *stage) good() {
	s.t.Helper()
	s.must(s.Settle())
	s.must(s.ReadAll())
	s.must(s.ReadSnapshots())
	s.Check()
	s.must(s.Err())
}

func (s *stage) stats() core.Stats { return s.Owner().Core.Stats() }

// Commits of one engine reach the map in the order of their LSNs: were a later
// memtable committed first, a crash would lose the older one, for its LSN is covered.
func TestCommitNeverOvertakesAnOlderOne(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 4})
	first := true
	s.Hold = func(name string) bool { // the first segment's answer comes last
		if strings.HasSuffix(name, " packed") && first {
			return true
		}
		return false
	}
	s.acked(0, 4)
	s.acked(100, 1) // seals the first
	first = false
	held := s.tasks
	s.tasks = nil
	s.acked(100, 4)
	s.acked(200, 4)
	if at := s.stats(); at.SegmentsPacked == 0 || at.Memtables < 3 {
		t.Fatalf("the later segments should be durable and uncommitted: %+v", at)
	}
	if n := s.Metad.Record(s.volume).Checkpoint; n != nil {
		t.Fatal("a checkpoint of what is not committed")
	}
	s.tasks = append(s.tasks, held...)
	s.crash()
}

// A commit changes the map only when it is durable in the meta stream: else a reader
// could see, and a checkpoint keep, what a crash takes back.
func TestMapChangesOnlyWhenTheCommitIsDurable(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 4})
	s.acked(0, 3)
	s.hold(" append") // meta and journal both: nothing becomes durable any more
	s.pass(2 * time.Hour)
	s.Quiesce()
	if at := s.stats(); at.SegmentsPacked != 1 || at.Memtables != 2 || at.MapDirty != 0 {
		t.Fatalf("packed, and the map as it was: %+v", at)
	}
	s.crash()
}

// The journal is released up to what a durable commit covers and no further.
func TestJournalIsReleasedOnlyBelowWhatIsCovered(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 4})
	s.hold(" pack")
	s.acked(0, 4)
	s.acked(10, 4)
	s.acked(20, 4)
	if n := s.stats().UnpackedBytes; n != 12*blk {
		t.Fatalf("%d bytes are held", n)
	}
	s.crash()
}

// A segment counts when all its shards are durable; one that failed is given up by
// name and deleted, and its blocks go into another segment.
func TestSegmentCountsOnlyWhenAllShardsAreDurable(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 4})
	s.acked(0, 3)
	s.cfg.PackFails = 1
	s.pass(2 * time.Hour)
	for range 50 {
		s.happen()
		s.pass(50 * time.Millisecond)
	}
	s.cfg.PackFails = 0
	if at := s.stats(); at.PackRetries == 0 {
		t.Fatalf("nothing was tried again: %+v", at)
	}
	s.seal()
	s.good()
	if n := s.Segments(); n > 3 {
		t.Fatalf("%d segments are left of failed attempts", n)
	}
}

// A commit is dropped if the placement group changed since the segment's first
// shard: repair lists what it finds under the new version, and would miss a late shard.
func TestCommitIsDroppedIfTheGroupChanged(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 4})
	s.hold(" packed")
	s.acked(0, 4)
	s.pass(2 * time.Hour)
	s.Quiesce() // put, and not yet told
	if s.Segments() != 1 {
		t.Fatalf("%d segments", s.Segments())
	}
	var old id.Segment
	for name := range s.segments.at {
		old = name
	}
	for _, pg := range s.Metad.PGs() {
		s.Metad.BumpPG(pg)
	}
	s.pass(100 * time.Millisecond) // the owner has seen it
	s.hold()
	s.Quiesce()
	s.good()
	if s.segments.at[old] != nil || s.segments.tombs[old] == (id.Generation{}) {
		t.Fatal("the segment of the old version counts")
	}
	if at := s.stats(); at.PackRetries != 1 || at.SegmentsPacked != 1 {
		t.Fatalf("%+v", at)
	}
}

// Memory is limited: at the limit writers wait, and they do not fail.
func TestWritersWaitAtTheMemoryLimitAndDoNotFail(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, SealBytes: 8 * blk, UnpackedBytesMax: 16 * blk})
	s.hold(" pack")
	var all []*Request
	for i := range uint64(10) {
		all = append(all, s.write(i*10, 4))
	}
	ended := 0
	for _, r := range all {
		if r.Ended() {
			ended++
		}
	}
	if at := s.stats(); ended != 4 || at.WaitingForRoom != 6 || at.UnpackedBytes != 16*blk {
		t.Fatalf("%d have ended, %+v", ended, at)
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

// Trims draw on no memory and pass those that wait for it: a full volume can always be emptied.
func TestTrimsPassWritersThatWaitForMemory(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, SealBytes: 8 * blk, UnpackedBytesMax: 16 * blk})
	s.hold(" pack")
	for i := range uint64(8) {
		s.write(i*10, 4)
	}
	r := s.Trim(s.Owner(), 0, 4*blk)
	s.Quiesce()
	if !r.Ended() || r.Err != nil {
		t.Fatalf("the trim waits: %v", r.Err)
	}
	s.hold()
	s.good()
}

// Where stores are full new bytes are refused at once; what was taken is still
// packed, and trims give the space back.
func TestFullClusterCanBeEmptied(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointDead: 8 * blk})
	s.acked(0, 16)
	for _, x := range s.Stores {
		s.Metad.MarkFull(x.ID(), true)
	}
	s.Quiesce()
	s.MayFail = true
	if r := s.write(50, 1); !errors.Is(r.Err, errs.ErrNoSpace) {
		t.Fatalf("a write into full stores: %v", r.Err)
	}
	s.MayFail = false
	s.seal() // what was taken before is packed
	if at := s.stats(); at.Memtables != 1 || at.UnpackedBytes != 0 {
		t.Fatalf("%+v", at)
	}
	r := s.Trim(s.Owner(), 0, 16*blk)
	s.Quiesce()
	if !r.Ended() || r.Err != nil {
		t.Fatalf("trim: %v", r.Err)
	}
	before := s.Segments()
	s.seal()
	if s.stats().SegmentsDeleted == 0 {
		t.Fatalf("nothing came back of %d segments: %+v", before, s.stats())
	}
	for _, x := range s.Stores {
		s.Metad.MarkFull(x.ID(), false)
	}
	s.Quiesce()
	s.acked(50, 1)
	s.good()
}

// A long write's range is held until its index record has its place: what overlaps
// waits, or it would be ordered before bytes that are older.
// A long write whose segment fails goes through the journal: its client waits no longer than it must.
// A segment of long writes may be named by records of two memtables. While one of
// them is not committed the segment is not dead, whatever the live count says:
// deleted then, the later records would name what is gone.
// What comes while a segment of long writes is on its way gathers for the next one, which goes when the
// first is through, or when it is full.
// A segment of long writes that were all overwritten before their commit is in the
// table all the same, also for an engine that replays the commit: or nobody would delete it.
// Sub-block writes of one block are read, changed and written one after the other.
func TestSubBlockWritesOfOneBlockKeepEachOther(t *testing.T) {
	s := play(t, core.Limits{})
	var all []*Request
	for i := range uint64(8) {
		all = append(all, s.Write(s.Owner(), 5*blk+i*512, 512))
	}
	s.Quiesce()
	for i, r := range all {
		if !r.Ended() || r.Err != nil {
			t.Fatalf("write %d: %t %v", i, r.Ended(), r.Err)
		}
	}
	s.good()
	s.crash()
}

// A flush waits for the writes in flight before it.
func TestFlushWaitsForWritesInFlight(t *testing.T) {
	s := play(t, core.Limits{})
	s.hold(" append")
	r := s.write(0, 1)
	f := s.Flush(s.Owner())
	s.Quiesce()
	if r.Ended() || f.Ended() {
		t.Fatal("they ended before anything was durable")
	}
	s.hold()
	s.Quiesce()
	if !r.Ended() || !f.Ended() || f.Err != nil {
		t.Fatal("the flush waits for ever")
	}
}

// Meta records and trees of a checkpoint are live until metad has a later one: until
// then a recovery may begin there. What they refer to is not deleted.
func TestTreesStayUntilMetadHasALaterCheckpoint(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1})
	s.acked(0, 8)
	s.seal()
	if s.Metad.Record(s.volume).Checkpoint == nil {
		t.Fatal("no checkpoint")
	}
	s.hold(" checkpoint")
	s.acked(0, 8) // the old segment is dead now
	s.seal()
	before := s.Segments()
	s.acked(0, 8)
	s.seal()
	if at := s.stats(); at.Checkpoints < 2 || at.SegmentsDeleted > 0 || s.Segments() < before {
		t.Fatalf("deleted without metad: %+v", at)
	}
	s.Check() // metad's tree is whole
	s.must(s.Err())
	s.crash()
	s.hold()
	s.acked(0, 8)
	s.seal()
	s.Quiesce()
	if s.stats().SegmentsDeleted == 0 {
		t.Fatalf("nothing is deleted: %+v", s.stats())
	}
	s.good()
}

// A checkpoint stands when it is durable in the meta stream, whether metad has heard
// of it or not; of the two the opening takes the higher.
func TestOpeningTakesTheHigherCheckpoint(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1})
	s.acked(0, 8)
	s.seal()
	inMetad := s.Metad.Record(s.volume).Checkpoint.Meta
	s.hold(" checkpoint")
	s.acked(100, 8)
	s.seal()
	s.acked(200, 8)
	s.seal()
	s.Owner().Kill()
	s.open()
	s.hold()
	s.must(s.Settle())
	s.Quiesce()
	if k := s.Metad.Record(s.volume).Checkpoint; k.Meta <= inMetad {
		t.Fatalf("metad is left behind at %d", k.Meta)
	}
	s.good()
}

// While metad is away checkpoints go on in the meta stream: dirty pages cannot be
// evicted, and memory must not grow with the outage.
func TestCheckpointsGoOnWhileMetadIsAway(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointDirty: 16})
	s.acked(0, 1) // ids are in hand
	s.hold(" checkpoint")
	for i := range uint64(64) {
		s.acked(i*512*7, 8)
		s.acked(i*512*7+100, 8)
	}
	if at := s.stats(); at.Checkpoints < 3 || at.MapDirty > 3*16 {
		t.Fatalf("%+v", at)
	}
	s.hold()
	s.Quiesce()
	s.good()
	s.crash()
}

// The list of page segments in a checkpoint is short however many checkpoints there
// were: metad takes a record of limited size.
func TestCheckpointRecordStaysSmall(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1})
	for i := range uint64(40) {
		s.acked(i*512, 8) // each leaves one page behind that stays
		s.seal()
	}
	k, err := record.DecodeCheckpoint("metad", s.Metad.Record(s.volume).Checkpoint.Opaque)
	s.must(err)
	if len(k.Pages) > 4 {
		t.Fatalf("%d page segments are listed", len(k.Pages))
	}
	s.good()
	s.crash()
}

// Detach packs, checkpoints and releases everything, and the stores know it.
func TestDetachPacksCheckpointsAndReleasesEverything(t *testing.T) {
	s := play(t, core.Limits{LongBlocksMin: 16})
	s.acked(0, 8)
	s.acked(100, 32)
	s.Write(s.Owner(), 512, 512)
	o := s.Owner()
	o.Drain()
	s.must(s.Until(func() bool { return o.Drained }))
	k := s.Metad.Record(s.volume).Checkpoint
	if k == nil || k.Covered < 3 {
		t.Fatalf("checkpoint %+v", k)
	}
	for _, st := range s.Stores {
		st.Volumes(func(v storecore.VolumeState) {
			for _, x := range v.Streams {
				if x.Tail > x.Released+2 { // a last record that says nothing, and the checkpoint's own
					t.Errorf("store %s still keeps %d to %d of the %s", st.ID(), x.Released, x.Tail, x.Stream.Kind)
				}
			}
		})
	}
	s.MayFail = true
	if r := s.write(0, 1); r.Err == nil {
		t.Fatal("a drained engine took a write")
	}
	s.MayFail = false
	s.crash()
	if at := s.stats(); at.UnpackedBytes != 0 {
		t.Fatalf("something was left to recover: %+v", at)
	}
}

// Requests in flight end with ErrStaleEpoch, each once, when the engine is fenced:
// waiting for memory, for a range, for stores, for a page, for a round, or being
// filled.
func TestFencedEngineEndsEveryRequestOnce(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, SealBytes: 8 * blk, UnpackedBytesMax: 64 * blk, LongBlocksMin: 24})
	s.acked(0, 8)
	s.seal()
	s.hold(" append", " pack", " confirm", " read", " page")
	o := s.Owner()
	var all []*Request
	for i := range uint64(10) {
		all = append(all, s.Write(o, i*9*blk, 6*blk), s.Read(o, i*9*blk, blk), s.Write(o, i*9*blk+512, 512), s.Flush(o), s.Trim(o, i*blk, blk))
	}
	all = append(all, s.Write(o, 500*blk, 24*blk), s.Write(o, 510*blk, blk))
	s.Quiesce()
	n := s.Done
	o.step(func(_ time.Duration, fx *core.Effects) { o.Core.Fence(fx) })
	s.hold()
	s.Quiesce()
	for i, r := range all {
		if !r.Ended() || r.Err != nil && !errors.Is(r.Err, errs.ErrStaleEpoch) {
			t.Fatalf("request %d (%d): ended %t, %v", i, r.op.Kind, r.Ended(), r.Err)
		}
	}
	if s.Done != n+len(all) {
		t.Fatalf("%d ends of %d requests", s.Done-n, len(all))
	}
	s.good()
}

// An owner that was fenced and does not know it serves no stale read, and its
// writes are not acknowledged.
func TestZombieServesNoStaleRead(t *testing.T) {
	s := play(t, core.Limits{})
	s.acked(0, 8)
	zombie := s.Owner()
	s.hold(zombie.name)
	s.open()
	s.must(s.Until(func() bool { return s.Owner().Opened }))
	s.acked(0, 8)
	s.hold()
	r, x := s.Read(zombie, 0, blk), s.Write(zombie, 0, blk)
	s.Quiesce()
	if !errors.Is(r.Err, errs.ErrStaleEpoch) || !errors.Is(x.Err, errs.ErrStaleEpoch) {
		t.Fatalf("read: %v, write: %v", r.Err, x.Err)
	}
	s.good()
}

// An owner that was replaced while its writers wait for memory packs nothing any more and appends nothing
// that would be refused: it has to ask, or its clients hang for ever on a disk that another host serves.
func TestZombieWhoseWritersWaitForMemoryEndsThem(t *testing.T) {
	s := play(t, core.Limits{SealBytes: 8 * blk, UnpackedBytesMax: 16 * blk})
	s.hold(" pack")
	var waiting []*Request
	for i := range uint64(24) {
		waiting = append(waiting, s.write(i, 1))
	}
	zombie := s.Owner()
	if n := zombie.Core.Stats().WaitingForRoom; n == 0 {
		t.Fatal("no writer waits for memory")
	}
	s.hold(zombie.name, " pack")
	s.open()
	s.must(s.Until(func() bool { return s.Owner().Opened }))
	s.hold(" pack")
	s.pass(time.Second)
	s.Quiesce()
	for i, r := range waiting {
		if !r.Ended() || r.Err != nil && !errors.Is(r.Err, errs.ErrStaleEpoch) {
			t.Errorf("write %d: ended %t, %v", i, r.Ended(), r.Err)
		}
	}
	s.hold()
	s.good()
}

// Without two valid grants a read waits for a round that began after it arrived.
func TestReadWithoutGrantsWaitsForARound(t *testing.T) {
	s := play(t, core.Limits{})
	s.acked(0, 1)
	s.hold(" confirm")
	r := s.Read(s.Owner(), 0, blk)
	s.Quiesce()
	if r.Ended() {
		t.Fatal("served without a word from any store")
	}
	s.hold()
	s.Quiesce()
	if !r.Ended() || r.Err != nil {
		t.Fatalf("read: %t %v", r.Ended(), r.Err)
	}
}

// While a page of the map cannot be read, only what needs it waits: reads elsewhere
// and all writes go on. Then it is tried again.
func TestUnreadableMapPageStopsOnlyThoseWhoNeedIt(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1, ReadPatience: time.Minute})
	s.acked(0, 8)
	s.acked(200_000, 8)
	s.seal()
	s.Owner().Kill()
	s.open() // the map is on the stores only
	s.must(s.Settle())
	s.hold(" page")
	missing := s.Read(s.Owner(), 200_000*blk, blk)
	s.Quiesce()
	s.acked(5, 1)
	fresh := s.Read(s.Owner(), 5*blk, blk)
	s.Quiesce()
	if missing.Ended() || !fresh.Ended() || fresh.Err != nil {
		t.Fatalf("missing %t, fresh %t %v", missing.Ended(), fresh.Ended(), fresh.Err)
	}
	s.hold()
	s.cfg.PageFails = 1
	for range 60 { // the page is asked for, and fails
		s.happen()
		s.pass(50 * time.Millisecond)
	}
	s.cfg.PageFails = 0
	if missing.Ended() {
		t.Fatalf("the read gave up: %v", missing.Err)
	}
	s.Quiesce()
	if !missing.Ended() || missing.Err != nil {
		t.Fatalf("the read did not come back: %v", missing.Err)
	}
	s.good()
}

// A read of which too few shards answer waits for them, but not for ever.
func TestReadWaitsForShardsAndThenFails(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, ReadPatience: 3 * time.Second})
	s.acked(0, 8)
	s.seal()
	s.cfg.ReadFails = 1
	s.MayFail = true
	r := s.Read(s.Owner(), 0, blk)
	for i := 0; i < 500 && !r.Ended(); i++ {
		s.happen()
		s.pass(20 * time.Millisecond)
	}
	if !r.Ended() || !errors.Is(r.Err, errs.ErrUnavailable) {
		t.Fatalf("read: %t %v", r.Ended(), r.Err)
	}
	s.cfg.ReadFails, s.MayFail = 0, false
	s.good()
}

// An opening goes on when a page that it needs cannot be read for a while.
func TestOpeningOutlivesUnreadablePages(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1 << 40})
	s.acked(0, 8)
	s.acked(300_000, 8)
	o := s.Owner()
	o.Drain()
	s.must(s.Until(func() bool { return o.Drained }))
	s.crash()
	s.acked(300_004, 8)
	s.seal() // committed, and no checkpoint: the next opening replays it into the map
	s.Owner().Kill()
	s.open()
	s.cfg.PageFails = 1
	for range 300 {
		s.happen()
		s.pass(20 * time.Millisecond)
	}
	if s.Owner().Opened || s.Owner().Ended {
		t.Fatalf("opened %t, ended %t: %v", s.Owner().Opened, s.Owner().Ended, s.Owner().Err)
	}
	s.cfg.PageFails = 0
	s.good()
}

// Records that say nothing carry releases to a quiet stream; replay ignores them.
func TestRecordsThatSayNothingAreIgnored(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 32})
	s.acked(0, 32)
	s.acked(100, 32)
	s.seal()
	for range 5 { // nudges go out
		s.Quiesce()
	}
	acked := s.stats().JournalAcked
	if acked <= 2 {
		t.Fatalf("no nudge: %d records", acked)
	}
	s.crash()
	if at := s.stats(); at.UnpackedBytes != 0 {
		t.Fatalf("%+v", at)
	}
	s.seal()
	if at := s.stats(); at.Memtables != 1 {
		t.Fatalf("%+v", at)
	}
}

// An ensemble that stopped counting leaves the list although nothing more is
// written: its records are packed and a checkpoint covers its meta stream.
func TestOldEnsembleLeavesTheListOfAQuietVolume(t *testing.T) {
	s := play(t, core.Limits{})
	s.acked(0, 8)
	victim := s.Metad.Record(s.volume).List[0].Stores[0].Store
	s.body(victim).Crash(1)
	s.Metad.Mark(victim, cluster.StoreDown)
	s.acked(100, 8)
	s.Quiesce()
	for i := 0; i < 40 && len(s.Metad.Record(s.volume).List) > 1; i++ {
		s.Quiesce()
	}
	if l := s.Metad.Record(s.volume).List; len(l) != 1 || l[0].ID.N == 1 {
		t.Fatalf("the list is still %+v", l)
	}
	s.body(victim).Restart()
	s.good()
	s.crash()
}

// Of a volume that only lost data nothing is left: trimmed and overwritten segments are deleted.
func TestTrimmedSpaceComesBack(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 16, CheckpointDead: 32 * blk, LongBlocksMin: 24})
	for i := range uint64(10) {
		s.acked(i*16, 16)
	}
	s.acked(1000, 64)
	r := s.Trim(s.Owner(), 0, 2000*blk)
	s.Quiesce()
	if !r.Ended() {
		t.Fatal("the trim hangs")
	}
	s.seal()
	o := s.Owner()
	o.Drain()
	s.must(s.Until(func() bool { return o.Drained }))
	if n := s.Segments(); n > 4 { // pages of the last checkpoints
		t.Fatalf("%d segments of an empty volume", n)
	}
	s.crash()
}

// What died in the last checkpoint of an engine is deleted by the next one, though nothing is written any more.
func TestNextEngineDeletesWhatTheLastLeft(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointDead: 1})
	s.acked(0, 8)
	s.seal()
	s.hold(" delete")
	s.acked(0, 8)
	s.seal()
	left := s.Segments()
	s.Owner().Kill()
	s.tasks = nil // the deletions die with their process
	s.hold()
	s.open()
	s.good()
	s.Quiesce()
	if n := s.Segments(); n >= left {
		t.Fatalf("%d segments of %d are left", n, left)
	}
	s.good()
}

// A volume of 1 TiB costs nothing until it is written, and a trim of all of it is no work.
func TestThinVolumeCostsNothing(t *testing.T) {
	w := New(Config{Seed: 1, Stores: 5, Blocks: 1 << 28, Limits: core.Limits{SealIdle: time.Second}})
	s := &stage{w, t}
	w.open()
	s.must(w.Settle())
	if n := s.Segments(); n != 0 {
		t.Fatalf("%d segments", n)
	}
	s.acked(1<<27, 8)
	r := &Request{op: core.Op{Kind: core.OpTrim, Extent: block.Extent{Count: 1 << 28}}}
	before := s.steps
	s.send(s.Owner(), r)
	s.Quiesce()
	if !r.Ended() || s.steps-before > 2000 {
		t.Fatalf("ended %t after %d steps", r.Ended(), s.steps-before)
	}
	o := s.Owner()
	o.Drain()
	s.must(s.Until(func() bool { return o.Drained }))
	if n := s.Segments(); n > 3 {
		t.Fatalf("%d segments", n)
	}
}

// The size can grow at any time.
func TestResizeGrowsTheMap(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointBytes: 1})
	s.acked(0, 8)
	s.hold(" packed")
	s.acked(0, 8)
	s.Metad.Resize(s.volume, 1<<40)
	s.cfg.Blocks = 1 << 28
	s.Owner().Core.Resize(1 << 28)
	s.hold()
	s.acked(1<<27, 8)
	s.seal()
	s.must(s.Err())
	r := s.Read(s.Owner(), (1<<27)*blk, 8*blk)
	s.Quiesce()
	if !r.Ended() || r.Err != nil {
		t.Fatalf("read: %v", r.Err)
	}
	s.cfg.Blocks = 1 << 19
	s.good()
	s.crash()
}

// A read whose segment was deleted after its blocks were looked up looks again.
func TestReadLooksAgainWhenItsSegmentWent(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, CheckpointDead: 1})
	s.acked(0, 8)
	s.seal()
	s.hold(" read")
	r, part := s.Read(s.Owner(), 0, 8*blk), s.Write(s.Owner(), 3*blk+512, 512)
	s.Quiesce()
	s.hold(" read")
	s.acked(0, 3)
	s.acked(4, 4)
	s.seal()
	if s.stats().SegmentsDeleted == 0 {
		// The block that the sub-block write holds is in the old segment still.
		t.Logf("%+v", s.stats())
	}
	s.hold()
	s.Quiesce()
	if !r.Ended() || r.Err != nil || !part.Ended() || part.Err != nil {
		t.Fatalf("read %t %v, write %t %v", r.Ended(), r.Err, part.Ended(), part.Err)
	}
	s.hold(" read")
	r = s.Read(s.Owner(), 0, 8*blk)
	s.Quiesce()
	s.acked(0, 8)
	s.seal()
	if s.stats().SegmentsDeleted == 0 {
		t.Fatalf("nothing was deleted: %+v", s.stats())
	}
	s.hold()
	s.Quiesce()
	if !r.Ended() || r.Err != nil {
		t.Fatalf("read %t %v", r.Ended(), r.Err)
	}
}

// The bytes of a job stay while a store may read them: when the engine ends, and when
// the job was given up because the store does not answer.
func TestBytesOfAJobStayWhileAStoreReadsThem(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		s := play(t, core.Limits{SealBlocks: 8, LongBlocksMin: 16})
		s.hold(" pack", "hung")
		s.acked(0, 8)
		s.acked(100, 8)
		long := s.Write(s.Owner(), 300*blk, 16*blk)
		s.Quiesce()
		if hangs {
			s.cfg.PackFails = 3 // always, and every one hangs
			for range 40 {
				s.Hold = func(name string) bool { return strings.Contains(name, "hung") }
				s.happen()
			}
			s.cfg.PackFails = 0
			s.Hold = func(name string) bool { return strings.Contains(name, "hung") }
			s.Quiesce()
			if !long.Ended() || s.stats().UnpackedBytes != 0 && s.stats().Memtables > 2 {
				t.Fatalf("long %t, %+v", long.Ended(), s.stats())
			}
			scribble()
			for range 20 {
				s.acked(1000, 8)
			}
		}
		s.Owner().Kill()
		s.hold()
		for s.happen() { // the stores read now
		}
		s.must(s.Err())
		s.open()
		s.good()
	}
}

// What a client holds together by a cork goes out at the next tick at the latest: a
// client that stops in between holds nobody up.
func TestCorkHoldsNobodyUpForLong(t *testing.T) {
	s := play(t, core.Limits{})
	s.Owner().Core.Cork()
	s.acked(0, 4)
	s.Owner().step(func(now time.Duration, fx *core.Effects) { s.Owner().Core.Uncork(now, fx) })
	s.good()
}

// Where every group has a suspect and metad knows no better one, a suspect is tried
// again long before it is forgiven: writers must not wait for that.
func TestSuspectsAreBetterThanNobody(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8, SealBytes: 8 * blk, UnpackedBytesMax: 16 * blk})
	o := s.Owner()
	s.hold(" pack")
	s.acked(0, 8)
	var all []id.Store
	for _, x := range s.Stores {
		all = append(all, x.ID())
	}
	job := s.tasks
	s.tasks = nil
	if len(job) == 0 {
		t.Fatal("no job")
	}
	s.hold()
	o.suspects = all
	s.tasks = job
	s.Quiesce()
	if at := s.stats(); at.PackRetries == 0 || at.SegmentsPacked == 0 {
		t.Fatalf("%+v", at)
	}
	started := s.now()
	o.suspects = all
	for i := range uint64(6) {
		s.acked(100+i*8, 8)
	}
	if waited := s.now() - started; s.stats().UnpackedBytes > 16*blk || waited > time.Minute {
		t.Fatalf("%+v after %v", s.stats(), waited)
	}
	s.good()
}
