package sim

import (
	"context"
	"errors"
	"slices"
	"time"

	"ashlar.dev/blockd/restore"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/segment"
)

// How an engine's shell reads what lies in an archive: by the real blockd/restore, outside.

func allotted(x *cluster.Restored) record.Archive {
	return record.Archive{Manifest: x.Manifest, First: x.First, Segments: x.Segments, PGs: x.PGs}
}

// restoredOf is what the core needs of a disk that was made from an archive.
func restoredOf(rec *cluster.Volume) *core.Restored {
	x := rec.Restored
	if x == nil {
		return nil
	}
	return &core.Restored{Manifest: x.Manifest, First: x.First, Segments: x.Segments, PGs: x.PGs}
}

// lender is an ancestor of which something lay in an archive when the disk was acquired.
type lender struct {
	given record.Archive
	disk  *restore.Disk
}

func (h *host) lenders(rec *cluster.Volume) (out []lender) {
	for i := range rec.Lent {
		given := allotted(&rec.Lent[i])
		out = append(out, lender{given, h.archive.Disk(given)})
	}
	return out
}

// lender gives the ancestor that was allotted a segment; nil: none.
func (e *engine) lender(s id.Segment) *restore.Disk {
	for i := range e.lent {
		a := &e.lent[i].given
		if q := s.Sequence(); q >= a.First && q < a.First+id.Sequence(a.Segments) && a.Segment(uint32(q-a.First)) == s {
			return e.lent[i].disk
		}
	}
	return nil
}

// begin opens a disk on a host, as metad granted it. One that has no checkpoint and begins with a tree in the archive
// needs its root first.
func (h *host) begin(d *disk, rec *cluster.Volume, what why) {
	r := restoredOf(rec)
	if r == nil || rec.Checkpoint != nil || r.Segments == 0 {
		h.start(d, rec, r, what)
		return
	}
	w, life, ctx, lies := h.w, h.number, h.ctx, h.archive.Disk(allotted(rec.Restored))
	h.rooting = append(h.rooting, d)
	w.touch(func() {
		go func() {
			root, _, err := lies.Root(ctx)
			w.enter(string(h.name)+" has the root of "+d.name, uint64(rec.Epoch), func() {
				h.ifAlive(life, func() { h.rooted(d, rec, r, what, root, err) })
			})
		}()
	})
}

// rooted: the root of a disk's tree was found, or not.
func (h *host) rooted(d *disk, rec *cluster.Volume, r *core.Restored, what why, root blockmap.Root, err error) {
	w := h.w
	h.rooting = slices.DeleteFunc(h.rooting, func(x *disk) bool { return x == d })
	if r.Root = root; err == nil {
		h.start(d, rec, r, what)
		return
	}
	w.log("%s does not open %s: %s", h.name, d.name, errClass(err))
	if errors.Is(err, errs.ErrNotFound) && d.served > 0 {
		w.fail(CheckArchive, "what %s lies in is gone: %v", d.name, err)
	}
	w.net.ask(h, "release of "+d.name, func() error { return w.metad.release(d.id, rec.Epoch, h.holder()) }, func(error) {})
}

// outside reads of an archive where that takes its time.
func (e *engine) outside(what string, read func(ctx context.Context) error, done func(error)) {
	e.jobs++
	seq, ctx := e.jobs, e.h.ctx
	e.w.touch(func() {
		go func() {
			err := read(ctx)
			e.back(what+" from the archive", seq, func() { done(err) })
		}()
	})
}

var errNothingThere = errors.New("sim: nothing lies in the archive any more")

// archived gives what of the disk lies in the archive.
func (e *engine) archived() (*restore.Disk, error) {
	if e.archive == nil {
		a := e.core.Archive()
		if a == nil {
			return nil, errors.Join(errNothingThere, errs.ErrNotFound) // who asked looks again
		}
		e.archive = e.h.archive.Disk(*a)
	}
	return e.archive, nil
}

// foreign reads slots that lie in the archive.
func (e *engine) foreign(l id.Location, want segment.Entry, dst []byte, done func(error)) {
	d, err := e.archived()
	e.outside("read", func(ctx context.Context) error {
		if err != nil {
			return err
		}
		return d.Read(ctx, l, want, dst)
	}, done)
}

// lentOr gives what to do with the end of a read of an ancestor's slots in stores: the archive is asked when they have
// them not.
func (e *engine) lentOr(l id.Location, want segment.Entry, dst []byte, done func(error)) func(error) {
	from := e.lender(l.Segment())
	if from == nil {
		return done
	}
	return func(stored error) {
		if stored == nil {
			done(nil)
			return
		}
		e.outside("lent", func(ctx context.Context) error { return from.Read(ctx, l, want, dst) }, func(err error) {
			if err != nil && errors.Is(stored, errs.ErrUnavailable) {
				err = stored
			}
			done(err)
		})
	}
}

// carryHydrate reads for whoever brings segments in.
func (e *engine) carryHydrate(fx *core.Effects) {
	for _, j := range fx.HydrateList {
		d, err := e.archived()
		e.outside("list", func(ctx context.Context) (e error) {
			if err != nil {
				return err
			}
			j.Slots, e = d.Slots(ctx, j.Index)
			return e
		}, func(err error) {
			e.step(func(now time.Duration, fx *core.Effects) { e.core.HydrateListed(now, j, err, fx) })
		})
	}
	for _, j := range fx.HydrateRead {
		d, err := e.archived()
		e.outside("fill", func(ctx context.Context) error {
			if err != nil {
				return err
			}
			return fillJob(ctx, d, j)
		}, func(err error) {
			e.force(func(now time.Duration, fx *core.Effects) { e.core.HydrateRead(now, j, err, fx) })
		})
	}
	if fx.Whole {
		e.tellWhole()
	}
}

func fillJob(ctx context.Context, d *restore.Disk, j *core.HydrateJob) error {
	want := make([]restore.Wanted, len(j.Blocks))
	for i := range j.Blocks {
		b := &j.Blocks[i]
		want[i] = restore.Wanted{Slot: b.Slot, Entry: b.Entry, Data: b.Data[:block.Size]}
	}
	err := d.Fill(ctx, j.Index, want)
	for i := range want {
		j.Blocks[i].Sum, j.Blocks[i].Stale = want[i].Sum, want[i].Stale
	}
	return err
}

// tellWhole tells metad that the archive is not needed any more, until it hears.
func (e *engine) tellWhole() {
	m, d := e.w.metad, e.disk
	e.w.net.ask(e.h, "whole "+e.name, func() error {
		err := m.RestoreWhole(e.h.ctx, d.id, e.epoch)
		if err == nil && d.given != nil {
			d.given = nil
			e.w.cover.Hydrated++
			e.w.log("%s is whole", d.name)
		}
		return err
	}, func(err error) {
		if err != nil && !e.dead && !e.ended {
			e.w.after(100*time.Millisecond, e.name+" tells again that it is whole", func() { e.h.later(e.tellWhole) })
		}
	})
}

// known gives the entries of a segment of some disk that lies in the archive, and who reads it, at once.
func (x *inspection) known(s id.Segment) (*restore.Disk, []uint64) {
	if e, ok := x.foreign[s]; ok {
		return e.disk, e.entries
	}
	var f foreignSegment
	for _, d := range slices.Concat(x.w.disks, x.w.gone) {
		a := d.allotted
		if a == nil || s.Sequence() < a.First || s.Sequence() >= a.First+id.Sequence(a.Segments) {
			continue
		}
		if f.disk = x.archives[d]; f.disk == nil {
			f.disk = restore.New(restore.Config{Store: x.w.bucket}).Disk(*a)
			x.archives[d] = f.disk
		}
		f.entries, _ = f.disk.Slots(context.Background(), uint32(s.Sequence()-a.First)) // gone: then stores must have it
	}
	x.foreign[s] = f
	return f.disk, f.entries
}

// foreignSegment is what an inspection knows of a segment in the archive.
type foreignSegment struct {
	disk    *restore.Disk
	entries []uint64
}

// archivedBlock gives the bytes of what lies in the archive.
func (x *inspection) archivedBlock(l id.Location) ([]byte, bool) {
	d, entries := x.known(l.Segment())
	if int(l.Slot()) >= len(entries) || entries[l.Slot()] == 0 {
		return nil, false
	}
	dst := make([]byte, block.Size)
	err := d.Read(context.Background(), l, segment.Entry(entries[l.Slot()]), dst)
	return dst, err == nil
}
