package id

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"testing"
	"time"
)

// Without this an id printed by one command could not be given to the next.
func TestParseIsTheInverseOfString(t *testing.T) {
	for range 100 {
		r, err := NewRaw(time.UnixMilli(1_800_000_000_000), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseVolume(Volume(r).String()); err != nil || got != Volume(r) {
			t.Fatalf("%v: %v, %v", Volume(r), got, err)
		}
		if got, err := ParseStore(Store(r).String()); err != nil || got != Store(r) {
			t.Fatalf("%v: %v, %v", Store(r), got, err)
		}
		if got, err := ParseSnapshot(Snapshot(r).String()); err != nil || got != Snapshot(r) {
			t.Fatalf("%v: %v, %v", Snapshot(r), got, err)
		}
		if got, err := ParseImage(Image(r).String()); err != nil || got != Image(r) {
			t.Fatalf("%v: %v, %v", Image(r), got, err)
		}
		i := Incarnation(r)
		if got, err := ParseIncarnation(i.String()); err != nil || got != i {
			t.Fatalf("%v: %v, %v", i, got, err)
		}
	}
}

// Without this lists by id would not be by age.
func TestLaterIdsOrderLater(t *testing.T) {
	a, _ := NewRaw(time.UnixMilli(1000), rand.Reader)
	b, _ := NewRaw(time.UnixMilli(1001), rand.Reader)
	if bytes.Compare(a[:], b[:]) >= 0 {
		t.Error("an id made later orders before an earlier one")
	}
}

// Without this a location could name a slot or segment other than it was made of.
func TestLocationParts(t *testing.T) {
	s := MakeSegment(SequenceMax, PGMax)
	l := MakeLocation(s, SlotsMax-1)
	if l.Segment() != s || l.Slot() != SlotsMax-1 || s.Sequence() != SequenceMax || s.PG() != PGMax || !s.Valid() {
		t.Errorf("parts of %v are lost", l)
	}
	if Segment(5).Valid() || Segment(1<<52).Valid() {
		t.Error("a segment without sequence or above 52 bits is not valid")
	}
}

// Ids come from people and programs: each text gives the one id that is written so, or an error.
func FuzzParse(f *testing.F) {
	parsers := map[string]func(string) (fmt.Stringer, error){
		"volume": stringer(ParseVolume), "store": stringer(ParseStore), "snapshot": stringer(ParseSnapshot), "image": stringer(ParseImage),
		"incarnation": stringer(ParseIncarnation), "ensemble": stringer(ParseEnsemble),
	}
	for _, x := range []fmt.Stringer{Volume{1, 2, 3}, Store{4}, Snapshot{5}, Image{6}, Incarnation{7}, Ensemble{Epoch: 17, N: 2}} {
		f.Add(x.String())
	}
	f.Fuzz(func(t *testing.T, s string) {
		for what, parse := range parsers {
			if x, err := parse(s); err == nil && x.String() != s {
				t.Errorf("%s: %q parses to %v", what, s, x)
			}
		}
	})
}

func stringer[T fmt.Stringer](parse func(string) (T, error)) func(string) (fmt.Stringer, error) {
	return func(s string) (fmt.Stringer, error) {
		x, err := parse(s)
		return x, err
	}
}
