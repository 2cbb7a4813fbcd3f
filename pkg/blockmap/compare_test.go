package blockmap

import (
	"maps"
	"testing"

	"pgregory.net/rapid"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/id"
)

// checkCompare compares a map with an older tree, run by run, and holds the answers against the truth.
func checkCompare(t *rapid.T, s *model, base version) {
	old, err := New(Options{Blocks: s.m.Blocks(), Root: base.root, Budget: s.budget})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	got := map[block.LBA]Difference{}
	pages := s.store.reachable(t, base.root)
	for l := block.LBA(0); l < s.m.Blocks(); {
		e := block.Extent{Start: l, Count: uint32(min(s.m.Blocks()-l, 1<<32-1))}
		run, how, of, miss := s.m.Compare(old, e)
		if of != nil {
			if run.Count != 0 || miss.None() {
				t.Fatalf("a run of %d blocks and a miss, %v", run.Count, miss)
			}
			if _, ours := pages[miss.Location]; !ours && of == old {
				t.Fatalf("the older tree misses page %v, which it does not have", miss)
			}
			if err := of.Fill(miss, s.store.read(t, miss)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if run.Start != l || run.Count == 0 {
			t.Fatalf("run %v at block %d", run, l)
		}
		if how != Same {
			for x := run.Start; x < run.End(); x++ {
				got[x] = how
			}
		}
		l = run.End()
	}
	want := map[block.LBA]Difference{}
	for l, loc := range s.truth {
		if base.truth[l] != loc {
			want[l] = Written
		}
	}
	for l := range base.truth {
		if s.truth[l] == 0 {
			want[l] = Cleared
		}
	}
	if !maps.Equal(got, want) {
		t.Fatalf("%d differences, want %d, or other ones", len(got), len(want))
	}
}

// Without this a backup tool that asks what changed leaves out a block, also one that was
// written while a checkpoint is on its way.
func TestCompareIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &model{budget: tight(1000), store: newPageStore(), truth: map[block.LBA]id.Location{}}
		m, err := New(Options{Blocks: rapid.SampledFrom([]block.LBA{1, 600, 1 << 18, 1 << 29}).Draw(t, "blocks"), Budget: s.budget})
		if err != nil {
			t.Fatal(err)
		}
		s.m = m
		versions := []version{{}}
		for range rapid.IntRange(1, 4).Draw(t, "versions") {
			change(t, s)
			f := m.Freeze()
			s.store.write(f)
			frozenTruth := maps.Clone(s.truth)
			change(t, s) // while the checkpoint is on its way
			for _, v := range versions {
				checkCompare(t, s, v)
			}
			m.Commit(f, nil) // old pages stay: the older versions are snapshots
			versions = append(versions, version{f.Root(), frozenTruth})
			for _, v := range versions {
				checkCompare(t, s, v)
			}
		}
	})
}

// change writes and clears something.
func change(t *rapid.T, s *model) {
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
}

// What both trees share is not read: a comparison of a large disk costs what changed.
func TestComparePassesByWhatIsShared(t *testing.T) {
	store := newPageStore()
	m, err := New(Options{Blocks: 1 << 27})
	if err != nil {
		t.Fatal(err)
	}
	locs := []id.Location{id.MakeLocation(id.MakeSegment(9, 3), 1)}
	for i := range block.LBA(200) {
		m.Insert(i*5000, locs, nil)
	}
	f := m.Freeze()
	store.write(f)
	m.Commit(f, nil)
	base := f.Root()
	locs[0] = id.MakeLocation(id.MakeSegment(10, 3), 1)
	m.Insert(77*5000, locs, nil)
	f = m.Freeze()
	store.write(f)
	m.Commit(f, nil)

	older, err := New(Options{Blocks: 1 << 27, Root: base})
	if err != nil {
		t.Fatal(err)
	}
	now, err := New(Options{Blocks: 1 << 27, Root: f.Root()})
	if err != nil {
		t.Fatal(err)
	}
	reads, changed := 0, 0
	for l := block.LBA(0); l < 1<<27; {
		run, how, of, miss := now.Compare(older, block.Extent{Start: l, Count: uint32(1<<27 - l)})
		if of != nil {
			reads++
			if err := of.Fill(miss, store.pages[miss.Location]); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if how != Same {
			changed += int(run.Count)
		}
		l = run.End()
	}
	if changed != 1 || reads != 2*3 {
		t.Errorf("%d blocks changed (1), %d pages read (one of each of three levels in both trees)", changed, reads)
	}
}
