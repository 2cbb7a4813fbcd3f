package state

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
)

func event(s Severity, text string) Event {
	return Event{AtMS: 1, Severity: s, Kind: "k", About: "disk", Text: text}
}

// Without this a flood of small events would wash away the one that says when a store died,
// and the state would grow without end.
func TestEventsAreBoundedAndTheWorseAreKeptApart(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.ok(&SetLevel{Level: LevelEvents})
	w.ok(&AddEvents{Events: []Event{event(Warning, "the store died")}})
	for i := 0; i < EventsInfoMax+100; i += 122 {
		c := &AddEvents{}
		for j := range 122 {
			c.Events = append(c.Events, event(Info, fmt.Sprint(i+j)))
		}
		w.ok(c)
	}
	all := w.Events(0, 1<<20)
	if len(all) != EventsInfoMax+1 || all[0].Text != "the store died" || all[0].Seq != 1 {
		t.Fatalf("%d events, the first %+v", len(all), all[0])
	}
	if last := all[len(all)-1]; last.Seq != w.LastEvent() || last.Seq != EventsInfoMax+100+1 {
		t.Fatalf("last %+v of %d", last, w.LastEvent())
	}
	for i := 1; i < len(all); i++ {
		if all[i].Seq <= all[i-1].Seq {
			t.Fatalf("event %d after %d", all[i].Seq, all[i-1].Seq)
		}
	}
	if page := w.Events(all[9].Seq, 3); len(page) != 3 || page[0].Seq != all[10].Seq {
		t.Fatalf("page %+v", page)
	}
	m, err := Restore(w.Snapshot())
	if err != nil || string(m.Snapshot()) != string(w.Snapshot()) || len(m.Events(0, 1<<20)) != len(all) {
		t.Fatalf("restored: %v", err)
	}
}

// Without this a heartbeat whose answer was lost would make one thing happen twice.
func TestEventOfAHostIsTakenOnce(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.ok(&SetLevel{Level: LevelEvents})
	e := event(Info, "x")
	e.Origin = EventOrigin{Holder: holder(1, 1), N: 3}
	w.ok(&AddEvents{Events: []Event{e}})
	w.ok(&AddEvents{Events: []Event{e}})
	e.Origin.N = 4
	w.ok(&AddEvents{Events: []Event{e}})
	e.Origin.Holder.Number = 2 // another life counts anew
	e.Origin.N = 1
	w.ok(&AddEvents{Events: []Event{e}})
	if n := len(w.Events(0, 100)); n != 3 {
		t.Fatalf("%d events, want 3", n)
	}
	if w.Heard(holder(1, 1)) != 4 || w.Heard(holder(1, 2)) != 1 {
		t.Fatal("what hosts told is not known")
	}
}

// Events decide nothing: one that is not sound is left out, and the others stay.
func TestUnsoundEventIsLeftOut(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.ok(&SetLevel{Level: LevelEvents})
	bad := event(0, "x")
	odd := event(Trouble+1, "x")
	nameless := event(Info, "x")
	nameless.Kind = ""
	w.ok(&AddEvents{Events: []Event{bad, odd, nameless, event(Info, "good")}})
	if all := w.Events(0, 100); len(all) != 1 || all[0].Text != "good" || all[0].Seq != 1 {
		t.Fatalf("events %+v", all)
	}
	if _, err := Decode(Encode(&AddEvents{Events: make([]Event, EventsAtOnceMax+1)})); !errors.Is(err, errs.ErrCorrupt) {
		t.Fatalf("too many at once: %v", err)
	}
	if got := event(Info, "a\nb\x1b[31m\xff"+strings.Repeat("é", EventTextMax)).Fit(); len(got.Text) > EventTextMax || strings.ContainsAny(got.Text, "\n\x1b") || !got.sound() {
		t.Fatalf("fit %q", got.Text)
	}
}

// Without this the first event that an updated leader writes would stop every metad that is
// not updated yet, or be written into a snapshot that it cannot read.
func TestNothingOfALaterLevelIsTakenBefore(t *testing.T) {
	w := newWorld(t, 1, 1)
	if w.Level() != LevelFirst {
		t.Fatalf("a new state is at level %d", w.Level())
	}
	rate := uint64(500)
	for _, c := range []Command{&AddEvents{Events: []Event{event(Info, "early")}}, &SetQoS{Change: cluster.QoSChange{IOPS: &rate}},
		&CreateVolume{Name: "d", Size: 1 << 20, QoS: cluster.QoS{IOPS: 500}}} {
		w.refused(errs.ErrUnavailable, c)
	}
	w.create("plain")
	if b := w.Snapshot(); b[len(snapshotMagic)] != 2 {
		t.Fatalf("snapshot version %d at level 1", b[len(snapshotMagic)])
	}
	w.ok(&SetLevel{Level: LevelEvents})
	w.ok(&SetLevel{Level: LevelFirst}) // late; it never falls
	if b := w.Snapshot(); w.Level() != LevelEvents || b[len(snapshotMagic)] != 3 {
		t.Fatalf("level %d, snapshot version %d", w.Level(), b[len(snapshotMagic)])
	}
}

// A committed level that this program does not have must stop it, or it would go on without
// what the others keep.
func TestLevelOfALaterVersionIsRefusedLoudly(t *testing.T) {
	if _, err := Decode(Encode(&SetLevel{Level: LevelNewest + 1})); !errors.Is(err, errs.ErrInvalid) || !strings.Contains(err.Error(), "update it") {
		t.Fatalf("decode: %v", err)
	}
	w := newWorld(t, 1, 1)
	w.ok(&SetLevel{Level: LevelEvents})
	b := w.Snapshot()
	b[len(snapshotMagic)] = snapshotVersion + 1
	if _, err := Restore(seal(b)); !errors.Is(err, errs.ErrInvalid) {
		t.Fatalf("a snapshot of a later version: %v", err)
	}
	if _, err := Decode([]byte{commandVersion + 1, byte(kindInit)}); !errors.Is(err, errs.ErrInvalid) {
		t.Fatalf("a command of a later version: %v", err)
	}
	if _, err := Decode([]byte{commandVersion, 255}); !errors.Is(err, errs.ErrInvalid) {
		t.Fatalf("a command of a later kind: %v", err)
	}
	w.level = LevelNewest + 1
	if _, err := Restore(w.Snapshot()); !errors.Is(err, errs.ErrInvalid) || !strings.Contains(err.Error(), "update it") {
		t.Fatalf("restore: %v", err)
	}
}
