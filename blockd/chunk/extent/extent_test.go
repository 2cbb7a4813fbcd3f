package extent

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
)

// Without this two shards could share a unit, or space leak.
func TestAllocatorAgainstAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const units = 128
		a := NewAllocator(units)
		taken := map[[2]uint32]bool{}
		var live []Place
		files := uint32(0)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				if files < 3 {
					a.AddFile(a.NextFile())
					files++
				}
			},
			"alloc": func(t *rapid.T) {
				n := uint32(rapid.IntRange(1, 80).Draw(t, "units"))
				p, ok := a.Alloc(n)
				if !ok {
					if p, ok = a.AllocPieces(n); !ok {
						return
					}
				}
				if p.Units() != int64(n) {
					t.Fatalf("asked %d, got %v", n, p)
				}
				for _, r := range p {
					for u := r.Start; u < r.Start+r.Units; u++ {
						if k := [2]uint32{r.File, u}; taken[k] || u >= units {
							t.Fatalf("unit %v given twice or beyond the end", k)
						} else {
							taken[k] = true
						}
					}
				}
				live = append(live, p)
			},
			"free": func(t *rapid.T) {
				if len(live) == 0 {
					t.Skip("nothing to free")
				}
				i := rapid.IntRange(0, len(live)-1).Draw(t, "which")
				a.Free(live[i])
				for _, r := range live[i] {
					for u := r.Start; u < r.Start+r.Units; u++ {
						delete(taken, [2]uint32{r.File, u})
					}
				}
				live = append(live[:i], live[i+1:]...)
			},
			"": func(t *rapid.T) {
				if used, n := a.Used(); used != int64(len(taken)) || n != int(files) {
					t.Fatalf("used %d in %d files, want %d in %d", used, n, len(taken), files)
				}
				b := NewAllocator(units)
				for n := range files {
					b.AddFile(n)
				}
				for _, p := range live {
					if err := b.Mark(p); err != nil {
						t.Fatal(err)
					}
				}
			},
		})
	})
}

// Without this the whole room could not be used, or a run be missed.
func TestAllocFillsAFile(t *testing.T) {
	a := NewAllocator(64)
	if _, ok := a.Alloc(1); ok {
		t.Fatal("room without a file")
	}
	a.AddFile(0)
	var odd []Place
	for i := range 64 {
		p, ok := a.Alloc(1)
		if !ok {
			t.Fatalf("unit %d", i)
		}
		if i%2 == 1 {
			odd = append(odd, p)
		}
	}
	for _, p := range odd {
		a.Free(p)
	}
	if _, ok := a.Alloc(2); ok {
		t.Error("a run of two where there are only single units")
	}
	if p, ok := a.AllocPieces(32); !ok || len(p) != 32 {
		t.Errorf("pieces: %v %v", p, ok)
	}
}

// Without this a damaged index could make two shards share a unit.
func TestMarkRefusesOverlap(t *testing.T) {
	a := NewAllocator(64)
	a.AddFile(0)
	if err := a.Mark(Place{{0, 4, 4}}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []Place{{{0, 7, 1}}, {{0, 60, 5}}, {{1, 0, 1}}} {
		if err := a.Mark(p); !errors.Is(err, errs.ErrCorrupt) {
			t.Errorf("%v: %v", p, err)
		}
	}
}

// Places come from the index: bytes of any kind must give a place that is written the same again, or an error.
func FuzzDecodePlace(f *testing.F) {
	f.Add(Place{{0, 1, 2}, {7, 900, 64}}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Place
		if err := codec.Decode("place", b, func(r *codec.Reader) { p = Decode(r) }); err != nil {
			return
		}
		var q Place
		if err := codec.Decode("place", p.Append(nil), func(r *codec.Reader) { q = Decode(r) }); err != nil || len(p) != len(q) {
			t.Fatalf("%v again: %v %v", p, q, err)
		}
	})
}
