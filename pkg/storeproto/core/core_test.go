package core_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
	"ashlar.dev/pkg/storeproto/storetest"
)

const term = 10 * time.Second

// lab steps a core by hand: nothing becomes durable unless told.
type lab struct {
	t   *testing.T
	c   *core.Core
	now time.Duration
	log []string
}

func newLab(t *testing.T, cfg core.Config) *lab {
	cfg.LeaseTerm = term
	if cfg.Life == 0 {
		cfg.Life = 1
	}
	return &lab{t: t, c: core.New(cfg), now: term}
}

func (l *lab) append(name storeproto.Stream, b *storeproto.Batch, change ...func(*storeproto.Append)) *storeproto.Append {
	a := &storeproto.Append{Stream: name, Epoch: name.Ensemble.Epoch, Batch: b, Base: b.First == 1, Err: errUnanswered}
	for _, f := range change {
		f(a)
	}
	a.Done = func(a *storeproto.Append) { l.note("append %d: %s", a.Batch.First, class(a.Err)) }
	l.c.Append(a)
	l.deliver()
	return a
}

var errUnanswered = errors.New("not answered")

func class(err error) string {
	for _, c := range []error{errs.ErrStaleEpoch, errs.ErrConflict, errs.ErrInvalid, errs.ErrNoSpace, errs.ErrUnavailable, errs.ErrNotFound} {
		if errors.Is(err, c) {
			return c.Error()
		}
	}
	if err != nil {
		return err.Error()
	}
	return "ok"
}

func (l *lab) note(format string, args ...any) { l.log = append(l.log, fmt.Sprintf(format, args...)) }

func (l *lab) deliver() {
	for _, r := range l.c.Replies(nil) {
		r.Deliver()
	}
}

func (l *lab) fence(e id.Epoch, by id.Holder, prior ...id.Host) *core.Fencing {
	f := &core.Fencing{Req: storeproto.Fence{Volume: storetest.Volume, Epoch: e, By: by, Prior: prior}, Err: errUnanswered}
	f.Done = func(f *core.Fencing) {
		if f.Err == errUnanswered {
			f.Err = nil
		}
		l.note("fence %s: %s", e, class(f.Err))
	}
	l.c.Fence(l.now, f)
	l.deliver()
	return f
}

func (l *lab) lease(h id.Holder, acked uint64, wait time.Duration) *storeproto.Lease {
	r := &storeproto.Lease{Holder: h, Acked: acked, Wait: wait, Done: func(r *storeproto.Lease) {
		l.note("lease %s: %s, %d named", h, class(r.Err), len(r.Named))
	}}
	l.c.Lease(l.now, r)
	l.deliver()
	return r
}

// sync makes one group durable.
func (l *lab) sync(ops int) {
	if g := l.c.Take(ops, 1<<20); g != nil {
		l.c.Durable(g)
	}
	l.deliver()
}

func (l *lab) tick(d time.Duration) {
	l.now += d
	l.c.Tick(l.now)
	l.deliver()
}

func (l *lab) expect(want ...string) {
	l.t.Helper()
	if !slices.Equal(l.log, want) {
		l.t.Errorf("answers %q, want %q", l.log, want)
	}
	l.log = nil
}

var (
	journal = storetest.Stream(3, 1, storeproto.Journal)
	a, b    = storetest.HolderA, storetest.HolderB
)

func batch(first id.LSN) *storeproto.Batch { return storetest.Batch(3, first, 1, 0, 0) }

// Without this a fence could report a tail that an append ahead of it in the
// queue still moves, or an append behind it be acknowledged.
func TestFenceQueuesBehindAdmittedAppends(t *testing.T) {
	l := newLab(t, core.Config{})
	l.append(journal, batch(1))
	l.append(journal, batch(2))
	f := l.fence(4, a)
	l.append(journal, batch(3))
	l.expect() // nothing is answered before it is durable, refusals neither: they keep their place
	l.sync(1)
	l.expect("append 1: ok")
	l.sync(1)
	l.expect("append 2: ok")
	l.sync(10)
	l.expect("fence e4: ok", "append 3: stale epoch")
	if got := f.Reply.Streams[0].Tail; got != 2 {
		t.Errorf("tail %d, want 2", got)
	}
}

// Without this a fence would be in force only when its sync is done, and appends
// admitted meanwhile would be acknowledged behind it.
func TestFenceIsInForceFromItsArrival(t *testing.T) {
	l := newLab(t, core.Config{})
	l.fence(4, a)
	if err := l.c.Confirm(storetest.Volume, 3); !errors.Is(err, errs.ErrStaleEpoch) {
		t.Errorf("confirm: %v", err)
	}
	l.append(journal, batch(1))
	l.sync(10)
	l.expect("fence e4: ok", "append 1: stale epoch")
}

// Without this a batch that is in the queue but not on disk would be answered as durable.
func TestResentBatchWaitsForTheFirst(t *testing.T) {
	l := newLab(t, core.Config{})
	l.append(journal, batch(1))
	l.append(journal, batch(1))
	l.expect()
	l.sync(1)
	l.expect("append 1: ok")
	l.sync(1)
	l.expect("append 1: ok")
}

// Without this two groups could be out at once, and a later one be durable before an earlier one.
func TestOneGroupAtATime(t *testing.T) {
	l := newLab(t, core.Config{})
	l.append(journal, batch(1))
	l.append(journal, batch(2))
	g := l.c.Take(1, 1<<20)
	if l.c.Take(1, 1<<20) != nil {
		t.Fatal("a second group while one is out")
	}
	l.c.Durable(g)
	l.sync(1)
	l.expect("append 1: ok", "append 2: ok")
}

// Without this the one who appended before it was killed would wait for ever.
func TestKillAnswersEverything(t *testing.T) {
	l := newLab(t, core.Config{})
	l.lease(b, 0, 0)
	l.log = nil
	l.append(journal, batch(1))
	g := l.c.Take(1, 1<<20)
	l.append(journal, batch(2))
	l.lease(a, 0, time.Hour)
	l.fence(4, a, b.Host)
	l.c.Kill(errors.New("boom"))
	l.deliver()
	slices.Sort(l.log)
	l.expect("append 2: unavailable", "fence e4: unavailable", "lease a#7: unavailable, 0 named")
	l.c.Durable(g) // too late: it may be on disk, but nobody may be told
	l.deliver()
	l.expect("append 1: unavailable")
	l.append(journal, batch(3))
	l.fence(5, a)
	l.lease(a, 0, 0)
	l.expect("append 3: unavailable", "fence e5: unavailable", "lease a#7: unavailable, 0 named")
}

// Without this a store that just started would let a new owner in while an old
// one still counts a grant of the store's earlier life.
func TestNoFenceWithinATermOfTheStart(t *testing.T) {
	for name, c := range map[string]struct {
		prior []id.Host
		prove func(l *lab)
		at    time.Duration // after the start
		want  bool          // answered at once
	}{
		"prior host unheard of":          {prior: []id.Host{"a"}},
		"a term later":                   {prior: []id.Host{"a"}, at: term, want: true},
		"no prior host":                  {want: true},
		"only the new owner's own host":  {prior: []id.Host{"b"}, want: true},
		"released by the prior host":     {prior: []id.Host{"a"}, prove: func(l *lab) { l.release(a, 3) }, want: true},
		"released an earlier term":       {prior: []id.Host{"a"}, prove: func(l *lab) { l.release(a, 2) }},
		"prior host heard of once":       {prior: []id.Host{"a"}, prove: func(l *lab) { l.release(id.Holder{Host: "a", Number: 9}, 1) }},
		"prior host's life proven dead":  {prior: []id.Host{"a"}, prove: func(l *lab) { l.release(a, 1); l.release(id.Holder{Host: "a", Number: 9}, 1) }, want: true},
		"one released, another one not":  {prior: []id.Host{"a", "c"}, prove: func(l *lab) { l.release(a, 3) }},
		"a later life of it has a grant": {prior: []id.Host{"a"}, prove: func(l *lab) { l.release(a, 1); l.lease(id.Holder{Host: "a", Number: 9}, 0, 0) }},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, core.Config{Started: term})
			l.now = term + c.at
			if c.prove != nil {
				c.prove(l)
			}
			l.log = nil
			l.fence(4, b, c.prior...)
			l.sync(10)
			if got := len(l.log) > 0; got != c.want {
				t.Errorf("answered at once: %v, want %v", got, c.want)
			}
			l.tick(term)
			if len(l.log) != 1 {
				t.Errorf("after a term: %q", l.log)
			}
		})
	}
}

func (l *lab) release(h id.Holder, e id.Epoch) {
	l.c.Release(storeproto.Release{Volume: storetest.Volume, Epoch: e, By: h}, &core.Control{Done: func(*core.Control) {}})
	l.deliver()
}

// Without this a host that owned a volume twice could be taken for one that has
// let it go, by the word of its first time.
func TestWaitingFenceEndsByTheLastTermsReleaseOnly(t *testing.T) {
	l := newLab(t, core.Config{})
	l.lease(a, 0, 0)
	l.fence(4, b, "a")
	l.sync(10)
	l.log = nil
	l.release(a, 2)
	l.sync(10)
	l.expect()
	l.release(id.Holder{Host: "a", Number: a.Number - 1}, 3) // a dead life's word
	l.sync(10)
	l.expect()
	l.release(a, 3)
	l.sync(10)
	l.expect("fence e4: ok")
}

// Without this a holder that was away while a volume was fenced would get a grant
// that says nothing of it, and serve it on.
func TestEveryGrantNamesWhatWasFencedSince(t *testing.T) {
	l := newLab(t, core.Config{})
	first := l.lease(a, 0, 0)
	l.fence(4, b, "a")
	l.sync(10)
	l.tick(5 * term) // the grant is long gone, the fence answered
	l.log = nil
	r := l.lease(a, first.Naming, 0)
	if len(r.Named) != 1 || r.Named[0].Epoch != 4 {
		t.Fatalf("named %+v", r.Named)
	}
	if again := l.lease(a, first.Naming, 0); len(again.Named) != 1 {
		t.Error("what was not acknowledged is not named again")
	}
	if r := l.lease(a, r.Naming, 0); len(r.Named) != 0 {
		t.Errorf("named after the acknowledgement: %+v", r.Named)
	}
	if r := l.lease(b, 0, 0); len(r.Named) != 0 {
		t.Errorf("its own fence is named to the host: %+v", r.Named)
	}
}

// Without this a holder would count a grant although it could not be told everything.
func TestNoGrantUntilAllIsNamed(t *testing.T) {
	l := newLab(t, core.Config{})
	for i := range core.NamedMax + 10 {
		f := &core.Fencing{Req: storeproto.Fence{Volume: id.Volume{byte(i), byte(i >> 8), 1}, Epoch: 2, By: b}, Done: func(*core.Fencing) {}}
		l.c.Fence(l.now, f)
	}
	r := l.lease(a, 0, time.Hour)
	if r.Term != 0 || len(r.Named) != core.NamedMax {
		t.Fatalf("term %s with %d named", r.Term, len(r.Named))
	}
	r = l.lease(a, r.Naming, 0)
	if r.Term != term || len(r.Named) != 10 {
		t.Errorf("then term %s with %d named", r.Term, len(r.Named))
	}
}

// Without this an acknowledgement given to an earlier life of the store would
// pass for one of a naming that this life gave the same number.
func TestNamingsOfTwoLivesDiffer(t *testing.T) {
	l := newLab(t, core.Config{Life: 1})
	f := l.fence(4, b) // never durable
	l2 := newLab(t, core.Config{Life: 2})
	l2.lease(a, f.Naming, 0)
	g := l2.fence(4, b, "a")
	if g.Naming <= f.Naming {
		t.Fatalf("naming %x after %x", g.Naming, f.Naming)
	}
	l2.lease(a, f.Naming, 0)
	l2.sync(10)
	if g.Err == nil {
		t.Error("an acknowledgement of another life's naming ended the wait")
	}
}

// Without this memory or the disk would run over with unreleased journal bytes,
// or a release not bring the room back.
func TestJournalHasALimit(t *testing.T) {
	size := int64(core.BatchOf(batch(1)).Bytes)
	l := newLab(t, core.Config{JournalBytesMax: 2 * size})
	l.append(journal, batch(1))
	l.append(journal, batch(2))
	l.append(journal, batch(3))
	l.sync(10)
	l.expect("append 1: ok", "append 2: ok", "append 3: no space")
	meta := journal
	meta.Kind = storeproto.Meta
	l.append(meta, batch(1))
	l.sync(1)
	l.expect("append 1: ok")
	drop := &core.Control{Done: func(*core.Control) {}}
	l.c.Drop(storeproto.Drop{Volume: journal.Volume, Epoch: 3}, drop)
	if l.c.JournalBytes() != 2*size {
		t.Error("room is back before the drop is durable")
	}
	l.sync(10)
	if l.c.JournalBytes() != 0 {
		t.Errorf("%d bytes after the drop", l.c.JournalBytes())
	}
	if n := len(l.c.Freed(nil)); n != 3 {
		t.Errorf("%d batches free, want 3", n)
	}
}

// Without this a release would let a batch go that is still in the queue.
func TestReleaseDoesNotTouchTheQueue(t *testing.T) {
	l := newLab(t, core.Config{})
	l.append(journal, batch(1), func(a *storeproto.Append) { a.Released = 9 })
	l.append(journal, batch(2), func(a *storeproto.Append) { a.Released = 9 })
	l.sync(1)
	if got := l.c.Stream(journal).Row().Released; got != 1 {
		t.Errorf("released %d while 2 is in the queue", got)
	}
	l.sync(1)
	if got := l.c.Stream(journal); got.Row().Released != 9 || got.Durable() != 9 {
		t.Errorf("released %d, tail %d", got.Row().Released, got.Durable())
	}
	l.expect("append 1: ok", "append 2: ok")
}

// Without this what a disk lost would be cut off quietly, and a fence lead an
// owner to forget acknowledged writes.
func TestLostSyncedRecordIsReportedNotTruncated(t *testing.T) {
	at := func(first id.LSN) core.Batch { return core.BatchOf(batch(first)) }
	for name, c := range map[string]struct {
		row     core.Row
		tail    id.LSN
		lost    bool
		batches []id.LSN
		lossy   bool
		want    id.LSN // tail
	}{
		"whole":                            {batches: []id.LSN{1, 2, 3}, want: 3},
		"in any order, one twice":          {batches: []id.LSN{3, 1, 2, 1}, want: 3},
		"empty":                            {want: 0},
		"hole":                             {batches: []id.LSN{1, 3}, lossy: true, want: 3},
		"hole that was released":           {row: core.Row{Released: 2}, batches: []id.LSN{1, 3}, want: 3},
		"base missing":                     {batches: []id.LSN{2, 3}, lossy: true, want: 3},
		"shorter than what is known":       {tail: 4, batches: []id.LSN{1, 2, 3}, lossy: true, want: 3},
		"known tail is released":           {row: core.Row{Released: 4}, tail: 4, batches: []id.LSN{1, 2, 3}, want: 4},
		"tail lost":                        {lost: true, batches: []id.LSN{1, 2}, lossy: true, want: 2},
		"lossy before, released since":     {row: core.Row{LossyTo: 2, Released: 2}, batches: []id.LSN{3}, want: 3},
		"lossy before":                     {row: core.Row{LossyTo: 2, Released: 1}, batches: []id.LSN{3}, lossy: true, want: 3},
		"lost tail is never forgotten":     {row: core.Row{LossyTo: core.LossUnknown, Released: 2}, batches: []id.LSN{3}, lossy: true, want: 3},
		"tail moved up over what was lost": {row: core.Row{Released: 9}, batches: []id.LSN{10}, want: 10},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, core.Config{})
			c.row.Stream, c.row.Base = journal, 1
			r := core.Recovered{Row: c.row, Tail: c.tail, TailLost: c.lost}
			for _, first := range c.batches {
				r.Batches = append(r.Batches, at(first))
			}
			l.c.RestoreStream(r)
			l.c.Restored()
			f := l.fence(4, a)
			l.sync(10)
			if st := f.Reply.Streams[0]; f.Reply.Lossy != c.lossy || st.Lossy != c.lossy || st.Tail != c.want {
				t.Errorf("lossy %v, tail %d; want %v, %d", f.Reply.Lossy, st.Tail, c.lossy, c.want)
			}
		})
	}
}

// Without this a shard of a fenced owner, or of an old layout of its group, or of
// a deleted segment could become visible while its data was being written.
func TestShardIsAskedAgainWhenItsDataIsDurable(t *testing.T) {
	head := storetest.Shard(id.MakeSegment(5, 9), id.Generation{Epoch: 3, N: 1}, 0, 1, 0).Head
	for name, c := range map[string]struct {
		meanwhile func(l *lab)
		want      error
	}{
		"nothing":      {func(*lab) {}, nil},
		"fence":        {func(l *lab) { l.fence(4, a) }, errs.ErrStaleEpoch},
		"group moved":  {func(l *lab) { l.pg(9, 2) }, errs.ErrStaleEpoch},
		"other group":  {func(l *lab) { l.pg(8, 2) }, nil},
		"deleted":      {func(l *lab) { l.delete(head.Segment, head.Generation) }, errs.ErrNotFound},
		"lower gone":   {func(l *lab) { l.delete(head.Segment, id.Generation{Epoch: 2, N: 9}) }, nil},
		"died":         {func(l *lab) { l.c.Kill(nil) }, errs.ErrUnavailable},
		"disk is full": {func(l *lab) { l.c.SetFull(false, true) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, core.Config{})
			if err := l.c.AdmitShard(head, 3); err != nil {
				t.Fatal(err)
			}
			c.meanwhile(l)
			var got error = errUnanswered
			l.c.CommitShard(head, 3, &core.Control{Done: func(c *core.Control) { got = c.Err }})
			l.sync(10)
			if !errors.Is(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

func (l *lab) pg(pg id.PG, v uint32) {
	l.c.SetPGVersions([]core.PGVersion{{PG: pg, Version: v}}, &core.Control{Done: func(*core.Control) {}})
}

func (l *lab) delete(s id.Segment, g id.Generation) {
	d := storeproto.DeleteShards{Volume: storetest.Volume, Epoch: 3, Segments: []storeproto.SegmentGeneration{{Segment: s, Generation: g}}}
	l.c.DeleteShards(d, &core.Control{Done: func(*core.Control) {}})
}

// Without this tombstones would pile up for ever.
func TestTombstonesGoWithTheEpochThatLeftThem(t *testing.T) {
	l := newLab(t, core.Config{})
	seg, gen := id.MakeSegment(5, 9), id.Generation{Epoch: 3, N: 1}
	l.delete(seg, gen)
	l.sync(10)
	if !l.c.Deleted(storetest.Volume, seg, gen) || l.c.Deleted(id.Volume{9}, seg, gen) {
		t.Fatal("tombstone missing, or another volume's")
	}
	l.fence(4, a)
	l.sync(10)
	if l.c.Deleted(storetest.Volume, seg, gen) {
		t.Error("tombstone stays although nobody below the fence can put")
	}
	head := storetest.Shard(seg, gen, 0, 1, 0).Head
	if err := l.c.AdmitShard(head, 3); !errors.Is(err, errs.ErrStaleEpoch) {
		t.Errorf("late put: %v", err)
	}
}

// Schedule: a volume is deleted and its store has purged it, before the owner hears of it and makes the
// stream that it has not needed there so far. Nobody would ever drop that one (bench/sim, seed 428).
func TestPurgedVolumeTakesNoStream(t *testing.T) {
	l := newLab(t, core.Config{})
	l.c.PurgeShards(storetest.Volume, 4, &core.Control{Done: func(*core.Control) {}})
	l.c.Forget(storeproto.Drop{Volume: storetest.Volume, Epoch: 4}, &core.Control{Done: func(*core.Control) {}})
	l.append(journal, batch(1))
	l.sync(10)
	l.expect("append 1: " + errs.ErrStaleEpoch.Error())
	l.append(journal, batch(7)) // what it had there is gone: its time is over, and not the store's fault
	l.sync(10)
	l.expect("append 7: " + errs.ErrStaleEpoch.Error())
	later := storetest.Stream(5, 1, storeproto.Journal) // it was deleted after metad's backup, and came back with it
	l.append(later, storetest.Batch(5, 1, 1, 0, 0))
	l.sync(10)
	l.expect("append 1: ok")
}

// Without this a volume that one owner keeps for months would fill the memory
// with tombstones.
func TestTombstonesHaveALimit(t *testing.T) {
	l := newLab(t, core.Config{TombstonesMax: 3})
	gen := id.Generation{Epoch: 3, N: 1}
	var pruned []id.Segment
	for _, n := range []id.Sequence{9, 8, 7, 9, 6, 5} { // 9 is deleted twice
		ctl := &core.Control{Done: func(*core.Control) {}}
		l.c.DeleteShards(storeproto.DeleteShards{Volume: storetest.Volume, Epoch: 3, Segments: []storeproto.SegmentGeneration{{Segment: id.MakeSegment(n, 0), Generation: gen}}}, ctl)
		for _, p := range ctl.Pruned {
			pruned = append(pruned, p.Segment)
		}
	}
	if want := []id.Segment{id.MakeSegment(8, 0), id.MakeSegment(7, 0)}; !slices.Equal(pruned, want) {
		t.Errorf("forgotten %v, want %v", pruned, want)
	}
	if !l.c.Deleted(storetest.Volume, id.MakeSegment(9, 0), gen) || l.c.Deleted(storetest.Volume, id.MakeSegment(8, 0), gen) {
		t.Error("the oldest stays, or the newest is gone")
	}
}

// Without this the shell would sleep past a grant's end, or spin.
func TestNextTickIsTheNextThingDue(t *testing.T) {
	l := newLab(t, core.Config{})
	if _, ok := l.c.NextTick(); ok {
		t.Error("something due in a new core")
	}
	l.lease(a, 0, 0)
	l.lease(b, 0, 3*time.Second)
	if due, ok := l.c.NextTick(); !ok || due != l.now+3*time.Second {
		t.Errorf("due %s %v", due, ok)
	}
	l.fence(4, id.Holder{Host: "c", Number: 1}, "a")
	l.sync(10)
	if due, ok := l.c.NextTick(); !ok || due != l.now+term {
		t.Errorf("due %s %v", due, ok)
	}
	l.log = nil
	l.tick(term)
	l.expect("fence e4: ok")
	if _, ok := l.c.NextTick(); ok {
		t.Error("something due at rest")
	}
}

// Without this the hot path would feed the garbage collector.
func TestAppendDoesNotAllocate(t *testing.T) {
	c := core.New(core.Config{})
	b := batch(1)
	a := &storeproto.Append{Stream: journal, Epoch: 3, Batch: b, Base: true, Done: func(*storeproto.Append) {}}
	var replies []core.Reply
	var freed []core.Freed
	step := func() {
		a.Released = b.First - 1
		c.Append(a)
		c.Durable(c.Take(10, 1<<20))
		replies = c.Replies(replies[:0])
		freed = c.Freed(freed[:0])
		for _, r := range replies {
			r.Deliver()
		}
		b.First++
		a.Base = false
	}
	for range 100 {
		step()
	}
	if n := testing.AllocsPerRun(1000, step); n > 0 {
		t.Errorf("%v allocations per append", n)
	}
	if a.Err != nil {
		t.Fatal(a.Err)
	}
}
