package core

import (
	"math"
	"math/bits"
	"time"
)

// burstMin is what a bucket holds at least, in seconds' worth of its rate: timers are late,
// and what they were late by must not be lost.
const burstMin = 100 * time.Millisecond

// bucket lets a rate pass. Its content is told in time: full is when it will be full again if
// nothing more is taken, so nothing has to be added as time goes by.
type bucket struct {
	rate  uint64        // units per second; 0: not bounded
	burst time.Duration // content of the full bucket, as time that it takes to gather
	full  time.Duration
}

// set changes the rate. What was taken and not made up for stays taken, in units.
func (b *bucket) set(now time.Duration, rate, burst uint64) {
	debt := float64(b.used(now)) * float64(b.rate)
	b.rate, b.burst, b.full = rate, 0, 0
	if rate == 0 {
		return
	}
	b.burst = max(burstMin, cost(burst, rate))
	b.full = now + time.Duration(debt/float64(rate))
}

// cost is how long rate needs for n units.
func cost(n, rate uint64) time.Duration {
	if rate == 0 {
		return 0
	}
	high, low := bits.Mul64(n, uint64(time.Second))
	if high >= rate {
		return math.MaxInt64 / 4
	}
	quotient, rest := bits.Div64(high, low, rate)
	if rest > 0 {
		quotient++
	}
	return time.Duration(min(quotient, math.MaxInt64/4))
}

// used is what is missing from the full bucket, as time.
func (b *bucket) used(now time.Duration) time.Duration { return max(b.full-now, 0) }

// open tells whether something may go.
func (b *bucket) open(now time.Duration) bool { return b.rate == 0 || b.used(now) < b.burst }

// opens is when something may go.
func (b *bucket) opens() time.Duration {
	if b.rate == 0 {
		return 0
	}
	return b.full - b.burst + 1
}

// take charges n units.
func (b *bucket) take(now time.Duration, n uint64) {
	if b.rate != 0 {
		b.full = max(b.full, now) + cost(n, b.rate)
	}
}
