package archive

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/objectstore"
)

// Manifest says all about one archived snapshot. Its segments are all that the snapshot needs,
// those whose objects an earlier upload wrote too: nothing has to be followed.
type Manifest struct {
	Cluster    [16]byte
	Volume     id.Volume
	VolumeName string
	Blocks     block.LBA // size of the disk
	Snapshot   id.Snapshot
	Name       string
	Created    time.Time // to the millisecond
	Consistent bool      // an application was asked to be, before it was taken
	Base       id.Snapshot
	Watermark  id.Sequence // every segment the snapshot holds is at or below it
	Root       blockmap.Root

	Objects  []Object
	Segments []Segment // ascending by sequence
}

// Object is one object, whole.
type Object struct {
	Key  string
	Size uint64
	SHA  [sha256.Size]byte
	Salt Salt
}

// Segment says where the slots of one segment lie that are archived: a part of an object.
type Segment struct {
	ID     id.Segment
	Object uint32 // in Objects
	Offset uint32 // of its part
	Length uint32 // of all of it
	Head   uint32 // bytes of it before the first group: what must be read to find a slot
	Slots  uint16 // that are there, of at most id.SlotsMax
}

// Limits of a manifest.
const (
	ObjectsMax  = 1 << 20
	SegmentsMax = 1 << 23
	NameMax     = 256

	manifestPlainMax = 512 << 20
)

const (
	manifestMagic   = 0x4d485341 // "ASHM"
	manifestVersion = 1
	manifestFixed   = 48
	segmentSize     = 26
	objectSizeMin   = 1 + 8 + sha256.Size + saltSize

	flagSealed = 1 << 0
)

// ManifestKey is where the manifest of a snapshot lies.
func ManifestKey(v id.Volume, s id.Snapshot) string {
	return ManifestsPrefix + v.String() + "/" + s.String()
}

// ManifestsPrefix is before the keys of all manifests, TrashPrefix before those of what was deleted, until its objects go.
const (
	ManifestsPrefix = "manifests/"
	TrashPrefix     = "trash/"
)

// TrashKey is where a manifest lies after it was deleted.
func TrashKey(manifest string) string {
	return TrashPrefix + strings.TrimPrefix(manifest, ManifestsPrefix)
}

// Find gives the place of a segment in Segments.
func (m *Manifest) Find(s id.Segment) (int, bool) {
	return slices.BinarySearchFunc(m.Segments, s, func(x Segment, s id.Segment) int {
		switch {
		case x.ID < s:
			return -1
		case x.ID > s:
			return 1
		}
		return 0
	})
}

// Check refuses a manifest that cannot be one; the error is of class errs.ErrCorrupt.
func (m *Manifest) Check(place string) error {
	bad := func(what string, want, got uint64) error {
		return &errs.Corrupt{Place: place, Offset: -1, What: what, Want: want, Got: got}
	}
	if !m.Root.Valid() || m.Blocks > block.LBAMax || len(m.Objects) > ObjectsMax || len(m.Segments) > SegmentsMax {
		return bad("size, root or number of objects", uint64(block.LBAMax), uint64(m.Blocks))
	}
	for i, o := range m.Objects {
		if err := objectstore.CheckKey(o.Key); err != nil {
			return fmt.Errorf("%s: object %d: %w: %w", place, i, errs.ErrCorrupt, err)
		}
		if o.Size > ObjectMax {
			return bad("bytes of an object", ObjectMax, o.Size)
		}
	}
	last := id.Sequence(0)
	for _, s := range m.Segments {
		switch {
		case !s.ID.Valid() || s.ID.Sequence() <= last || s.ID.Sequence() > m.Watermark:
			return bad("segment after another", uint64(last)+1, uint64(s.ID.Sequence()))
		case int(s.Object) >= len(m.Objects):
			return bad("object of a segment", uint64(len(m.Objects)), uint64(s.Object))
		case s.Slots == 0 || s.Slots > id.SlotsMax:
			return bad("slots of a segment", id.SlotsMax, uint64(s.Slots))
		case s.Head < partFixed || s.Head > s.Length || s.Head > headMax || s.Length > partMax:
			return bad("bytes of a part", partMax, uint64(s.Length))
		case s.Offset < objectFixed || uint64(s.Offset)+uint64(s.Length) > m.Objects[s.Object].Size:
			return bad("end of a part", m.Objects[s.Object].Size, uint64(s.Offset)+uint64(s.Length))
		}
		last = s.ID.Sequence()
	}
	return nil
}

// EncodeManifest gives the bytes of a manifest, sealed if there is a secret. It panics if Check would refuse m.
func EncodeManifest(m *Manifest, s *Secret) []byte {
	var salt Salt
	if s != nil {
		rand.Read(salt[:]) // never fails
	}
	return encodeManifest(m, s, salt)
}

func encodeManifest(m *Manifest, s *Secret, salt Salt) []byte {
	if err := m.Check("manifest"); err != nil {
		panic("archive: " + err.Error())
	}
	plain := appendManifest(nil, m)
	le := binary.LittleEndian
	b := le.AppendUint32(nil, manifestMagic)
	b = le.AppendUint16(b, manifestVersion)
	flags := uint16(0)
	if s != nil {
		flags = flagSealed
	}
	b = le.AppendUint16(b, flags)
	key := s.ID()
	b = append(append(b, key[:]...), salt[:]...)
	b = le.AppendUint64(b, uint64(len(plain)))
	b = le.AppendUint64(b, 0)
	b = s.of(salt, "manifest").seal(b, encoder().EncodeAll(plain, nil), 0, b[:manifestFixed:manifestFixed])
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func appendManifest(b []byte, m *Manifest) []byte {
	le := binary.LittleEndian
	b = append(b, m.Cluster[:]...)
	b = append(b, m.Volume[:]...)
	b = append(b, m.Snapshot[:]...)
	b = append(b, m.Base[:]...)
	b = le.AppendUint64(b, uint64(m.Blocks))
	b = le.AppendUint64(b, uint64(m.Created.UnixMilli()))
	b = le.AppendUint64(b, uint64(m.Watermark))
	b = le.AppendUint64(b, uint64(m.Root.Location))
	flags := byte(0)
	if m.Consistent {
		flags = 1
	}
	b = append(b, m.Root.Height, flags)
	b = codec.AppendString(codec.AppendString(b, m.VolumeName), m.Name)
	b = le.AppendUint32(b, uint32(len(m.Objects)))
	b = le.AppendUint32(b, uint32(len(m.Segments)))
	for _, o := range m.Objects {
		b = le.AppendUint64(codec.AppendString(b, o.Key), o.Size)
		b = append(append(b, o.SHA[:]...), o.Salt[:]...)
	}
	for _, s := range m.Segments {
		b = le.AppendUint64(b, uint64(s.ID))
		for _, n := range []uint32{s.Object, s.Offset, s.Length, s.Head} {
			b = le.AppendUint32(b, n)
		}
		b = le.AppendUint16(b, s.Slots)
	}
	return b
}

// DecodeManifest reads a manifest, all of b; place names it in errors. Those of damage are
// of class errs.ErrCorrupt; one that another key sealed, or none was given for, is errs.ErrDenied.
func DecodeManifest(place string, b []byte, s *Secret) (*Manifest, error) {
	bad := func(what string, want, got uint64) error {
		return &errs.Corrupt{Place: place, Offset: -1, What: what, Want: want, Got: got}
	}
	le := binary.LittleEndian
	if len(b) < manifestFixed+sha256.Size {
		return nil, bad("bytes of a manifest", manifestFixed+sha256.Size, uint64(len(b)))
	}
	body := b[:len(b)-sha256.Size]
	if sum := sha256.Sum256(body); sum != [sha256.Size]byte(b[len(body):]) {
		return nil, bad("checksum of a manifest", le.Uint64(b[len(body):]), le.Uint64(sum[:]))
	}
	if magic, version, flags := le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]); magic != manifestMagic || version != manifestVersion || flags&^flagSealed != 0 {
		if magic == manifestMagic {
			return nil, bad("manifest version", manifestVersion, uint64(version))
		}
		return nil, bad("manifest magic", manifestMagic, uint64(magic))
	}
	s, err := s.fits(place, le.Uint16(b[6:])&flagSealed != 0, KeyID(b[8:16]))
	if err != nil {
		return nil, err
	}
	size := le.Uint64(b[32:])
	if size > manifestPlainMax || le.Uint64(b[40:]) != 0 {
		return nil, bad("bytes of a manifest", manifestPlainMax, size)
	}
	packed, err := s.of(Salt(b[16:32]), "manifest").open(place, body[manifestFixed:], 0, body[:manifestFixed])
	if err != nil {
		return nil, err
	}
	plain, err := inflate(place, packed, int(size))
	if err != nil {
		return nil, err
	}
	m := &Manifest{}
	if err := codec.Decode(place, plain, func(r *codec.Reader) { readManifest(r, m) }); err != nil {
		return nil, err
	}
	return m, m.Check(place)
}

// fits gives the secret to open something with, nil for what is not sealed.
func (s *Secret) fits(place string, sealed bool, key KeyID) (*Secret, error) {
	switch {
	case !sealed && key == KeyID{}:
		return nil, nil
	case !sealed:
		return nil, &errs.Corrupt{Place: place, Offset: 8, What: "key of what is not sealed", Got: 1}
	case s == nil:
		return nil, fmt.Errorf("%s is encrypted under key %s, and there is no key here: %w", place, key, errs.ErrDenied)
	case s.id != key:
		return nil, fmt.Errorf("%s is encrypted under key %s, the one here is %s: %w", place, key, s.id, errs.ErrDenied)
	}
	return s, nil
}

func readManifest(r *codec.Reader, m *Manifest) {
	r.Fill(m.Cluster[:])
	r.Fill(m.Volume[:])
	r.Fill(m.Snapshot[:])
	r.Fill(m.Base[:])
	m.Blocks, m.Created, m.Watermark = block.LBA(r.U64()), time.UnixMilli(int64(r.U64())).UTC(), id.Sequence(r.U64())
	m.Root = blockmap.Root{Location: id.Location(r.U64()), Height: r.U8()}
	flags := r.U8()
	if flags > 1 {
		r.Fail("flags of a manifest", 1, uint64(flags))
	}
	m.Consistent = flags == 1
	m.VolumeName, m.Name = r.String(NameMax), r.String(NameMax)
	objects, segments := r.U32(), r.U32()
	if r.Err() != nil || uint64(objects)*objectSizeMin+uint64(segments)*segmentSize > uint64(r.Left()) {
		r.Fail("objects and segments in the bytes left", uint64(r.Left()), uint64(objects)+uint64(segments))
		return
	}
	m.Objects, m.Segments = make([]Object, objects), make([]Segment, segments)
	for i := range m.Objects {
		o := &m.Objects[i]
		o.Key, o.Size = r.String(objectstore.KeyMax), r.U64()
		r.Fill(o.SHA[:])
		r.Fill(o.Salt[:])
	}
	for i := range m.Segments {
		m.Segments[i] = Segment{ID: id.Segment(r.U64()), Object: r.U32(), Offset: r.U32(), Length: r.U32(), Head: r.U32(), Slots: r.U16()}
	}
}
