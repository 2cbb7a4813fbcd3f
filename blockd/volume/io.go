package volume

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"ashlar.dev/blockd/reader"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// request is one nbd.Request on its way through the core, as one or a few
// operations; it completes when all of them have.
type request struct {
	v    *Volume
	r    *nbd.Request
	left atomic.Int32
	err  atomic.Pointer[error]
	one  operation // the only one, most of the time
	snap id.Raw    // of which a read is; zero: the disk
	tap
}

// operation is a core.Op with what the shell keeps beside it.
type operation struct {
	op    core.Op
	of    *request // nil for an inner read of a sub-block write
	skip  uint32   // bytes of the first block that a read does not want
	off   uint64   // where the operation begins in the request's range
	bytes uint32   // what a read wants
	temp  *buf.Buffer
	inner *core.Op // the core's own read of a block at the edge of a write; then of is nil
	left  atomic.Int32
	err   atomic.Pointer[error]
	slots []slotRead
	found chan struct{} // of a find, which no request asked for: closed when it has ended
}

// slotRead is one run of slots of a read.
type slotRead struct {
	req reader.Request
	o   *operation
	v   *Volume

	foreign bool          // it lies in the archive
	want    segment.Entry // and what its first slot must hold there
}

var requests = sync.Pool{New: func() any { return new(request) }}

// opBlocksMax bounds one operation of a write: what fits in a journal batch.
const opBlocksMax = storeproto.BatchBlocksMax

// Submit starts r: see nbd.Device.
func (v *Volume) Submit(r *nbd.Request) { v.begin(r, id.Raw{}) }

// begin starts r on the disk, or a read of one of its snapshots.
func (v *Volume) begin(r *nbd.Request, snap id.Raw) {
	q := requests.Get().(*request)
	q.v, q.r, q.snap = v, r, snap
	q.err.Store(nil)
	q.left.Store(1)
	v.traffic.begin(&q.tap, r, v.cfg.Clock)
	switch r.Op {
	case nbd.OpRead:
		q.read()
	case nbd.OpWrite:
		q.write()
	case nbd.OpWriteZeroes:
		q.zero()
	case nbd.OpTrim:
		q.trim()
	case nbd.OpFlush:
		q.one.start(q, core.OpFlush, block.Extent{})
		v.submit(&q.one)
	case nbd.OpBlockStatus:
		q.status()
	default: // a hint
		q.end(nil, nil)
	}
}

// start makes o ready.
func (o *operation) start(q *request, k core.OpKind, e block.Extent) {
	o.op.Reset()
	o.of, o.skip, o.off, o.bytes = q, 0, 0, 0
	o.op.Kind, o.op.Extent, o.op.User, o.op.Snapshot = k, e, o, q.snap
}

// submit steps the core with one operation.
func (v *Volume) submit(o *operation) {
	fx := effects.Get().(*core.Effects)
	v.mu.Lock()
	if v.closed || v.opener != nil {
		v.mu.Unlock()
		effects.Put(fx)
		o.op.Err = errs.ErrStaleEpoch
		v.done(&o.op, nil)
		return
	}
	v.core.Submit(v.cfg.Clock.Now(), &o.op, fx)
	v.unlock(fx)
}

// cover is the blocks of [off, off+n); the server has checked the range.
func cover(off, n uint64) block.Extent {
	first := off >> block.Shift
	return block.Extent{Start: block.LBA(first), Count: uint32((off+n+block.Size-1)>>block.Shift - first)}
}

func (q *request) read() {
	r := q.r
	o := &q.one
	o.start(q, core.OpRead, cover(r.Offset, r.Length))
	o.skip, o.bytes = uint32(r.Offset%block.Size), uint32(r.Length)
	q.v.submit(o)
}

func (q *request) write() {
	r := q.r
	b := r.TakeBuffer()
	n := r.Length
	if r.Offset%block.Size == 0 && n%block.Size == 0 && n <= opBlocksMax*block.Size {
		o := &q.one
		o.start(q, core.OpWrite, cover(r.Offset, n))
		o.fillWrite(b, 0)
		q.v.submit(o)
		return
	}
	for at := uint64(0); at < n; {
		// Pieces end on a block, so that only the first and the last can be partial.
		end := min((r.Offset+at)/block.Size*block.Size+opBlocksMax*block.Size, r.Offset+n)
		size := end - r.Offset - at
		o := new(operation)
		o.start(q, core.OpWrite, cover(r.Offset+at, size))
		o.op.Head = uint32((r.Offset + at) % block.Size)
		o.op.Tail = uint32(-end % block.Size)
		q.left.Add(1)
		o.fillWrite(b.Retain(), uint32(at))
		q.v.submit(o)
		at += size
	}
	b.Release()
	q.end(nil, nil)
}

// fillWrite gives a write its payload, and its sums where it covers whole blocks.
func (o *operation) fillWrite(b *buf.Buffer, off uint32) {
	o.op.Buf, o.op.BufOff = b, off
	if o.op.Head != 0 || o.op.Tail != 0 {
		return
	}
	data := b.Bytes()[off:]
	for i := range o.op.Extent.Count {
		o.op.Sums = append(o.op.Sums, codec.CRC(data[i*block.Size:(i+1)*block.Size]))
	}
}

// zero makes the range read as zeros: its whole blocks by one record, the bytes at
// its edges by sub-block writes.
func (q *request) zero() {
	r := q.r
	at, end := r.Offset, r.Offset+r.Length
	if head := at % block.Size; head != 0 {
		stop := min(at-head+block.Size, end)
		q.edge(at, stop)
		at = stop
	}
	if whole := end / block.Size * block.Size; at < whole {
		q.piece(core.OpZero, at, whole)
		at = whole
	}
	if at < end {
		q.edge(at, end)
	}
	q.end(nil, nil)
}

// edge zeroes bytes within one block.
func (q *request) edge(from, to uint64) {
	o := new(operation)
	o.start(q, core.OpZero, cover(from, to-from))
	o.op.Head, o.op.Tail = uint32(from%block.Size), uint32(-to%block.Size)
	q.left.Add(1)
	q.v.submit(o)
}

// pieceBlocksMax bounds one record of zeros: 2^30 blocks are 4 TiB.
const pieceBlocksMax = 1 << 30

// piece submits whole blocks of a range.
func (q *request) piece(k core.OpKind, from, to uint64) {
	for from < to {
		n := min(to-from, pieceBlocksMax*block.Size)
		o := new(operation)
		o.start(q, k, cover(from, n))
		q.left.Add(1)
		q.v.submit(o)
		from += n
	}
}

// trim drops the whole blocks of the range; the bytes at its edges stay.
func (q *request) trim() {
	from := (q.r.Offset + block.Size - 1) / block.Size * block.Size
	to := (q.r.Offset + q.r.Length) / block.Size * block.Size
	q.piece(core.OpTrim, from, to)
	q.end(nil, nil)
}

// statusBlocksMax bounds the blocks that one status looks at; a shorter answer is allowed.
const statusBlocksMax = 1 << 28

func (q *request) status() {
	o := &q.one
	n := min(q.r.Length, statusBlocksMax*block.Size)
	o.start(q, core.OpStatus, cover(q.r.Offset, n))
	o.op.Since = id.Raw(q.r.Context) // another context than base:allocation is what changed since a snapshot
	q.v.submit(o)
}

// done takes back an operation that has ended.
func (v *Volume) done(op *core.Op, batch *nbd.Batch) {
	o, ok := op.User.(*operation)
	if !ok {
		op.User.(chan error) <- op.Err // a mark's; it has room
		return
	}
	if o.found != nil {
		close(o.found)
		return
	}
	op.Buf.Release()
	op.Buf = nil
	o.temp.Release() // of a read that failed after a second look
	o.temp = nil
	if op.Kind == core.OpStatus && op.Err == nil {
		o.reportStatus()
	}
	o.of.end(op.Err, batch)
}

// reportStatus turns runs of blocks into extents of bytes.
func (o *operation) reportStatus() {
	r := o.of.r
	skip := r.Offset % block.Size
	for _, run := range o.op.Runs {
		state := nbd.StateData
		switch {
		case o.op.Since != (id.Raw{}):
			state = stateChanged(run)
		case run.Hole:
			state = nbd.StateHole | nbd.StateZero
		}
		if !r.AddExtent(uint64(run.Count)*block.Size-skip, state) {
			return
		}
		skip = 0
	}
}

// stateChanged is a run in the words of a context of changes.
func stateChanged(run core.Run) (s nbd.State) {
	if run.Changed {
		s = nbd.StateChanged
	}
	if run.Hole {
		s |= nbd.StateZero
	}
	return s
}

// end counts one operation of q as done; the last one completes the request.
func (q *request) end(err error, batch *nbd.Batch) {
	if err != nil {
		q.err.CompareAndSwap(nil, &err)
	}
	if q.left.Add(-1) > 0 {
		return
	}
	if e := q.err.Load(); e != nil {
		err = *e
	}
	if errors.Is(err, errs.ErrClosed) {
		err = fmt.Errorf("%w: %w", nbd.ErrHangup, err) // the disk moves: its client finds it where it went
	}
	r := q.r
	err = missing(q.snap, r.Context, err)
	q.v.traffic.end(&q.tap, r, err, q.v.cfg.Clock)
	q.v, q.r = nil, nil
	requests.Put(q)
	if batch != nil {
		batch.Complete(r, err)
		return
	}
	r.Complete(err)
}

// fill gathers the bytes of a read whose pieces are known.
func (v *Volume) fill(op *core.Op) {
	o, _ := op.User.(*operation)
	if o == nil { // an inner read: the core made it, it has no request
		o = &operation{bytes: block.Size, inner: op}
		op.User = o
	}
	dst, aligned := v.place(o, op)
	slots := 0
	for i := range op.Pieces {
		if op.Pieces[i].Kind == core.PieceSlots {
			slots++
		}
	}
	o.left.Store(int32(slots) + 1)
	o.err.Store(nil)
	if cap(o.slots) < slots {
		o.slots = make([]slotRead, slots)
	}
	o.slots = o.slots[:slots]
	slots = 0
	for i := range op.Pieces {
		p := &op.Pieces[i]
		to := dst[p.At*block.Size : (p.At+p.Count)*block.Size]
		switch p.Kind {
		case core.PieceZero:
			if aligned {
				o.of.r.Hole(o.of.r.Offset+uint64(p.At)*block.Size, uint64(len(to)))
			} else {
				clear(to)
			}
		case core.PieceMemory:
			copy(to, p.Buf.Bytes()[p.Off:])
			p.Buf.Release()
			p.Buf = nil
		}
	}
	// The pieces are read before the first slot read can complete: after the last
	// one does, the operation may be in use again.
	for i := range op.Pieces {
		p := &op.Pieces[i]
		if p.Kind != core.PieceSlots {
			continue
		}
		s := &o.slots[slots]
		slots++
		s.o, s.v, s.foreign = o, v, p.Where.Foreign
		s.want = segment.MakeData(op.Extent.Start + block.LBA(p.At))
		s.req.Location, s.req.Count, s.req.Where = p.Location, p.Count, whereOf(p.Where)
		s.req.Dst = dst[p.At*block.Size : (p.At+p.Count)*block.Size]
		if s.req.Done == nil {
			s.req.Done = s.answered
		}
	}
	for i := range slots {
		s := &o.slots[i]
		if s.foreign {
			go v.readForeign(s)
		} else if from := v.lent.of(s.req.Location.Segment()); from != nil {
			go v.readLentSlots(from, s)
		} else {
			v.cfg.Reader.Read(&s.req)
		}
	}
	v.filled(o, nil)
}

// place gives where the blocks of a read go: the client's buffer if it takes whole
// blocks, else one of our own.
func (v *Volume) place(o *operation, op *core.Op) (dst []byte, aligned bool) {
	n := op.Extent.Count * block.Size
	if o.of != nil && o.skip == 0 && o.bytes == n {
		return o.of.r.Data, true
	}
	if o.temp == nil {
		o.temp = buf.Get(int(n))
	}
	return o.temp.Bytes(), false
}

func (s *slotRead) answered(_ *reader.Request, err error) { s.v.filled(s.o, err) }

// filled counts one piece of a read as there; the last one ends the operation.
func (v *Volume) filled(o *operation, err error) {
	if err != nil {
		o.err.CompareAndSwap(nil, &err) // not to be changed below: it is the first error now
	}
	if o.left.Add(-1) > 0 {
		return
	}
	if e := o.err.Load(); e != nil {
		err = *e
	}
	if o.of == nil {
		v.inner(o, err)
		return
	}
	if err != nil {
		// The core knows whether to look again, to wait, or to give up.
		if !v.reread(&o.op, err) {
			o.temp.Release()
			o.temp = nil
			o.of.end(errs.ErrStaleEpoch, nil)
		}
		return
	}
	if o.temp != nil {
		copy(o.of.r.Data, o.temp.Bytes()[o.skip:])
		o.temp.Release()
		o.temp = nil
	}
	o.of.end(nil, nil)
}

// reread gives a read that failed back to the core; false: the volume is closed.
func (v *Volume) reread(op *core.Op, err error) (taken bool) {
	v.step(func(now time.Duration, fx *core.Effects) {
		taken = true
		v.core.Reread(now, op, err, fx)
	})
	return taken
}

// inner ends the read of a block at the edge of a sub-block write. Its buffer goes
// before the core looks again: nobody hears of its end if that fails.
func (v *Volume) inner(o *operation, err error) {
	if err == nil {
		v.step(func(now time.Duration, fx *core.Effects) { v.core.EdgeRead(now, o.inner, o.temp.Bytes(), nil, fx) })
	}
	o.temp.Release()
	o.temp = nil
	if err != nil {
		v.reread(o.inner, err)
	}
}
