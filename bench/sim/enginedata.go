package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/blockd/packer"
	"ashlar.dev/blockd/reader"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// How an engine's shell moves data: by the real packer and the real reader.

func whereOf(w core.Where) reader.Where {
	return reader.Where{Generation: w.Generation, PGVersion: w.PGVersion, K: w.K, M: w.M, Slots: w.Slots, Kept: w.Kept}
}

// back brings the end of something outside into the world, in the order of its beginning.
func (e *engine) back(what string, seq uint64, f func()) {
	e.w.enter("engine "+e.name+" "+what, seq, func() { e.h.laterIn(e.life, f) })
}

// laterIn is later for what must happen though the life has ended.
func (h *host) laterIn(life uint64, f func()) {
	if h.number == life && h.park(f) {
		return
	}
	f()
}

// slots reads slots into dst, from outside; in an archive, the first of them must hold what is wanted.
func (e *engine) slots(l id.Location, n uint32, w core.Where, want segment.Entry, dst []byte, cache bool, done func(error)) {
	if w.Foreign {
		e.foreign(l, want, dst, done)
		return
	}
	done = e.lentOr(l, want, dst, done)
	e.jobs++
	seq := e.jobs
	q := &reader.Request{Location: l, Count: n, Where: whereOf(w), Dst: dst, NoCache: !cache}
	q.Done = func(_ *reader.Request, err error) { e.back("read", seq, func() { done(err) }) }
	e.w.touch(func() { e.h.reader.Read(q) })
}

// fill is a read whose pieces are being gathered.
type fill struct {
	op   *core.Op
	buf  *buf.Buffer
	data []byte
	left int
	err  error
}

// read fills a read whose pieces are known.
func (e *engine) read(op *core.Op) {
	f := &fill{op: op, buf: buf.Get(int(op.Extent.Count * block.Size)), left: 1}
	f.data = f.buf.Bytes()
	clear(f.data)
	e.reads[op] = f
	for i := range op.Pieces {
		if p := &op.Pieces[i]; p.Kind == core.PieceMemory {
			copy(f.data[p.At*block.Size:(p.At+p.Count)*block.Size], p.Buf.Bytes()[p.Off:])
			p.Buf.Release()
			p.Buf = nil
		} else if p.Kind == core.PieceSlots {
			f.left++
		}
	}
	for _, p := range slices.Clone(op.Pieces) {
		if p.Kind == core.PieceSlots {
			want := segment.MakeData(op.Extent.Start + block.LBA(p.At))
			e.slots(p.Location, p.Count, p.Where, want, f.data[p.At*block.Size:(p.At+p.Count)*block.Size], true, func(err error) { e.filled(f, err) })
		}
	}
	e.filled(f, nil)
}

func (e *engine) filled(f *fill, err error) {
	if f.err == nil {
		f.err = err
	}
	if f.left--; f.left > 0 {
		return
	}
	op := f.op
	delete(e.reads, op)
	o := e.ops[op]
	switch {
	case f.err != nil && e.dead && o == nil:
	case f.err != nil && e.dead:
		op.Err = errs.ErrStaleEpoch
		e.finished(op)
	case f.err != nil:
		if errors.Is(f.err, errs.ErrCorrupt) {
			e.w.fail(CheckReads, "%s: read of %v: %v", e.name, op.Extent, f.err)
		}
		e.force(func(now time.Duration, fx *core.Effects) { e.core.Reread(now, op, f.err, fx) })
	case o == nil: // an inner read, of the core's own
		e.step(func(now time.Duration, fx *core.Effects) { e.core.EdgeRead(now, op, f.data, nil, fx) })
	default:
		o.data = f.data
		e.finished(op)
		o.data = nil
		f.buf.Release()
	}
}

func (e *engine) page(p core.PageRead) {
	b := buf.Get(storeproto.BlockSize)
	e.slots(p.Miss.Location, 1, p.Where, segment.MakePage(segment.MapPage, p.Miss.Level, p.Miss.Index), b.Bytes(), true, func(err error) {
		e.step(func(now time.Duration, fx *core.Effects) { e.core.PageDone(now, p, b.Bytes(), err, fx) })
		b.Release()
	})
}

// pack hands a segment to the packer.
func (e *engine) pack(j *core.PackJob) {
	count := func(n int) {
		if j.Lane == core.LaneLong {
			e.longs += n
		} else {
			e.packs += n
		}
	}
	count(1)
	e.jobs++
	seq := e.jobs
	w := &packer.Job{Volume: e.disk.id, Epoch: e.epoch, Segment: j.Segment, Generation: j.Entry.Generation, PGVersion: j.Entry.PGVersion,
		K: j.Entry.K, M: j.Entry.M, Long: j.Lane == core.LaneLong, Room: j.Room, Encode: j.Encode, Blocks: j.Blocks, Slots: j.Slots}
	segment := j.Segment
	w.Freed = func(*packer.Job) { e.back("freed", seq, func() { e.core.PackFreed(j) }) }
	w.Done = func(_ *packer.Job, r packer.Result) {
		e.back("pack", seq, func() {
			count(-1)
			if !e.dead {
				e.w.note(fmt.Sprintf("%s packed %s: %s", e.name, segment, errClass(r.Err)))
			}
			e.force(func(now time.Duration, fx *core.Effects) {
				e.core.PackDone(now, j, core.PackResult{Err: r.Err, Suspects: r.Suspects, Full: r.Full, Held: r.Held}, fx)
			})
		})
	}
	e.w.led.packing(e, j)
	e.w.touch(func() {
		if !e.h.packer.Submit(w) {
			w.Done(w, packer.Result{Err: errs.ErrUnavailable})
		}
	})
}

// carryClean reads for the cleaner: headers, then blocks, one after the other.
func (e *engine) carryClean(fx *core.Effects) {
	if j := fx.CleanList; j != nil {
		e.jobs++
		seq, ctx, r := e.jobs, e.h.ctx, e.h.reader
		e.w.touch(func() {
			go func() {
				for _, v := range j.Victims {
					v.Entries, v.Err = r.Entries(ctx, v.Segment, whereOf(v.Where))
				}
				e.back("clean list", seq, func() {
					e.step(func(now time.Duration, fx *core.Effects) { e.core.CleanListed(now, j, fx) })
				})
			}()
		})
	}
	if j := fx.CleanRead; j != nil {
		e.cleanRead(j, 0)
	}
}

func (e *engine) cleanRead(j *core.CleanJob, i int) {
	if i == len(j.Blocks) {
		e.force(func(now time.Duration, fx *core.Effects) { e.core.CleanRead(now, j, nil, fx) })
		return
	}
	b := &j.Blocks[i]
	e.slots(b.Location, 1, b.Victim.Where, 0, b.Data[:block.Size], false, func(err error) {
		if err != nil {
			b.Victim.Err = err
			e.force(func(now time.Duration, fx *core.Effects) { e.core.CleanRead(now, j, err, fx) })
			return
		}
		b.Sum = codec.CRC(b.Data[:block.Size])
		e.cleanRead(j, i+1)
	})
}

// doomed is a segment to be deleted and the stores that have not confirmed it.
type doomed struct {
	core.Delete
	done []cluster.StoreRef
	busy int
}

// deleteRound asks stores for what they have not confirmed.
func (e *engine) deleteRound() {
	t := e.h.top
	if t == nil || e.dead {
		return
	}
	for _, d := range slices.Clone(e.doomed) {
		if d.busy > 0 {
			continue
		}
		g, ok := t.PG(d.Segment.PG())
		if !ok {
			continue
		}
		all := g.Members()
		for _, r := range d.On {
			if !slices.Contains(all, r) {
				all = append(all, r)
			}
		}
		left := slices.DeleteFunc(all, func(r cluster.StoreRef) bool {
			s, ok := t.Store(r.Store)
			return slices.Contains(d.done, r) || !ok || s.State == cluster.StoreLost || s.Incarnation != r.Incarnation
		})
		if len(left) == 0 {
			e.doomed = slices.DeleteFunc(e.doomed, func(x *doomed) bool { return x == d })
			e.step(func(now time.Duration, fx *core.Effects) { e.core.DeleteDone(now, d.Delete, fx) })
			continue
		}
		for _, r := range left {
			e.deleteOn(d, r, g.Current().Version)
		}
	}
}

func (e *engine) deleteOn(d *doomed, r cluster.StoreRef, version uint32) {
	d.busy++
	req := storeproto.DeleteShards{Volume: e.disk.id, Epoch: e.epoch, Segments: []storeproto.SegmentGeneration{{Segment: d.Segment, Generation: d.Upto}},
		Groups: []storeproto.GroupVersion{{PG: d.Segment.PG(), Version: version}}}
	finish := func(err error) {
		if err == nil {
			d.busy--
			d.done = append(d.done, r)
			return
		}
		e.w.after(40*time.Millisecond, "a delete is tried again", func() { d.busy-- })
	}
	e.request(r, classBulk, "delete "+d.Segment.String(), func(st *store, reply func(func())) {
		st.core.DeleteShards(req, st.control(func(err error) { reply(func() { finish(err) }) }))
	}, finish)
}
