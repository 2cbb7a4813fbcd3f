package archive

import (
	"context"
	"crypto/sha256"
	"fmt"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/objectstore"
)

// Reader reads what one manifest names. Nothing it gives is unchecked, and it makes up
// nothing: what is missing in the store is errs.ErrNotFound, what is damaged errs.ErrCorrupt, both for good.
type Reader struct {
	store    objectstore.Store
	manifest *Manifest
	sealers  []*sealer // by object; nil without a secret
}

// ReadManifest fetches and checks the manifest at key.
func ReadManifest(ctx context.Context, store objectstore.Store, key string, s *Secret) (*Manifest, error) {
	b, err := fetch(ctx, store, key, objectstore.ObjectMax)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	return DecodeManifest(key, b, s)
}

// fetch reads a whole object of at most so many bytes.
func fetch(ctx context.Context, store objectstore.Store, key string, bytesMax int64) ([]byte, error) {
	is, err := store.Head(ctx, key)
	if err != nil {
		return nil, err
	}
	if is.Size > bytesMax {
		return nil, &errs.Corrupt{Place: key, Offset: -1, What: "bytes", Want: uint64(bytesMax), Got: uint64(is.Size)}
	}
	b := make([]byte, is.Size)
	return b, store.ReadAt(ctx, key, b, 0)
}

// NewReader reads the objects of a manifest that was decoded with the same secret.
func NewReader(store objectstore.Store, m *Manifest, s *Secret) *Reader {
	r := &Reader{store: store, manifest: m}
	if s != nil {
		r.sealers = make([]*sealer, len(m.Objects))
		for i, o := range m.Objects {
			if o.Salt != (Salt{}) { // an object of a base from before there was a key has none
				r.sealers[i] = s.of(o.Salt, "object")
			}
		}
	}
	return r
}

// Manifest is what is read. It is not to be changed.
func (r *Reader) Manifest() *Manifest { return r.manifest }

func (r *Reader) sealer(object uint32) *sealer {
	if r.sealers == nil {
		return nil
	}
	return r.sealers[object]
}

// Part reads what segment i of the manifest has, and where: some 25 KiB for a full one.
// Who reads more of it keeps it.
func (r *Reader) Part(ctx context.Context, i int) (*Part, error) {
	x := &r.manifest.Segments[i]
	key := r.manifest.Objects[x.Object].Key
	head := make([]byte, x.Head)
	if err := r.store.ReadAt(ctx, key, head, int64(x.Offset)); err != nil {
		return nil, fmt.Errorf("read archived segment %s: %w", x.ID, err)
	}
	return r.part(i, key, head)
}

func (r *Reader) part(i int, key string, head []byte) (*Part, error) {
	x := &r.manifest.Segments[i]
	p, err := decodePart(key, head, uint64(x.Offset), r.sealer(x.Object))
	if err != nil {
		return nil, err
	}
	last := p.groups[len(p.groups)-1]
	if p.Segment != x.ID || len(p.Slots) != int(x.Slots) || last.offset+uint64(last.length) != uint64(x.Offset)+uint64(x.Length) {
		return nil, &errs.Corrupt{Place: key, Offset: int64(x.Offset), What: "segment of a part", Want: uint64(x.ID), Got: uint64(p.Segment)}
	}
	return p, nil
}

// Groups reads groups first to first+count-1 of a part of segment i in one request and gives
// their blocks: those of p.Slots[first*GroupSlots:] on, in order.
func (r *Reader) Groups(ctx context.Context, i int, p *Part, first, count int) ([]byte, error) {
	if first < 0 || count < 1 || first+count > len(p.groups) {
		return nil, fmt.Errorf("groups %d+%d of %d: %w", first, count, len(p.groups), errs.ErrInvalid)
	}
	x := &r.manifest.Segments[i]
	key := r.manifest.Objects[x.Object].Key
	from, last := p.groups[first].offset, p.groups[first+count-1]
	stored := make([]byte, last.offset+uint64(last.length)-from)
	if err := r.store.ReadAt(ctx, key, stored, int64(from)); err != nil {
		return nil, fmt.Errorf("read archived segment %s: %w", x.ID, err)
	}
	return r.open(key, x, p, first, count, stored)
}

func (r *Reader) open(key string, x *Segment, p *Part, first, count int, stored []byte) ([]byte, error) {
	out := make([]byte, 0, count*GroupSlots*block.Size)
	for g := first; g < first+count; g++ {
		b, err := p.openGroup(key, g, stored[:p.groups[g].length], r.sealer(x.Object))
		if err != nil {
			return nil, err
		}
		out, stored = append(out, b...), stored[p.groups[g].length:]
	}
	return out, nil
}

// Segment reads all of segment i in one request: its slots, and their blocks in order.
func (r *Reader) Segment(ctx context.Context, i int) (*Part, []byte, error) {
	x := &r.manifest.Segments[i]
	key := r.manifest.Objects[x.Object].Key
	all := make([]byte, x.Length)
	if err := r.store.ReadAt(ctx, key, all, int64(x.Offset)); err != nil {
		return nil, nil, fmt.Errorf("read archived segment %s: %w", x.ID, err)
	}
	p, err := r.part(i, key, all[:x.Head])
	if err != nil {
		return nil, nil, err
	}
	data, err := r.open(key, x, p, 0, len(p.groups), all[x.Head:])
	return p, data, err
}

// Block reads the block at an archived location into dst. It reads the head of the part for it: for
// single blocks, such as pages of the map.
func (r *Reader) Block(ctx context.Context, loc id.Location, dst []byte) (Slot, error) {
	i, ok := r.manifest.Find(loc.Segment())
	if !ok {
		return Slot{}, fmt.Errorf("archived segment %s is not in the manifest: %w", loc.Segment(), errs.ErrCorrupt)
	}
	p, err := r.Part(ctx, i)
	if err != nil {
		return Slot{}, err
	}
	n, ok := p.Find(loc.Slot())
	if !ok {
		return Slot{}, fmt.Errorf("slot %d of archived segment %s is not in the archive: %w", loc.Slot(), loc.Segment(), errs.ErrCorrupt)
	}
	b, err := r.Groups(ctx, i, p, n/GroupSlots, 1)
	if err != nil {
		return Slot{}, err
	}
	copy(dst, b[n%GroupSlots*block.Size:][:block.Size])
	return p.Slots[n], nil
}

// Object fetches object i whole and checks it: its SHA-256, every block, and that the parts of it that the
// manifest names are there. Visit is as for ParseObject.
func (r *Reader) Object(ctx context.Context, i int, s *Secret, visit func(*Part, []byte) error) error {
	o := &r.manifest.Objects[i]
	b, err := fetch(ctx, r.store, o.Key, ObjectMax)
	if err != nil {
		return fmt.Errorf("read object: %w", err)
	}
	if sum := sha256.Sum256(b); sum != o.SHA || uint64(len(b)) != o.Size {
		return fmt.Errorf("object %s: its %d bytes are not the %d that were archived (SHA-256 %x, want %x): %w", o.Key, len(b), o.Size, sum[:6], o.SHA[:6], errs.ErrCorrupt)
	}
	if o.Salt == (Salt{}) {
		s = nil
	}
	_, parts, err := ParseObject(o.Key, b, s, visit)
	if err != nil {
		return err
	}
	have := make(map[Segment]bool, len(parts))
	for _, p := range parts {
		have[p] = true
	}
	for _, x := range r.manifest.Segments {
		want := x
		if want.Object = 0; int(x.Object) == i && !have[want] {
			return fmt.Errorf("object %s has no part of segment %s at %d: %w", o.Key, x.ID, x.Offset, errs.ErrCorrupt)
		}
	}
	return nil
}
