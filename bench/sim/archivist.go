package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ashlar.dev/blockd/restore"
	"ashlar.dev/blockd/volume/coretest"
	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	uploads "ashlar.dev/snapshotd/archive"
)

// Clients have snapshots archived, make disks of what is archived, take it out again and have the rest reclaimed, by
// what ships: snapshotd's uploads, deletions and gc, and blockd's reading.

const (
	gcGrace     = 400 * time.Millisecond
	hydrateRate = 4 << 20 // bytes a second: some segments between two faults
)

// archivists are busy for ever.
func (w *World) archivists() {
	w.after(w.between(20*time.Millisecond, 120*time.Millisecond), "clients of the archive", func() {
		if !w.menu.calm && !w.metad.silent() {
			switch d := w.disks[w.rng.IntN(len(w.disks))]; w.rng.IntN(16) {
			case 0, 1, 2, 3, 4, 5, 6, 7:
				d.archive()
			case 8, 9, 10:
				w.makeFromArchive()
			case 11, 12:
				w.unarchive()
			case 13, 14:
				w.reclaim()
			case 15:
				d.giveUpArchive()
			}
		}
		w.archivists()
	})
}

// archive asks for a snapshot to be archived; of one that failed the upload goes on.
func (d *disk) archive() {
	w := d.w
	v, ok := w.metad.m.Volume(d.id)
	if !ok || v.Deleted {
		return
	}
	var all []*snap
	for _, s := range v.Snapshots {
		if x := d.snap(s.ID); x != nil && x.ended != 0 && !x.dropped && s.State == cluster.SnapshotReady &&
			(s.Archived.State == cluster.ArchiveNone || s.Archived.State == cluster.ArchiveFailed) {
			all = append(all, x)
		}
	}
	if len(all) > 0 {
		d.queue(all[w.rng.IntN(len(all))])
	}
}

func (d *disk) queue(s *snap) {
	w := d.w
	w.uploads++
	w.bucket.of[s.id] = &archived{s, d, archive.ManifestKey(d.id, s.id)}
	if r := w.metad.apply(&state.QueueArchive{Volume: d.id, ID: s.id, Upload: id.Raw{2, 14: byte(w.uploads >> 8), 15: byte(w.uploads)}}); r.Err != nil {
		w.fail(CheckMetad, "%s of %s is not taken for the archive: %v", s, d.name, r.Err)
	}
	w.log("%s of %s is to be archived", s, d.name)
}

// giveUpArchive ends an upload, or forgets what was archived.
func (d *disk) giveUpArchive() {
	v, ok := d.w.metad.m.Volume(d.id)
	if !ok {
		return
	}
	for _, s := range v.Snapshots {
		if s.Archived.State == cluster.ArchiveNone || d.w.rng.IntN(2) == 0 {
			continue
		}
		if r := d.w.metad.apply(&state.EndArchive{Volume: d.id, ID: s.ID, Epoch: s.Archived.Epoch, State: cluster.ArchiveNone}); r.Err != nil {
			d.w.fail(CheckMetad, "the upload of %s is not given up: %v", s.ID, r.Err)
		}
		d.w.log("the upload of %s of %s is given up", s.ID, d.name)
		return
	}
}

// forgetArchive ends the upload of a snapshot that a restored metad knows of, and that is deleted since.
func (d *disk) forgetArchive(s *snap) {
	m := d.w.metad
	v, ok := m.m.Volume(d.id)
	if !ok {
		return
	}
	for _, x := range v.Snapshots {
		if x.ID != s.id || x.Archived.State == cluster.ArchiveNone {
			continue
		}
		if r := m.apply(&state.EndArchive{Volume: d.id, ID: x.ID, Epoch: x.Archived.Epoch, State: cluster.ArchiveNone}); r.Err != nil {
			d.w.fail(CheckMetad, "the archive of %s is not forgotten: %v", x.ID, r.Err)
		}
	}
}

// pending tells whether a snapshot is on its way into the archive: then it cannot be deleted.
func (d *disk) pending(s id.Snapshot) bool {
	v, ok := d.w.metad.m.Volume(d.id)
	return ok && slices.ContainsFunc(v.Snapshots, func(x cluster.Snapshot) bool { return x.ID == s && x.Archived.Pending() })
}

// someManifest draws one of those that are there.
func (w *World) someManifest() (string, *archived) {
	keys := slices.Sorted(maps.Keys(w.bucket.have))
	if len(keys) == 0 {
		return "", nil
	}
	key := keys[w.rng.IntN(len(keys))]
	return key, w.bucket.have[key]
}

// makeFromArchive makes a disk of what is archived, as metad's server does: the manifest is read, the disk committed,
// and the manifest looked for once more.
func (w *World) makeFromArchive() {
	key, a := w.someManifest()
	if a == nil || len(w.disks) >= w.cfg.Volumes+clonesMax {
		return
	}
	n := w.number()
	c := &disk{w: w, name: fmt.Sprintf("d%d", n), blocks: a.d.blocks, model: coretest.NewModelAfter(tagsOf(n-1), a.content()), passing: true, held: true}
	c.id = id.Volume{1, 15: byte(n)}
	name := c.name + " of " + key
	r := restore.New(restore.Config{Store: &door{w.bucket, name}})
	w.touch(func() {
		go func() {
			is, err := r.Describe(w.ctx, key)
			made := false
			if err == nil {
				w.consult(nil, name+" is made", func() { made = c.allot(key, is.Segments) })
			}
			if made {
				_, err = r.Describe(w.ctx, key)
				w.enter(name+" was looked for again", 0, func() { c.lookedAgain(err) })
			}
		}()
	})
}

// allot commits a disk that is made of a manifest.
func (d *disk) allot(key string, segments uint32) bool {
	w, m := d.w, d.w.metad
	if m.silent() || w.menu.calm {
		return false
	}
	c := &state.CreateRestored{Create: state.CreateVolume{ID: d.id, Name: d.name, Size: uint64(d.blocks.Offset()), RequestID: d.name},
		Manifest: key, Segments: segments, PGs: reconcile.GoodGroups(m.refresh()), Rate: hydrateRate}
	r := m.apply(c)
	if r.Err != nil {
		if !errors.Is(r.Err, errs.ErrUnavailable) {
			w.fail(CheckMetad, "%s is not made of %s: %v", d.name, key, r.Err)
		}
		return false
	}
	d.id = r.Volume.ID // ids rise: another disk may have been made since this one got its number
	w.led.allotted(d.id, 0, r.Volume.Restored.First, segments)
	given := allotted(r.Volume.Restored)
	d.given, d.allotted = &given, &given
	w.disks = append(w.disks, d)
	return true
}

// lookedAgain: the manifest is there still, or somebody deleted it meanwhile.
func (d *disk) lookedAgain(err error) {
	w := d.w
	switch {
	case d.gone:
	case !errors.Is(err, errs.ErrNotFound):
		w.cover.Restored++
		w.log("%s is made from the archive", d.name)
		d.held = false
		d.begin()
	case w.metad.silent():
		w.after(20*time.Millisecond, d.name+" is deleted again soon", func() { d.lookedAgain(err) })
	default:
		v, ok := w.metad.m.Volume(d.id)
		if !ok {
			return
		}
		w.log("%s is not made: its manifest was deleted", d.name)
		if r := w.metad.apply(&state.DeleteVolume{Volume: d.id, Epoch: v.Epoch}); r.Err != nil {
			w.fail(CheckMetad, "%s, whose manifest is gone, is not deleted: %v", d.name, r.Err)
		}
		d.end()
		w.metad.backUp()
	}
}

// keeper does what operators ask of the archive.
func (w *World) keeper(name string) *uploads.Keeper {
	return &uploads.Keeper{Store: &door{w.bucket, name}, Clock: outsideClock{w.clock, w},
		Wall: func() time.Time { return w.bucket.wall(w.at) },
		Holds: func(context.Context) (out uploads.Holds, err error) {
			w.consult(nil, name+" asks for holds", func() { out, err = w.holds() })
			return out, err
		}}
}

// holds is what metad says must not go.
func (w *World) holds() (uploads.Holds, error) {
	out := uploads.Holds{Manifests: make(map[string]bool), Uploads: make(map[string]bool)}
	if w.metad.silent() {
		return out, errs.ErrUnavailable
	}
	h, err := reconcile.HoldsOf(w.metad.m)
	for _, key := range h.Disks {
		out.Manifests[key] = true
	}
	for _, b := range h.Bases {
		out.Manifests[archive.ManifestKey(b.Volume, b.Snapshot)] = true
	}
	for _, u := range h.Uploads {
		out.Uploads[fmt.Sprintf("%x", u[:])] = true
	}
	return out, err
}

// unarchive takes a snapshot out of the archive.
func (w *World) unarchive() {
	_, a := w.someManifest()
	if a == nil {
		return
	}
	v, s := a.d.id, a.id
	w.orders++
	name := fmt.Sprintf("deletion %d", w.orders)
	k := w.keeper(name)
	w.log("%s: %s", name, a.key)
	w.touch(func() {
		go func() {
			err := k.Delete(w.ctx, v, s, false)
			w.enter(name+" ends", 0, func() {
				w.log("%s ends: %s", name, errClass(err))
				if err == nil {
					w.cover.Unarchived++
				}
			})
		}()
	})
}

// reclaim has a gc run, one at a time.
func (w *World) reclaim() {
	if w.reclaims {
		return
	}
	w.reclaims = true
	w.orders++
	name := fmt.Sprintf("gc %d", w.orders)
	k := w.keeper(name)
	w.log("%s", name)
	w.touch(func() {
		go func() {
			var p api.ArchiveTaskReply
			err := k.Gc(w.ctx, gcGrace, false, &p)
			objects := p.GetDoneObjects()
			w.enter(name+" ends", 0, func() {
				w.reclaims = false
				w.log("%s ends: %s", name, errClass(err))
				w.cover.Reclaimed += objects
			})
		}()
	})
}

// archiveAll demands that every upload that was asked for ends well, and every disk is brought in; but for what waits for
// a store that takes the place of a lost one.
func (w *World) archiveAll() {
	w.demand(CheckArchive, 2*time.Minute, "snapshots are archived, and disks are here wholly", w.paced(func() bool {
		done := true
		waits := slices.ContainsFunc(w.metad.m.PGs(), w.placeless)
		if waits { // what a disk still has in the archive alone cannot be archived
			for _, d := range w.disks {
				d.giveUpArchive()
			}
		}
		for _, d := range w.disks {
			v, ok := w.metad.m.Volume(d.id)
			if !ok {
				continue
			}
			done = done && (v.Restored == nil || waits)
			for _, s := range v.Snapshots {
				if s.Archived.State == cluster.ArchiveFailed && s.State == cluster.SnapshotReady {
					done = false
					w.metad.apply(&state.QueueArchive{Volume: d.id, ID: s.ID, Upload: s.Archived.Upload})
				}
			}
		}
		return done && len(w.metad.m.ArchiveWork()) == 0
	}))
}

// emptyBucket takes everything out of the archive: nothing may be left there.
func (w *World) emptyBucket() {
	w.demand(CheckArchive, time.Minute, "a gc ends", func() bool { return !w.reclaims })
	if w.err != nil {
		return
	}
	all := slices.Collect(maps.Values(w.bucket.have))
	slices.SortFunc(all, func(a, b *archived) int { return slices.Compare(a.id[:], b.id[:]) })
	k := w.keeper("the end")
	over := false
	w.touch(func() {
		go func() {
			var err error
			for _, a := range all {
				err = errors.Join(err, k.Delete(w.ctx, a.d.id, a.id, false))
			}
			if err == nil {
				err = w.wait(w.ctx, "what was deleted grows old", 2*gcGrace)
			}
			if err == nil {
				err = k.Gc(w.ctx, gcGrace, false, &api.ArchiveTaskReply{})
			}
			w.enter("the end of the archive", 0, func() {
				if over = true; err != nil {
					w.fail(CheckArchive, "the archive is not emptied: %v", err)
				}
			})
		}()
	})
	w.demand(CheckArchive, time.Minute, "the archive is emptied", func() bool { return over })
	for _, key := range slices.Sorted(maps.Keys(w.bucket.objects)) {
		if strings.HasPrefix(key, "gc/") {
			continue // the mark of a gc that could not take it away: it counts for hours
		}
		w.fail(CheckArchive, "%s stays in the archive, and nobody needs it", key)
	}
}

// forgotAllotment tells that a restored metad does not know that a disk lies in an archive, and nothing else does.
func (d *disk) forgotAllotment(v *state.Volume) bool {
	return d.allotted != nil && v.Restored == nil && v.Checkpoint == nil
}
