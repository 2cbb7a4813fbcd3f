// Package core decides how fast a host repairs: between a reservation, which repair gets
// whatever clients do, and a limit, by how long clients have to wait meanwhile.
//
// It is a step function: it reads no clock and starts nothing. Its shell says, every period,
// what clients waited for each thing they use: disks owned here, journals kept here.
package core

import "time"

// Config bounds a Governor. Rates are bytes per second.
type Config struct {
	Reserve, Limit float64
}

// The law. While nothing is repaired the mean wait of each signal is learnt as its normal. During
// repair a signal is hurt when its mean is above slowFactor of that; then the rate is cut, else it rises by a part
// of the limit. Means are used for what is promised of the slowest hundredth: they are known after a
// few requests, and the two rise together.
const (
	slowFactor = 1.4
	slack      = 200 * time.Microsecond // of waits as short as that nobody minds
	cut        = 0.6
	rise       = 1.0 / 16
	samplesMin = 4
	learnt     = 0.2  // weight of a period without repair in what is normal
	relearnt   = 0.02 // the same at the reservation: what stays slow there is slow by itself
	forgetAt   = 240  // periods without a request after which a signal is forgotten
)

// Signal names one thing that clients wait for.
type Signal string

// Waits are a signal's totals since its beginning.
type Waits struct {
	Count uint64
	Total time.Duration
}

// Governor is one host's. Not safe for concurrent use.
type Governor struct {
	cfg     Config
	rate    float64
	signals map[Signal]*signal
}

type signal struct {
	last   Waits
	normal float64 // ns; 0: not known yet
	quiet  int     // periods without enough requests
}

// New makes a Governor, which begins at the reservation.
func New(cfg Config) *Governor {
	cfg.Reserve = min(cfg.Reserve, cfg.Limit)
	return &Governor{cfg: cfg, rate: cfg.Reserve, signals: make(map[Signal]*signal)}
}

// Rate is the rate that is allowed now.
func (g *Governor) Rate() float64 { return g.rate }

// Step ends a period: totals are those of all signals that there are, repairing whether bytes
// were moved in it. It gives the rate for the next.
func (g *Governor) Step(repairing bool, totals map[Signal]Waits) float64 {
	heard, hurt, unknown := false, false, false
	atReserve := g.rate <= g.cfg.Reserve
	for name, now := range totals {
		s := g.signals[name]
		if s == nil || now.Count < s.last.Count { // new, or begun anew
			g.signals[name] = &signal{last: now}
			continue
		}
		n := now.Count - s.last.Count
		if n < samplesMin {
			s.quiet++ // its requests count together with those of the next period
			continue
		}
		mean := float64(now.Total-s.last.Total) / float64(n)
		s.last, s.quiet, heard = now, 0, true
		if s.normal == 0 && repairing && !atReserve {
			unknown = true // what is normal is learnt where repair has least to do with it
			continue
		}
		hurt = s.judge(mean, repairing, atReserve) || hurt
	}
	for name, s := range g.signals {
		if _, there := totals[name]; !there || s.quiet > forgetAt {
			delete(g.signals, name)
		}
	}
	switch {
	case !heard:
		g.rate = g.cfg.Limit // nobody is there to be in the way of
	case !repairing || unknown:
		g.rate = g.cfg.Reserve // where the next repair begins
	case hurt:
		g.rate = max(g.rate*cut, g.cfg.Reserve)
	default:
		g.rate = min(g.rate+g.cfg.Limit*rise, g.cfg.Limit)
	}
	return g.rate
}

// judge tells whether a mean is above what is normal, and learns.
func (s *signal) judge(mean float64, repairing, atReserve bool) bool {
	switch {
	case s.normal == 0:
		s.normal = mean
	case !repairing:
		s.normal += (mean - s.normal) * learnt
	case mean < s.normal:
		s.normal += (mean - s.normal) * learnt
	case atReserve:
		s.normal += (mean - s.normal) * relearnt
	}
	return repairing && mean > s.normal*slowFactor+float64(slack)
}
