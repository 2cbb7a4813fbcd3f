package chunk

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/storetest"
	"ashlar.dev/pkg/vfs"
	"ashlar.dev/pkg/vfs/aio"
)

func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		n := "20"
		if raceDetector {
			n = "2"
		}
		if err := flag.Set("rapid.checks", n); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

var journal = storetest.Stream(3, 1, storeproto.Journal)

func want(t *testing.T, what string, err, class error) {
	t.Helper()
	if !errors.Is(err, class) || class == nil && err != nil {
		t.Errorf("%s: %v, want %v", what, err, class)
	}
}

// faulty is a disk in memory whose syncs and writes under a path fail when told.
type faulty struct {
	vfs.FS
	path  atomic.Pointer[string]
	kind  vfs.OpKind
	after atomic.Int64 // matching calls after the first failure
}

func newFaulty(kind vfs.OpKind) *faulty {
	f := &faulty{kind: kind}
	f.FS = vfs.WithHooks(vfs.Wrap(pvfs.NewMem()), vfs.Hooks{Before: func(op vfs.Op) error {
		if p := f.path.Load(); p != nil && op.Kind == f.kind && strings.Contains(op.Path, *p) {
			f.after.Add(1)
			return vfs.ErrNoSpace
		}
		return nil
	}})
	return f
}

// Without this a failed sync would be tried again, and the second call's success
// be taken for the durability of what the first one lost.
func TestSyncErrorIsTheDeathOfTheStore(t *testing.T) {
	meta := storetest.Stream(3, 1, storeproto.Meta)
	for name, c := range map[string]struct {
		path string
		kind vfs.OpKind
		do   func(s *Store) error
	}{
		"sync of the log": {"/log/", vfs.OpSync, func(s *Store) error {
			_, err := storetest.Next(s, journal, storetest.Batch(3, 2, 1, 1, 0))
			return err
		}},
		"write to the log": {"/log/", vfs.OpWrite, func(s *Store) error {
			_, err := storetest.Next(s, journal, storetest.Batch(3, 2, 1, 1, 0))
			return err
		}},
		"sync of the index by an append": {"/index/", vfs.OpSync, func(s *Store) error {
			_, err := storetest.Next(s, meta, storetest.Batch(3, 1, 1, 1, 0))
			return err
		}},
		"sync of the index by a fence": {"/index/", vfs.OpSync, func(s *Store) error {
			_, err := s.Fence(t.Context(), storeproto.Fence{Volume: storetest.Volume, Epoch: 4, By: storetest.HolderA})
			return err
		}},
		"full disk under the index": {"/index/", vfs.OpWrite, func(s *Store) error {
			_, err := storetest.Next(s, meta, storetest.Batch(3, 1, 1, 1, 0))
			return err
		}},
		"sync of an extent": {"/extents/", vfs.OpSync, func(s *Store) error {
			return storetest.Put(s, storetest.Shard(id.MakeSegment(9, 1), id.Generation{Epoch: 3, N: 1}, 0, 2, 1))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			fs := newFaulty(c.kind)
			s := testNew(t, fs, "/store", clock.NewManual())
			_, err := storetest.Next(s, journal, storetest.Batch(3, 1, 1, 1, 0))
			want(t, "append before", err, nil)
			want(t, "put before", storetest.Put(s, storetest.Shard(id.MakeSegment(8, 1), id.Generation{Epoch: 3, N: 1}, 0, 2, 1)), nil)
			held := storetest.Lease(s, storetest.HolderA, 0, time.Hour)
			fs.path.Store(&c.path)
			want(t, name, c.do(s), errs.ErrUnavailable)
			<-s.Done()
			if s.Err() == nil {
				t.Error("no reason is given")
			}
			if l := <-held; !errors.Is(l.Err, errs.ErrUnavailable) {
				t.Errorf("held lease: %v", l.Err)
			}
			if n := fs.after.Load(); n != 1 && c.kind == vfs.OpSync {
				t.Errorf("%d failing calls: it was tried again", n)
			}
			allUnavailable(t, s)
		})
	}
}

func allUnavailable(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	_, err := storetest.Next(s, journal, storetest.Batch(3, 5, 1, 1, 0))
	want(t, "append", err, errs.ErrUnavailable)
	want(t, "confirm", storetest.Confirm(s, storetest.Volume, 3), errs.ErrUnavailable)
	_, err = s.Fence(ctx, storeproto.Fence{Volume: storetest.Volume, Epoch: 9, By: storetest.HolderB})
	want(t, "fence", err, errs.ErrUnavailable)
	_, err = s.Fetch(ctx, storeproto.Fetch{Stream: journal, From: 1})
	want(t, "fetch", err, errs.ErrUnavailable)
	want(t, "drop", s.Drop(ctx, storeproto.Drop{Volume: storetest.Volume, Epoch: 3}), errs.ErrUnavailable)
	want(t, "release", s.Release(ctx, storeproto.Release{Volume: storetest.Volume, Epoch: 3, By: storetest.HolderA}), errs.ErrUnavailable)
	want(t, "delete", s.DeleteShards(ctx, storeproto.DeleteShards{Volume: storetest.Volume, Epoch: 3}), errs.ErrUnavailable)
	_, err = s.ShardHeads(ctx, id.MakeSegment(8, 1))
	want(t, "heads", err, errs.ErrUnavailable)
	want(t, "read", storetest.Read(s, id.MakeSegment(8, 1), id.Generation{Epoch: 3, N: 1}, 0, 0, 1).Err, errs.ErrUnavailable)
	want(t, "put", storetest.Put(s, storetest.Shard(id.MakeSegment(7, 1), id.Generation{Epoch: 3, N: 1}, 0, 2, 1)), errs.ErrUnavailable)
	want(t, "lease", (<-storetest.Lease(s, storetest.HolderA, 0, 0)).Err, errs.ErrUnavailable)
}

// Without this a closed store would lose what it had accepted, or hang its callers.
func TestCloseCarriesOutWhatWasAccepted(t *testing.T) {
	fs := vfs.Wrap(pvfs.NewMem())
	s := testNew(t, fs, "/store", clock.NewManual())
	var wg sync.WaitGroup
	var acked atomic.Int64
	for i := range id.LSN(50) {
		wg.Add(1)
		s.Append(&storeproto.Append{Stream: journal, Epoch: 3, Batch: storetest.Batch(3, i+1, 1, 1, 0), Base: i == 0, Done: func(a *storeproto.Append) {
			if a.Err == nil {
				acked.Add(1)
			}
			wg.Done()
		}})
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if acked.Load() != 50 {
		t.Errorf("%d of 50 accepted appends were carried out", acked.Load())
	}
	allUnavailable(t, s)
	s = testOpen(t, fs, "/store", clock.NewManual())
	if got, err := storetest.FetchAll(t.Context(), s, journal, 1); err != nil || len(got) != 50 {
		t.Errorf("%d batches: %v", len(got), err)
	}
}

// Without this Pebble would meet a full disk and die of it, or a full store could
// not be emptied.
func TestFullDiskRefusesShardsNotDeletions(t *testing.T) {
	fs := vfs.NewCrash()
	if _, err := Format("/store", testFormat(fs)); err != nil {
		t.Fatal(err)
	}
	s, err := Open("/store", Options{FS: fs, Clock: clock.NewManual(), CapacityBytes: 12 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	gen := id.Generation{Epoch: 3, N: 1}
	n := id.Sequence(0)
	for err == nil {
		n++
		err = storetest.Put(s, storetest.Shard(id.MakeSegment(n, 1), gen, 0, 100, 1))
	}
	want(t, "put on a full store", err, errs.ErrNoSpace)
	if st := s.Stats(); st.UsedBytes > st.CapacityBytes/1000*packMark || n < 10 {
		t.Errorf("%d shards, %d of %d bytes used", n, st.UsedBytes, st.CapacityBytes)
	}
	_, err = storetest.Next(s, storetest.Stream(3, 1, storeproto.Meta), storetest.Batch(3, 1, 1, 0, 0))
	want(t, "commit on a full store", err, nil)
	_, err = storetest.Next(s, journal, storetest.Batch(3, 1, 1, 1, 0))
	want(t, "append on a full store", err, nil)
	d := storeproto.DeleteShards{Volume: storetest.Volume, Epoch: 3, Segments: []storeproto.SegmentGeneration{{Segment: id.MakeSegment(1, 1), Generation: gen}, {Segment: id.MakeSegment(2, 1), Generation: gen}}}
	want(t, "delete on a full store", s.DeleteShards(t.Context(), d), nil)
	want(t, "put after the deletion", storetest.Put(s, storetest.Shard(id.MakeSegment(n+1, 1), gen, 0, 100, 1)), nil)
}

// Without this a segment of which two generations are deleted at once would end the process: both names cover
// the older one, whose room would be given back twice.
func TestGenerationsOfASegmentAreDeletedTogether(t *testing.T) {
	s := testNew(t, vfs.NewCrash(), "/store", clock.NewManual())
	name := id.MakeSegment(1, 1)
	d := storeproto.DeleteShards{Volume: storetest.Volume, Epoch: 3}
	for n := range uint32(3) {
		gen := id.Generation{Epoch: 3, N: n + 1}
		want(t, "put", storetest.Put(s, storetest.Shard(name, gen, 0, 20, 1)), nil)
		d.Segments = append(d.Segments, storeproto.SegmentGeneration{Segment: name, Generation: gen})
	}
	before := s.Stats().ShardBytes
	want(t, "delete", s.DeleteShards(t.Context(), d), nil)
	if st := s.Stats(); before == 0 || st.ShardBytes != 0 || st.Shards != 0 {
		t.Errorf("%d shards with %d of %d bytes are left", st.Shards, st.ShardBytes, before)
	}
}

// Without this a store with a small share of a full file system would run into its end.
func TestFullFileSystemCountsToo(t *testing.T) {
	fs := vfs.NewCrash()
	s := testNew(t, fs, "/store", clock.NewManual())
	put := func(n id.Sequence) error {
		return storetest.Put(s, storetest.Shard(id.MakeSegment(n, 1), id.Generation{Epoch: 3, N: 1}, 0, 1, 1))
	}
	for _, c := range []struct {
		available    uint64
		shards, meta error
	}{{500, nil, nil}, {49, errs.ErrNoSpace, nil}, {9, errs.ErrNoSpace, errs.ErrNoSpace}, {60, nil, nil}} {
		fs.SetDiskUsage(pvfs.DiskUsage{TotalBytes: 1000 << 20, AvailBytes: c.available << 20, UsedBytes: (1000 - c.available) << 20})
		s.checkSpace()
		want(t, fmt.Sprintf("put with %d of 1000", c.available), put(id.Sequence(c.available)), c.shards)
		name := storetest.Stream(3, uint32(c.available), storeproto.Meta)
		_, err := storetest.Next(s, name, storetest.Batch(3, 1, 1, 0, 0))
		want(t, fmt.Sprintf("meta append with %d of 1000", c.available), err, c.meta)
	}
}

// Without this a store whose cleaner frees a little and packs it again would be full and not full by turns, and
// clients get ENOSPC by turns.
func TestFullStoreIsFullUntilThereIsRoom(t *testing.T) {
	fs := vfs.NewCrash()
	s := testNew(t, fs, "/store", clock.NewManual())
	for _, c := range []struct {
		available uint64
		full      bool
	}{{75, false}, {69, true}, {75, true}, {79, true}, {81, false}, {75, false}} {
		fs.SetDiskUsage(pvfs.DiskUsage{TotalBytes: 1000 << 20, AvailBytes: c.available << 20, UsedBytes: (1000 - c.available) << 20})
		s.checkSpace()
		if got := s.Stats().FullShards; got != c.full {
			t.Errorf("with %d of 1000 left: full %v", c.available, got)
		}
	}
}

// Without this a log that its owners do not release would end in an error of the
// disk instead of an answer.
func TestFullLogRefusesUntilReleased(t *testing.T) {
	s := testNew(t, vfs.Wrap(pvfs.NewMem()), "/store", clock.NewManual())
	other := storetest.Stream(3, 2, storeproto.Journal)
	_, err := storetest.Next(s, other, storetest.Batch(3, 1, 1, 1, 0))
	want(t, "other stream", err, nil)
	first := id.LSN(0)
	for err == nil {
		first++
		_, err = storetest.Next(s, journal, storetest.Batch(3, first, 1, 12, 0))
	}
	want(t, "append to a full log", err, errs.ErrNoSpace)
	if st := s.Stats(); st.JournalBytes < st.JournalBytesMax*8/10 {
		t.Errorf("full at %d of %d", st.JournalBytes, st.JournalBytesMax)
	}
	// A release comes with an append; one that does not fit is refused, so the
	// owner drops its ensemble, as it does when it changes to another.
	want(t, "drop", s.Drop(t.Context(), storeproto.Drop{Volume: storetest.Volume, Epoch: 3, Keep: []id.Ensemble{other.Ensemble}}), nil)
	_, err = storetest.Next(s, other, storetest.Batch(3, 2, 1, 12, 0))
	want(t, "append after the drop", err, nil)
}

// Without this a disk that was replaced would answer for what the old one held.
func TestReturnedStoreWithOtherIncarnation(t *testing.T) {
	fs := vfs.Wrap(pvfs.NewMem())
	s := testNew(t, fs, "/store", clock.NewManual())
	_, err := storetest.Next(s, journal, storetest.Batch(3, 1, 1, 1, 0))
	want(t, "append", err, nil)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// The disk comes back formatted anew, the old log still on it.
	o := testFormat(fs)
	if _, err := Format("/store", o); !errors.Is(err, errs.ErrExists) {
		t.Fatalf("format over a store: %v", err)
	}
	if err := fs.Rename("/store/log", "/oldlog"); err != nil {
		t.Fatal(err)
	}
	if err := fs.RemoveAll("/store"); err != nil {
		t.Fatal(err)
	}
	o.Incarnation = id.Incarnation{99}
	if _, err := Format("/store", o); err != nil {
		t.Fatal(err)
	}
	if err := fs.RemoveAll("/store/log"); err != nil {
		t.Fatal(err)
	}
	if err := fs.Rename("/oldlog", "/store/log"); err != nil {
		t.Fatal(err)
	}
	s = testOpen(t, fs, "/store", clock.NewManual())
	r, err := s.Fence(t.Context(), storeproto.Fence{Volume: storetest.Volume, Epoch: 4, By: storetest.HolderA})
	if err != nil || r.Incarnation != o.Incarnation || len(r.Streams) != 0 {
		t.Errorf("fence: %+v %v", r, err)
	}
	_, err = storetest.Append(s, &storeproto.Append{Stream: journal, Epoch: 4, Batch: storetest.Batch(3, 2, 1, 1, 0), Copy: true})
	want(t, "append to what it has lost", err, errs.ErrConflict)
}

// Without this two processes would write one disk.
func TestTwoCannotHaveOneStore(t *testing.T) {
	dir := t.TempDir()
	s := testNew(t, vfs.OS, dir, clock.System)
	if _, err := Open(dir, Options{}); err == nil {
		t.Fatal("opened twice")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	testOpen(t, vfs.OS, dir, clock.System)
}

// Without this a block that the disk returns wrong would be served.
func TestFlippedBitIsCorrupt(t *testing.T) {
	var flip atomic.Bool
	fs := vfs.WithHooks(vfs.Wrap(pvfs.NewMem()), vfs.Hooks{AfterRead: func(op vfs.Op, b []byte) {
		if flip.Load() && strings.HasSuffix(op.Path, ".ext") {
			b[len(b)/2] ^= 8
		}
	}})
	s := testNew(t, fs, "/store", clock.NewManual())
	seg, gen := id.MakeSegment(8, 1), id.Generation{Epoch: 3, N: 1}
	want(t, "put", storetest.Put(s, storetest.Shard(seg, gen, 0, 8, 1)), nil)
	flip.Store(true)
	want(t, "read", storetest.Read(s, seg, gen, 0, 2, 3).Err, errs.ErrCorrupt)
	flip.Store(false)
	want(t, "read again", storetest.Read(s, seg, gen, 0, 2, 3).Err, nil)
	if st := s.Stats(); st.BadBlocks != 1 {
		t.Errorf("%d bad blocks counted", st.BadBlocks)
	}
}

// Without this deleted space would not come back, or to another shard while it is read.
func TestDeletedSpaceComesBackAndNoReaderSeesIt(t *testing.T) {
	t.Run("readers", func(t *testing.T) {
		deleteWhileReading(t, testNew(t, vfs.Wrap(pvfs.NewMem()), "/store", clock.NewManual()))
	})
	t.Run("queue", func(t *testing.T) {
		queue, err := aio.New(8)
		if err != nil {
			t.Skipf("this kernel has no queue for us: %v", err)
		}
		t.Cleanup(func() { queue.Close() })
		dir := t.TempDir()
		if _, err := Format(dir, testFormat(vfs.OS)); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir, Options{Queue: queue, Readers: 2, Putters: 2})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		deleteWhileReading(t, s)
	})
}

func deleteWhileReading(t *testing.T, s *Store) {
	gen := id.Generation{Epoch: 3, N: 1}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var latest atomic.Uint64
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				n := latest.Load()
				if n == 0 {
					continue
				}
				r := storetest.Read(s, id.MakeSegment(id.Sequence(n), 1), gen, 0, 0, 16)
				if r.Err == nil && !bytes.Equal(r.Dst, storetest.Shard(id.MakeSegment(id.Sequence(n), 1), gen, 0, 16, n).Data[0]) {
					t.Error("another shard's bytes")
				} else if r.Err != nil && !errors.Is(r.Err, errs.ErrNotFound) {
					t.Errorf("read: %v", r.Err)
				}
			}
		})
	}
	rounds := uint64(120)
	if raceDetector {
		rounds = 40
	}
	for n := uint64(1); n <= rounds; n++ {
		seg := id.MakeSegment(id.Sequence(n), 1)
		want(t, "put", storetest.Put(s, storetest.Shard(seg, gen, 0, 16, n)), nil)
		latest.Store(n)
		want(t, "delete", s.DeleteShards(t.Context(), storeproto.DeleteShards{Volume: storetest.Volume, Epoch: 3, Segments: []storeproto.SegmentGeneration{{Segment: seg, Generation: gen}}}), nil)
	}
	close(stop)
	wg.Wait()
	if st := s.Stats(); st.Shards != 0 || st.ShardBytes != 0 || st.ExtentFiles > 1 {
		t.Errorf("%d shards, %d bytes in %d files", st.Shards, st.ShardBytes, st.ExtentFiles)
	}
}

// Without this a deleted disk would keep its space, or another lose its own.
func TestPurgeTakesOneVolumeUpToAnEpoch(t *testing.T) {
	fs := vfs.Wrap(pvfs.NewMem())
	s := testNew(t, fs, "/store", clock.NewManual())
	for e := id.Epoch(3); e <= 5; e++ {
		name := storetest.Stream(e, 1, storeproto.Journal)
		_, err := storetest.Next(s, name, storetest.Batch(e, 1, 1, 1, 0))
		want(t, "append", err, nil)
		want(t, "put", storetest.Put(s, storetest.Shard(id.MakeSegment(id.Sequence(e), 1), id.Generation{Epoch: e, N: 1}, 0, 4, 1)), nil)
	}
	p := storetest.Shard(id.MakeSegment(50, 1), id.Generation{Epoch: 3, N: 1}, 0, 4, 1)
	p.Head.Volume = id.Volume{77}
	want(t, "put", storetest.Put(s, p), nil)
	_, err := s.Fence(t.Context(), storeproto.Fence{Volume: storetest.Volume, Epoch: 5, By: storetest.HolderA})
	want(t, "fence", err, nil)
	want(t, "purge", s.PurgeVolume(t.Context(), storetest.Volume, 4), nil)
	for range 2 {
		vols := s.Volumes()
		if len(vols) != 2 || vols[0].Fence != 5 || len(vols[0].Streams) != 1 || vols[0].Shards != 1 || vols[1].Shards != 1 {
			t.Errorf("volumes %+v", vols)
		}
		want(t, "confirm", storetest.Confirm(s, storetest.Volume, 4), errs.ErrStaleEpoch)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = testOpen(t, fs, "/store", clock.NewManual())
	}
}

// Without this a store whose format was cut off could be opened half made, or
// never be formatted.
func TestFormatCutOffIsBegunAnew(t *testing.T) {
	fs := vfs.NewCrash()
	var cuts []*vfs.Crash
	fs.OnSync(func(n int) { cuts = append(cuts, fs.Clone(50, uint64(n))) })
	if _, err := Format("/store", crashFormat(fs)); err != nil {
		t.Fatal(err)
	}
	for i, c := range cuts {
		if i%3 != 0 && i < len(cuts)-4 {
			continue
		}
		_, err := ReadIdentity(c, "/store")
		if errors.Is(err, errs.ErrNotFound) {
			_, err = Format("/store", crashFormat(c))
		}
		if err != nil {
			t.Fatalf("cut before sync %d: %v", i+1, err)
		}
		s, err := Open("/store", Options{FS: c, Clock: clock.NewManual()})
		if err != nil {
			t.Fatalf("cut before sync %d: %v", i+1, err)
		}
		s.Close()
	}
}

// Without this a damaged STORE file would be believed.
func TestDamagedStoreFileIsRefused(t *testing.T) {
	s := Identity{ID: id.Store{1}, Incarnation: id.Incarnation{2}, LogFileBytes: 1 << 20, LogFilesMax: 8, ExtentBytes: 4 << 20}
	good := s.encode()
	if got, err := decodeIdentity("STORE", good); err != nil || got != s {
		t.Fatalf("%+v %v", got, err)
	}
	for _, at := range []int{0, 8, 20, 40, 50, 57, 65, 90, 4000, 4095} {
		bad := append([]byte(nil), good...)
		bad[at] ^= 1
		if _, err := decodeIdentity("STORE", bad); !errors.Is(err, errs.ErrCorrupt) {
			t.Errorf("byte %d: %v", at, err)
		}
	}
}

// Without this the cache of sums would grow with the disk, or lose what is in use.
func TestSumCacheKeepsToItsLimit(t *testing.T) {
	var c sumCache
	c.init(10 << 10)
	name := func(i int) shardName { return shardName{segment: id.Segment(i)} }
	for i := range 200 {
		if c.get(name(0)) == nil && i > 0 {
			t.Fatalf("what is read all the time is gone after %d others", i)
		}
		c.put(&cachedShard{name: name(i), sums: make([]uint32, 100)})
		if bytes, n := c.usage(); bytes > 10<<10 || n == 0 {
			t.Fatalf("%d bytes in %d shards", bytes, n)
		}
	}
	if c.get(name(199)) == nil || c.get(name(5)) != nil {
		t.Error("the newest is gone, or an old one there")
	}
	c.remove(name(199))
	if c.get(name(199)) != nil {
		t.Error("removed and there")
	}
}

// Without this a repair that listed a disk before its deletion would bring a shard back
// when the store had forgotten the disk already, and nobody would ever delete it.
func TestPurgedVolumeIsNotRepaired(t *testing.T) {
	fs := vfs.Wrap(pvfs.NewMem())
	s := testNew(t, fs, "/store", clock.NewManual())
	repair := func(e id.Epoch) error {
		p := storetest.Shard(id.MakeSegment(7, 1), id.Generation{Epoch: e, N: 1}, 0, 4, 1)
		p.Epoch = storeproto.RepairEpoch
		return storetest.Put(s, p)
	}
	want(t, "purge", s.PurgeVolume(t.Context(), storetest.Volume, 5), nil)
	for range 2 {
		for _, e := range []id.Epoch{3, 5} {
			want(t, "repair of a purged disk", repair(e), errs.ErrNotFound)
		}
		if st := s.Stats(); st.Shards != 0 {
			t.Fatalf("%d shards", st.Shards)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = testOpen(t, fs, "/store", clock.NewManual())
	}
}
