package segment

import (
	"math/rand/v2"
	"testing"

	"ashlar.dev/pkg/id"
)

// A rank that is off by one reads another block than was asked for, with a right sum.
func TestRankCountsTheKeptSlotsBefore(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for _, n := range []int{1, 2, 63, 64, 65, 1000, id.SlotsMax} {
		entries := make([]uint64, n)
		for i := range entries {
			if rng.IntN(3) > 0 {
				entries[i] = uint64(MakeData(5))
			}
		}
		k := MakeKept(entries)
		rank := uint16(0)
		for i, e := range entries {
			got, ok := k.Rank(uint16(i))
			if ok != (e != 0) || ok && got != rank {
				t.Fatalf("slot %d of %d: rank %d, %t, want %d", i, n, got, ok, rank)
			}
			if ok {
				rank++
			}
		}
		if _, ok := k.Rank(uint16(n)); ok && n < id.SlotsMax || k.Count() != rank || k.Slots() != uint16(n) {
			t.Fatalf("%d of %d slots kept, want %d", k.Count(), k.Slots(), rank)
		}
	}
}
