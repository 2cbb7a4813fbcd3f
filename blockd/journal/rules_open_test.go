package journal

import (
	"errors"
	"slices"
	"testing"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// opening is an opener whose every effect is carried out by hand, before stores
// that are nothing but what they say.
type openDesk struct {
	t      *testing.T
	o      *Opener
	fx     *Effects
	now    time.Duration
	list   List
	leases *Leases
	says   map[byte]storeproto.FenceReply
	has    map[storeproto.Stream]map[byte][]*storeproto.Batch
	asked  []byte // for batches, in order
}

// openAt begins the opening of a list at an epoch.
func openAt(t *testing.T, epoch id.Epoch, l List, change func(*OpenConfig)) *openDesk {
	d := &openDesk{t: t, fx: &Effects{}, now: time.Hour, list: l, says: make(map[byte]storeproto.FenceReply),
		has: make(map[storeproto.Stream]map[byte][]*storeproto.Batch)}
	h := id.Holder{Host: "h", Number: 1}
	d.leases = NewLeases(LeaseConfig{Holder: h, Answered: func(*LeaseSend) {}})
	cfg := OpenConfig{Volume: id.Volume{1}, Epoch: epoch, Holder: h, List: l, Leases: d.leases, Limits: simLimits,
		Completed: func(*Send) {}, Confirmed: func(*ConfirmSend) {}}
	if change != nil {
		change(&cfg)
	}
	var err error
	if d.o, err = NewOpener(d.now, cfg, d.fx); err != nil {
		t.Fatal(err)
	}
	return d
}

func ens(epoch id.Epoch, n uint32, stores ...byte) Ensemble {
	return Ensemble{ID: id.Ensemble{Epoch: epoch, N: n}, Members: membersN(stores...)}
}

func closed(e Ensemble, from, to id.LSN, holders ...byte) Ensemble {
	e.Closed, e.Holders = true, membersN(holders...)
	e.From, e.To = [2]id.LSN{from, 1}, [2]id.LSN{to, 0}
	return e
}

// put lets a store have batches of an ensemble's journal: each {epoch, first, count}.
func (d *openDesk) put(store byte, e Ensemble, batches ...[3]uint64) {
	n := storeproto.Stream{Volume: id.Volume{1}, Ensemble: e.ID, Kind: storeproto.Journal}
	r := d.says[store]
	r.Store, r.Incarnation = storeN(store).Store, storeN(store).Incarnation
	if len(batches) > 0 {
		last := batches[len(batches)-1]
		r.Streams = append(r.Streams, storeproto.StreamState{Stream: n, Base: id.LSN(batches[0][1]), Tail: id.LSN(last[1] + last[2] - 1)})
	}
	d.says[store] = r
	d.hold(n, store, batches)
}

// fenced answers the fence of stores as put said.
func (d *openDesk) fenced(stores ...byte) {
	d.t.Helper()
	for _, s := range stores {
		i := slices.IndexFunc(d.fx.Fences, func(f FenceSend) bool { return f.Store[0] == s })
		if i < 0 {
			d.t.Fatalf("store %d is not fenced: %v", s, d.fx.Fences)
		}
		f := d.fx.Fences[i]
		d.fx.Fences = slices.Delete(d.fx.Fences, i, i+1)
		if r, ok := d.says[s]; ok {
			d.o.FenceDone(d.now, f, r, nil, d.fx)
		} else {
			d.put(s, Ensemble{})
			d.o.FenceDone(d.now, f, d.says[s], nil, d.fx)
		}
	}
}

// read carries out fetches and decodes until nothing more is asked for.
func (d *openDesk) read(covered id.LSN) {
	d.t.Helper()
	for len(d.fx.Fetches) > 0 || d.fx.Meta != nil {
		if d.fx.Meta != nil {
			d.fx.Meta = nil
			d.o.Covered(d.now, covered, d.fx)
			continue
		}
		f := d.fx.Fetches[0]
		d.fx.Fetches = d.fx.Fetches[1:]
		d.asked = append(d.asked, f.Store[0])
		var r storeproto.FetchReply
		for _, b := range d.has[f.Fetch.Stream][f.Store[0]] {
			if b.Last() >= f.Fetch.From {
				b.Retain()
				r.Batches = append(r.Batches, b)
			}
		}
		d.o.FetchDone(d.now, f, r, nil, d.fx)
	}
}

// run is the journal run found: {epoch, first, count} of each batch.
func (d *openDesk) run() (out [][3]uint64) {
	for _, b := range d.o.runs[storeproto.Journal].batches {
		out = append(out, [3]uint64{uint64(b.Epoch), uint64(b.First), uint64(b.Count)})
	}
	return out
}

func (d *openDesk) wantRun(want ...[3]uint64) {
	d.t.Helper()
	if got := d.run(); !slices.Equal(got, want) || !d.o.runs[storeproto.Journal].done {
		d.t.Fatalf("run %v, want %v; failed %v", got, want, d.fx.Failed)
	}
}

func (d *openDesk) wantWaiting() {
	d.t.Helper()
	d.read(0)
	if d.o.runs[storeproto.Journal].done || d.fx.Failed != nil || d.o.over {
		d.t.Fatalf("it does not wait: run %v, failed %v", d.run(), d.fx.Failed)
	}
}

func (d *openDesk) wantFailed(class error) {
	d.t.Helper()
	if !errors.Is(d.fx.Failed, class) {
		d.t.Fatalf("failed with %v, want %v", d.fx.Failed, class)
	}
}

func (d *openDesk) ask(kind AskKind) Ask {
	d.t.Helper()
	if len(d.fx.Asks) != 1 || d.fx.Asks[0].Kind != kind {
		d.t.Fatalf("asks %+v, want one to %s", d.fx.Asks, kind)
	}
	a := d.fx.Asks[0]
	d.fx.Asks = nil
	return a
}

func (d *openDesk) add(e Ensemble) {
	d.t.Helper()
	a := d.ask(AskAdd)
	d.list = d.list.Clone()
	d.list.Version++
	d.list.Ensembles = append(d.list.Ensembles, e)
	d.o.Answer(d.now, AskResult{Ask: a, List: d.list}, d.fx)
}

func (d *openDesk) finishSends(stores ...byte) {
	for i := 0; i < len(d.fx.Appends); {
		s := d.fx.Appends[i]
		if !slices.Contains(stores, s.Store[0]) {
			i++
			continue
		}
		d.fx.Appends = slices.Delete(d.fx.Appends, i, i+1)
		s.Append.Err = nil
		d.o.Done(d.now, s, d.fx)
	}
}

// Without this the longest stream would win though its tail was discarded: store 3
// was away while epoch 2 recovered without it and wrote other records.
func TestStaleLongestTailIsNotRecovered(t *testing.T) {
	e1, e2 := ens(1, 1, 1, 2, 3), ens(2, 1, 1, 2, 3)
	d := openAt(t, 3, List{Version: 3, Ensembles: []Ensemble{e2}}, nil)
	d.put(3, e1, [3]uint64{1, 1, 8}, [3]uint64{1, 9, 20})
	d.put(3, e2)
	d.put(1, e2, [3]uint64{1, 1, 8}, [3]uint64{2, 9, 2})
	d.fenced(3, 1)
	d.read(0)
	d.wantRun([3]uint64{1, 1, 8}, [3]uint64{2, 9, 2})
}

// Without this a name would mean two records: LSN 9 of epoch 1 was never
// acknowledged, LSN 9 of epoch 2 was.
func TestLSNRecursUnderALaterEpoch(t *testing.T) {
	w := newWorld(t, 4, 3)
	p := w.opened(t, "a")
	p.writeAll(t, 8)
	alone := w.store(p.core.newest().members[0].Store)
	for _, s := range w.stores {
		p.links[s.id].cut = s != alone
	}
	p.write(1) // 9, on one store only
	w.run(20 * time.Millisecond)
	if p.core.newest().members[0].cursors[journalKind].durable != 9 {
		t.Fatal("the store does not have record 9")
	}
	alone.crash()
	q := w.opened(t, "b")
	if next := q.core.Next(storeproto.Journal); next != 9 {
		t.Fatalf("b goes on at %d", next)
	}
	q.writeAll(t, 1)
	alone.start()
	alone.run()
	r := w.opened(t, "c")
	if got := r.core.Next(storeproto.Journal); got != 10 {
		t.Errorf("c goes on at %d", got)
	}
}

// A restored metad knows an old list, and stores that have streams of a later epoch: of
// these alone is what was acknowledged since the backup.
func TestFoundEnsemblesAreRecovered(t *testing.T) {
	e1, e2 := ens(1, 1, 1, 2, 3), ens(5, 1, 4, 5, 6)
	e2.Found = true
	d := openAt(t, 9, List{Version: 2, Ensembles: []Ensemble{e1, e2}}, nil)
	if len(d.fx.Fences) != 6 {
		t.Fatalf("%d stores are fenced, want those of both", len(d.fx.Fences))
	}
	d.put(4, e2, [3]uint64{5, 1, 8})
	d.put(5, e2, [3]uint64{5, 1, 8})
	d.fenced(1, 2, 4, 5, 6)
	d.read(0)
	d.wantRun([3]uint64{5, 1, 8})
}

// Without this a crash in the middle of a recovery would leave a list that is
// missing records: the old one stays in force until the new one is whole.
func TestHalfDoneRecoveryLeavesTheOldListInForce(t *testing.T) {
	e1, e2 := ens(1, 1, 1, 2, 3), ens(2, 1, 4, 5, 6)
	l := List{Version: 2, Ensembles: []Ensemble{e1, e2}} // epoch 2 crashed while it copied to e2
	d := openAt(t, 3, l, nil)
	if len(d.fx.Fences) != 3 {
		t.Fatalf("%d stores are fenced, want those of e1.1", len(d.fx.Fences))
	}
	d.put(1, e1, [3]uint64{1, 1, 8})
	d.put(2, e1, [3]uint64{1, 1, 4})
	d.put(4, e2, [3]uint64{1, 1, 4})
	d.fenced(1, 2)
	d.read(0)
	d.wantRun([3]uint64{1, 1, 8})
	d.add(ens(3, 1, 1, 2, 4))
	d.finishSends(1)
	if len(d.fx.Asks) != 0 || d.fx.Opened != nil {
		t.Fatal("the list is replaced before the run is on two stores")
	}
	d.finishSends(4)
	a := d.ask(AskReplace)
	if d.fx.Opened != nil || len(a.Ensembles) != 1 || a.Ensembles[0].Epoch != 3 {
		t.Fatalf("replace %+v, opened %v", a, d.fx.Opened)
	}
	d.list = List{Version: a.Version + 1, Ensembles: d.list.Ensembles[2:], Complete: true}
	d.o.Answer(d.now, AskResult{Ask: a, Err: errs.ErrTimeout}, d.fx)
	d.now += simLimits.AskAfter
	d.o.Tick(d.now, d.fx)
	if d.fx.Opened != nil {
		t.Fatal("opened though nobody knows whether the list is replaced")
	}
	d.o.Answer(d.now, AskResult{Ask: d.ask(AskReread), List: d.list}, d.fx)
	if d.fx.Opened == nil || d.fx.Opened.Next[storeproto.Journal] != 9 || len(d.fx.Opened.Journal) != 1 {
		t.Fatalf("opened %+v", d.fx.Opened)
	}
}

// Without this the owner of a new disk would serve though metad never took its list as
// replaced: the list looks the same before and after. Metad would refuse every checkpoint of
// it, and what it appends would never be released.
func TestFirstListIsReplacedOnlyWhenMetadSaysSo(t *testing.T) {
	d := openAt(t, 1, List{}, nil)
	d.o.Covered(d.now, 0, d.fx)
	d.add(ens(1, 1, 1, 2, 3))
	d.o.Answer(d.now, AskResult{Ask: d.ask(AskReplace), Err: errs.ErrTimeout}, d.fx) // it never arrives
	d.now += simLimits.AskAfter
	d.o.Tick(d.now, d.fx)
	d.o.Answer(d.now, AskResult{Ask: d.ask(AskReread), List: d.list}, d.fx)
	if d.fx.Opened != nil {
		t.Fatal("opened, and metad was never told")
	}
	a := d.ask(AskReplace)
	d.list.Version, d.list.Complete = a.Version+1, true // it lands, and the answer is lost
	d.o.Answer(d.now, AskResult{Ask: a, Err: errs.ErrTimeout}, d.fx)
	d.now += 2 * simLimits.AskAfter
	d.o.Tick(d.now, d.fx)
	d.o.Answer(d.now, AskResult{Ask: d.ask(AskReread), List: d.list}, d.fx)
	if d.fx.Opened == nil {
		t.Fatal("not opened, and the list is replaced")
	}
}

// Without this the fresh ensemble of two would hold the run once only.
func TestRecoveryCopiesNeedBothOfTwo(t *testing.T) {
	e1 := ens(1, 1, 1, 2)
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1}}, nil)
	d.put(1, e1, [3]uint64{1, 1, 3})
	d.fenced(1)
	d.read(0)
	d.wantRun([3]uint64{1, 1, 3})
	d.add(ens(2, 1, 1, 3))
	d.finishSends(1)
	if len(d.fx.Asks) != 0 {
		t.Fatal("replaced with one copy")
	}
	d.finishSends(3)
	d.ask(AskReplace)
}

// Without this a fence of an ensemble of two would wait for a dead store for ever;
// one answer meets every quorum of two.
func TestTwoStoreEnsembleFencesWithOne(t *testing.T) {
	e1 := ens(1, 1, 1, 2)
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1}}, nil)
	d.put(2, e1, [3]uint64{1, 1, 3})
	d.fenced(2)
	d.read(0)
	d.wantRun([3]uint64{1, 1, 3})
}

// Without this one answer of three would miss what the other two acknowledged.
func TestFenceNeedsTwoOfThreeInEveryOpenEnsemble(t *testing.T) {
	e1, e2 := ens(1, 1, 1, 2, 3), ens(1, 2, 2, 3, 4)
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1, e2}}, nil)
	d.put(1, e1, [3]uint64{1, 1, 3})
	d.put(2, e1, [3]uint64{1, 1, 3})
	d.put(3, e2, [3]uint64{1, 4, 3})
	d.fenced(1, 2)
	d.read(0)
	d.wantWaiting() // of e1.2 store 2 answered only
	if len(d.fx.Asks) != 0 {
		t.Fatal("a fresh ensemble is asked for before the fences stand")
	}
	d.fenced(3)
	d.read(0)
	d.wantRun([3]uint64{1, 1, 3}, [3]uint64{1, 4, 3})
}

// Without this a store that came back empty would vouch for records it never saw.
func TestLostAndReturnedStoreIsNoAnswer(t *testing.T) {
	e1 := ens(1, 1, 1, 2, 3)
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1}}, nil)
	d.put(1, e1)
	r := d.says[1]
	r.Incarnation = id.Incarnation{9}
	d.says[1] = r
	d.put(2, e1, [3]uint64{1, 1, 2})
	d.put(3, e1, [3]uint64{1, 1, 4})
	d.fenced(1, 2)
	d.wantWaiting()
	d.fenced(3)
	d.read(0)
	d.wantRun([3]uint64{1, 1, 4})
}

// Without this what another incarnation has would be thrown away: it lends records.
func TestStoreThatDoesNotCountLendsRecords(t *testing.T) {
	e1 := ens(1, 1, 1, 2, 3)
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1}}, nil)
	d.put(1, e1, [3]uint64{1, 1, 6})
	r := d.says[1]
	r.Incarnation = id.Incarnation{9}
	d.says[1] = r
	d.put(2, e1, [3]uint64{1, 1, 6})
	d.put(3, e1)
	d.fenced(1)
	d.fenced(2, 3)
	d.has[storeproto.Stream{Volume: id.Volume{1}, Ensemble: e1.ID}][2] = nil // gone when it is read
	d.read(0)
	d.wantRun([3]uint64{1, 1, 6})
}

// Without this a gap left by lost synced records would look like the end of the
// journal: it is damage, the third store is waited for, and nothing is cut.
func TestLossyGapIsNotTruncated(t *testing.T) {
	e1 := ens(1, 1, 1, 2, 3)
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1}}, nil)
	d.put(1, e1, [3]uint64{1, 1, 2})
	r := d.says[1]
	r.Lossy, r.Streams[0].Lossy = true, true
	d.says[1] = r
	d.put(2, e1, [3]uint64{1, 1, 3})
	d.put(3, e1, [3]uint64{1, 1, 3}, [3]uint64{1, 4, 2})
	d.fenced(1, 2)
	d.read(0)
	d.wantWaiting()
	d.fenced(3)
	d.read(0)
	d.wantRun([3]uint64{1, 1, 3}, [3]uint64{1, 4, 2})
}

// Without this an opening would cut the journal where its last good copy is damaged.
func TestDamageBelowATailFailsLoudly(t *testing.T) {
	e1 := ens(1, 1, 1, 2, 3)
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1}}, func(c *OpenConfig) { c.Lost = []id.Store{storeN(3).Store} })
	d.put(1, e1, [3]uint64{1, 1, 2}, [3]uint64{1, 3, 2}, [3]uint64{1, 5, 2})
	d.put(2, e1, [3]uint64{1, 1, 2})
	d.has[storeproto.Stream{Volume: id.Volume{1}, Ensemble: e1.ID}][1][1].Meta[0] ^= 1
	d.fenced(1, 2)
	d.read(0)
	d.wantFailed(ErrStoresLost)
	if !errors.Is(d.fx.Failed, errs.ErrCorrupt) {
		t.Errorf("it does not tell of the damage: %v", d.fx.Failed)
	}
}

// A store of the opener's host is read first, as far as it goes, and the longest from there on.
func TestNearStoreIsReadFirst(t *testing.T) {
	e1 := ens(1, 1, 1, 2, 3)
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1}}, func(c *OpenConfig) { c.Near = []id.Store{storeN(2).Store} })
	d.put(1, e1, [3]uint64{1, 1, 2}, [3]uint64{1, 3, 2}, [3]uint64{1, 5, 2})
	d.put(2, e1, [3]uint64{1, 1, 2}, [3]uint64{1, 3, 2})
	d.fenced(1, 2)
	d.read(0)
	if want := []byte{2, 1}; !slices.Equal(d.asked, want) {
		t.Errorf("the stores %v were read, want %v", d.asked, want)
	}
	d.wantRun([3]uint64{1, 1, 2}, [3]uint64{1, 3, 2}, [3]uint64{1, 5, 2})
}

// Without this the damage of one copy would fail an opening that has another.
func TestDamagedCopyIsReadElsewhere(t *testing.T) {
	e1 := ens(1, 1, 1, 2, 3)
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1}}, nil)
	d.put(1, e1, [3]uint64{1, 1, 2}, [3]uint64{1, 3, 2}, [3]uint64{1, 5, 2})
	d.put(2, e1, [3]uint64{1, 1, 2}, [3]uint64{1, 3, 2})
	d.has[storeproto.Stream{Volume: id.Volume{1}, Ensemble: e1.ID}][1][1].Meta[0] ^= 1
	d.fenced(1, 2)
	d.read(0)
	d.wantRun([3]uint64{1, 1, 2}, [3]uint64{1, 3, 2}, [3]uint64{1, 5, 2})
}

// Without this two copies, each damaged at another place, would fail an opening
// that has every record: a store fails a whole fetch for one damaged batch.
func TestDamageWithinAFetchIsNarrowedDown(t *testing.T) {
	e1 := ens(1, 1, 1, 2, 3)
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1}}, nil)
	all := [][3]uint64{{1, 1, 2}, {1, 3, 2}, {1, 5, 2}}
	d.put(1, e1, all...)
	d.put(2, e1, all...)
	d.fenced(1, 2)
	damaged := map[byte]id.LSN{1: 3, 2: 5}
	d.o.Covered(d.now, 0, d.fx)
	for len(d.fx.Fetches) > 0 {
		f := d.fx.Fetches[0]
		d.fx.Fetches = d.fx.Fetches[1:]
		var r storeproto.FetchReply
		var err error
		for _, b := range d.has[f.Fetch.Stream][f.Store[0]] {
			if b.Last() < f.Fetch.From || f.Fetch.BytesMax == 1 && len(r.Batches) == 1 {
				continue
			}
			if b.First == damaged[f.Store[0]] {
				r, err = storeproto.FetchReply{}, errs.ErrCorrupt
				break
			}
			b.Retain()
			r.Batches = append(r.Batches, b)
		}
		d.o.FetchDone(d.now, f, r, err, d.fx)
	}
	d.wantRun(all...)
}

// Without this an opening with two stores gone would serve whatever is left.
func TestTwoLostStoresRefuseUntilTheLossIsAccepted(t *testing.T) {
	e1 := ens(1, 1, 1, 2, 3)
	lost := func(c *OpenConfig) { c.Lost = []id.Store{storeN(2).Store, storeN(3).Store} }
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1}}, lost)
	d.wantFailed(ErrStoresLost)
	e1.LossAccepted = true
	d = openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1}}, lost)
	d.put(1, e1, [3]uint64{1, 1, 2})
	d.fenced(1)
	d.read(0)
	d.wantRun([3]uint64{1, 1, 2})
	if !d.o.loss {
		t.Error("the loss is not marked")
	}
}

// Without this records that were sent to the old ensemble after the switch, and
// never acknowledged there, would come back in place of those that were.
func TestClosedEnsembleCountsOnlyWithinItsBounds(t *testing.T) {
	e1 := closed(ens(1, 1, 1, 2, 3), 1, 4, 1, 2)
	e2 := ens(1, 2, 1, 2, 4)
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1, e2}}, nil)
	d.put(1, e1, [3]uint64{1, 1, 4}, [3]uint64{1, 5, 9})
	d.put(2, e2, [3]uint64{1, 5, 2})
	d.fenced(1, 2)
	d.read(0)
	d.wantRun([3]uint64{1, 1, 4}, [3]uint64{1, 5, 2})
}

// Without this a late append to a closed ensemble's stream would lengthen the journal.
func TestLateAppendAfterTheCloseIsIgnored(t *testing.T) {
	e1 := closed(ens(1, 1, 1, 2, 3), 1, 4, 1, 2)
	e2 := ens(1, 2, 1, 2, 4)
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1, e2}}, nil)
	d.put(1, e1, [3]uint64{1, 1, 4}, [3]uint64{1, 5, 9})
	d.put(2, e1, [3]uint64{1, 1, 4}, [3]uint64{1, 5, 9})
	d.fenced(1, 2)
	d.read(0)
	d.wantRun([3]uint64{1, 1, 4})
}

// Without this a recovery would ask for stores that a close has made needless, or
// believe one that the close does not name.
func TestClosedEnsembleIsAskedOfItsHolders(t *testing.T) {
	e1 := closed(ens(1, 1, 1, 2, 3), 1, 4, 1, 4)
	e2 := ens(1, 2, 5, 6, 7)
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1, e2}}, func(c *OpenConfig) { c.Lost = []id.Store{storeN(1).Store} })
	d.put(2, e1, [3]uint64{1, 1, 4})
	d.fenced(2, 3, 5, 6)
	d.wantWaiting()
	d.put(4, e1, [3]uint64{1, 1, 4})
	d.fenced(4)
	d.read(0)
	d.wantRun([3]uint64{1, 1, 4})
}

// Without this the older ensemble's copy of an LSN could stand for the newer's.
func TestLaterEnsembleWins(t *testing.T) {
	e1, e2 := ens(3, 1, 1, 2, 3), ens(3, 2, 1, 2, 4)
	d := openAt(t, 4, List{Version: 1, Ensembles: []Ensemble{e1, e2}}, nil)
	d.put(1, e1, [3]uint64{1, 1, 4}, [3]uint64{1, 5, 1})
	d.put(2, e2, [3]uint64{2, 5, 1})
	d.fenced(1, 2)
	d.read(0)
	d.wantRun([3]uint64{1, 1, 4}, [3]uint64{2, 5, 1})
}

// Without this the discarded tail of an older epoch would follow a newer record, or the opening
// wait for ever for the end of a run that has ended (bench/sim, seed 16 with metad restored).
func TestRunEndsWhereTheEpochFalls(t *testing.T) {
	e1, e2 := ens(3, 1, 1, 2, 3), ens(3, 2, 1, 2, 4)
	d := openAt(t, 4, List{Version: 1, Ensembles: []Ensemble{e1, e2}}, nil)
	d.put(1, e1, [3]uint64{1, 1, 4}, [3]uint64{1, 5, 1}, [3]uint64{1, 6, 3})
	d.put(2, e2, [3]uint64{2, 5, 1})
	d.fenced(1, 2)
	d.read(0)
	d.wantRun([3]uint64{1, 1, 4}, [3]uint64{2, 5, 1})
	d.add(ens(4, 1, 1, 2, 4))
	d.finishSends(1, 2)
	d.ask(AskReplace)
}

// Without this records that the metadata covers would be replayed over newer ones,
// or a run begin in the middle of a batch that cannot be cut.
func TestRunBeginsAfterWhatIsCovered(t *testing.T) {
	e1 := ens(1, 1, 1, 2, 3)
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1}}, nil)
	d.put(1, e1, [3]uint64{1, 1, 4}, [3]uint64{1, 5, 4}, [3]uint64{1, 9, 1})
	d.fenced(1, 2)
	d.read(6)
	d.wantRun([3]uint64{1, 5, 4}, [3]uint64{1, 9, 1})
}

// Without this an append admitted before the fence could be acknowledged after
// recovery has looked, or one after it be admitted at all.
func TestFenceAgainstQueuedAppend(t *testing.T) {
	w := newWorld(t, 3, 3)
	p := w.opened(t, "a")
	p.writeAll(t, 3)
	for _, s := range w.stores {
		s.slow = 30 * time.Millisecond
	}
	p.write(1) // 4: in every store's queue when the fence comes
	w.run(time.Millisecond)
	q := w.spawn("b", 1)
	q.open(simLimits)
	if !w.until(5*time.Second, func() bool { return q.opener != nil && q.opener.core.opening.ready }) {
		t.Fatal("b does not fence a")
	}
	p.write(1) // 5: after the fence
	if !w.until(5*time.Second, func() bool { return q.core != nil }) {
		t.Fatalf("b does not open: %v", q.err)
	}
	if next := q.core.Next(storeproto.Journal); next != 5 {
		t.Errorf("b goes on at %d, want 5: what was queued is durable, what came later is not admitted", next)
	}
	w.run(time.Second)
	if !p.fenced || p.core.Acked(storeproto.Journal) > 4 {
		t.Errorf("a: fenced %v, acknowledged %d", p.fenced, p.core.Acked(storeproto.Journal))
	}
}

// Without this a successor that metad added for the old owner would let it
// acknowledge records where the new owner never looked.
func TestEnsembleChangeRacesATakeover(t *testing.T) {
	w := newWorld(t, 5, 5)
	p := w.opened(t, "a")
	p.writeAll(t, 3)
	m := p.core.newest().members[0]
	p.do(func() { p.core.StoreDown(p.now(), m.Store, &p.fx) })
	if !w.until(time.Second, func() bool { return w.metad.adds == 2 }) {
		t.Fatal("no successor")
	}
	// metad has the successor, a does not know yet; now b takes over.
	if len(p.core.ensembles) != 1 {
		t.Fatal("a knows already")
	}
	q := w.opened(t, "b")
	for range 5 {
		p.write(1)
	}
	w.run(2 * time.Second)
	if !p.fenced {
		t.Error("a goes on")
	}
	q.writeAll(t, 3)
	if n := w.ledger.acks[1]; n != 3 {
		t.Errorf("a acknowledged %d records, want the first three", n)
	}
}

// Without this an opening under an epoch that was used would mix two records of one name.
func TestEpochIsOpenedOnce(t *testing.T) {
	e := ens(2, 1, 1, 2, 3)
	leases := NewLeases(LeaseConfig{Answered: func(*LeaseSend) {}})
	_, err := NewOpener(0, OpenConfig{Volume: id.Volume{1}, Epoch: 2, List: List{Ensembles: []Ensemble{e}}, Leases: leases,
		Completed: func(*Send) {}, Confirmed: func(*ConfirmSend) {}}, &Effects{})
	if !errors.Is(err, errs.ErrConflict) {
		t.Errorf("opening again: %v", err)
	}
}

// Without this a volume whose stores are away for a moment would fail for good,
// and one whose stores are away for long would never say so.
func TestOpeningWaitsForStoresWithinItsLimit(t *testing.T) {
	e1 := ens(1, 1, 1, 2, 3)
	d := openAt(t, 2, List{Version: 1, Ensembles: []Ensemble{e1}}, nil)
	for range 3 {
		f := d.fx.Fences[0]
		d.fx.Fences = d.fx.Fences[1:]
		d.o.FenceDone(d.now, f, storeproto.FenceReply{}, errs.ErrUnavailable, d.fx)
	}
	d.now += simLimits.RecoverWait - 1
	d.o.Tick(d.now, d.fx)
	if d.fx.Failed != nil || len(d.fx.Fences) != 3 {
		t.Fatalf("it does not try again: %v, %d fences", d.fx.Failed, len(d.fx.Fences))
	}
	d.now++
	d.o.Tick(d.now, d.fx)
	d.wantFailed(errs.ErrUnavailable)
}

// Without this a drop that arrives after an ensemble change would destroy the
// streams of an ensemble that it never knew of.
func TestLateDropSparesNewerEnsembles(t *testing.T) {
	c := core.New(core.Config{Store: id.Store{1}})
	for n := uint32(1); n <= 3; n++ {
		b := &storeproto.Batch{Epoch: 1, First: 1, Count: 1}
		b.Seal()
		c.Append(&storeproto.Append{Stream: storeproto.Stream{Volume: id.Volume{1}, Ensemble: id.Ensemble{Epoch: 1, N: n}}, Epoch: 1, Batch: b, Base: true})
		c.Durable(c.Take(1, 1))
	}
	c.Drop(storeproto.Drop{Volume: id.Volume{1}, Epoch: 1, Keep: []id.Ensemble{{Epoch: 1, N: 2}}}, &core.Control{})
	var left []uint32
	c.Streams(func(s *core.Stream) { left = append(left, s.Row().Stream.Ensemble.N) })
	slices.Sort(left)
	if !slices.Equal(left, []uint32{2, 3}) {
		t.Errorf("left are ensembles %v, want 2 and 3", left)
	}
}
