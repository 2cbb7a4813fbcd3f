package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/blockd/volume/coretest"
	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
	"ashlar.dev/pkg/record"
)

// Clones are disks like others: they have clients, owners, snapshots and clones of their own.
// What a clone begins with is read beforehand from the stores' disks themselves.

const clonesMax = 2 // at one time

// families has disks cloned, rolled back and deleted, for ever.
func (w *World) families() {
	w.after(w.between(80*time.Millisecond, 400*time.Millisecond), "families of disks", func() {
		if !w.menu.calm && !w.metad.silent() {
			switch d := w.disks[w.rng.IntN(len(w.disks))]; w.rng.IntN(21) {
			case 0, 1, 2, 3, 4:
				w.clone(d)
			case 5, 6, 7, 8:
				d.rollBack()
			case 9:
				if d.passing && !d.parent() && !d.retired {
					d.remove()
				}
			case 10, 11, 12, 13:
				d.retire()
			case 14, 15:
				d.flatten()
			case 16, 17, 18, 19, 20:
				for _, x := range w.disks {
					x.takeBack()
				}
			}
		}
		w.families()
	})
}

// standing is a snapshot of the disk that a clone may begin with or a rollback go to, and where
// its tree is; nil: none is in metad's checkpoint.
func (d *disk) standing() (*snap, *lineage.Origin) {
	v, ok := d.w.metad.m.Volume(d.id)
	if !ok || v.Deleted || v.Checkpoint == nil {
		return nil, nil
	}
	k, err := record.DecodeCheckpoint("metad's checkpoint", v.Checkpoint.Opaque)
	if err != nil {
		d.w.fail(CheckMetad, "%s: %v", d.name, err)
		return nil, nil
	}
	var all []*snap
	var origins []*lineage.Origin
	for _, x := range k.Snapshots {
		s := d.snap(id.Snapshot(x.ID))
		i := slices.IndexFunc(v.Snapshots, func(y cluster.Snapshot) bool { return y.ID == id.Snapshot(x.ID) && y.State == cluster.SnapshotReady })
		if s == nil || i < 0 || s.ended == 0 || s.dropped {
			continue
		}
		all = append(all, s)
		origins = append(origins, &lineage.Origin{Volume: d.id, Snapshot: s.id, Root: x.Root, Watermark: x.Watermark, Blocks: x.Blocks, Ancestors: k.Origin.Chain()})
	}
	if len(all) == 0 {
		return nil, nil
	}
	i := d.w.rng.IntN(len(all))
	return all[i], origins[i]
}

// clone makes a disk of a snapshot.
func (w *World) clone(d *disk) {
	s, o := d.standing()
	if s == nil || d.leaves || len(w.disks) >= w.cfg.Volumes+clonesMax || !w.whatIs(s, o) {
		return
	}
	n := w.number()
	c := &disk{w: w, name: fmt.Sprintf("d%d", n), blocks: d.blocks, model: coretest.NewModelAfter(tagsOf(n-1), s.content()), from: s, passing: true}
	c.id = id.Volume{1, 15: byte(n)}
	q := state.CreateVolume{ID: c.id, Name: c.name, Size: uint64(c.blocks.Offset()), RequestID: c.name}
	r := w.metad.apply(&state.CreateClone{CreateVolume: q, Origin: *o})
	if r.Err != nil {
		w.fail(CheckClones, "clone of %s of %s: %v", s, d.name, r.Err)
		return
	}
	c.id = r.Volume.ID
	s.clones++
	w.cover.Clones++
	w.log("%s is a clone of %s of %s", c.name, s, d.name)
	w.disks = append(w.disks, c)
	c.begin()
}

// whatIs reads all of a snapshot from the disks of the stores, and judges it.
func (w *World) whatIs(s *snap, o *lineage.Origin) bool {
	x := w.inspect()
	var gone error
	err := s.judgeAll(func(judge func(block.LBA, []byte)) error {
		return core.EachBlock(o.Root, x.inspector(), func(b block.LBA, l id.Location) {
			if data, ok := x.block(l); ok {
				judge(b, data)
			} else if gone == nil {
				gone = fmt.Errorf("block %d at %v is gone", b, l)
			}
		})
	})
	if err = errors.Join(gone, err); err != nil {
		w.fail(CheckClones, "%s, on the stores: %v", s, err)
	}
	return err == nil
}

// judgeAll judges all of a snapshot, of which each gives the blocks that are no holes.
func (s *snap) judgeAll(each func(judge func(block.LBA, []byte)) error) error {
	told := make(map[block.LBA]bool)
	var wrong error
	judge := func(b block.LBA, data []byte) {
		told[b] = true
		if wrong == nil {
			wrong = s.judge(uint64(b), data)
		}
	}
	err := each(judge)
	zeros := make([]byte, block.Size)
	for _, b := range s.model.Blocks() {
		if !told[block.LBA(b)] {
			judge(block.LBA(b), zeros)
		}
	}
	return errors.Join(err, wrong)
}

// checkOrigins demands that the stores have what clones began with.
func (w *World) checkOrigins(x *inspection) {
	in := x.inspector()
	for _, d := range w.disks {
		v, ok := w.metad.m.Volume(d.id)
		if !ok || v.Deleted || v.Origin == nil {
			continue
		}
		err := core.EachBlock(v.Origin.Root, in, func(b block.LBA, l id.Location) {
			if !in.Has(l, id.Generation{}) {
				w.fail(CheckClones, "%s began with block %d at %v, which is gone", d.name, b, l)
			}
		})
		if err != nil {
			w.fail(CheckClones, "what %s began with: %v", d.name, err)
		}
	}
}

// parent tells whether clones began with some snapshot of the disk.
func (d *disk) parent() bool {
	return slices.ContainsFunc(d.snaps, func(s *snap) bool { return s.clones > 0 })
}

// remove deletes a disk: its snapshots first, if it has any.
func (d *disk) remove() {
	if d.gone || d.held {
		return
	}
	d.leaves = true
	d.dropEach()
	w := d.w
	if v, ok := w.metad.m.Volume(d.id); ok && !w.metad.silent() && len(v.Snapshots) == 0 {
		if r := w.metad.apply(&state.DeleteVolume{Volume: d.id, Epoch: v.Epoch}); r.Err != nil {
			w.fail(CheckMetad, "%s is not deleted: %v", d.name, r.Err)
			return
		}
		w.log("%s is deleted", d.name)
		w.cover.Deleted++
		d.end()
		w.metad.backUp() // from an older one the disk may come back
		return
	}
	w.after(w.between(20*time.Millisecond, 60*time.Millisecond), d.name+" is deleted soon", d.remove)
}

// end: the disk is no more.
func (d *disk) end() {
	w := d.w
	d.gone, d.leaves = true, true
	w.disks = slices.DeleteFunc(slices.Clone(w.disks), func(x *disk) bool { return x == d })
	w.gone = append(w.gone, d)
	if s := d.from; s != nil {
		s.clones--
	}
}

// endClones deletes all clones, of clones first; nothing of a deleted disk may be left.
func (w *World) endClones() {
	over := func(d *disk) bool { return d.passing || d.retired }
	for slices.ContainsFunc(w.disks, over) && w.err == nil {
		n := len(w.disks)
		for _, d := range slices.Backward(slices.Clone(w.disks)) {
			switch {
			case !over(d) || d.leaves || d.parent():
			case d.retired:
				d.emptyTrash()
				d.dropEach()
			default:
				d.remove()
			}
		}
		w.demand(CheckDeleted, time.Minute, "clones are deleted", func() bool { return len(w.disks) < n })
	}
	w.demand(CheckDeleted, time.Minute, "deleted disks are purged", func() bool {
		return !slices.ContainsFunc(w.metad.m.Deleted(), func(v *state.Volume) bool {
			return slices.ContainsFunc(v.Purging(), func(r cluster.StoreRef) bool { return !w.missing(r) }) // else nobody said that it is lost
		})
	})
	for _, st := range w.allStores() {
		for _, n := range st.img.streams() {
			if w.disk(n.Volume).gone {
				w.fail(CheckDeleted, "%s has stream %s of %s", st.name, n.Ensemble, w.disk(n.Volume).name)
			}
		}
	}
}

// purge is what a store is to forget.
type purge struct {
	store  cluster.StoreRef
	volume id.Volume
	epoch  id.Epoch
}

func (m *metad) purges(b reconcile.Beat) (out []purge) {
	for _, v := range m.m.Deleted() {
		for _, s := range b.Stores {
			if slices.Contains(v.Purging(), s.StoreRef) {
				out = append(out, purge{s.StoreRef, v.ID, v.Epoch})
			}
		}
	}
	return out
}

// purge has a store forget a deleted volume, and says so.
func (h *host) purge(p purge) {
	i := slices.IndexFunc(h.stores, func(st *store) bool { return st.ref == p.store })
	if i < 0 {
		return
	}
	st, m := h.stores[i], h.w.metad
	confirm := func(err error) {
		if err != nil {
			return
		}
		h.w.net.ask(h, "to confirm a purge", func() error {
			if r := m.apply(&state.ConfirmPurge{Store: p.store, Volume: p.volume}); r.Err != nil && !errors.Is(r.Err, errs.ErrNotFound) {
				return r.Err
			}
			return nil
		}, func(error) {})
	}
	st.do(func() {
		st.core.PurgeShards(p.volume, p.epoch, st.control(func(err error) {
			if err == nil {
				st.do(func() { st.forgetAll(p, confirm) }, func(error) {})
			}
		}))
	}, func(error) {})
}
