package coretest

import (
	"testing"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
)

// A disk that was trimmed and then left alone gives the space back within seconds:
// nobody has to write a GiB first, or to detach it.
func TestIdleDiskGivesDeadSpaceBack(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 128})
	for i := range uint64(8) {
		s.acked(i*512, 512)
	}
	s.seal()
	before := s.Segments()
	cut := s.stats().Checkpoints
	r := s.Trim(s.Owner(), 0, 3584*blk)
	s.Quiesce()
	s.Quiesce()
	if !r.Ended() || r.Err != nil {
		t.Fatalf("the trim: ended %t, %v", r.Ended(), r.Err)
	}
	if n := s.Segments(); n > 3 { // what lives, and the pages
		t.Fatalf("%d segments of %d are left", n, before)
	}
	// Once is enough: what it freed causes no other.
	at := s.stats().Checkpoints
	if at == cut {
		t.Fatal("no checkpoint")
	}
	for range 10 {
		s.Quiesce()
	}
	if n := s.stats().Checkpoints; n > at+1 {
		t.Fatalf("%d checkpoints of an idle disk", n-cut)
	}
	s.crash()
}

// Space that is not worth a checkpoint waits for the next one: else a client that trims
// a little now and then would have its whole segment table written each time.
func TestTriflesCauseNoCheckpoint(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 64, SealIdle: time.Second})
	for i := range uint64(4) {
		s.acked(i*64, 64)
	}
	s.seal()
	at := s.stats().Checkpoints
	for range 5 {
		s.Trim(s.Owner(), 0, 100*block.Size)
		s.Quiesce()
	}
	if n := s.stats().Checkpoints; n != at {
		t.Fatalf("%d checkpoints for a quarter of a MiB", n-at)
	}
	s.good()
}

// A busy disk that overwrites itself cuts checkpoints by what they free against what they
// cost: without it a small disk written at random would hold a GiB of dead segments.
func TestBusyDiskGivesDeadSpaceBack(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 256, CheckpointDead: 1 << 40, CheckpointBytes: 1 << 40, CheckpointDeadMin: 2 << 20})
	most := 0
	for range 12 / min(shortened, 2) {
		for i := range uint64(4) {
			s.Write(s.Owner(), i*256*blk, 256*blk)
			for s.Err() == nil && s.happen() {
				s.steps++
			}
		}
		most = max(most, s.Segments())
		s.pass(50 * time.Millisecond)
	}
	s.must(s.Err())
	if most > 16 {
		t.Fatalf("%d segments of a volume of 4", most)
	}
	s.crash()
}
