package journal

import (
	"testing"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// grant lets stores grant for term, counted from now.
func (d *desk) grant(term time.Duration, stores ...byte) {
	d.t.Helper()
	for _, n := range stores {
		s := d.leases.mu.sessions[storeN(n)]
		if s == nil {
			d.t.Fatalf("no session with store %d", n)
		}
		l := &LeaseSend{Member: s.Member, session: s, at: d.now}
		l.Lease.Term = term
		d.leases.Done(d.now, l, &LeaseEffects{})
	}
}

func (d *desk) confirms() (out []*ConfirmSend) {
	out, d.fx.Confirms = d.fx.Confirms, nil
	return out
}

func (d *desk) confirmed(c *ConfirmSend, err error) {
	c.Confirm.Err = err
	d.core.Confirmed(d.now, c, d.fx)
}

// Without this a partitioned owner would serve reads on the word of one store.
func TestReadsNeedTwoGrants(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	if d.core.MayRead(d.now) {
		t.Fatal("without grants")
	}
	d.grant(time.Second, 1)
	if d.core.MayRead(d.now) {
		t.Fatal("with one grant")
	}
	d.grant(time.Second, 3)
	if !d.core.MayRead(d.now) {
		t.Fatal("not with two grants")
	}
	if d.core.MayRead(d.now + time.Second) {
		t.Fatal("with grants that ran out")
	}
	two := newDesk(t, 1, 2)
	two.grant(time.Second, 1)
	if two.core.MayRead(two.now) {
		t.Fatal("with one grant of an ensemble of two")
	}
}

// Without this a slow request would stretch a grant beyond what the store believes.
func TestGrantCountsFromItsSending(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	var fx LeaseEffects
	d.leases.Tick(d.now, &fx)
	if len(fx.Sends) != 3 {
		t.Fatalf("%d requests", len(fx.Sends))
	}
	for _, s := range fx.Sends {
		s.Lease.Term = time.Second
		d.leases.Done(d.now+900*time.Millisecond, s, &LeaseEffects{})
	}
	if !d.core.MayRead(d.now+999*time.Millisecond) || d.core.MayRead(d.now+time.Second) {
		t.Error("the grant does not end one term after the request was sent")
	}
}

// Without this grants of stores that no fence asks any more would let an old owner read.
func TestGrantOfAnOlderEnsembleDoesNotCount(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.grant(time.Hour, 1, 2, 3)
	d.core.StoreDown(d.now, storeN(3).Store, d.fx)
	d.succeedBy(4, 5, 6)
	if d.core.MayRead(d.now) {
		t.Fatal("with grants of the ensemble before")
	}
	d.grant(time.Hour, 4)
	if d.core.MayRead(d.now) {
		t.Fatal("with grants of the ensemble before and one of the newest")
	}
	d.grant(time.Hour, 6)
	if !d.core.MayRead(d.now) {
		t.Fatal("not with two of the newest")
	}
}

// Without this the older ensemble, closed, would no longer be fenced while it still lets reads pass.
func TestCloseIsAskedAfterTheNewestCounts(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.core.StoreDown(d.now, storeN(3).Store, d.fx)
	for _, a := range d.fx.Asks {
		if a.Kind == AskClose {
			t.Fatal("close before there is a successor")
		}
	}
	d.grant(time.Hour, 1, 2)
	d.succeedBy(1, 2, 4)
	d.ask(AskClose)
	if sessions := d.core.reads.Load().sessions; len(sessions) != 3 || sessions[2].Member != storeN(4) {
		t.Error("the close is asked while grants count from the older ensemble")
	}
}

// Without this a read could be answered from before a takeover that came before it.
func TestConfirmBegunBeforeTheReadDoesNotCount(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	first := d.core.AskRead(d.now, d.fx)
	early := d.confirms()
	if len(early) != 3 {
		t.Fatalf("%d confirms", len(early))
	}
	second := d.core.AskRead(d.now, d.fx)
	if len(d.fx.Confirms) != 0 {
		t.Fatal("a second confirm to a store that has one in flight")
	}
	d.confirmed(early[0], nil)
	d.confirmed(early[1], nil)
	if d.fx.Readable != first {
		t.Fatalf("readable up to %d, want %d", d.fx.Readable, first)
	}
	late := d.confirms()
	if len(late) != 2 {
		t.Fatalf("%d confirms for the second read", len(late))
	}
	d.confirmed(early[2], nil)
	if d.fx.Readable >= second {
		t.Fatal("the second read is served by a round begun before it")
	}
	for _, c := range late {
		d.confirmed(c, nil)
	}
	if d.fx.Readable != second {
		t.Errorf("readable up to %d, want %d", d.fx.Readable, second)
	}
}

// Without this a busy volume would pay a round for every read.
func TestAppendSentAfterTheReadCounts(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.append(journalKind, 1)
	token := d.core.AskRead(d.now, d.fx)
	d.all(1, 1, nil)
	d.all(1, 2, nil)
	if d.fx.Readable != 0 {
		t.Fatal("an append sent before the read counts")
	}
	d.append(journalKind, 1)
	d.all(1, 1, nil)
	if d.fx.Readable != 0 {
		t.Fatal("one store counts for two")
	}
	d.all(1, 2, nil)
	if d.fx.Readable != token {
		t.Errorf("readable up to %d, want %d", d.fx.Readable, token)
	}
}

// Without this a round of the older ensemble would answer for stores that no fence asks.
func TestConfirmOfAnOlderEnsembleDoesNotCount(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	token := d.core.AskRead(d.now, d.fx)
	old := d.confirms()
	d.core.StoreDown(d.now, storeN(3).Store, d.fx)
	d.succeedBy(4, 5, 6)
	fresh := d.confirms()
	for _, c := range old {
		d.confirmed(c, nil)
	}
	if d.fx.Readable != 0 {
		t.Fatal("confirms of the ensemble before count")
	}
	for _, c := range fresh {
		d.confirmed(c, nil)
	}
	if d.fx.Readable != token {
		t.Errorf("readable up to %d of %d confirms, want %d", d.fx.Readable, len(fresh), token)
	}
}

// Without this a failed confirm would hang the reads behind it.
func TestFailedConfirmIsTriedAgain(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	token := d.core.AskRead(d.now, d.fx)
	c := d.confirms()
	d.confirmed(c[0], nil)
	d.confirmed(c[1], errs.ErrTimeout)
	d.confirmed(c[2], errs.ErrTimeout)
	d.pass(simLimits.RetryAfter)
	c = d.confirms()
	if len(c) != 2 {
		t.Fatalf("%d confirms", len(c))
	}
	d.confirmed(c[0], nil)
	if d.fx.Readable != token {
		t.Errorf("readable up to %d", d.fx.Readable)
	}
}

// Without this the grant that brings a naming would let one more read pass.
func TestNamingCountsBeforeTheGrantThatBringsIt(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.grant(time.Second, 1, 2)
	s := d.leases.mu.sessions[storeN(3)]
	l := &LeaseSend{Member: s.Member, session: s, at: d.now}
	l.Lease.Term, l.Lease.Naming = time.Second, 7
	l.Lease.Named = []storeproto.NamedFence{{Volume: id.Volume{1}, Epoch: 2}}
	var fx LeaseEffects
	d.leases.Done(d.now, l, &fx)
	if d.core.MayRead(d.now) || len(fx.Fenced) != 1 {
		t.Fatalf("after the naming it may read, or nobody is told: %v", fx.Fenced)
	}
	if len(fx.Sends) != 1 || fx.Sends[0].Lease.Acked != 7 {
		t.Errorf("the naming is not acknowledged at once: %+v", fx.Sends)
	}
	d.core.Tick(d.now, d.fx)
	if !d.fx.Fenced {
		t.Error("the core does not hear of it")
	}
}

// Without this a volume fenced while it was being opened here would be served
// when the opening ends.
func TestNamingDuringTheOpeningIsNotMissed(t *testing.T) {
	e1 := ens(1, 1, 1, 2, 3)
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1}}, nil)
	s := d.leases.use(storeN(9))
	l := &LeaseSend{Member: s.Member, session: s, at: d.now}
	l.Lease.Named = []storeproto.NamedFence{{Volume: id.Volume{1}, Epoch: 3}}
	d.leases.Done(d.now, l, &LeaseEffects{})
	d.o.Tick(d.now, d.fx)
	d.wantFailed(errs.ErrStaleEpoch)
}

// Without this a naming of its own epoch, or an older one, would end the rightful owner.
func TestNamingOfAnOlderEpochIsNothing(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	d.grant(time.Second, 1, 2)
	s := d.leases.mu.sessions[storeN(3)]
	l := &LeaseSend{Member: s.Member, session: s, at: d.now}
	l.Lease.Named = []storeproto.NamedFence{{Volume: id.Volume{1}, Epoch: 1}}
	d.leases.Done(d.now, l, &LeaseEffects{})
	if !d.core.MayRead(d.now) {
		t.Error("it may not read")
	}
}

// Without this the world would see a state that no list in metad vouches for.
func TestNoReadBeforeTheListIsReplaced(t *testing.T) {
	d := openAt(t, 2, List{}, nil)
	d.read(0)
	d.add(ens(2, 1, 1, 2, 3))
	c := d.o.core
	if c.MayRead(d.now) || c.AskRead(d.now, d.fx) == 0 || len(d.fx.Confirms) != 0 || c.reads.Load() != nil {
		t.Error("an opening core reads")
	}
}

// Without this a process that was stopped past its lease would serve stale reads
// when it wakes.
func TestZombieServesNoStaleRead(t *testing.T) {
	w := newWorld(t, 9, 3)
	p := w.opened(t, "a")
	p.writeAll(t, 3)
	if !w.until(time.Second, func() bool { return p.core.MayRead(p.now()) }) {
		t.Fatal("no grants")
	}
	p.paused = true
	q := w.opened(t, "b")
	q.writeAll(t, 3)
	p.paused = false
	if p.core.MayRead(p.now()) {
		t.Fatal("it may read when it wakes")
	}
	p.read()
	p.resume()
	w.run(time.Second)
	if p.readsDone != 0 || !p.fenced {
		t.Errorf("it served %d reads, fenced %v", p.readsDone, p.fenced)
	}
}

// Without this reads would need metad or a round though all is well.
func TestReadsGoOnByGrantsWithMetadAway(t *testing.T) {
	w := newWorld(t, 10, 3)
	p := w.opened(t, "a")
	for range 50 {
		w.run(w.leaseTerm / 5)
		p.read()
	}
	if p.readsDone != 50 {
		t.Errorf("%d of 50 reads", p.readsDone)
	}
}

// Without this a store that answers at once would be asked at the speed of the network.
func TestLeaseRequestsKeepTheirPace(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	var fx LeaseEffects
	d.leases.Tick(d.now, &fx)
	s := fx.Sends[0]
	fx.Reset()
	s.Lease.Term = time.Second
	d.leases.Done(d.now, s, &fx)
	if len(fx.Sends) != 0 {
		t.Error("asked again at once")
	}
	d.leases.Tick(d.now+time.Second/2, &fx)
	if len(fx.Sends) != 1 {
		t.Errorf("%d requests half a wait later", len(fx.Sends))
	}
}

// Without this a read would have to wait for the mutex of its volume; the race
// detector judges.
func TestMayReadNeedsNoLock(t *testing.T) {
	d := newDesk(t, 1, 2, 3)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				d.core.MayRead(time.Hour)
			}
		}
	}()
	d.grant(time.Hour, 1, 2)
	d.core.StoreDown(d.now, storeN(3).Store, d.fx)
	d.succeedBy(1, 2, 4)
	d.core.Fence(d.fx)
	d.core.Close()
	close(stop)
	<-ended
}
