package coretest

import (
	"testing"
)

// coded counts the generations there are by whether they have the code that their group has now.
func (s *stage) coded() (now, before int) {
	for name, gens := range s.segments.at {
		g, _ := s.Metad.Topology().PG(name.PG())
		for _, k := range gens {
			if v := g.Current(); k.entry.K == v.K && k.entry.M == v.M {
				now++
			} else {
				before++
			}
		}
	}
	return now, before
}

// recode gives all groups another code.
func (s *stage) recode() {
	for _, pg := range s.Metad.PGs() {
		s.Metad.RecodePG(pg, 2, 1)
	}
}

// recoding is a stage on which nothing else is cleaned, with segments of data, of pages of the
// map and of the table, and some of which only a snapshot has blocks.
func recoding(t *testing.T) (*stage, *Snap) {
	l := cleaning()
	l.CleanPercent, l.CleanSlack, l.MergeBelow = 200, 1<<40, 1
	s := play(t, l)
	for i := range uint64(8) {
		s.acked(i*64, 64)
	}
	s.seal()
	x := s.mark()
	s.acked(0, 256)
	s.seal()
	s.checkpoint()
	return s, x
}

// What lies in a group of a smaller code gets the better one: were any of it left, data or
// pages, the head's or a snapshot's, its group could never forget the version that it was coded
// under, and what is in it would keep its small margin.
func TestEverythingIsCodedAnew(t *testing.T) {
	s, _ := recoding(t)
	if now, before := s.coded(); now == 0 || before != 0 {
		t.Fatalf("%d and %d before anything happened", now, before)
	}
	st := s.stats()
	s.recode()
	if _, before := s.coded(); before == 0 {
		t.Fatal("nothing to do")
	}
	for range 3 {
		s.seal()
	}
	if now, before := s.coded(); before != 0 || now == 0 {
		t.Errorf("%d generations are coded as before, %d anew", before, now)
	}
	if left, on := s.Owner().Core.Recoding(); left != 0 {
		t.Errorf("%d bytes are said to be left, going on: %t", left, on)
	}
	if n := s.stats().SegmentsRecoded - st.SegmentsRecoded; n < 10 {
		t.Errorf("%d segments were coded anew", n)
	}
	s.good()
	s.crash()
	s.seal()
	if _, before := s.coded(); before != 0 {
		t.Errorf("%d generations came back", before)
	}
}

// Schedule (bench/sim, seeds 206 and 731): a disk is left alone after a checkpoint. The pages of its table that were replaced lie in a
// group of a smaller code until the next checkpoint, which an idle disk never cuts: the group kept that code for ever.
func TestPagesOfAQuietDiskDoNotKeepAnOlderCode(t *testing.T) {
	for n := range len(play(t, cleaning()).Metad.PGs()) {
		s := play(t, cleaning())
		for range 2 { // the second checkpoint leaves pages of the first one's table
			s.acked(0, 8)
			s.checkpoint()
			s.checkpoint()
		}
		s.crash()
		s.seal()
		pg := s.Metad.PGs()[n]
		s.Metad.RecodePG(pg, 2, 1)
		for range 4 {
			s.seal()
		}
		if _, before := s.coded(); before != 0 {
			t.Errorf("%d generations in group %d keep its older code", before, pg)
		}
		cut := s.stats().Checkpoints
		for range 10 {
			s.Quiesce()
		}
		if more := s.stats().Checkpoints - cut; more > 0 {
			t.Errorf("%d more checkpoints of a disk that is whole and left alone", more)
		}
		s.good()
	}
}

// The trees that metad has know the older generations: they stay until it has one that
// knows of the new ones, of the table's own pages too, without which no table can be read.
func TestOldCodeStaysUntilMetadHasACheckpoint(t *testing.T) {
	s, _ := recoding(t)
	s.hold("checkpoint")
	_, _ = s.coded()
	s.recode()
	_, were := s.coded()
	for range 3 {
		s.seal()
	}
	if s.stats().SegmentsRecoded == 0 {
		t.Fatal("nothing was coded anew")
	}
	if _, before := s.coded(); before < were {
		t.Fatalf("%d of %d older generations are left, and metad's checkpoint knows no others", before, were)
	}
	s.crash()
	for range 3 {
		s.seal()
	}
	if _, before := s.coded(); before != 0 {
		t.Errorf("the next owner leaves %d as they are", before)
	}
	s.good()
}

// Groups that change their code to and fro, while everything else goes on, cost nobody a byte.
func TestCodesChangeToAndFro(t *testing.T) {
	recoded := uint64(0)
	for seed := range uint64(3) {
		cfg := small(seed + 900)
		cfg.PackFails, cfg.Snapshots, cfg.TakesOver, cfg.ReadFails = 0.05, 0.02, 0.0005, 0.01
		w := New(cfg)
		for range 8 {
			if err := w.Run(500); err != nil {
				t.Fatal(err)
			}
			pgs := w.Metad.PGs()
			w.Metad.RecodePG(pgs[w.rng.IntN(len(pgs))], 2, 1)
			if o := w.Owner(); o != nil && o.Opened {
				recoded += o.Core.Stats().SegmentsRecoded
			}
		}
		if err := w.Settle(); err != nil {
			t.Fatal(err)
		}
		if err := w.ReadAll(); err != nil {
			t.Fatal(err)
		}
		if err := w.ReadSnapshots(); err != nil {
			t.Fatal(err)
		}
		w.Check()
		if w.Err() != nil {
			t.Fatalf("seed %d: %v", seed+900, w.Err())
		}
	}
	if recoded == 0 {
		t.Error("nothing was coded anew")
	}
}
