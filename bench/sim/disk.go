package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/blockd/volume/coretest"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
)

// disk is one disk as its clients see it: what they wrote and may read, cell by cell, and
// where they send their requests.
type disk struct {
	w       *World
	id      id.Volume
	name    string
	blocks  block.LBA
	model   *coretest.Model
	waiting int // requests that have not come back
	done    int
	asked   time.Duration // when a host was last told to take it
	served  id.Epoch      // the highest that served
	quiet   bool          // nobody writes by itself
	refused int           // writes refused because stores are full

	snaps     []*snap         // those that are to be there, or to go
	snapCount int             // ever asked for
	from      *snap           // what it reads of another disk; nil: nothing, or nothing any more
	passing   bool            // made while the world lives, and to go before its end
	given     *record.Archive // what of it may still lie in an archive; nil: nothing
	allotted  *record.Archive // what was given to it, for ever
	gone      bool            // deleted
	leaves    bool            // to be deleted, when its snapshots are gone
	trashed   bool            // deleted, and may come back; then it is retired, too
	retired   bool            // deleted, and kept for its snapshots: nobody uses it itself
	held      bool            // nobody asks for anything: it is about to be rolled back, or being
	rolls     *rolling
}

// operation is one request of a client.
type operation struct {
	op    core.Op
	d     *disk
	write *coretest.Write
	snap  *snap // that is taken or read
	begun uint64
	off   uint64
	data  []byte
	ended bool
	err   error
	then  func() // of a mark of a group: when it has ended
}

const diskBlocks = 1 << 13

func newDisk(w *World, i int) *disk {
	w.number()
	d := &disk{w: w, name: fmt.Sprintf("d%d", i+1), blocks: diskBlocks, model: coretest.NewModelAfter(tagsOf(i), nil)}
	r := w.metad.must(&state.CreateVolume{ID: id.Volume{1, 15: byte(i + 1)}, Name: d.name, Size: uint64(d.blocks.Offset()), RequestID: d.name})
	if r.Volume != nil {
		d.id = r.Volume.ID
	}
	d.begin()
	return d
}

// begin lets clients at a disk that is made.
func (d *disk) begin() {
	d.attend()
	d.load()
	d.snapshots()
}

// number is the next disk's, from 1 on.
func (w *World) number() int {
	w.made++
	return w.made
}

// tagsOf keeps the tags of all disks apart: what one wrote shows in another.
func tagsOf(disk int) uint64 { return uint64(disk+1) << 40 }

func (w *World) disk(v id.Volume) *disk {
	if i := slices.IndexFunc(w.disks, func(d *disk) bool { return d.id == v }); i >= 0 {
		return w.disks[i]
	}
	i := slices.IndexFunc(w.gone, func(d *disk) bool { return d.id == v })
	return w.gone[i]
}

// engines are those that hold the disk or believe so, the highest epoch last.
func (d *disk) engines() (out []*engine) {
	for _, h := range d.w.hosts {
		for _, e := range h.engines {
			if e.disk == d && e.opened && !e.ended && !e.drained {
				out = append(out, e)
			}
		}
	}
	slices.SortFunc(out, func(a, b *engine) int { return int(int64(a.epoch) - int64(b.epoch)) })
	return out
}

// owner is the engine that serves the disk under the newest epoch; nil if none does now.
func (d *disk) owner() *engine {
	all := d.engines()
	if len(all) == 0 || all[len(all)-1].epoch < d.served {
		return nil
	}
	return all[len(all)-1]
}

// serves hears that an engine has opened the disk: what had an unknown outcome has
// happened now or never will.
func (d *disk) serves(e *engine) {
	d.served = max(d.served, e.epoch)
	d.model.Settle()
}

// attend has some host take the disk when nobody serves it, as a client that attaches does.
func (d *disk) attend() {
	w := d.w
	if d.buried() {
		return
	}
	w.after(w.between(10*time.Millisecond, 30*time.Millisecond), d.name+" is looked after", d.attend)
	o := d.owner()
	if o != nil && !o.h.paused && !w.net.cut[way{o.h.name, metadHost}] || w.now() < d.asked+50*time.Millisecond {
		return
	}
	var up []*host
	for _, h := range w.hosts {
		if h.up && !h.paused && h.registered && h.top != nil && len(h.top.PGs) > 0 {
			up = append(up, h)
		}
	}
	if len(up) > 0 {
		d.asked = w.now()
		up[w.rng.IntN(len(up))].acquire(d, toServe)
	}
}

// why says what a host takes a disk for.
type why uint8

const (
	toServe  why = iota
	toRescue     // to pack what its journal has, and to let go: nobody asked for the disk
)

// acquire asks metad for the disk and opens it if it is granted.
func (h *host) acquire(d *disk, what why) {
	for _, e := range h.engines {
		if e.disk == d && !e.ended {
			return // it has it, or is about to
		}
	}
	if slices.Contains(h.rooting, d) {
		return
	}
	var rec *cluster.Volume
	m := h.w.metad
	h.w.net.ask(h, "for "+d.name, func() (err error) {
		rec, err = m.acquire(d.id, h.holder())
		return err
	}, func(err error) {
		if err != nil {
			return
		}
		for _, e := range slices.Clone(h.engines) {
			if e.disk == d {
				e.kill() // one at a time in a process
			}
		}
		h.begin(d, rec, what)
	})
}

// load sends requests for ever.
func (d *disk) load() {
	w := d.w
	pause := w.between(500*time.Microsecond, 4*time.Millisecond)
	if w.menu.calm && !w.cfg.Calm && w.steps > 0 {
		if pause *= 4; w.waits {
			pause *= 4 // what is waited for in peace takes its time, and clients are tried enough before
		}
	}
	w.after(pause, "load of "+d.name, func() {
		if d.waiting < 16 && !d.quiet && !d.held {
			d.submit()
		}
		if !d.gone {
			d.load()
		}
	})
}

// submit sends one random request, mostly to the owner, now and then to one that was replaced.
func (d *disk) submit() {
	r := d.w.rng
	all := slices.DeleteFunc(d.engines(), func(e *engine) bool { return e.h.paused || e.frozen })
	if len(all) == 0 {
		return
	}
	e := all[len(all)-1]
	if d.retired {
		off, n := d.extent()
		d.look(e, off, n)
		return
	}
	if r.IntN(6) == 0 {
		e = all[r.IntN(len(all))]
	}
	off, n := d.extent()
	switch r.IntN(20) {
	case 0, 1, 2, 3, 4:
		d.read(e, off, min(n, 8*block.Size))
	case 5:
		if d.look(e, off, n) == nil {
			d.read(e, off, n)
		}
	case 6:
		d.change(e, core.OpZero, off, n)
	case 7:
		d.change(e, core.OpTrim, off, n)
	case 8:
		d.send(e, &operation{op: core.Op{Kind: core.OpFlush}})
	default:
		d.change(e, core.OpWrite, off, n)
	}
}

// extent draws a range of cells: often where others are, sometimes large.
func (d *disk) extent() (off, n uint64) {
	r, size := d.w.rng, uint64(d.blocks.Offset())
	off = uint64(r.IntN(16))*(size/16) + r.Uint64N(24*block.Size)
	if r.IntN(8) == 0 {
		off = r.Uint64N(size)
	}
	n = 1 + r.Uint64N(6*block.Size)
	if r.IntN(12) == 0 {
		n = 1 + r.Uint64N(48*block.Size)
	}
	unit := uint64(coretest.Cell)
	if r.IntN(4) > 0 {
		unit = block.Size
	}
	off = off / unit * unit
	return off, min((n+unit-1)/unit*unit, size-off)
}

// change sends a write, zeros or a trim; the last two of whole blocks.
func (d *disk) change(e *engine, k core.OpKind, off, n uint64) *operation {
	if k != core.OpWrite {
		end := (off + n) / block.Size * block.Size
		if off = (off + block.Size - 1) / block.Size * block.Size; off >= end {
			return nil
		}
		n = end - off
	}
	o := &operation{off: off, write: d.model.Begin(off, n, k != core.OpWrite)}
	first, end := off/block.Size, (off+n+block.Size-1)/block.Size
	o.op = core.Op{Kind: k, Extent: block.Extent{Start: block.LBA(first), Count: uint32(end - first)},
		Head: uint32(off % block.Size), Tail: uint32(end*block.Size - off - n)}
	if k == core.OpWrite {
		o.op.Buf = buf.Get(int(n))
		o.write.Fill(o.op.Buf.Bytes())
		if o.op.Head == 0 && o.op.Tail == 0 {
			for at := uint64(0); at < n; at += block.Size {
				o.op.Sums = append(o.op.Sums, codec.CRC(o.op.Buf.Bytes()[at:at+block.Size]))
			}
		}
	}
	d.send(e, o)
	return o
}

// read sends a read of the blocks around a range.
func (d *disk) read(e *engine, off, n uint64) *operation {
	first, end := off/block.Size, (off+n+block.Size-1)/block.Size
	o := &operation{off: first * block.Size, begun: d.model.Reading()}
	o.op = core.Op{Kind: core.OpRead, Extent: block.Extent{Start: block.LBA(first), Count: uint32(end - first)}}
	d.send(e, o)
	return o
}

func (d *disk) send(e *engine, o *operation) {
	o.d = d
	d.waiting++
	e.ops[&o.op] = o
	d.w.note("client of " + e.name)
	e.step(func(now time.Duration, fx *core.Effects) { e.core.Submit(now, &o.op, fx) })
}

// finished takes back an operation: the client hears of it.
func (e *engine) finished(op *core.Op) {
	w, o := e.w, e.ops[op]
	if o == nil {
		w.fail(CheckOnce, "%s ends an operation that it has not: %d %v", e.name, op.Kind, op.Extent)
		return
	}
	d := o.d
	delete(e.ops, op)
	d.waiting--
	d.done++
	o.ended, o.err = true, op.Err
	op.Buf.Release()
	op.Buf = nil
	if err := op.Err; err != nil {
		d.failed(e, o)
	}
	switch {
	case d.gone: // what becomes of it nobody asks
	case op.Kind == core.OpMark:
		e.marked(o)
	case o.snap != nil && op.Err == nil:
		d.looked(e, o)
	case o.snap != nil:
	case o.write != nil:
		d.model.End(o.write, op.Err == nil)
	case op.Kind == core.OpRead && op.Err == nil:
		if err := d.model.Read(o.begun, o.off, o.data); err != nil {
			w.fail(CheckRegister, "%s reads %v: %v", e.name, op.Extent, err)
		}
	}
}

// failed judges an error that a client got.
func (d *disk) failed(e *engine, o *operation) {
	err := o.op.Err
	switch {
	case d.gone, errors.Is(err, errs.ErrStaleEpoch), errors.Is(err, errs.ErrClosed):
	case o.snap != nil && (o.snap.dropped || o.op.Kind == core.OpMark || e != d.owner()):
	case errors.Is(err, errs.ErrNoSpace) && d.w.menu.filled:
		d.refused++
	case !d.w.menu.calm && (errors.Is(err, errs.ErrUnavailable) || errors.Is(err, errs.ErrTimeout)):
	default:
		d.w.fail(CheckReads, "%s fails %d %v: %v", e.name, o.op.Kind, o.op.Extent, err)
	}
}
