package record

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
)

func sampleArchive() *Archive {
	return &Archive{Manifest: "manifests/s-1", First: 500, Segments: 40, PGs: []id.PG{3, 7, 0xabc}, Left: []ArchiveRun{{0, 3}, {5, 1}, {30, 10}}}
}

func sampleHydrated() []Hydrated {
	full := Hydrated{commitSegment(503, segment.MakeData(5), 0, segment.MakePage(segment.MapPage, 1, 3))}
	full.Entry.Kept, full.Entry.Live = 2, 0
	return []Hydrated{full, {CommitSegment{Segment: full.Segment}}}
}

// Without this a volume could forget what of it lies in an archive, and read as zeros there.
func TestArchiveReadsBack(t *testing.T) {
	for _, c := range []*Checkpoint{sampleMeta()[2].Checkpoint, sampleSnapshots()} {
		c.Archive = sampleArchive()
		alone := EncodeCheckpoint(c)
		back, err := DecodeCheckpoint("test", alone)
		if err != nil || !reflect.DeepEqual(back, c) {
			t.Fatalf("%v: the checkpoint came back as %+v", err, back)
		}
		b := AppendCheckpoint(nil, c)
		for _, h := range sampleHydrated() {
			b = AppendHydrated(b, &h)
		}
		recs, err := ReadMeta("test", b, 5, 3)
		if err != nil || !reflect.DeepEqual(recs[0].Checkpoint, c) {
			t.Fatalf("%v: the record came back as %+v", err, recs)
		}
		for i, h := range sampleHydrated() {
			if !reflect.DeepEqual(*recs[1+i].Hydrated, h) {
				t.Errorf("segment %d came back as %+v", i, recs[1+i].Hydrated)
			}
		}
		if len(c.Snapshots) == 0 {
			continue
		}
		golden(t, "archive.golden", append(alone, b...))
		for i := range alone {
			bad := bytes.Clone(alone)
			bad[i] ^= 4
			if _, err := DecodeCheckpoint("test", bad); !errors.Is(err, errs.ErrCorrupt) {
				t.Errorf("byte %d changed: %v", i, err)
			}
		}
	}
}

// What is left in the archive decides where bytes are looked for: what cannot be must not be believed.
func TestArchivesThatCannotBeAreRefused(t *testing.T) {
	for what, spoil := range map[string]func(a *Archive){
		"no manifest":         func(a *Archive) { a.Manifest = "" },
		"nothing left":        func(a *Archive) { a.Left = nil },
		"an empty run":        func(a *Archive) { a.Left[1].Count = 0 },
		"runs that touch":     func(a *Archive) { a.Left[1].From = 3 },
		"runs that fall":      func(a *Archive) { a.Left[2].From = 4 },
		"beyond the manifest": func(a *Archive) { a.Left[2].Count = 11 },
		"beyond all numbers":  func(a *Archive) { a.Left[2].Count = 1<<32 - 1 },
		"no groups":           func(a *Archive) { a.PGs = nil },
		"no first sequence":   func(a *Archive) { a.First = 0 },
		"sequences run out":   func(a *Archive) { a.First = id.SequenceMax },
	} {
		a := sampleArchive()
		spoil(a)
		c := sampleMeta()[2].Checkpoint
		c.Archive = sampleArchive()
		good := EncodeCheckpoint(c)
		c.Archive = a
		if a.Check() == "" {
			t.Errorf("%s is not refused", what)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s is written", what)
				}
			}()
			EncodeCheckpoint(c)
		}()
		if _, err := DecodeCheckpoint("test", good); err != nil {
			t.Fatal(err)
		}
	}
}

// A segment whose slots are not those of its entry would be counted wrong.
func TestHydratedSegmentsThatCannotBeAreRefused(t *testing.T) {
	for what, spoil := range map[string]func(h *Hydrated){
		"another number of slots": func(h *Hydrated) { h.Slots = h.Slots[:2] },
		"another number kept":     func(h *Hydrated) { h.Entry.Kept = 0 },
		"a page of the table":     func(h *Hydrated) { h.Slots[0] = segment.MakePage(segment.TablePage, 0, 1) },
	} {
		h := sampleHydrated()[0]
		if spoil(&h); h.check() == "" {
			t.Errorf("%s is not refused", what)
		}
	}
}

// Index and Segment say the same, for what is left and for nothing else.
func TestArchiveKnowsItsSegments(t *testing.T) {
	a := sampleArchive()
	left := 0
	for i := range a.Segments {
		at, ok := a.Index(a.Segment(i))
		want := i < 3 || i == 5 || i >= 30
		if ok != want || ok && at != i {
			t.Errorf("segment %d: index %d, left %t", i, at, ok)
		}
		if ok {
			left++
		}
		if _, ok := a.Index(id.MakeSegment(a.First+id.Sequence(i), 9)); ok {
			t.Errorf("segment %d is known in a group that it is not in", i)
		}
	}
	for _, s := range []id.Sequence{1, 499, 540, 1 << 30} {
		if _, ok := a.Index(id.MakeSegment(s, 3)); ok {
			t.Errorf("sequence %d is known", s)
		}
	}
	if left != int(a.Remaining()) || (*Archive)(nil).Remaining() != 0 {
		t.Errorf("%d left, counted %d", a.Remaining(), left)
	}
}
