package coretest

import (
	"context"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
)

// flattening is the order that metad has committed for a clone, and what became of it.
type flattening struct {
	on   bool
	rate int64
	// lost segments of ancestors cannot be read.
	lost map[id.Segment]bool
	// left is what the clone began with, once it needs that no more: a read that was looked up before may still ask.
	left *lineage.Origin
}

// Flatten orders a clone to be flattened, or not to be.
func (w *World) Flatten(on bool) {
	w.flat.on = on
	w.log("flatten: %t", on)
	for _, e := range w.Engines {
		e.askFlatten()
	}
}

// askFlatten is what a shell does that was told by metad.
func (e *Engine) askFlatten() {
	if !e.dead && e == e.w.Owner() {
		e.Core.SetFlatten(e.w.flat.on, e.w.flat.rate)
	}
}

// carryFlatten reads blocks of ancestors, some time later, and some of them not at all.
func (e *Engine) carryFlatten(fx *core.Effects) {
	w := e.w
	for _, j := range fx.FlattenRead {
		w.later(e.name+" flatten reads", func() {
			for i := range j.Blocks {
				b := &j.Blocks[i]
				switch s := b.Location.Segment(); {
				case e.dead:
					b.Err = errAway // the ancestor may be gone, and nobody asks
				case w.flat.lost[s]:
					b.Err = errs.ErrNotFound
				case w.chance(w.cfg.ReadFails):
					b.Err = errAway
				default:
					b.Err = w.segments.read(b.Location, 1, core.Where{}, b.Data)
				}
				b.Sum = codec.CRC(b.Data)
			}
			e.force(func(now time.Duration, fx *core.Effects) { e.Core.FlattenRead(now, j, fx) })
		})
	}
	if fx.Flat {
		w.later(e.name+" is flat", func() { w.flattened(e) })
	}
}

// flattened: an owner says that nothing of the clone reads an ancestor. Metad lets go of what it began with.
func (w *World) flattened(e *Engine) {
	s := w.from
	if e != w.Owner() || s == nil {
		return // metad refuses it, or was told
	}
	w.log("%s has nothing of its ancestors any more", e.name)
	w.from, w.origin, w.flat.left = nil, nil, w.origin
	w.Fail(w.Metad.VolumeFlattened(context.Background(), w.volume, e.epoch))
	w.Flattened++
	if s.clones--; s.clones == 0 && s.state == snapHidden {
		s.state = snapDropping
	}
}

// VolumeFlattened is part of volume.Metad.
func (f *Metad) VolumeFlattened(_ context.Context, v id.Volume, e id.Epoch) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.owned(v, e)
	switch {
	case err != nil:
		return err
	case r.Origin != nil && r.Checkpoint == nil:
		return errs.ErrConflict
	}
	r = r.Clone()
	r.Origin = nil
	f.volumes[v] = r
	return nil
}
