package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/archive/archivetest"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/objectstore/objectstoretest"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/segment"
)

// bench is an archived disk and who reads it under ids of another volume.
type bench struct {
	t     *testing.T
	image []byte
	store objectstore.Store
	m     *archive.Manifest
	disk  *Disk
	tree  *blockmap.Map
}

// made is the archive of all tests; nobody changes it.
var made struct {
	sync.Once
	bench
	err error
}

func archived(t *testing.T) *bench {
	t.Helper()
	made.Do(func() {
		var d *archivetest.Disk
		if d, made.err = archivetest.NewDisk(1<<10, 5); made.err != nil {
			return
		}
		var lbas []block.LBA
		for l := range block.LBA(blocks) {
			lbas = append(lbas, l)
		}
		d.Write(lbas, 128)
		d.Write([]block.LBA{3, 1000, 9}, 128)
		made.store = objectstoretest.NewMemory()
		made.m, made.err = d.Archive(context.Background(), made.store, nil, nil, 2)
		made.image = d.Image
	})
	if made.err != nil {
		t.Fatal(made.err)
	}
	b := &bench{t: t, store: made.store, image: made.image, m: made.m}
	b.read(b.store)
	return b
}

// blocks are written one after the other from the first on.
const blocks = 300

// read begins anew, with another store.
func (b *bench) read(store objectstore.Store) {
	b.t.Helper()
	b.disk = New(Config{Store: store}).Disk(record.Archive{
		Manifest: archive.ManifestKey(b.m.Volume, b.m.Snapshot), First: 5000, Segments: uint32(len(b.m.Segments)), PGs: []id.PG{100, 101, 102},
	})
	b.tree = nil
}

// block reads a block as an engine does: down the tree, page by page.
func (b *bench) block(l block.LBA) ([]byte, error) {
	out := make([]byte, block.Size)
	if b.tree == nil {
		root, size, err := b.disk.Root(b.t.Context())
		if err != nil {
			return nil, err
		}
		if b.tree, err = blockmap.New(blockmap.Options{Blocks: size, Root: root}); err != nil {
			b.t.Fatal(err)
		}
	}
	for {
		var at [1]id.Location
		_, miss := b.tree.Lookup(l, at[:])
		if miss.None() {
			if at[0] == 0 {
				return out, nil
			}
			return out, b.disk.Read(b.t.Context(), at[0], segment.MakeData(l), out)
		}
		page := make([]byte, block.Size)
		if err := b.disk.Read(b.t.Context(), miss.Location, segment.MakePage(segment.MapPage, miss.Level, miss.Index), page); err != nil {
			return nil, err
		}
		if err := b.tree.Fill(miss, page); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bench) same() {
	b.t.Helper()
	for l := range block.LBA(len(b.image) / block.Size) {
		got, err := b.block(l)
		if err != nil || !bytes.Equal(got, b.image[l*block.Size:][:block.Size]) {
			b.t.Fatalf("block %d: %v, %x", l, err, codec.CRC(got))
		}
	}
}

// Every block of the snapshot is found through the pages that lie in the archive, which speak of ids
// of another cluster: a page that is not translated, or twice, leads nowhere.
func TestArchivedDiskIsReadByItsNewIds(t *testing.T) {
	b := archived(t)
	b.same()
	if _, err := b.disk.translate(b.m, id.MakeLocation(b.disk.given.Segment(0), 0)); !errors.Is(err, errs.ErrCorrupt) {
		t.Errorf("a location was translated twice: %v", err)
	}
	if p := b.disk.Problem(); p != "" {
		t.Error(p)
	}
}

// Without this a disk could not be made of a snapshot that was archived against an earlier one: in the segments that both
// hold are pages of the map that the later one has replaced, beside others, and they lead to segments that its manifest does
// not have. (Found by seed 234 of bench/sim.)
func TestPagesThatOnlyTheBaseHeldHarmNobody(t *testing.T) {
	d, err := archivetest.NewDisk(1<<10, 6)
	if err != nil {
		t.Fatal(err)
	}
	run := func(from block.LBA) (all []block.LBA) {
		for l := range block.LBA(16) {
			all = append(all, from+l)
		}
		return all
	}
	d.Write(slices.Concat(run(0), run(600)), 16) // two segments of data; the third has both pages that lead there
	b := &bench{t: t, store: objectstoretest.NewMemory()}
	base, err := d.Archive(t.Context(), b.store, nil, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	pages := base.Segments[2].ID
	d.Write(run(0), 16)
	if b.m, err = d.Archive(t.Context(), b.store, base, nil, 1); err != nil {
		t.Fatal(err)
	}
	place, there := b.m.Find(pages)
	if _, has := b.m.Find(base.Segments[0].ID); has || !there {
		t.Fatalf("the test is of a segment of the base that the later snapshot does not hold, and its pages: %t %t", has, there)
	}
	b.image = d.Image
	b.read(b.store)
	b.same()

	slots, err := b.disk.Slots(t.Context(), uint32(place))
	if err != nil {
		t.Fatal(err)
	}
	var want []Wanted
	for n, e := range slots {
		want = append(want, Wanted{Slot: uint16(n), Entry: e, Data: make([]byte, block.Size)})
	}
	if err := b.disk.Fill(t.Context(), uint32(place), want); err != nil {
		t.Fatal(err)
	}
	for _, w := range want { // the root of the base leads to its page, which is in the manifest
		e := segment.Entry(w.Entry)
		if stale := e == segment.MakePage(segment.MapPage, 0, 0); w.Stale != stale || !stale && w.Sum != codec.CRC(w.Data) {
			t.Errorf("slot %d, %s: stale %t", w.Slot, e, w.Stale)
		}
		err := b.disk.Read(t.Context(), id.MakeLocation(b.disk.given.Segment(uint32(place)), w.Slot), e, w.Data)
		if w.Stale != errors.Is(err, errs.ErrCorrupt) || !w.Stale && err != nil {
			t.Errorf("slot %d, %s: %v", w.Slot, e, err)
		}
	}
}

// Without this the second of two disks that are made of one manifest, in one process, would find pages of its map in the memory
// of the first one's, which speak of the first one's segments: it would read another disk's blocks, or nothing.
func TestTwoRestoresOfOneManifest(t *testing.T) {
	one := archived(t)
	two := *one
	given := one.disk.given
	given.First += id.Sequence(given.Segments)
	two.disk, two.tree = one.disk.a.Disk(given), nil
	one.same()
	two.same()
	one.tree = nil
	one.same()
}

// Without this a disk could not be read whose manifest was deleted by somebody who did not see yet that it holds it. A disk that is only to be made
// must not rely on what is deleted.
func TestHeldManifestIsFoundInTheTrash(t *testing.T) {
	b := archived(t)
	key := archive.ManifestKey(b.m.Volume, b.m.Snapshot)
	is, err := b.store.Head(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	body := make([]byte, is.Size)
	if err := b.store.ReadAt(t.Context(), key, body, 0); err != nil {
		t.Fatal(err)
	}
	moved := objectstoretest.NewMemory()
	for _, o := range b.m.Objects {
		object := make([]byte, o.Size)
		if err := errors.Join(b.store.ReadAt(t.Context(), o.Key, object, 0), moved.Put(t.Context(), o.Key, object)); err != nil {
			t.Fatal(err)
		}
	}
	b.read(moved)
	if _, _, err := b.disk.Root(t.Context()); !errors.Is(err, errs.ErrNotFound) || !strings.Contains(err.Error(), key) {
		t.Fatal(err)
	}
	if err := moved.Put(t.Context(), archive.TrashKey(key), body); err != nil {
		t.Fatal(err)
	}
	b.same()
	if _, err := b.disk.a.Describe(t.Context(), key); !errors.Is(err, errs.ErrNotFound) {
		t.Fatalf("a disk may be made of what is deleted: %v", err)
	}
}

// What is brought in is what is read, with sums over the bytes as they are written.
func TestFilledSlotsAreThoseThatAreRead(t *testing.T) {
	b := archived(t)
	ctx := t.Context()
	for i := range b.disk.given.Segments {
		slots, err := b.disk.Slots(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		var want []Wanted
		for slot, e := range slots {
			if e != 0 && slot%7 != 3 { // not all of them
				want = append(want, Wanted{Slot: uint16(slot), Entry: e, Data: make([]byte, block.Size)})
			}
		}
		if err := b.disk.Fill(ctx, i, want); err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			again := make([]byte, block.Size)
			l := id.MakeLocation(b.disk.given.Segment(i), w.Slot)
			if err := b.disk.Read(ctx, l, segment.Entry(w.Entry), again); err != nil || !bytes.Equal(again, w.Data) || codec.CRC(w.Data) != w.Sum {
				t.Fatalf("segment %d slot %d: %v", i, w.Slot, err)
			}
		}
		want[0].Entry++
		if err := b.disk.Fill(ctx, i, want); !errors.Is(err, errs.ErrCorrupt) {
			t.Fatalf("a slot that holds something else was filled in: %v", err)
		}
	}
}

// Reads one after the other fetch what follows with them: a request for every 64 KiB would take a
// round trip each.
func TestReadsFetchAhead(t *testing.T) {
	b := archived(t)
	f := &objectstoretest.Faulty{Store: b.store}
	b.read(f)
	b.same()
	if n := f.Count("readat"); n > 24 {
		t.Errorf("%d requests for %d KiB in %d segments", n, len(b.image)>>10, len(b.m.Segments))
	}
}

// spoiled changes a byte of every object whose key it is told, or hides it.
type spoiled struct {
	objectstore.Store
	at     func(key string, offset int64) bool
	hidden bool
}

func (s *spoiled) ReadAt(ctx context.Context, key string, dst []byte, offset int64) error {
	if s.hidden && s.at(key, offset) {
		return fmt.Errorf("object %s: %w", key, errs.ErrNotFound)
	}
	err := s.Store.ReadAt(ctx, key, dst, offset)
	if err == nil && s.at(key, offset) {
		dst[len(dst)-1] ^= 1
	}
	return err
}

// A damaged or missing object is an error for what lies in it, with words for people, and for
// nothing else. It is never read as zeros.
func TestDamagedObjectsFailTheirReadsAlone(t *testing.T) {
	b := archived(t)
	victim := b.m.Objects[b.m.Segments[0].Object].Key
	for _, hidden := range []bool{false, true} {
		b.read(&spoiled{Store: b.store, hidden: hidden, at: func(key string, _ int64) bool { return key == victim }})
		failed, right := 0, 0
		for l := range block.LBA(blocks) {
			got, err := b.block(l)
			switch {
			case err == nil && bytes.Equal(got, b.image[l*block.Size:][:block.Size]):
				right++
			case !hidden && errors.Is(err, errs.ErrCorrupt), hidden && errors.Is(err, errs.ErrNotFound):
				failed++
				if b.disk.Problem() == "" {
					t.Fatal("nobody is told why")
				}
			default:
				t.Fatalf("hidden %t, block %d: %v", hidden, l, err)
			}
		}
		if failed == 0 || right == 0 {
			t.Errorf("hidden %t: %d failed, %d right", hidden, failed, right)
		}
	}
}

// What is fetched ahead of a read may be damaged without harm to that read.
func TestDamageAheadHarmsNobody(t *testing.T) {
	b := archived(t)
	spoiled := 0
	b.read(&objectstoretest.Faulty{Store: b.store, After: func(o objectstoretest.Op) error {
		if o.Name == "readat" && len(o.Dst) > 66<<10 { // more than a group: the last of them
			o.Dst[len(o.Dst)-1] ^= 1
			spoiled++
		}
		return nil
	}})
	b.same()
	if spoiled == 0 {
		t.Fatal("nothing was fetched ahead")
	}
}

// A manifest that is another one than that which was allotted would give blocks other places.
func TestAnotherManifestIsRefused(t *testing.T) {
	b := archived(t)
	b.disk.given.Segments++
	if _, _, err := b.disk.Root(t.Context()); !errors.Is(err, errs.ErrCorrupt) || !strings.Contains(b.disk.Problem(), "allotted") {
		t.Error(err)
	}
	b.read(b.store)
	for _, s := range []id.Segment{id.MakeSegment(4999, 100), id.MakeSegment(5000, 101), id.MakeSegment(5000+id.Sequence(len(b.m.Segments)), 100)} {
		if err := b.disk.Read(t.Context(), id.MakeLocation(s, 0), segment.MakeData(1), make([]byte, block.Size)); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("segment %s was read: %v", s, err)
		}
	}
	if _, err := New(Config{Store: b.store}).Describe(t.Context(), "manifests/none"); !errors.Is(err, errs.ErrNotFound) {
		t.Error(err)
	}
	is, err := New(Config{Store: b.store}).Describe(t.Context(), b.disk.given.Manifest)
	if err != nil || is.Blocks != 1<<10 || is.Disk != "disk" || int(is.Segments) != len(b.m.Segments) {
		t.Errorf("%v: %+v", err, is)
	}
}

// Many readers of one group make one request.
func TestReadersOfOneGroupShareARequest(t *testing.T) {
	b := archived(t)
	f := &objectstoretest.Faulty{Store: b.store}
	b.read(f)
	if _, err := b.disk.Slots(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	before := f.Count("readat")
	done := make(chan error)
	for n := range 16 {
		go func() {
			slots, err := b.disk.Slots(t.Context(), 0)
			if err == nil {
				err = b.disk.Read(t.Context(), id.MakeLocation(b.disk.given.Segment(0), uint16(n)), segment.Entry(slots[n]), make([]byte, block.Size))
			}
			done <- err
		}()
	}
	for range 16 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if n := f.Count("readat") - before; n != 1 {
		t.Errorf("%d requests", n)
	}
}
