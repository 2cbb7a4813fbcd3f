package coretest

import (
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/codec"
)

// carryClean reads for the cleaner: headers and blocks, some time later, and some of
// them not at all.
func (e *Engine) carryClean(fx *core.Effects) {
	w := e.w
	if j := fx.CleanList; j != nil {
		w.later(e.name+" clean lists", func() {
			for _, v := range j.Victims {
				k, err := w.segments.generation(v.Segment, v.Where)
				if w.chance(w.cfg.ReadFails) {
					err = errAway
				}
				if v.Err = err; err == nil {
					v.Entries = k.entries
				}
			}
			e.step(func(now time.Duration, fx *core.Effects) { e.Core.CleanListed(now, j, fx) })
		})
	}
	if j := fx.CleanRead; j != nil {
		w.later(e.name+" clean reads", func() {
			var failed error
			for i := range j.Blocks {
				b := &j.Blocks[i]
				if failed == nil && w.chance(w.cfg.ReadFails/8) {
					b.Victim.Err, failed = errAway, errAway
				}
				if err := w.segments.read(b.Location, 1, b.Victim.Where, b.Data); err != nil {
					b.Victim.Err, failed = err, err
				}
				b.Sum = codec.CRC(b.Data[:block.Size])
			}
			e.force(func(now time.Duration, fx *core.Effects) { e.Core.CleanRead(now, j, failed, fx) })
		})
	}
}
