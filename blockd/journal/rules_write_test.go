package journal

import (
	"errors"
	"slices"
	"testing"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Without this one disk's death would take an acknowledged record with it.
func TestAcknowledgedNeedsTwoStores(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.append(journalKind, 4)
	d.all(1, 1, nil)
	d.wantAcked(journalKind, 0)
	if d.fx.Acked[journalKind] != 0 {
		t.Fatal("one store acknowledges alone")
	}
	d.all(1, 3, nil)
	d.wantAcked(journalKind, 4)
	if d.fx.Acked[journalKind] != 4 {
		t.Fatalf("effects acknowledge %v", d.fx.Acked)
	}
}

// Without this a fence answered by one of two stores would miss an acknowledged record on the other.
func TestTwoStoreEnsembleNeedsBoth(t *testing.T) {
	d := newDesk(t, 1, 2)
	d.append(journalKind, 1)
	d.all(1, 1, nil)
	d.pass(time.Millisecond)
	d.wantAcked(journalKind, 0)
	d.all(1, 2, nil)
	d.wantAcked(journalKind, 1)
}

// Without this an answer that overtakes another would acknowledge a record that only one store has.
func TestOutOfOrderAnswersAcknowledgeNoGap(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.append(journalKind, 1)
	d.append(journalKind, 1)
	d.append(journalKind, 1)
	d.done(d.to(1, 1, journalKind)[2], nil) // store 1 has 1…3: a stream has no gaps
	d.done(d.to(1, 2, journalKind)[0], nil)
	d.wantAcked(journalKind, 1)
	d.done(d.to(1, 3, journalKind)[1], nil)
	d.wantAcked(journalKind, 2)
}

// Without this a lost reply would look like a lost store, and a record be written twice.
func TestLostReplyIsAskedForAgainFromTheKnownTail(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.append(journalKind, 1)
	d.all(1, 1, nil)
	d.append(journalKind, 1)
	d.append(journalKind, 1)
	d.all(1, 2, nil)
	s := d.to(1, 1, journalKind)
	d.done(s[0], errGone)
	if len(d.to(1, 1, journalKind)) != 1 {
		t.Fatal("it is sent again before what is in flight is known")
	}
	d.done(s[1], errGone)
	d.pass(2 * simLimits.RetryAfter)
	again := d.to(1, 1, journalKind)
	if len(again) != 1 || again[0].Append.Batch.First != 2 {
		t.Fatalf("after a failure %d sends, want one probe from the tail", len(again))
	}
	d.done(again[0], nil)
	if again = d.to(1, 1, journalKind); len(again) != 1 || again[0].Append.Batch.First != 3 {
		t.Fatalf("after the probe %d sends, want the rest", len(again))
	}
	d.done(again[0], nil)
	d.wantAcked(journalKind, 3)
	d.noAsk()
}

// Without this a restarted blockd would be thrown out of every ensemble it is in.
func TestStoreRestartedInPlaceIsCaughtUp(t *testing.T) {
	w := newWorld(t, 1, 4)
	p := w.opened(t, "a")
	p.writeAll(t, 10)
	s := w.store(p.core.newest().members[0].Store)
	s.crash()
	w.after(simLimits.ReplaceAfter/2, func() { s.start(); s.run() })
	p.writeAll(t, 20)
	w.run(time.Second)
	if w.metad.adds != 1 {
		t.Errorf("%d ensembles were asked for, want the first only", w.metad.adds)
	}
	if m := p.core.newest().members[0]; !m.ok() || m.cursors[journalKind].durable != p.core.streams[journalKind].tail {
		t.Errorf("the restarted store is behind: %+v", p.core.Status())
	}
}

// Without this a store that lost its stream would count as having what it told before.
func TestStoreThatLostItsTailIsReplaced(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.append(journalKind, 1)
	for _, s := range []byte{1, 2} {
		d.all(1, s, nil)
	}
	d.append(journalKind, 1)
	d.all(1, 2, errGone)
	d.pass(simLimits.RetryAfter)
	d.done(d.to(1, 2, journalKind)[0], errs.ErrConflict) // it does not know record 1 any more
	d.done(d.to(1, 1, journalKind)[0], nil)
	d.wantAcked(journalKind, 1)
	if a := d.ask(AskAdd); !slices.Contains(a.Exclude, storeN(2).Store) {
		t.Errorf("a successor may have the store again: %v", a.Exclude)
	}
	d.done(d.to(1, 3, journalKind)[0], nil)
	d.wantAcked(journalKind, 1)
	d.done(d.to(1, 3, journalKind)[0], nil)
	d.wantAcked(journalKind, 2)
}

// Without this a record acknowledged by the old ensemble after the switch could be
// above the old one's end, where recovery does not look.
func TestSwitchPointIsPickedOnMetadsAnswer(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.append(journalKind, 5)
	d.all(1, 1, nil)
	d.all(1, 2, nil)
	d.core.StoreDown(d.now, storeN(3).Store, d.fx)
	d.append(journalKind, 2) // 6, 7: acknowledged by the two while metad is asked
	d.all(1, 1, nil)
	d.all(1, 2, nil)
	d.wantAcked(journalKind, 7)
	d.append(journalKind, 1) // 8: in flight at the switch
	d.done(d.to(1, 1, journalKind)[0], nil)
	d.succeedBy(1, 2, 4)
	old := d.core.ensembles[0]
	if old.toLSN[journalKind] != 7 || d.core.newest().fromLSN[journalKind] != 8 {
		t.Fatalf("the switch is after %d, the successor from %d", old.toLSN[journalKind], d.core.newest().fromLSN[journalKind])
	}
	d.done(d.to(1, 2, journalKind)[0], nil) // 8 is on two stores of the old ensemble now
	d.wantAcked(journalKind, 7)
	for _, s := range []byte{1, 2, 4} {
		if got := d.to(2, s, journalKind); len(got) != 1 || got[0].Append.Batch.First != 8 || !got[0].Append.Base {
			t.Fatalf("store %d of the successor got %d sends, want 8 as its base", s, len(got))
		}
	}
	d.all(2, 4, nil)
	d.wantAcked(journalKind, 7)
	d.all(2, 1, nil)
	d.wantAcked(journalKind, 8)
}

// Without this what a store told before it lost its stream would help to
// acknowledge records that it has no more.
func TestStoreThatLostItsTailCountsNoMore(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	for range 3 {
		d.append(journalKind, 1)
	}
	for range 2 {
		d.done(d.to(1, 3, journalKind)[0], nil) // store 3 has 1 and 2
	}
	d.done(d.to(1, 3, journalKind)[0], errGone)
	d.pass(2 * simLimits.RetryAfter)
	d.done(d.to(1, 3, journalKind)[0], errs.ErrConflict) // and lost them
	d.done(d.to(1, 1, journalKind)[0], nil)
	d.done(d.to(1, 1, journalKind)[0], nil)
	d.wantAcked(journalKind, 0)
	d.all(1, 2, nil)
	d.wantAcked(journalKind, 2)
}

// Without this a failure that overtakes an earlier success would leave a hole that
// nobody fills.
func TestSuccessBelowAFailureDoesNotHideIt(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.append(journalKind, 1)
	d.append(journalKind, 1)
	s := d.to(1, 1, journalKind)
	d.done(s[1], errGone)
	d.done(s[0], nil)
	d.pass(2 * simLimits.RetryAfter)
	again := d.to(1, 1, journalKind)
	if len(again) != 1 || again[0].Append.Batch.First != 2 {
		t.Errorf("%d sends after the failure, want record 2 again", len(again))
	}
}

// Without this the close would leave acknowledged records on one store only.
func TestUnreleasedIsCopiedBeforeTheClose(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.append(journalKind, 3)
	d.append(metaKind, 1)
	d.append(journalKind, 4)
	d.all(1, 1, nil)
	d.all(1, 2, nil)
	d.core.Release(d.now, journalKind, 3, d.fx)
	d.core.StoreDown(d.now, storeN(3).Store, d.fx)
	d.core.StoreDown(d.now, storeN(2).Store, d.fx)
	d.succeedBy(1, 4, 5)
	d.noAsk()
	copies := d.to(1, 4, journalKind)
	if len(copies) != 1 || !copies[0].Append.Copy || !copies[0].Append.Base || copies[0].Append.Batch.First != 4 {
		t.Fatalf("the copy to the successor's store is %+v", copies)
	}
	d.done(copies[0], nil)
	d.noAsk() // the meta stream is not there yet
	d.done(d.to(1, 4, metaKind)[0], nil)
	a := d.ask(AskClose)
	if !slices.Equal(a.Holders, membersN(1, 4)) || a.From != [2]id.LSN{1, 1} || a.To != [2]id.LSN{7, 1} {
		t.Errorf("close %+v", a)
	}
}

// Without this a close could name a store that is gone, and recovery wait for it for ever.
func TestCloseNamesLiveHolders(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.append(journalKind, 1)
	d.all(1, 1, nil)
	d.all(1, 2, nil)
	d.all(1, 3, nil)
	d.core.StoreDown(d.now, storeN(2).Store, d.fx)
	d.succeedBy(1, 4, 5)
	if a := d.ask(AskClose); !slices.Equal(a.Holders, membersN(1, 3)) {
		t.Errorf("holders %v", a.Holders)
	}
}

// Without this a second change after a lost answer could add, close or remove twice.
func TestUnknownOutcomeIsReadBeforeAskingAgain(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.core.StoreDown(d.now, storeN(3).Store, d.fx)
	a := d.ask(AskAdd)
	d.list.Version++ // it landed
	d.list.Ensembles = append(d.list.Ensembles, Ensemble{ID: id.Ensemble{Epoch: 1, N: 2}, Members: membersN(1, 2, 4)})
	d.answer(a, errs.ErrTimeout)
	d.noAsk()
	d.pass(simLimits.AskAfter)
	a = d.ask(AskReread)
	d.answer(a, nil)
	if len(d.core.ensembles) != 2 || d.core.newest().id.N != 2 {
		t.Fatal("what landed is not seen")
	}
	if a := d.ask(AskClose); a.Version != d.list.Version {
		t.Errorf("close at version %d, the list has %d", a.Version, d.list.Version)
	}
}

// Without this an ask that lands after the list was read would stay unseen.
func TestLateLandingIsSeen(t *testing.T) {
	d := newDesk(t, 1, 2)
	d.core.StoreUp(d.now, storeN(3).Store, d.fx) // a third store: ask for three
	d.answer(d.ask(AskAdd), errs.ErrTimeout)
	d.pass(simLimits.AskAfter)
	d.answer(d.ask(AskReread), nil) // not landed
	d.answer(d.ask(AskAdd), errs.ErrUnavailable)
	d.pass(2 * simLimits.AskAfter)
	d.answer(d.ask(AskReread), nil)
	d.list.Version++
	d.list.Ensembles = append(d.list.Ensembles, Ensemble{ID: id.Ensemble{Epoch: 1, N: 2}, Members: membersN(1, 2, 3)})
	d.pass(shunFor * simLimits.ReplaceAfter)
	d.answer(d.ask(AskReread), nil)
	if len(d.core.ensembles) != 2 {
		t.Fatal("the successor is not seen")
	}
}

// Without this recovery could miss commits that only the old ensemble has.
func TestRemoveWaitsForReleaseAndCheckpoint(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.append(journalKind, 2)
	d.append(metaKind, 2)
	for _, s := range []byte{1, 2} {
		d.all(1, s, nil)
	}
	d.core.StoreDown(d.now, storeN(3).Store, d.fx)
	d.succeedBy(1, 2, 4)
	a := d.ask(AskClose)
	e := d.list.find(a.Ensemble)
	e.Closed, e.To, e.Holders = true, a.To, a.Holders
	d.list.Version++
	d.answer(a, nil)
	d.noAsk()
	d.core.Release(d.now, journalKind, 2, d.fx)
	d.noAsk()
	d.core.Release(d.now, metaKind, 2, d.fx)
	d.noAsk() // no checkpoint covers it
	d.core.CheckpointCommitted(d.now, 1, d.fx)
	d.noAsk()
	d.core.CheckpointCommitted(d.now, 2, d.fx)
	a = d.ask(AskRemove)
	if len(a.Ensembles) != 1 || a.Ensembles[0] != (id.Ensemble{Epoch: 1, N: 1}) || a.Released != 2 {
		t.Errorf("remove %+v", a)
	}
	d.list.Version++
	d.list.Ensembles = d.list.Ensembles[1:]
	d.answer(a, nil)
	if len(d.fx.Drops) == 0 || len(d.core.ensembles) != 1 {
		t.Errorf("drops %v, ensembles %d", d.fx.Drops, len(d.core.ensembles))
	}
}

// Without this a third failure would fail writes that only have to wait.
func TestWritesWaitWhileFewerThanTwoStoresAnswer(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.append(journalKind, 1)
	d.all(1, 1, nil)
	d.all(1, 2, errGone)
	d.all(1, 3, errGone)
	d.pass(2 * simLimits.ReplaceAfter)
	d.answer(d.ask(AskAdd), errs.ErrUnavailable) // metad is away
	d.wantAcked(journalKind, 0)
	if d.fx.Fenced {
		t.Fatal("fenced")
	}
	d.all(1, 2, nil) // a probe gets through
	d.wantAcked(journalKind, 1)
}

// Without this a fenced owner would acknowledge what the new one does not have.
func TestStaleEpochEndsTheCore(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.append(journalKind, 1)
	d.all(1, 1, nil)
	d.done(d.to(1, 2, journalKind)[0], errStale)
	d.done(d.to(1, 3, journalKind)[0], nil)
	if !d.fx.Fenced {
		t.Fatal("not fenced")
	}
	d.wantAcked(journalKind, 0)
	b := &storeproto.Batch{Count: 1}
	if err := d.core.Append(d.now, journalKind, b, d.fx); !errors.Is(err, errs.ErrStaleEpoch) {
		t.Errorf("append after the fence: %v", err)
	}
	if d.core.MayRead(d.now) {
		t.Error("it may read")
	}
}

// Without this a store that hangs without an error would stay in the ensemble for ever.
func TestSilentStoreIsReplaced(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.append(journalKind, 1)
	d.all(1, 1, nil)
	d.all(1, 2, nil)
	d.pass(simLimits.ReplaceAfter - 1)
	d.noAsk()
	d.pass(1)
	if a := d.ask(AskAdd); !slices.Equal(a.Exclude, []id.Store{storeN(3).Store}) || len(d.fx.Reports) != 1 {
		t.Errorf("exclude %v, reports %v", a.Exclude, d.fx.Reports)
	}
}

// Without this a slow store would hold the memory of everything since it fell behind.
func TestStoreTooManyBytesBehindIsReplaced(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	for d.core.streams[journalKind].bytes < uint64(simLimits.LagBytes)+1000 {
		b := &storeproto.Batch{Count: 1, Meta: make([]byte, 2000)}
		if err := d.core.Append(d.now, journalKind, b, d.fx); err != nil {
			t.Fatal(err)
		}
		d.all(1, 1, nil)
		d.all(1, 2, nil)
	}
	d.pass(time.Millisecond)
	d.ask(AskAdd)
}

// Without this a released record missing on a slow store would cut it off for good.
func TestSlowStoreSkipsWhatIsReleased(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	first := d.append(journalKind, 3)
	d.append(journalKind, 3)
	d.all(1, 1, nil)
	d.all(1, 2, nil)
	for range 2 {
		d.done(d.to(1, 3, journalKind)[0], errGone)
	}
	freed := false
	first.Free = func(*storeproto.Batch) { freed = true }
	d.core.Release(d.now, journalKind, 4, d.fx)
	if !freed {
		t.Error("the released batch is kept")
	}
	d.pass(2 * simLimits.RetryAfter)
	s := d.to(1, 3, journalKind)
	if len(s) != 1 || s[0].Append.Batch.First != 4 || s[0].Append.Released != 3 || !s[0].Append.Base {
		t.Fatalf("it gets %+v, want 4 as base, 3 released", s)
	}
	// An earlier base got through after all: the store refuses another one.
	d.done(s[0], errs.ErrConflict)
	d.pass(10 * simLimits.RetryAfter)
	s = d.to(1, 3, journalKind)
	if len(s) != 1 || s[0].Append.Base {
		t.Fatalf("then it gets %+v, want 4 without base", s)
	}
	d.done(s[0], nil)
	d.noAsk()
}

// Without this a caller could queue without bound.
func TestRoomHasLimits(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	n := 0
	for d.core.Room(journalKind) {
		d.append(journalKind, 1)
		n++
	}
	if n != simLimits.UnackedBatches {
		t.Errorf("room for %d batches", n)
	}
	if got := len(d.to(1, 1, journalKind)); got != simLimits.WindowBatches {
		t.Errorf("%d in flight to one store, limit %d", got, simLimits.WindowBatches)
	}
	d.all(1, 1, nil)
	d.all(1, 2, nil)
	if !d.core.Room(journalKind) {
		t.Error("no room after all is acknowledged")
	}
}

// Without this the stores would carry a quiet volume's released records for ever;
// and with it too eager, no-op records would follow each other for ever.
func TestQuietStreamIsNudgedOnce(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	b := &storeproto.Batch{Count: 1, Meta: make([]byte, nudgeBytes)}
	if err := d.core.Append(d.now, journalKind, b, d.fx); err != nil {
		t.Fatal(err)
	}
	for _, s := range []byte{1, 2, 3} {
		d.all(1, s, nil)
	}
	d.core.Release(d.now, journalKind, 1, d.fx)
	d.pass(simLimits.NudgeAfter)
	if !d.fx.Nudge[journalKind] || d.fx.Nudge[metaKind] {
		t.Fatalf("nudges %v", d.fx.Nudge)
	}
	d.fx.Nudge = [2]bool{}
	d.append(journalKind, 1)
	for _, s := range []byte{1, 2, 3} {
		d.all(1, s, nil)
	}
	d.core.Release(d.now, journalKind, 2, d.fx)
	d.pass(simLimits.NudgeAfter)
	if d.fx.Nudge[journalKind] {
		t.Error("a no-op record is followed by another")
	}
}

// Without this an ensemble of two would stay when a third store is there again.
func TestEnsembleOfTwoGrows(t *testing.T) {
	d := newDesk(t, 1, 2)
	d.core.StoreUp(d.now, storeN(3).Store, d.fx)
	d.succeedBy(1, 2, 3)
	if len(d.core.newest().members) != 3 {
		t.Error("it did not grow")
	}
}

// Without this a quiet disk would get one ensemble after the other until its list is full:
// the shell tells only when the topology changes that the newest is narrow.
func TestWiderEnsembleIsAskedForOnce(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.core.Narrow(true)
	d.pass(simLimits.AskAfter)
	d.succeedBy(1, 2, 4)
	for range 4 {
		d.pass(shunFor * simLimits.ReplaceAfter)
		for range 3 {
			asks := d.fx.Asks
			d.fx.Asks = nil
			for _, a := range asks {
				if a.Kind == AskAdd {
					t.Fatal("asked again though nothing has changed")
				}
				d.answer(a, nil)
			}
		}
	}
}

// Without this an ensemble with two stores on one host, formed while the others were away,
// would stay when they are back, and the loss of that host would lose the disk; or metad would
// be asked for ever.
func TestNarrowEnsembleIsFollowedByAWiderOne(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.core.Narrow(true)
	d.pass(simLimits.AskAfter)
	a := d.ask(AskAdd)
	if !a.Better {
		t.Error("any other would do")
	}
	d.answer(a, errs.ErrUnavailable)
	adds := func() (n int) {
		for range 4 {
			d.pass(shunFor * simLimits.ReplaceAfter)
			for len(d.fx.Asks) > 0 {
				a := d.fx.Asks[0]
				d.fx.Asks = d.fx.Asks[1:]
				if a.Kind == AskAdd {
					n++
				}
				d.answer(a, nil)
			}
		}
		return n
	}
	if n := adds(); n != 0 {
		t.Errorf("asked %d times though nothing has changed", n)
	}
	d.core.Narrow(true)
	if adds() == 0 {
		t.Error("not asked when more hosts are there")
	}
}

// Without this records of a dead holder would wait for the next crash unnoticed.
func TestExposedTellsOfADeadHolder(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.append(journalKind, 7)
	d.all(1, 1, nil)
	d.all(1, 2, nil)
	d.core.StoreDown(d.now, storeN(3).Store, d.fx)
	d.succeedBy(1, 4, 5)
	a := d.ask(AskClose)
	e := d.list.find(a.Ensemble)
	e.Closed, e.To, e.Holders = true, a.To, a.Holders
	d.list.Version++
	d.answer(a, nil)
	if x := d.core.Exposed(journalKind); x != 0 {
		t.Fatalf("exposed up to %d while both holders live", x)
	}
	d.core.StoreDown(d.now, storeN(2).Store, d.fx)
	if x := d.core.Exposed(journalKind); x != 7 {
		t.Errorf("exposed up to %d, want 7", x)
	}
	d.core.Release(d.now, journalKind, 7, d.fx)
	if x := d.core.Exposed(journalKind); x != 0 {
		t.Errorf("exposed up to %d though released", x)
	}
}

// Without this every append would cost the collector; the pools must make the
// steady state free of allocations.
func TestAppendAndAcknowledgeDoNotAllocate(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	b := &storeproto.Batch{Count: 1, Meta: make([]byte, 64)}
	var sends []*Send
	step := func() {
		_ = d.core.Append(d.now, journalKind, b, d.fx)
		sends = append(sends[:0], d.fx.Appends...)
		d.fx.Reset()
		for _, s := range sends {
			d.core.Done(d.now, s, d.fx)
		}
		d.core.Release(d.now, journalKind, d.core.Acked(journalKind), d.fx)
		d.fx.Reset()
	}
	step()
	if n := testing.AllocsPerRun(100, step); n != 0 {
		t.Errorf("%v allocations for a batch", n)
	}
}

func BenchmarkAppendAcknowledge(b *testing.B) {
	d := newDesk(&testing.T{}, 1, 2, 3)
	batch := &storeproto.Batch{Count: 1, Meta: make([]byte, 64)}
	var sends []*Send
	b.ReportAllocs()
	for b.Loop() {
		_ = d.core.Append(d.now, journalKind, batch, d.fx)
		sends = append(sends[:0], d.fx.Appends...)
		d.fx.Reset()
		for _, s := range sends {
			d.core.Done(d.now, s, d.fx)
		}
		d.core.Release(d.now, journalKind, d.core.Acked(journalKind), d.fx)
		d.fx.Reset()
	}
}
