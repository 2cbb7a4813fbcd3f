package coretest

import "testing"

// The cleaner writes no faster than its rate, raised as far as it may be for what is dead, and goes on
// until nothing is left to do: without the pause after each job it would take the disks from the clients.
func TestCleanerKeepsToItsRate(t *testing.T) {
	const segments = 12
	fast := play(t, cleaning())
	fast.halfDead(segments)
	if n := fast.stats().SegmentsRewritten; n < segments {
		t.Fatalf("without a limit %d segments of %d were rewritten", n, segments)
	}
	limits := cleaning()
	limits.CleanRate = 1 << 10 // 64 KiB a second at most: two seconds for what lives of a segment
	s := play(t, limits)
	s.halfDead(segments)
	const rounds = 40
	last := s.stats().SegmentsRewritten
	if last > 6 {
		t.Fatalf("%d segments were rewritten in six seconds", last)
	}
	for range rounds {
		if s.Quiesce(); s.stats().SegmentsRewritten-last > 6 {
			t.Fatalf("%d segments were rewritten in six seconds", s.stats().SegmentsRewritten-last)
		}
		if last = s.stats().SegmentsRewritten; last >= segments {
			break
		}
	}
	if last < segments {
		t.Fatalf("only %d segments of %d were rewritten after %d rounds", last, segments, rounds)
	}
	s.good()
}
