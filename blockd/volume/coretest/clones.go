package coretest

import (
	"cmp"
	"fmt"
	"slices"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
	"ashlar.dev/pkg/record"
)

// OriginOf gives where a clone of a snapshot begins, by the checkpoint that metad has; false:
// that does not list it yet.
func (w *World) OriginOf(s *Snap) (*lineage.Origin, bool) {
	rec := w.Metad.Record(w.volume)
	if rec.Checkpoint == nil {
		return nil, false
	}
	k, err := record.DecodeCheckpoint("metad's checkpoint", rec.Checkpoint.Opaque)
	if err != nil {
		w.Fail(err)
		return nil, false
	}
	for _, x := range k.Snapshots {
		if x.ID == s.ID {
			return &lineage.Origin{Volume: w.volume, Snapshot: id.Snapshot(x.ID), Root: x.Root, Watermark: x.Watermark, Blocks: x.Blocks, Ancestors: rec.Origin.Chain()}, true
		}
	}
	return nil, false
}

// Clone makes a volume of a snapshot, with a world of its own around the same stores. What
// the snapshot holds is read first: the clone must begin with that.
func (w *World) Clone(s *Snap) (*World, error) {
	var o *lineage.Origin
	err := w.Until(func() (ok bool) { o, ok = w.OriginOf(s); return ok })
	if err != nil {
		return nil, err
	}
	s.clones++ // from here on metad keeps it
	if err := w.readSnap(s); err != nil {
		return nil, err
	}
	cfg := w.cfg
	born := 1 + slices.MaxFunc(w.kin, func(a, b *World) int { return cmp.Compare(a.born, b.born) }).born
	for _, x := range w.kin {
		x.born = born // no id recurs
	}
	cfg.Seed += 1000 * uint64(born)
	c := New(cfg)
	c.volume, c.born = id.Volume{byte(born + 1)}, born
	c.clock, c.Metad, c.Stores, c.budget, c.from, c.origin = w.clock, w.Metad, w.Stores, blockmap.NewBudget(64), s, o
	c.segments = &segments{w: c, at: w.segments.at, tombs: w.segments.tombs, of: w.segments.of}
	c.Metad.CreateClone(c.volume, uint64(cfg.Blocks.Offset()), o)
	c.Model = NewModel()
	c.Model.time += uint64(c.volume[0]) << 40 // tags of one volume are never another's
	c.Model.inherit(s.seen)
	all := append(w.kin, c)
	for _, x := range all {
		x.kin = all
	}
	c.open()
	return c, nil
}

// Purge deletes a volume with everything of it, as metad has it done when no snapshot of it is left.
func (w *World) Purge() error {
	if slices.ContainsFunc(w.Snaps, func(s *Snap) bool {
		return s.state != snapGone && s.state != snapAsked && (s.state != snapDropping || w.retired == nil)
	}) {
		return fmt.Errorf("volume %x has snapshots: %w", w.volume[0], errs.ErrConflict)
	}
	for _, e := range w.Engines {
		e.Kill()
	}
	w.calm = true
	for w.happen() {
	}
	for name, v := range w.segments.of {
		if v == w.volume {
			delete(w.segments.at, name)
			delete(w.segments.of, name)
		}
	}
	for _, x := range w.kin {
		x.kin = slices.DeleteFunc(slices.Clone(w.kin), func(y *World) bool { return y == w })
	}
	if s := w.from; s != nil {
		if s.clones--; s.clones == 0 && s.state == snapHidden {
			s.state = snapDropping
		}
	}
	return w.err
}

// inherited finds a generation of an ancestor's segment: any of those that are there.
func (s *segments) inherited(name id.Segment) (*kept, error) {
	o := s.w.origin
	if o == nil {
		o = s.w.flat.left
	}
	if v, ok := o.VolumeOf(name); !ok || s.at[name] != nil && s.of[name] != v {
		s.w.Fail(fmt.Errorf("segment %s of volume %x is taken for an ancestor's: %x %t", name, s.of[name][0], v[0], ok))
	}
	var all []id.Generation
	for g := range s.at[name] {
		all = append(all, g)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("read inherited segment %s: %w", name, errs.ErrNotFound)
	}
	slices.SortFunc(all, func(a, b id.Generation) int {
		if a.Less(b) {
			return -1
		}
		return 1
	})
	return s.at[name][all[s.w.rng.IntN(len(all))]], nil
}

// inherit makes a model begin with what cells were read as.
func (m *Model) inherit(seen map[uint64]uint64) {
	at := m.tick()
	for i, tag := range seen {
		b := m.blocks[i/8]
		if b == nil {
			b = new([8]cell)
			for j := range b {
				b[j].writes = []held{{Write: m.zero}}
			}
			m.blocks[i/8] = b
		}
		b[i%8].writes = []held{{Write: &Write{Tag: tag, begun: at, done: at, definite: true}}}
	}
}

// readSnap reads all of one snapshot.
func (w *World) readSnap(s *Snap) error {
	const chunk = 64 * block.Size
	for off := uint64(0); off < uint64(w.cfg.Blocks.Offset()); off += chunk {
		if !w.Model.Touched(off, chunk) && !cmp.Or(s.model, w.Model).Touched(off, chunk) {
			continue
		}
		r := w.ReadSnapshot(w.Owner(), s, off, min(chunk, uint64(w.cfg.Blocks.Offset())-off))
		if err := w.Until(func() bool { return r.ended }); err != nil {
			return err
		}
		if r.op.Err != nil {
			return fmt.Errorf("read of snapshot %x at %d: %w", s.ID, off, r.op.Err)
		}
	}
	return nil
}

// CreateClone makes a volume that begins with a snapshot.
func (f *Metad) CreateClone(v id.Volume, size uint64, o *lineage.Origin) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.volumes[v] = &cluster.Volume{ID: v, Size: size, Origin: o}
}
