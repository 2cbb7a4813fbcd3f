package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/objectstore/objectstoretest"
	"ashlar.dev/pkg/segment"
)

// archiveOf does with a snapshot what the archive does: everything above the base's watermark goes into one object, what
// is still held below comes from the base's manifest. It gives the blocks read, too.
func archiveOf(t *testing.T, v *volume.Volume, s id.Snapshot, store objectstore.Store, base *archive.Manifest) (*archive.Manifest, int) {
	t.Helper()
	m := &archive.Manifest{Snapshot: s}
	var above id.Sequence
	if base != nil {
		above = base.Watermark
		m.Objects = slices.Clone(base.Objects)
	}
	b, blocks, upload := archive.NewBuilder("data/"+s.String(), nil), 0, uint32(len(m.Objects))
	for after, more := id.Sequence(0), true; more; {
		p, err := v.PlanSnapshot(t.Context(), s, above, after)
		if err != nil {
			t.Fatal(err)
		}
		m.Root, m.Blocks, m.Watermark, more = p.Tree.Root, p.Tree.Blocks, p.Tree.Watermark, p.More
		for _, h := range p.Held {
			after = h.Segment.Sequence()
			if h.Slots == nil {
				i, ok := base.Find(h.Segment)
				if !ok {
					t.Fatalf("snapshot holds segment %s, which its base does not have", h.Segment)
				}
				m.Segments = append(m.Segments, base.Segments[i])
				continue
			}
			data := make([]byte, h.Slots.Count()*block.Size)
			entries, sums, err := v.ReadHeld(t.Context(), h.Segment, h.Slots, data)
			if err != nil {
				t.Fatal(err)
			}
			var slots []archive.Slot
			for i, n := range h.Slots.Slots() {
				slots = append(slots, archive.Slot{Number: n, Entry: segment.Entry(entries[i]), Sum: sums[i]})
			}
			b.Add(h.Segment, slots, data)
			blocks += len(slots)
		}
	}
	body, o, parts := b.Finish()
	if err := store.PutNew(t.Context(), o.Key, body); err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		p.Object = upload
		m.Segments = append(m.Segments, p)
	}
	m.Objects = append(m.Objects, o)
	if err := m.Check("test"); err != nil {
		t.Fatal(err)
	}
	return m, blocks
}

// comesBack checks that what was archived is the snapshot, block by block, and nothing is missing.
func comesBack(t *testing.T, store objectstore.Store, m *archive.Manifest, want []byte) {
	t.Helper()
	r := archive.NewReader(store, m, nil)
	if _, err := r.Verify(t.Context(), nil, nil); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	w, data := r.NewWalker(), r.NewWalker()
	if err := w.Blocks(t.Context(), func(l block.LBA, loc id.Location) error {
		b, err := data.At(t.Context(), loc, segment.MakeData(l))
		copy(got[l*block.Size:], b)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("snapshot %s came back as other bytes", m.Snapshot)
	}
}

// Without this a snapshot would be archived that is not the one that was taken: slots missing that were overwritten, cleaned
// or moved since, or taken for those of the base. Random writes, trims and cleaning, owners that die, on real shards, against
// flat bytes; each snapshot is archived whole and against the one before, the base deleted meanwhile now and then.
func TestPlansHoldExactlyWhatASnapshotHas(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	r.limits.CheckpointDead, r.limits.CheckpointIdle = 64<<10, time.Millisecond
	v := id.Volume{1}
	const size = 4 << 20
	r.metad.Create(v, size)
	f := &flat{t: t, rng: seed(t), data: make([]byte, size)}
	store := objectstoretest.NewMemory()
	var all []*still
	var base *archive.Manifest
	for life := range 3 {
		e := r.engine(id.Host(fmt.Sprint("b", life%2+1)))
		vol := e.mustOpen(v)
		for n := range 40 {
			f.step(vol)
			if n%13 != 7 {
				continue
			}
			s := &still{id.Snapshot{1, byte(life), byte(n)}, bytes.Clone(f.data)}
			if err := vol.TakeSnapshot(t.Context(), s.id); err != nil {
				t.Fatal(err)
			}
			s.read(t, vol) // waits until it is passed
			all = append(all, s)
			for range 5 {
				f.step(vol)
			}
			whole, blocks := archiveOf(t, vol, s.id, objectstoretest.NewMemory(), nil)
			m, more := archiveOf(t, vol, s.id, store, base)
			if base != nil && more >= blocks {
				t.Logf("the incremental has %d blocks, the whole %d", more, blocks)
			}
			_ = whole
			comesBack(t, store, m, s.data)
			if len(all) > 1 && n%2 == 1 {
				if err := vol.DropSnapshot(t.Context(), all[0].id); err != nil {
					t.Fatal(err)
				}
				all = all[1:]
			}
			base = m
		}
		for _, s := range all {
			m, _ := archiveOf(t, vol, s.id, objectstoretest.NewMemory(), nil)
			_ = m
		}
		e.Kill()
	}
	comesBack(t, store, base, all[len(all)-1].data)
	vol := r.engine("b1").mustOpen(v)
	if _, err := vol.PlanSnapshot(t.Context(), id.Snapshot{9}, 0, 0); !errors.Is(err, errs.ErrNotFound) {
		t.Fatalf("a snapshot that is not there: %v", err)
	}
}
