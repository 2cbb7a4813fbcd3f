package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/blockd/volume/coretest"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Snapshots: clients have them taken and deleted at metad, whose answers to heartbeats order
// them from the disk's owner, as often as it takes; and read them from whoever has the disk.

// snap is a snapshot as its clients know it.
type snap struct {
	id           id.Snapshot
	begun, ended uint64           // it is of a moment between these; ended 0: nobody knows yet that it was taken
	dropped      bool             // somebody wants it deleted
	trashed      bool             // and it may come back
	seen         map[uint64]cells // what a block was read as: it never changes
	model        *coretest.Model  // of what it is a snapshot
	clones       int              // that began with it
	grouped      bool             // one of several at one moment
	safety       bool             // of a rollback under way
}

const snapsMax = 3 // of a disk at one time

// snapshots has clients do something with snapshots, for ever.
func (d *disk) snapshots() {
	w := d.w
	w.after(w.between(60*time.Millisecond, 400*time.Millisecond), "snapshots of "+d.name, func() {
		if !d.quiet && !d.held && !d.leaves && !w.metad.silent() {
			d.snapStep()
		}
		if !d.gone {
			d.snapshots()
		}
	})
}

func (d *disk) snapStep() {
	r := d.w.rng
	switch n := r.IntN(8); {
	case n < 2 && len(d.snaps) < snapsMax && !d.retired:
		s := &snap{id: d.snapName(), begun: d.model.Reading(), model: d.model, seen: make(map[uint64]cells)}
		if x := d.w.metad.apply(&state.CreateSnapshot{Volume: d.id, ID: s.id, NowMS: 1}); x.Err != nil {
			d.w.fail(CheckMetad, "%s: a snapshot is refused: %v", d.name, x.Err)
			return
		}
		d.snaps = append(d.snaps, s)
	case n == 3:
		d.w.takeGroup()
	case n == 2 && len(d.snaps) > 0:
		d.drop(d.snaps[r.IntN(len(d.snaps))])
	}
}

// snapName is the next snapshot's.
func (d *disk) snapName() id.Snapshot {
	d.snapCount++
	return id.Snapshot{1, 2: byte(d.snapCount >> 8), 3: byte(d.snapCount), 15: d.id[15]}
}

// drop has a snapshot deleted; one that clones began with goes with the last of them.
func (d *disk) drop(s *snap) {
	switch {
	case d.pending(s.id):
		return
	case s.trashed:
		d.emptyTrash()
		return
	case !d.w.menu.calm && d.w.rng.IntN(3) == 0 && !d.leaves && !d.retired && s.ended != 0:
		d.trash(s)
		return
	}
	if x := d.w.metad.apply(&state.DeleteSnapshot{Volume: d.id, ID: s.id}); x.Err != nil && !errors.Is(x.Err, errs.ErrNotFound) {
		d.w.fail(CheckMetad, "%s: the deletion of a snapshot is refused: %v", d.name, x.Err)
	}
	s.dropped = true
}

func (d *disk) snap(x id.Snapshot) *snap {
	if i := slices.IndexFunc(d.snaps, func(s *snap) bool { return s.id == x }); i >= 0 {
		return d.snaps[i]
	}
	return nil
}

// order is what metad wants done to the snapshots of a disk: told to its owner.
func order(v *state.Volume) (out []cluster.Snapshot) {
	for _, s := range v.Snapshots {
		if v.Rollback != nil && v.Rollback.Safety == s.ID {
			continue // its mark is the rollback's
		}
		if s.State == cluster.SnapshotCreating || s.State == cluster.SnapshotDeleting {
			out = append(out, s)
		}
	}
	return out
}

// obey does what metad ordered last; what is done already is answered at once.
func (e *engine) obey() {
	if !e.opened || e.dead || e.ended || e.drained || e.opener != nil {
		return
	}
	e.obeyRoll()
	e.obeyEmpty()
	for _, s := range e.orders {
		if s.State == cluster.SnapshotDeleting {
			e.step(func(now time.Duration, fx *core.Effects) { e.core.DropSnapshot(now, id.Raw(s.ID), fx) })
		} else if !e.marking[s.ID] {
			e.mark(s.ID)
		}
	}
}

func (e *engine) mark(s id.Snapshot) {
	e.marking[s] = true
	o := &operation{op: core.Op{Kind: core.OpMark, Snapshot: id.Raw(s)}, snap: e.disk.snap(s)}
	e.disk.send(e, o)
}

// marked: a mark came back.
func (e *engine) marked(o *operation) {
	s := o.snap
	if s != nil && o.op.Hold > 0 { // of a group
		if o.then != nil {
			o.then()
		}
		return
	}
	delete(e.marking, id.Snapshot(o.op.Snapshot))
	if o.op.Err != nil || s == nil {
		return
	}
	if s.ended == 0 {
		s.ended = s.model.Reading()
		e.w.cover.Snapshots++
	}
	if s.safety {
		e.safe = true
		return
	}
	e.tellSnapshot("taken", &state.SnapshotTaken{Volume: e.disk.id, ID: s.id}, func() {})
}

// left: nothing of a snapshot is left.
func (e *engine) left(x id.Raw) {
	d, n := e.disk, id.Snapshot(x)
	switch s := d.snap(n); {
	case s == nil:
	case !s.dropped:
		e.w.fail(CheckSnapshots, "%s deletes snapshot %s, which nobody dropped", e.name, n)
	case e.w.reads(s):
		e.w.fail(CheckClones, "%s deletes snapshot %s, which clones began with", e.name, n)
	}
	e.tellSnapshot("gone", &state.SnapshotGone{Volume: d.id, Epoch: e.epoch, ID: n}, func() {
		d.snaps = slices.DeleteFunc(d.snaps, func(s *snap) bool { return s.id == n })
	})
}

func (e *engine) tellSnapshot(what string, c state.Command, then func()) {
	m := e.w.metad
	e.w.net.ask(e.h, "snapshot "+what+" of "+e.name, func() error {
		r := m.apply(c)
		if r.Err == nil {
			then()
		}
		return r.Err
	}, func(error) {})
}

// checkSnaps compares what a new owner has with what was promised.
func (e *engine) checkSnaps() {
	if e.epoch < e.disk.served {
		return // it was replaced while it opened: what it knows is old, and nobody hears of it
	}
	have := e.core.Snapshots()
	for _, s := range e.disk.snaps {
		if s.ended != 0 && !s.dropped && !slices.Contains(have, id.Raw(s.id)) {
			e.w.fail(CheckSnapshots, "%s has lost snapshot %s", e.name, s.id)
		}
	}
	for _, x := range have {
		if e.disk.snap(id.Snapshot(x)) == nil {
			e.w.fail(CheckSnapshots, "%s has snapshot %x, which is deleted or was never asked for", e.name, x)
		}
	}
}

// look reads some blocks of a snapshot that stands; nil: there is none.
func (d *disk) look(e *engine, off, n uint64) *operation {
	var all []*snap
	for _, s := range d.snaps {
		if s.ended != 0 && !s.dropped {
			all = append(all, s)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return d.readSnap(e, all[d.w.rng.IntN(len(all))], off, n)
}

func (d *disk) readSnap(e *engine, s *snap, off, n uint64) *operation {
	first, end := off/block.Size, (off+n+block.Size-1)/block.Size
	o := &operation{off: first * block.Size, snap: s}
	o.op = core.Op{Kind: core.OpRead, Snapshot: id.Raw(s.id), Extent: block.Extent{Start: block.LBA(first), Count: uint32(end - first)}}
	d.send(e, o)
	return o
}

// looked judges what was read of a snapshot: as a read of the disk at its moment would have
// been, and the same whenever and wherever it is read.
func (d *disk) looked(e *engine, o *operation) {
	for i := 0; i < len(o.data); i += block.Size {
		if err := o.snap.judge((o.off+uint64(i))/block.Size, o.data[i:i+block.Size]); err != nil {
			d.w.fail(CheckSnapshots, "%s: %v", e.name, err)
			return
		}
	}
}

// cells is what the cells of a block were read as.
type cells [block.Size / coretest.Cell]uint64

// judge takes what a block was read as.
func (s *snap) judge(b uint64, data []byte) error {
	var is cells
	for i := range is {
		cell := data[i*coretest.Cell:][:coretest.Cell]
		is[i] = binary.LittleEndian.Uint64(cell)
		if !bytes.Equal(cell[8:], cell[:len(cell)-8]) {
			return fmt.Errorf("cell %d of block %d of snapshot %s is torn: %x", i, b, s.id, cell)
		}
	}
	if was, known := s.seen[b]; known && was != is {
		return fmt.Errorf("block %d of snapshot %s was %d and is %d", b, s.id, was, is)
	} else if known {
		return nil
	}
	for i, tag := range is {
		if err := s.model.Then(b*uint64(len(is))+uint64(i), tag, s.begun, s.ended); err != nil {
			return fmt.Errorf("snapshot %s: %w", s.id, err)
		}
	}
	s.seen[b] = is
	return nil
}

// content is what was read of the snapshot, by cells.
func (s *snap) content() map[uint64]uint64 {
	all := make(map[uint64]uint64, len(s.seen)*len(cells{}))
	for b, is := range s.seen {
		for i, tag := range is {
			all[b*uint64(len(is))+uint64(i)] = tag
		}
	}
	return all
}

// readSnaps reads all of every snapshot.
func (w *World) readSnaps() {
	const chunk = 64 * block.Size
	for _, d := range w.disks {
		for _, s := range slices.Clone(d.snaps) {
			for off := uint64(0); off < uint64(d.blocks.Offset()) && w.err == nil && s.ended != 0 && !s.dropped; off += chunk {
				if !s.model.Touched(off, chunk) {
					continue
				}
				if err := w.again(d, func() *operation { return d.readSnap(d.owner(), s, off, chunk) }); err != nil && w.err == nil {
					w.fail(CheckSnapshots, "%s: read of snapshot %s at %d: %v", d.name, s.id, off, err)
				}
			}
		}
	}
}

// dropAll deletes every snapshot: all of them must go.
func (w *World) dropAll() {
	for _, d := range w.disks {
		for _, s := range d.snaps {
			d.drop(s)
		}
	}
	w.demand(CheckSnapshots, time.Minute, "snapshots are deleted", func() bool {
		return !slices.ContainsFunc(w.disks, func(d *disk) bool { return len(d.snaps) > 0 })
	})
}

var errAgain = errors.New("its owners let it go again and again")

func (s *snap) String() string { return fmt.Sprintf("%s (%d to %d)", s.id, s.begun, s.ended) }
