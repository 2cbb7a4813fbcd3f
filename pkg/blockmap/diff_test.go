package blockmap

import (
	"errors"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// version is a committed tree and what it holds.
type version struct {
	root  Root
	truth map[block.LBA]id.Location
}

// compare runs a Diff and checks it against the truth, and that it reads no page
// that both trees have.
func compare(t *rapid.T, store *pageStore, base, target version) {
	want := map[block.LBA]Change{}
	for l, loc := range base.truth {
		if target.truth[l] != loc {
			want[l] = Change{l, loc, target.truth[l]}
		}
	}
	for l, loc := range target.truth {
		if base.truth[l] != loc {
			want[l] = Change{l, base.truth[l], loc}
		}
	}
	ours, theirs := store.reachable(t, base.root), store.reachable(t, target.root)
	d, err := NewDiff(base.root, target.root)
	if err != nil {
		t.Fatal(err)
	}
	got := map[block.LBA]Change{}
	var last block.LBA
	for !d.Done() {
		for _, c := range d.Next(make([]Change, 0, Fanout+3)) {
			if len(got) > 0 && c.LBA <= last {
				t.Fatalf("block %d after %d", c.LBA, last)
			}
			last = c.LBA
			got[c.LBA] = c
		}
		for _, miss := range d.Missing(make([]Miss, 0, 3)) {
			_, in1 := ours[miss.Location]
			_, in2 := theirs[miss.Location]
			if in1 == in2 {
				t.Fatalf("page %v is read: in the base %v, in the target %v", miss, in1, in2)
			}
			if err := d.Fill(miss, store.read(t, miss)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !maps.Equal(got, want) {
		t.Fatalf("%d changes, want %d, or other ones", len(got), len(want))
	}
	if len(d.pages) != 0 {
		t.Fatalf("%d pages were read and not used", len(d.pages))
	}
}

// lost runs a Diff for what only the base has, blocks and pages, and checks it against the truth.
func lost(t *rapid.T, store *pageStore, base, target version) {
	want, theirs := map[id.Location]bool{}, store.reachable(t, target.root)
	for l, loc := range base.truth {
		if target.truth[l] != loc {
			want[loc] = true
		}
	}
	for loc := range store.reachable(t, base.root) {
		if _, ok := theirs[loc]; !ok {
			want[loc] = true
		}
	}
	d, err := NewDiff(base.root, target.root)
	if err != nil {
		t.Fatal(err)
	}
	got := map[id.Location]bool{}
	for !d.Done() {
		d.Lost(2, func(l id.Location) {
			if got[l] {
				t.Fatalf("%v is lost twice", l)
			}
			got[l] = true
		})
		for _, miss := range d.Missing(make([]Miss, 0, 3)) {
			if err := d.Fill(miss, store.read(t, miss)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !maps.Equal(got, want) {
		t.Fatalf("%d locations are lost, want %d, or other ones", len(got), len(want))
	}
}

// Without this an incremental copy could leave out a block that changed, and the deletion
// of a snapshot free what another still has, or never free it.
func TestDiffIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &model{budget: tight(1000), store: newPageStore(), truth: map[block.LBA]id.Location{}}
		m, err := New(Options{Blocks: rapid.SampledFrom([]block.LBA{1, 600, 1 << 18, 1 << 29}).Draw(t, "blocks"), Budget: s.budget})
		if err != nil {
			t.Fatal(err)
		}
		s.m = m
		versions := []version{{}}
		for range rapid.IntRange(1, 4).Draw(t, "versions") {
			for range rapid.IntRange(0, 6).Draw(t, "changes") {
				switch rapid.IntRange(0, 5).Draw(t, "what") {
				case 0:
					s.clear(t)
				case 1:
					s.grow(t)
				default:
					s.insert(t)
				}
			}
			f := m.Freeze()
			s.store.write(f)
			m.Commit(f, nil) // old pages stay: the older versions are snapshots
			versions = append(versions, version{f.Root(), maps.Clone(s.truth)})
		}
		for _, a := range versions {
			for _, b := range versions {
				compare(t, s.store, a, b)
				lost(t, s.store, a, b)
			}
		}
	})
	if _, err := NewDiff(Root{Location: 5}, Root{}); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("a root without height: %v", err)
	}
}
