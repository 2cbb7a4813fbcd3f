package coretest

import (
	"math/rand/v2"
	"testing"

	"ashlar.dev/pkg/segment"
)

// mapPages counts the slots of map pages that the stores hold.
func (s *stage) mapPages() (n int) {
	for _, gens := range s.segments.at {
		for _, k := range gens {
			for _, e := range k.entries {
				if segment.Entry(e).Kind() == segment.MapPage {
					n++
				}
			}
		}
	}
	return n
}

// settle lets all happen that does, and a tenth of a second pass.
func (s *stage) settle() {
	for range 2 {
		for s.Err() == nil && s.happen() {
			s.steps++
		}
		s.pass(100 * 1e6)
	}
	s.must(s.Err())
}

const thinLeaves = 512

// thinly overwrites two blocks of each of so many leaves of the map at random, some while.
func (s *stage) thinly(rng *rand.Rand, rounds int) (worst int) {
	for n := range rounds {
		for range 32 {
			s.Write(s.Owner(), (rng.Uint64N(thinLeaves)*512+rng.Uint64N(2))*blk, blk)
		}
		s.settle()
		if n >= rounds/4 {
			worst = max(worst, s.mapPages())
		}
	}
	return worst
}

// Where writes are spread thin each changes a page of the map. Without this every segment of pages
// would stay for as long as one of them lives: four times what lives here, 1.5 times the
// disk's data on one of 256 GiB.
func TestPagesOfAThinDiskTakeBoundedSpace(t *testing.T) {
	l := cleaning()
	l.CleanPercent, l.CheckpointDirty, l.SealBlocks, l.CheckpointTrifle = 25, 64, 64, 1<<40
	l.CheckpointDeadMin, l.CheckpointDead = 1<<40, 1<<40
	s := play(t, l)
	rng := rand.New(rand.NewPCG(5, 5))
	for i := range uint64(thinLeaves) {
		s.Write(s.Owner(), i*512*blk, blk)
		if i%32 == 0 {
			s.settle()
		}
	}
	worst := s.thinly(rng, 120/min(shortened, 2))
	st := s.stats()
	t.Logf("at most %d slots of pages for %d that live, %d renewed", worst, thinLeaves, st.PagesRenewed)
	if worst > thinLeaves*7/2 {
		t.Errorf("%d slots of pages for %d that live", worst, thinLeaves)
	}
	if st.PagesRenewed == 0 || st.PagesRenewed > 700 {
		t.Errorf("%d pages were renewed for some 4400 that changed", st.PagesRenewed)
	}
	s.good()
	s.crash()
}
