package lineage

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

var update = flag.Bool("update", false, "write the golden file")

func sample() *Origin {
	return &Origin{
		Volume: id.Volume{3}, Snapshot: id.Snapshot{9, 15: 1}, Root: blockmap.Root{Location: id.MakeLocation(id.MakeSegment(290, 5), 7), Height: 3},
		Watermark: 300, Blocks: 1 << 20, Ancestors: []Ancestor{{id.Volume{1}, 100}, {id.Volume{2}, 200}},
	}
}

// Without this a clone could be opened with another tree than it was made with, by the next version.
func TestOriginReadsBack(t *testing.T) {
	o := sample()
	b := Append(nil, o)
	const file = "testdata/origin.golden"
	if *update {
		if err := os.WriteFile(file, []byte(hex.EncodeToString(b)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || strings.TrimSpace(string(want)) != hex.EncodeToString(b) {
		t.Errorf("%v: encoded as %x", err, b)
	}
	back, err := Decode("test", b)
	if err != nil || !back.Equal(o) || !back.Clone().Equal(o) {
		t.Errorf("%v: came back as %+v", err, back)
	}
	if none, err := Decode("test", Append(nil, nil)); err != nil || none != nil {
		t.Errorf("no origin came back as %+v, %v", none, err)
	}
	for i := range b {
		if _, err := Decode("test", b[:i]); i > 0 && !errors.Is(err, errs.ErrCorrupt) {
			t.Errorf("%d bytes of it: %v", i, err)
		}
	}
}

// Whose a segment is decides who deletes it: a wrong answer at an edge loses bytes.
func TestWhoseSegmentItIs(t *testing.T) {
	o := sample()
	for seq, want := range map[id.Sequence]byte{1: 1, 100: 1, 101: 2, 200: 2, 201: 3, 300: 3, 301: 0} {
		v, ok := o.VolumeOf(id.MakeSegment(seq, 77))
		if ok != (want != 0) || v != (id.Volume{want}) || o.Has(id.MakeSegment(seq, 4095)) != ok {
			t.Errorf("segment of sequence %d: %v %t", seq, v, ok)
		}
	}
	if c := o.Chain(); len(c) != 3 || c[2] != (Ancestor{id.Volume{3}, 300}) {
		t.Errorf("chain %v", c)
	}
	var none *Origin
	if none.Has(id.MakeSegment(1, 1)) || none.Floor() != 0 || none.Chain() != nil {
		t.Error("a volume without an origin has ancestors")
	}
}

// What breaks the order of watermarks would give segments to the wrong volume.
func TestOriginsThatCannotBeAreRefused(t *testing.T) {
	for what, spoil := range map[string]func(o *Origin){
		"no volume":          func(o *Origin) { o.Volume = id.Volume{} },
		"no snapshot":        func(o *Origin) { o.Snapshot = id.Snapshot{} },
		"a root above":       func(o *Origin) { o.Root.Location = id.MakeLocation(id.MakeSegment(301, 5), 7) },
		"no size":            func(o *Origin) { o.Blocks = 0 },
		"ancestors above it": func(o *Origin) { o.Ancestors[1].Watermark = 300 },
		"falling watermarks": func(o *Origin) { o.Ancestors[1].Watermark = 100 },
		"too deep":           func(o *Origin) { o.Ancestors = make([]Ancestor, DepthMax) },
	} {
		o := sample()
		spoil(o)
		if err := o.Validate(); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Bytes of an origin come from disks and wires.
func FuzzOrigin(f *testing.F) {
	f.Add(Append(nil, sample()))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var o *Origin
		if err := codec.Decode("fuzz", b, func(r *codec.Reader) { o = Read(r) }); err != nil {
			return
		}
		again, err := Decode("fuzz", Append(nil, o))
		if err != nil || !again.Equal(o) {
			t.Fatalf("%v: %+v came back as %+v", err, o, again)
		}
		if o != nil && bytes.Equal(b, nil) {
			t.Fatal("an origin of nothing")
		}
	})
}
