package load

import (
	"math/rand/v2"

	"ashlar.dev/bench/chaos/history"
)

// Registers asks for a bit of everything on regions of few cells, which many clients
// fight for. The cells asked for move on from time to time, so that no cell's history gets
// too long to judge.
func Registers(regions []history.Region, which ...int) func(*rand.Rand) Action {
	const (
		window   = 12  // cells that are fought for at a time
		requests = 400 // until the window moves
		longRun  = 64  // cells of a long write
	)
	n, start := 0, 0
	return func(rng *rand.Rand) Action {
		if n++; n%requests == 0 {
			start = rng.IntN(1 << 20)
		}
		region := which[rng.IntN(len(which))]
		r := regions[region]
		a := Action{Kind: history.Write, Count: 1 + rng.IntN(4), FUA: rng.IntN(10) == 0, Hole: rng.IntN(2) == 0}
		switch draw := rng.IntN(100); {
		case draw < 2:
			return Action{Flush: true}
		case draw < 46:
			a.Kind = history.Read
		case draw < 50:
			a.Zero = true
		case draw < 54:
			a.Zero, a.Trim = true, true
		case draw < 57:
			a.Count = longRun
		case draw < 59:
			a.Kind, a.Count = history.Read, longRun
		}
		a.Count = min(a.Count, r.Count)
		i := start + rng.IntN(window)
		if rng.IntN(5) == 0 {
			i = rng.IntN(r.Count)
		}
		a.First = history.CellOf(region, min(i%r.Count, r.Count-a.Count))
		return a
	}
}

// Filler writes a region from its start to its end, over and over, and reads here and
// there what lies behind: so that buffers fill and segments are packed.
func Filler(regions []history.Region, region, count int) func(*rand.Rand) Action {
	r := regions[region]
	next := 0
	return func(rng *rand.Rand) Action {
		if rng.IntN(4) == 0 {
			n := min(8, r.Count)
			return Action{Kind: history.Read, First: history.CellOf(region, rng.IntN(r.Count-n+1)), Count: n}
		}
		if next+count > r.Count {
			next = 0
		}
		a := Action{Kind: history.Write, First: history.CellOf(region, next), Count: count}
		next += count
		return a
	}
}

// Prober writes and reads single cells in turn, as fast as the answers come: it shows how long a disk is away.
func Prober(regions []history.Region, region int) func(*rand.Rand) Action {
	n := 0
	return func(*rand.Rand) Action {
		n++
		a := Action{Kind: history.Write, First: history.CellOf(region, n/2%regions[region].Count), Count: 1}
		if n%2 == 1 {
			a.Kind = history.Read
		}
		return a
	}
}
