package sim

import (
	"cmp"
	"slices"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/segment"
)

// Clones are flattened: metad orders it in its answers to heartbeats, the owner copies what it
// reads of ancestors, and says when it needs them no more. From then on the snapshot that the
// clone began with may go.

// flattenRate is in bytes a second: some segments in the time between two faults.
const flattenRate = 8 << 20

// flatten orders a clone to be flattened, or takes the order back.
func (d *disk) flatten() {
	w := d.w
	v, ok := w.metad.m.Volume(d.id)
	if !ok || d.from == nil || d.leaves || d.gone || d.retired || !v.Live() || v.Origin == nil || v.Restored != nil {
		return
	}
	on := v.Flatten == nil || w.rng.IntN(4) > 0
	if r := w.metad.apply(&state.FlattenVolume{Volume: d.id, On: on, Rate: flattenRate}); r.Err != nil {
		w.fail(CheckClones, "%s is not flattened: %v", d.name, r.Err)
	}
	w.log("%s is to be flattened: %t", d.name, on)
}

// setFlatten tells the engine what metad wants.
func (e *engine) setFlatten(f *cluster.Flatten) {
	if e.opener != nil || e.dead {
		return
	}
	e.step(func(time.Duration, *core.Effects) {
		if f == nil {
			e.core.SetFlatten(false, 0)
		} else {
			e.core.SetFlatten(true, int64(f.Rate))
		}
	})
}

// flattenRead reads the blocks of a job, one after the other in the order of their places.
func (e *engine) flattenRead(j *core.FlattenJob) {
	order := make([]*core.FlattenBlock, len(j.Blocks))
	for i := range j.Blocks {
		order[i] = &j.Blocks[i]
	}
	slices.SortFunc(order, func(a, b *core.FlattenBlock) int { return cmp.Compare(a.Location, b.Location) })
	e.flattenNext(j, order)
}

func (e *engine) flattenNext(j *core.FlattenJob, left []*core.FlattenBlock) {
	if len(left) == 0 {
		e.force(func(now time.Duration, fx *core.Effects) { e.core.FlattenRead(now, j, fx) })
		return
	}
	b := left[0]
	e.slots(b.Location, 1, core.Where{}, segment.MakeData(b.LBA), b.Data[:block.Size], false, func(err error) {
		if b.Err = err; err == nil {
			b.Sum = codec.CRC(b.Data[:block.Size])
		}
		e.flattenNext(j, left[1:])
	})
}

// tellFlat tells metad that the clone stands alone, until it hears.
func (e *engine) tellFlat() {
	m, d := e.w.metad, e.disk
	e.w.net.ask(e.h, "flattened "+e.name, func() error {
		err := m.VolumeFlattened(e.h.ctx, d.id, e.epoch)
		if err == nil {
			d.flattened()
		}
		return err
	}, func(err error) {
		if err != nil && !e.dead && !e.ended {
			e.w.after(100*time.Millisecond, e.name+" tells again that it is flattened", func() { e.h.later(e.tellFlat) })
		}
	})
}

// flattened: metad knows that the clone needs nothing of what it began with.
func (d *disk) flattened() {
	if d.from == nil {
		return // it was told before metad was restored
	}
	d.w.cover.Flattened++
	d.w.log("%s is flattened", d.name)
	d.from.clones--
	d.from = nil
}

// flattenAll demands that every clone that was ordered to be is flattened, when no snapshot of it reads an ancestor.
func (w *World) flattenAll() {
	var all []*disk
	for _, d := range w.disks {
		v, ok := w.metad.m.Volume(d.id)
		if ok && v.Flatten != nil && !d.parent() && !d.leaves && !d.retired {
			d.dropEach()
			all = append(all, d)
		}
	}
	w.demand(CheckClones, time.Minute, "clones are flattened", func() bool {
		return !slices.ContainsFunc(all, func(d *disk) bool { return !d.gone && d.from != nil })
	})
}
