package coretest

import (
	"strings"
	"testing"
)

// A snapshot leaves the list in memory first, and the checkpoint that says so comes later: whoever
// opens the volume in between finds the snapshot as it was. Were what only it had cleaned away by
// then, its blocks would be gone, and the counts of the checkpoint higher than what there is.
func TestCleanerWaitsUntilADeletedSnapshotIsWrittenOff(t *testing.T) {
	s := play(t, cleaning())
	s.hold("clean")
	for i := range uint64(4) {
		s.acked(i*64, 64)
	}
	s.seal()
	x := s.mark()
	for i := range uint64(4) {
		s.acked(i*64+16, 32)
	}
	s.seal()
	s.mark()
	s.checkpoint()
	had := s.stats().SegmentsRewritten
	s.Hold = func(name string) bool { // no page of a checkpoint becomes durable
		return strings.HasSuffix(name, " pack") && !strings.Contains(name, "clean")
	}
	s.Drop(x)
	s.Quiesce()
	s.must(s.Err())
	if n := s.stats().SegmentsRewritten - had; n > 0 {
		t.Errorf("%d segments were rewritten without what a snapshot has that the last checkpoint lists", n)
	}
	s.crash()
	for range 3 {
		s.seal()
	}
	if n := s.stats().SegmentsRewritten; n == 0 {
		t.Error("what it had is not given back in the end")
	}
	s.good()
}
