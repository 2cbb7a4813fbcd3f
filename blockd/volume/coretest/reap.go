package coretest

import (
	"cmp"
	"context"
	"slices"
	"time"

	"ashlar.dev/blockd/volume/core"
)

// carryReap lists what stores have of older epochs, some time later and now and then not
// all of it, and tells metad that nothing is left.
func (e *Engine) carryReap(fx *core.Effects) {
	w := e.w
	if fx.Reap {
		w.later(e.name+" reap lists", func() {
			found, whole := w.segments.leftovers(), !w.unlisted && !w.chance(w.cfg.ReadFails)
			w.listings++
			if n := len(found) / 2; !whole {
				found = found[:min(cmp.Or(w.partly, n), len(found))]
			}
			w.later(e.name+" reap listed", func() {
				e.step(func(now time.Duration, fx *core.Effects) {
					e.Core.Leftovers(found, fx)
					e.Core.ReapListed(now, whole, fx)
				})
			})
		})
	}
	if fx.Reaped {
		w.later(e.name+" forgets spans", func() {
			if !e.dead {
				_ = w.Metad.ForgetSpans(context.Background(), w.volume, e.epoch, e.epoch) // the next owner looks again
			}
		})
	}
}

// leftovers names all that there is: what of it is one, the core must know.
func (s *segments) leftovers() (out []core.Leftover) {
	for name, gens := range s.at {
		if s.of[name] != s.w.volume {
			continue
		}
		x := core.Leftover{Segment: name}
		for g := range gens {
			if x.Generation.Less(g) {
				x.Generation = g
			}
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b core.Leftover) int { return cmp.Compare(a.Segment, b.Segment) })
	return out
}
