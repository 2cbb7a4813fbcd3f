package history

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/archproto"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
	snapshots "ashlar.dev/snapshotd/archive"
)

// archived is a snapshot that is in the archive, whatever became of it elsewhere.
type archived struct {
	key string
	of  *snap
	is  *flat
}

// source reads snapshots of one disk for an upload, as blockd serves them.
type source struct{ own *owner }

func (s source) Plan(ctx context.Context, q archproto.PlanQuery) (*archproto.Plan, error) {
	p, err := s.own.PlanSnapshot(ctx, q.Snapshot, q.Base, q.After)
	if err != nil {
		return nil, err
	}
	out := &archproto.Plan{Root: p.Tree.Root, Blocks: p.Tree.Blocks, Watermark: p.Tree.Watermark, More: p.More}
	for _, h := range p.Held {
		out.Held = append(out.Held, archproto.Held(h))
	}
	return out, nil
}

func (s source) Read(ctx context.Context, q archproto.ReadQuery, _ []byte) (*archproto.Slots, error) {
	out := &archproto.Slots{Data: make([]byte, q.Slots.Count()*block.Size)}
	var err error
	out.Entries, out.Sums, err = s.own.ReadHeld(ctx, q.Segment, q.Slots, out.Data)
	return out, err
}

// here waits until nothing that a disk reads lies in an archive: only then it is archived.
func (w *world) here(d *disk) {
	for ; d != nil; d = d.ancestor() {
		if w.metad.Record(d.id).Restored != nil {
			d.own.SetHydrateRate(1 << 40)
			w.await("disk "+d.id.String()+" to be brought in: "+d.own.ArchiveProblem(), func() bool { return w.metad.Record(d.id).Restored == nil })
		}
	}
}

func (d *disk) ancestor() *disk {
	if d.from == nil {
		return nil
	}
	return d.from.of
}

// archive uploads a snapshot against the nearest one before it that is there, deleted since or not, or whole.
func (w *world) archive() bool {
	s := w.anySnap()
	if s == nil || s.stored {
		return false
	}
	w.here(s.of)
	w.origin(s)
	j := snapshots.Job{Volume: s.of.id, Disk: "d", Snapshot: s.id, Name: s.id.String(), Created: time.Unix(1e9, 0).UTC(), Upload: id.Raw{w.id(), 1},
		StillMine: func(context.Context) error { return nil }, Tell: func(uint64, uint64) {}, AtOnce: 2, Store: w.objects, SlotsPerObject: 64}
	if b := s.base(); b != nil {
		j.Base = b.id
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	r, err := snapshots.Upload(ctx, j, source{s.of.own})
	if err != nil {
		w.t.Fatalf("archive %s against %s: %v", s.id, j.Base, err)
	}
	s.stored = true
	a := &archived{key: r.Manifest, of: s, is: s.is}
	w.archived = append(w.archived, a)
	w.reads(a)
	return true
}

// reads compares what is in the archive with what the snapshot was: all of it is checked, and its bytes, size and
// holes are those.
func (w *world) reads(a *archived) {
	w.t.Helper()
	ctx := w.t.Context()
	m, err := archive.ReadManifest(ctx, w.objects, a.key, nil)
	w.ok(err)
	r := archive.NewReader(w.objects, m, nil)
	_, err = r.Verify(ctx, nil, nil)
	w.ok(err)
	if uint64(m.Blocks.Offset()) != uint64(len(a.is.data)) {
		w.t.Fatalf("%s has %d blocks, the snapshot has %d bytes", a.key, m.Blocks, len(a.is.data))
	}
	found := make([]bool, len(a.is.written))
	data := r.NewWalker()
	w.ok(r.NewWalker().Blocks(ctx, func(l block.LBA, loc id.Location) error {
		b, err := data.At(ctx, loc, segment.MakeData(l))
		if err == nil && !bytes.Equal(b, a.is.data[l*block.Size:][:block.Size]) {
			err = fmt.Errorf("%s: block %d is not what it was", a.key, l)
		}
		found[l] = true
		return err
	}))
	for l, have := range found {
		if have != a.is.written[l] {
			w.t.Fatalf("%s: block %d is there: %v, was written: %v", a.key, l, have, a.is.written[l])
		}
	}
}

// restore makes a disk of what is in the archive; it is brought in at once, or slowly, or hardly.
func (w *world) restore() bool {
	if len(w.archived) == 0 || len(w.disks) >= disksMax {
		return false
	}
	a := w.archived[w.rng.IntN(len(w.archived))]
	m, err := archive.ReadManifest(w.t.Context(), w.objects, a.key, nil)
	w.ok(err)
	d := &disk{id: id.Volume{w.id()}, is: a.is.clone()}
	w.metad.CreateRestored(d.id, uint64(len(d.is.data)), a.key, uint32(len(m.Segments)))
	w.metad.SetHydrate(d.id, []uint64{1, 1, 1 << 40}[w.rng.IntN(3)])
	same(w.t, "a disk from the archive", w.add(d).own, d.is)
	if w.rng.IntN(2) == 0 { // perhaps most of it lies there still
		w.begin(w.take(d))
	}
	return true
}

// hydrate has a disk that hardly comes in come in.
func (w *world) hydrate() bool {
	d := w.any()
	if w.metad.Record(d.id).Restored == nil {
		return false
	}
	d.own.SetHydrateRate(1 << 40)
	return true
}

// forget takes a snapshot out of the archive and reclaims what nothing needs any more.
func (w *world) forget() bool {
	if len(w.archived) < 2 {
		return false
	}
	i := w.rng.IntN(len(w.archived))
	a := w.archived[i]
	if slices.ContainsFunc(w.disks, func(d *disk) bool { r := w.metad.Record(d.id).Restored; return r != nil && r.Manifest == a.key }) {
		return false // it is held
	}
	k := &snapshots.Keeper{Store: w.objects, Clock: clock.System, Wall: func() time.Time { return clock.System.Wall().Add(time.Hour) },
		Holds: func(context.Context) (snapshots.Holds, error) {
			h := snapshots.Holds{Manifests: make(map[string]bool), Uploads: make(map[string]bool)}
			for _, d := range w.disks {
				if r := w.metad.Record(d.id).Restored; r != nil {
					h.Manifests[r.Manifest] = true
				}
			}
			return h, nil
		}}
	ctx := w.t.Context()
	w.ok(k.Delete(ctx, a.of.of.id, a.of.id, false))
	a.of.stored = false
	w.archived = append(w.archived[:i:i], w.archived[i+1:]...)
	w.ok(k.Gc(ctx, time.Minute, false, &api.ArchiveTaskReply{}))
	return true
}
