package sim

import (
	"slices"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
)

// Disks that are deleted though they have snapshots, or clones read these: nobody uses the disk
// itself any more, its owner gives back what only it had, and it goes with the last of them.

// retire deletes a disk; its snapshots stay, or go as far as no clone reads them.
func (d *disk) retire() {
	w := d.w
	stays := slices.ContainsFunc(w.disks, func(x *disk) bool { // clones go by themselves
		return x != d && !x.passing && !x.retired && !x.leaves
	})
	v, ok := w.metad.m.Volume(d.id)
	taking := func(s cluster.Snapshot) bool {
		return s.State == cluster.SnapshotCreating || s.State == cluster.SnapshotGrouped || s.Archived.Pending()
	}
	if !ok || !stays || d.gone || d.held || d.leaves || d.retired || slices.ContainsFunc(v.Snapshots, taking) {
		return
	}
	mode := state.SnapshotsStay
	if w.rng.IntN(2) == 0 {
		mode = state.SnapshotsGoToo
	}
	var err error
	if w.rng.IntN(3) > 0 {
		err = d.putInTrash(v.Epoch, mode)
	} else {
		err = w.metad.apply(&state.RetireVolume{Volume: d.id, Epoch: v.Epoch, Snapshots: mode, NowMS: 1}).Err
	}
	if err != nil {
		w.fail(CheckMetad, "%s is not deleted: %v", d.name, err)
		return
	}
	w.log("%s is deleted, snapshots %d", d.name, mode)
	w.cover.Retired++
	d.retired = true
	for _, s := range d.snaps {
		s.dropped = s.dropped || mode == state.SnapshotsGoToo
	}
	d.buried()
	w.metad.backUp() // from an older one the disk may come back
}

// buried tells that nothing of the disk is kept any more.
func (d *disk) buried() bool {
	if !d.gone && d.retired && d.unlinked() {
		d.w.log("%s is buried", d.name)
		if d.trashed {
			d.w.fail(CheckTrash, "%s goes, and is in the trash", d.name)
		}
		for _, s := range d.snaps {
			switch {
			case !s.dropped:
				d.w.fail(CheckDeleted, "%s goes with snapshot %s, which nobody dropped", d.name, s)
			case d.w.reads(s):
				d.w.fail(CheckClones, "%s goes with snapshot %s, which clones began with", d.name, s)
			}
		}
		d.end()
		d.w.metad.backUp() // from an older one the disk comes back
	}
	return d.gone
}

// reads tells whether there is a disk that began with a snapshot.
func (w *World) reads(s *snap) bool {
	return slices.ContainsFunc(w.disks, func(c *disk) bool { return c.from == s && !c.unlinked() })
}

// unlinked tells that metad has nothing of the disk kept; of those it began with perhaps neither.
func (d *disk) unlinked() bool {
	v, ok := d.w.metad.m.Volume(d.id)
	return !ok || v.Deleted
}

// dropEach has all snapshots of the disk deleted.
func (d *disk) dropEach() {
	for _, s := range d.snaps {
		if !s.dropped && !d.buried() {
			d.drop(s)
		}
	}
}

// obeyEmpty makes all of a retired disk zeros, and says so.
func (e *engine) obeyEmpty() {
	d, x := e.disk, e.emptying
	switch {
	case !e.empty || e.telling || x != nil && !x.ended:
	case x == nil || x.err != nil:
		e.emptying = d.change(e, core.OpTrim, 0, uint64(d.blocks.Offset()))
	default:
		e.telling = true
		m := e.w.metad
		e.w.net.ask(e.h, "emptied "+e.name, func() error {
			return m.apply(&state.VolumeEmptied{Volume: d.id, Epoch: e.epoch}).Err
		}, func(error) { e.telling = false })
	}
}
