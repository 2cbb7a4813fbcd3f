package journal

import (
	"slices"
	"testing"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// desk is an open core whose every effect is carried out by hand.
type desk struct {
	t      *testing.T
	leases *Leases
	core   *Core
	fx     *Effects
	now    time.Duration
	list   List
	out    []*Send // in flight
}

func storeN(n byte) Member {
	return Member{Store: id.Store{n}, Incarnation: id.Incarnation{n, 1}}
}

func membersN(ns ...byte) (out []Member) {
	for _, n := range ns {
		out = append(out, storeN(n))
	}
	return out
}

// newDesk opens a new volume at epoch 1 on an ensemble of the given stores.
func newDesk(t *testing.T, stores ...byte) *desk {
	d := &desk{t: t, fx: &Effects{}, now: time.Hour}
	d.leases = NewLeases(LeaseConfig{Holder: id.Holder{Host: "h", Number: 1}, Answered: func(*LeaseSend) {}})
	o, err := NewOpener(d.now, OpenConfig{
		Volume: id.Volume{1}, Epoch: 1, Holder: id.Holder{Host: "h", Number: 1}, Leases: d.leases, Limits: simLimits,
		Completed: func(*Send) {}, Confirmed: func(*ConfirmSend) {},
	}, d.fx)
	if err != nil {
		t.Fatal(err)
	}
	a := d.ask(AskAdd)
	d.list = List{Version: 1, Ensembles: []Ensemble{{ID: id.Ensemble{Epoch: 1, N: 1}, Members: membersN(stores...)}}}
	o.Answer(d.now, AskResult{Ask: a, List: d.list}, d.fx)
	o.Covered(d.now, 0, d.fx)
	a = d.ask(AskReplace)
	d.list.Version++
	d.list.Complete = true
	o.Answer(d.now, AskResult{Ask: a, List: d.list}, d.fx)
	if d.fx.Opened == nil {
		t.Fatal("a new volume does not open")
	}
	d.core = d.fx.Opened.Core
	d.fx.Reset()
	d.now += simLimits.AskAfter
	return d
}

// ask takes the one ask out of the effects.
func (d *desk) ask(want AskKind) Ask {
	d.t.Helper()
	if len(d.fx.Asks) != 1 || d.fx.Asks[0].Kind != want {
		d.t.Fatalf("asks %+v, want one to %s", d.fx.Asks, want)
	}
	a := d.fx.Asks[0]
	d.fx.Asks = nil
	return a
}

func (d *desk) noAsk() {
	d.t.Helper()
	if len(d.fx.Asks) != 0 {
		d.t.Fatalf("asks %+v, want none", d.fx.Asks)
	}
}

func (d *desk) answer(a Ask, err error) {
	d.core.Answer(d.now, AskResult{Ask: a, List: d.list.Clone(), Err: err}, d.fx)
}

// succeedBy adds an ensemble to the list and answers the ask for it.
func (d *desk) succeedBy(stores ...byte) {
	d.t.Helper()
	a := d.ask(AskAdd)
	d.list.Version++
	d.list.Ensembles = append(d.list.Ensembles, Ensemble{ID: id.Ensemble{Epoch: 1, N: uint32(len(d.list.Ensembles) + 1)}, Members: membersN(stores...)})
	d.answer(a, nil)
}

func (d *desk) pass(t time.Duration) {
	d.now += t
	d.core.Tick(d.now, d.fx)
}

func (d *desk) append(k storeproto.Kind, n uint32) *storeproto.Batch {
	d.t.Helper()
	b := &storeproto.Batch{Count: n, Meta: []byte("record")}
	if err := d.core.Append(d.now, k, b, d.fx); err != nil {
		d.t.Fatal(err)
	}
	return b
}

// collect moves new sends to those in flight.
func (d *desk) collect() {
	d.out = append(d.out, d.fx.Appends...)
	d.fx.Appends = nil
}

// to gives the sends in flight to a store of an ensemble, oldest first.
func (d *desk) to(ensemble uint32, store byte, k storeproto.Kind) (out []*Send) {
	d.collect()
	for _, s := range d.out {
		if s.Append.Stream.Ensemble.N == ensemble && s.Store[0] == store && s.Append.Stream.Kind == k {
			out = append(out, s)
		}
	}
	return out
}

func (d *desk) done(s *Send, err error) {
	d.t.Helper()
	i := slices.Index(d.out, s)
	if i < 0 {
		d.t.Fatal("that send is not in flight")
	}
	d.out = slices.Delete(d.out, i, i+1)
	s.Append.Err = err
	d.core.Done(d.now, s, d.fx)
}

// all finishes every send in flight to a store of an ensemble, and what follows.
func (d *desk) all(ensemble uint32, store byte, err error) {
	d.t.Helper()
	for k := range storeproto.Kind(storeproto.Kinds) {
		for s := d.to(ensemble, store, k); len(s) > 0; s = d.to(ensemble, store, k) {
			d.done(s[0], err)
			if err != nil && len(s) == 1 {
				break
			}
		}
	}
}

func (d *desk) wantAcked(k storeproto.Kind, l id.LSN) {
	d.t.Helper()
	if got := d.core.Acked(k); got != l {
		d.t.Fatalf("%s acknowledged up to %d, want %d", k, got, l)
	}
}

var (
	errGone  = errs.ErrUnavailable
	errStale = errs.ErrStaleEpoch
)

const (
	journalKind = storeproto.Journal
	metaKind    = storeproto.Meta
)
