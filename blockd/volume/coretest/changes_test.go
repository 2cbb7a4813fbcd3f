package coretest

import (
	"errors"
	"slices"
	"testing"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
)

// changes asks what of the first blocks differs, and insists on an answer.
func (s *stage) changes(since, of *Snap, n block.LBA) (runs []core.Run) {
	s.t.Helper()
	for at := block.LBA(0); at < n; {
		r := s.Changes(s.Owner(), since, of, at, n-at)
		s.Quiesce()
		s.must(s.Err())
		if !r.Ended() || r.Err != nil || len(r.op.Runs) == 0 {
			s.t.Fatalf("changes: ended %t, %v, %d runs", r.Ended(), r.Err, len(r.op.Runs))
		}
		for _, x := range r.op.Runs {
			at += block.LBA(x.Count)
			if k := len(runs); k > 0 && runs[k-1].Hole == x.Hole && runs[k-1].Changed == x.Changed {
				runs[k-1].Count += x.Count
				continue
			}
			runs = append(runs, x)
		}
	}
	return runs
}

// What differs from a snapshot is named block by block: what was written, wherever it lies by
// now, and what was trimmed, but not a trimmed hole.
func TestChangesAreNamedBlockByBlock(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	s.acked(0, 8)
	x := s.mark()
	if got := s.changes(x, nil, 40); !slices.Equal(got, []core.Run{{Count: 40}}) {
		t.Fatalf("right after the mark: %+v", got)
	}
	want := []core.Run{{Count: 1}, {Count: 2, Changed: true}, {Count: 1}, {Count: 2, Changed: true, Hole: true}, {Count: 4}, {Count: 3, Changed: true}, {Count: 27}}
	s.acked(1, 2)
	s.Trim(s.Owner(), 4*blk, 2*blk)
	s.Trim(s.Owner(), 20*blk, 4*blk)
	s.acked(10, 3)
	s.Quiesce()
	if got := s.changes(x, nil, 40); !slices.Equal(got, want) {
		t.Errorf("in memory: %+v, want %+v", got, want)
	}
	s.seal()
	if got := s.changes(x, nil, 40); !slices.Equal(got, want) {
		t.Errorf("packed: %+v, want %+v", got, want)
	}
	y := s.mark()
	s.acked(0, 40)
	s.crash()
	if got := s.changes(x, y, 40); !slices.Equal(got, want) {
		t.Errorf("between snapshots: %+v, want %+v", got, want)
	}
	if got := s.changes(y, nil, 40); !slices.Equal(got, []core.Run{{Count: 40, Changed: true}}) {
		t.Errorf("since the second: %+v", got)
	}
	s.must(s.ChangesAll())
}

// A comparison with a snapshot that is not passed yet waits for it; with one that is deleted it
// fails, for an answer would be taken for "nothing changed".
func TestChangesSinceWhatIsNotThere(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	s.acked(0, 8)
	s.hold(" packed")
	x := s.mark()
	s.acked(2, 1)
	r := s.Changes(s.Owner(), x, nil, 0, 8)
	s.Quiesce()
	if r.Ended() {
		t.Fatalf("an answer before the snapshot stands: %+v", r.op.Runs)
	}
	s.hold()
	s.Quiesce()
	if !r.Ended() || r.Err != nil || !slices.Equal(r.op.Runs, []core.Run{{Count: 2}, {Count: 1, Changed: true}, {Count: 5}}) {
		t.Fatalf("%t %v %+v", r.Ended(), r.Err, r.op.Runs)
	}
	s.drop(x)
	s.MayFail = true
	r = s.Changes(s.Owner(), x, nil, 0, 8)
	s.Quiesce()
	if !r.Ended() || !errors.Is(r.Err, errs.ErrNotFound) {
		t.Fatalf("%t %v", r.Ended(), r.Err)
	}
}
