package core

import (
	"math/rand/v2"
	"testing"
	"time"

	"ashlar.dev/pkg/id"
)

// costOf counts what victims of one kind of choice cost on a model of a disk: segments
// with their live counts, overwritten for long, cleaned when more than 31 % beside what
// lives is dead. It gives the blocks that the cleaner writes for each one of the client.
func costOf(worth func(age uint64, stored, live int) uint64, next func(*rand.Rand) int) float64 {
	const blocks, slots, allowed = modelBlocks, 128, modelBlocks * 31 / 100
	type segment struct{ stored, live, sequence int }
	r := rand.New(rand.NewPCG(1, 2))
	segments := make(map[int]*segment)
	where := make([]*segment, blocks)
	sequence, dead := 0, 0
	put := func(all map[int]bool) {
		sequence++
		s := &segment{len(all), len(all), sequence}
		segments[sequence] = s
		for b := range all {
			if o := where[b]; o != nil {
				if o.live, dead = o.live-1, dead+1; o.live == 0 {
					dead -= o.stored
					delete(segments, o.sequence)
				}
			}
			where[b] = s
		}
	}
	for b := 0; b < blocks; b += slots {
		fill := make(map[int]bool)
		for i := range slots {
			fill[b+i] = true
		}
		put(fill)
	}
	written, cleaned := 0, 0
	fresh := make(map[int]bool)
	for i := range 9 * blocks {
		if i == 3*blocks { // it has become steady
			written, cleaned = 0, 0
		}
		written++
		if fresh[next(r)] = true; len(fresh) < slots {
			continue
		}
		put(fresh)
		clear(fresh)
		for dead > allowed {
			var best *segment
			score := uint64(0)
			for _, s := range segments {
				if x := worth(uint64(sequence-s.sequence), s.stored, s.live); s.live < s.stored && (best == nil || x > score || x == score && s.sequence < best.sequence) {
					best, score = s, x
				}
			}
			cleaned += best.live
			dead -= best.stored - best.live
			best.stored = best.live
		}
	}
	return float64(cleaned) / float64(written)
}

const modelBlocks = 1 << 14

// Without the right weight of age the cleaner writes a quarter more than it must, where
// all blocks are overwritten alike, or where a fifth of them gets most of the writes.
func TestVictimsAreChosenWell(t *testing.T) {
	greedy := func(_ uint64, stored, live int) uint64 { return uint64(stored-live) << 20 / uint64(stored+live) }
	for name, c := range map[string]struct {
		next func(*rand.Rand) int
		most float64 // of what a choice without age costs
	}{
		"all alike": {func(r *rand.Rand) int { return r.IntN(modelBlocks) }, 1.07},
		"a hot fifth": {func(r *rand.Rand) int {
			if r.IntN(10) < 8 {
				return r.IntN(modelBlocks / 5)
			}
			return modelBlocks/5 + r.IntN(modelBlocks-modelBlocks/5)
		}, 0.9},
	} {
		t.Run(name, func(t *testing.T) {
			ours, plain := costOf(worth, c.next), costOf(greedy, c.next)
			t.Logf("%.3f blocks for each one of the client, %.3f without age", ours, plain)
			if ours > c.most*plain {
				t.Errorf("%.3f is more than %.2f of %.3f", ours, c.most, plain)
			}
		})
	}
}

// Without turns a volume that always finds a victim would keep all others of the process
// from cleaning; with one that is gone at the head nobody would.
func TestVolumesTakeTurnsInCleaning(t *testing.T) {
	var turns cleanTurns
	a, b, gone := id.Volume{1}, id.Volume{2}, id.Volume{3}
	now := time.Hour
	if !turns.take(now, a) || turns.take(now, gone) || turns.take(now, b) {
		t.Fatal("two at once")
	}
	now += claimLapses / 2
	turns.take(now, b)
	turns.leave()
	if turns.take(now, a) || turns.take(now, b) {
		t.Fatal("a place in the queue is passed by")
	}
	now += claimLapses / 2
	if turns.take(now, a) {
		t.Fatal("the same one again, though another waits")
	}
	if !turns.take(now, b) {
		t.Fatal("who does not come keeps the others waiting")
	}
	turns.leave()
	if !turns.take(now, a) {
		t.Fatal("not its turn after the other's")
	}
}
