package coretest

import (
	"errors"
	"fmt"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"time"
)

// Request is one operation of a client.
type Request struct {
	op    core.Op
	write *Write // of a write
	snap  *Snap  // that a read is of, or that a mark makes
	begun uint64 // of a read
	off   uint64
	n     uint64
	data  []byte
	ended bool
	Err   error
}

// Ended tells whether it came back.
func (r *Request) Ended() bool { return r.ended }

// Submit sends one random request to an engine: mostly to the owner.
func (w *World) Submit() {
	if w.retired != nil {
		return // nobody may
	}
	e := w.Owner()
	if w.chance(w.cfg.ToZombies) {
		e = w.Engines[w.rng.IntN(len(w.Engines))]
	}
	if e.dead || !e.Opened {
		return
	}
	off, n := w.extent()
	switch w.rng.IntN(10) {
	case 0:
		w.Read(e, off, n)
	case 1, 2:
		w.Read(e, off, min(n, 8*block.Size))
	case 3:
		w.submit(e, core.OpZero, off, n)
	case 4:
		w.submit(e, core.OpTrim, off, n)
	case 5:
		w.Flush(e)
	default:
		w.Write(e, off, n)
	}
}

// extent draws a range of cells: often near others, sometimes large.
func (w *World) extent() (off, n uint64) {
	size := uint64(w.cfg.Blocks.Offset())
	off = uint64(w.rng.IntN(64))*(size/64) + w.rng.Uint64N(64*block.Size)
	switch w.rng.IntN(8) {
	case 0:
		off = w.rng.Uint64N(size)
	case 1, 2, 3: // where others are
		off = w.rng.Uint64N(256 * block.Size)
	}
	n = 1 + w.rng.Uint64N(10*block.Size)
	if w.rng.IntN(6) == 0 {
		n = 1 + w.rng.Uint64N(100*block.Size)
	}
	unit := uint64(Cell)
	if w.rng.IntN(3) > 0 {
		unit = block.Size
	}
	off = off / unit * unit
	n = min((n+unit-1)/unit*unit, size-off)
	return off, n
}

// Write sends a write of n bytes at off, multiples of Cell.
func (w *World) Write(e *Engine, off, n uint64) *Request { return w.submit(e, core.OpWrite, off, n) }

// Trim sends a trim of whole blocks, or writes zeros where it covers blocks in part.
func (w *World) Trim(e *Engine, off, n uint64) *Request { return w.submit(e, core.OpTrim, off, n) }

// trimAll trims all of the volume. Cells that nobody ever wrote to need not be noted.
func (w *World) trimAll(e *Engine) *Request {
	r := &Request{n: uint64(w.cfg.Blocks.Offset()), write: w.Model.beginAll()}
	r.op = core.Op{Kind: core.OpTrim, Extent: block.Extent{Count: uint32(w.cfg.Blocks)}}
	w.send(e, r)
	return r
}

func (w *World) submit(e *Engine, k core.OpKind, off, n uint64) *Request {
	head, tail := off%block.Size, -(off+n)%block.Size%block.Size
	partial := head != 0 || tail != 0
	if partial && k != core.OpWrite {
		if k == core.OpTrim || off/block.Size != (off+n-1)/block.Size { // as a shell would: only an edge of one block is partial
			off, n = (off+block.Size-1)/block.Size*block.Size, n/block.Size*block.Size
			n = min(n, uint64(w.cfg.Blocks.Offset())-min(off, uint64(w.cfg.Blocks.Offset())))
			head, tail = 0, 0
		}
		if n == 0 {
			return nil
		}
	}
	r := &Request{off: off, n: n}
	r.write = w.Model.Begin(off, n, k != core.OpWrite)
	first := off / block.Size
	r.op = core.Op{
		Kind: k, Extent: block.Extent{Start: block.LBA(first), Count: uint32((off+n+block.Size-1)/block.Size - first)},
		Head: uint32(head), Tail: uint32(tail),
	}
	if k == core.OpWrite {
		r.op.Buf = buf.Get(int(n))
		r.write.Fill(r.op.Buf.Bytes())
		if head == 0 && tail == 0 {
			for at := uint64(0); at < n; at += block.Size {
				r.op.Sums = append(r.op.Sums, codec.CRC(r.op.Buf.Bytes()[at:at+block.Size]))
			}
		}
	}
	w.send(e, r)
	return r
}

// Read sends a read of the blocks around [off, off+n).
func (w *World) Read(e *Engine, off, n uint64) *Request {
	first, end := off/block.Size, (off+n+block.Size-1)/block.Size
	r := &Request{off: first * block.Size, n: (end - first) * block.Size, begun: w.Model.Reading()}
	r.op = core.Op{Kind: core.OpRead, Extent: block.Extent{Start: block.LBA(first), Count: uint32(end - first)}}
	w.send(e, r)
	return r
}

// Flush sends a flush.
func (w *World) Flush(e *Engine) *Request {
	r := &Request{op: core.Op{Kind: core.OpFlush}}
	w.send(e, r)
	return r
}

func (w *World) send(e *Engine, r *Request) {
	w.requests++
	w.log("%s takes %d %v", e.name, r.op.Kind, r.op.Extent)
	e.ops[&r.op] = r
	if e.dead {
		r.op.Err = errs.ErrStaleEpoch
		e.finished(&r.op)
		return
	}
	e.step(func(now time.Duration, fx *core.Effects) { e.Core.Submit(now, &r.op, fx) })
}

// finished takes back an operation: the client hears of it.
func (e *Engine) finished(op *core.Op) {
	w, r := e.w, e.ops[op]
	if r == nil {
		w.Fail(fmt.Errorf("%s ends an operation that it has not: %d %v", e.name, op.Kind, op.Extent))
		return
	}
	delete(e.ops, op)
	r.ended = true
	w.requests--
	w.Done++
	op.Buf.Release()
	op.Buf = nil
	r.Err = op.Err
	if op.Err != nil && !errors.Is(op.Err, errs.ErrStaleEpoch) && !errors.Is(op.Err, errs.ErrClosed) && !w.MayFail && r.snap == nil {
		w.Fail(fmt.Errorf("%s fails %d %v: %w", e.name, op.Kind, op.Extent, op.Err))
	}
	switch {
	case r.snap != nil && op.Kind == core.OpMark:
		w.marked(r.snap, op.Err)
	case r.snap != nil:
		w.readSnapshot(e, r)
	case r.write != nil:
		w.Model.End(r.write, op.Err == nil)
	case op.Kind == core.OpRead && op.Err == nil:
		if err := w.Model.Read(r.begun, r.off, r.data); err != nil {
			w.Fail(fmt.Errorf("%s reads: %w", e.name, err))
		}
	}
}

// ReadAll reads all that was ever written, and what lies beside it.
func (w *World) ReadAll() error {
	const chunk = 64 * block.Size
	for off := uint64(0); off < uint64(w.cfg.Blocks.Offset()); off += chunk {
		if !w.Model.Touched(off, chunk) {
			continue
		}
		r := w.Read(w.Owner(), off, min(chunk, uint64(w.cfg.Blocks.Offset())-off))
		if err := w.Until(func() bool { return r.ended }); err != nil {
			return err
		}
		if r.op.Err != nil {
			return fmt.Errorf("read at %d: %w", off, r.op.Err)
		}
	}
	return nil
}

// StatusAll asks for the status of the whole volume and compares: a hole reads as
// zeros, and what was never written is one.
func (w *World) StatusAll() error {
	for at := block.LBA(0); at < w.cfg.Blocks; {
		r := &Request{op: core.Op{Kind: core.OpStatus, Extent: block.Extent{Start: at, Count: uint32(w.cfg.Blocks - at)}}, begun: w.Model.Reading()}
		w.send(w.Owner(), r)
		if err := w.Until(func() bool { return r.ended }); err != nil {
			return err
		}
		if r.Err != nil || len(r.op.Runs) == 0 {
			return fmt.Errorf("status at %d: %d runs, %w", at, len(r.op.Runs), r.Err)
		}
		for _, run := range r.op.Runs {
			for l := at; l < at+block.LBA(run.Count); l++ {
				if err := w.Model.status(r.begun, uint64(l), run.Hole); err != nil {
					return err
				}
			}
			at += block.LBA(run.Count)
		}
	}
	return nil
}
