package state

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Images are named snapshots that disks are made of, whatever becomes of the disk and the name that the
// snapshot had. An image holds its snapshot as a clone does: deleted by its owner, the snapshot is hidden, and it goes
// with the last image and the last clone. A disk made of an image is a clone of the snapshot and needs the image no more.

// Limits of images.
const (
	ImagesMax           = 10_000
	ImageDescriptionMax = 512
	imageSourceMax      = 512
	imageFormatMax      = 16
)

// Image is one image. It is not changed after Apply has put it in place.
type Image struct {
	ID          id.Image
	Name        string // no other image has it
	Description string
	Volume      id.Volume // of the snapshot
	Snapshot    id.Snapshot
	Size        uint64
	Created     time.Time
	Source      string // in words: the snapshot, disk or file that it was made of
	Format      string // of the file that it was imported from; empty: it was not
}

// CreateImage makes an image of a snapshot. The same id again is the same image. Keep: the snapshot was taken for the
// image only, and is hidden at once.
type CreateImage struct {
	Image Image // but for the size
	Keep  bool
}

// SetImage changes what people call an image.
type SetImage struct {
	ID          id.Image
	Name        string
	Description string
}

// DeleteImage forgets an image. What disks made of it read stays as long as they do.
type DeleteImage struct{ ID id.Image }

// CreateFromImage makes a disk of an image: a clone of its snapshot, also of a hidden one.
type CreateFromImage struct {
	Image id.Image
	CreateClone
}

// The kinds of images, apart from the others so that all lists may grow.
const (
	kindCreateImage kind = iota + 200
	kindSetImage
	kindDeleteImage
	kindCreateFromImage
)

func emptyImage(k kind) Command {
	switch k {
	case kindCreateImage:
		return &CreateImage{}
	case kindSetImage:
		return &SetImage{}
	case kindDeleteImage:
		return &DeleteImage{}
	case kindCreateFromImage:
		return &CreateFromImage{}
	}
	return nil
}

func (m *Machine) applyImages(c Command) (Result, bool) {
	switch c := c.(type) {
	case *CreateImage:
		return m.createImage(c), true
	case *SetImage:
		return m.setImage(c), true
	case *DeleteImage:
		return m.deleteImage(c), true
	case *CreateFromImage:
		return m.createFromImage(c), true
	}
	return Result{}, false
}

// Images are all images, in order of their names.
func (m *Machine) Images() []*Image {
	return slices.SortedFunc(maps.Values(m.images), func(a, b *Image) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
}

// FindImage takes an image's name, or its id as text.
func (m *Machine) FindImage(nameOrID string) (*Image, bool) {
	for _, x := range m.images {
		if x.Name == nameOrID || x.ID.String() == nameOrID {
			return x, true
		}
	}
	return nil, false
}

// ImageOf is an image that holds a snapshot: of several the first by name.
func (m *Machine) ImageOf(s id.Snapshot) (*Image, bool) {
	if m.imaged[s] == 0 {
		return nil, false
	}
	for _, x := range m.Images() {
		if x.Snapshot == s {
			return x, true
		}
	}
	return nil, false
}

// Held tells whether a snapshot is needed by others than its owner: by clones or images. Nothing of it may go then.
func (m *Machine) Held(s id.Snapshot) bool { return m.children[s] > 0 || m.imaged[s] > 0 }

// letGo is said when a clone or an image needs a snapshot no more: the last one lets a hidden snapshot go.
func (m *Machine) letGo(v id.Volume, s id.Snapshot) {
	if m.Held(s) {
		return
	}
	x, i := m.snapshotOf(v, s)
	if i >= 0 && x.Snapshots[i].State == cluster.SnapshotHidden {
		x.Snapshots[i].State = cluster.SnapshotDeleting
		m.putOrUnlink(x)
	}
}

// putImage makes x the image in force; dropImage forgets one.
func (m *Machine) putImage(x *Image) {
	if m.images[x.ID] == nil {
		m.imaged[x.Snapshot]++
	}
	m.images[x.ID] = x
}

func (m *Machine) dropImage(x *Image) {
	delete(m.images, x.ID)
	if m.imaged[x.Snapshot]--; m.imaged[x.Snapshot] == 0 {
		delete(m.imaged, x.Snapshot)
	}
}

// CheckImage refuses what an image cannot be called.
func CheckImage(name, description string) error {
	if len(description) > ImageDescriptionMax {
		return refuse(errs.ErrInvalid, "the description of an image has %d bytes, at most %d", len(description), ImageDescriptionMax).Err
	}
	return CheckDiskName(name)
}

func (m *Machine) createImage(c *CreateImage) Result {
	x := c.Image
	if have := m.images[x.ID]; have != nil {
		return Result{} // the answer was lost
	}
	if err := CheckImage(x.Name, x.Description); err != nil {
		return Result{Err: err}
	}
	v, i := m.snapshotOf(x.Volume, x.Snapshot)
	other, taken := m.FindImage(x.Name)
	switch {
	case x.ID.IsZero() || len(x.Source) > imageSourceMax || len(x.Format) > imageFormatMax:
		return refuse(errs.ErrInvalid, "an image without an id, or with too long a source")
	case taken:
		return refuse(errs.ErrExists, "image %q is there since %s", x.Name, other.Created.Format(time.DateTime))
	case i < 0:
		return refuse(errs.ErrNotFound, "snapshot %s of disk %s", x.Snapshot, x.Volume)
	case v.Snapshots[i].State != cluster.SnapshotReady:
		return refuse(errs.ErrConflict, "snapshot %s of disk %s is %s", v.Snapshots[i].Name, v.Name, v.Snapshots[i].State)
	case v.Restored != nil && m.level < LevelArchives:
		return refuse(errs.ErrConflict, "disk %s is still being brought in from an archive; when all of it is there images can be made of it", v.Name)
	case c.Keep && (v.rolling(x.Snapshot) || v.Snapshots[i].Archived.Pending()):
		return refuse(errs.ErrConflict, "snapshot %s of disk %s is in use", v.Snapshots[i].Name, v.Name)
	case len(m.images) >= ImagesMax:
		return refuse(errs.ErrNoSpace, "there are %d images, as many as there may be", ImagesMax)
	}
	x.Size = v.Snapshots[i].Size
	m.putImage(&x)
	if c.Keep {
		hide(&v.Snapshots[i])
		return m.put(v)
	}
	return Result{}
}

func (m *Machine) setImage(c *SetImage) Result {
	have := m.images[c.ID]
	if have == nil {
		return refuse(errs.ErrNotFound, "image %s", c.ID)
	}
	if err := CheckImage(c.Name, c.Description); err != nil {
		return Result{Err: err}
	}
	if other, ok := m.FindImage(c.Name); ok && other.ID != c.ID {
		return refuse(errs.ErrExists, "image %q is there since %s", c.Name, other.Created.Format(time.DateTime))
	}
	x := *have
	x.Name, x.Description = c.Name, c.Description
	m.putImage(&x)
	return Result{}
}

func (m *Machine) deleteImage(c *DeleteImage) Result {
	x := m.images[c.ID]
	if x == nil {
		return refuse(errs.ErrNotFound, "image %s", c.ID)
	}
	m.dropImage(x)
	m.letGo(x.Volume, x.Snapshot)
	return Result{}
}

func (m *Machine) createFromImage(c *CreateFromImage) Result {
	x := m.images[c.Image]
	switch o := &c.Origin; {
	case x == nil:
		return refuse(errs.ErrNotFound, "image %s", c.Image)
	case o.Volume != x.Volume || o.Snapshot != x.Snapshot:
		return refuse(errs.ErrInvalid, "image %s is another snapshot than %s", x.Name, o.Snapshot)
	}
	return m.createCloneOf(&c.CreateClone, true)
}

func (*CreateImage) kind() kind     { return kindCreateImage }
func (*SetImage) kind() kind        { return kindSetImage }
func (*DeleteImage) kind() kind     { return kindDeleteImage }
func (*CreateFromImage) kind() kind { return kindCreateFromImage }

func (x *Image) append(b []byte) []byte {
	b = codec.AppendString(codec.AppendString(append(b, x.ID[:]...), x.Name), x.Description)
	b = binary.LittleEndian.AppendUint64(appendSnapshotID(b, x.Volume, x.Snapshot), x.Size)
	return codec.AppendString(codec.AppendString(appendTime(b, x.Created), x.Source), x.Format)
}

func (x *Image) read(r *codec.Reader) {
	r.Fill(x.ID[:])
	x.Name, x.Description = r.String(NameMax), r.String(ImageDescriptionMax)
	x.Volume, x.Snapshot = readSnapshotID(r)
	x.Size, x.Created, x.Source, x.Format = r.U64(), readMoment(r), r.String(imageSourceMax), r.String(imageFormatMax)
}

func (c *CreateImage) append(b []byte) []byte { return appendBool(c.Image.append(b), c.Keep) }
func (c *CreateImage) read(r *codec.Reader)   { c.Image.read(r); c.Keep = readBool(r) }

func (c *SetImage) append(b []byte) []byte {
	return codec.AppendString(codec.AppendString(append(b, c.ID[:]...), c.Name), c.Description)
}

func (c *SetImage) read(r *codec.Reader) {
	r.Fill(c.ID[:])
	c.Name, c.Description = r.String(NameMax), r.String(ImageDescriptionMax)
}

func (c *DeleteImage) append(b []byte) []byte { return append(b, c.ID[:]...) }
func (c *DeleteImage) read(r *codec.Reader)   { r.Fill(c.ID[:]) }

func (c *CreateFromImage) append(b []byte) []byte {
	return c.CreateClone.append(append(b, c.Image[:]...))
}

func (c *CreateFromImage) read(r *codec.Reader) {
	r.Fill(c.Image[:])
	c.CreateClone.read(r)
}

// appendImages is a part of a snapshot that came with LevelImages: all images, in order of ids.
func (m *Machine) appendImages(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(m.images)))
	for _, k := range slices.SortedFunc(maps.Keys(m.images), func(a, b id.Image) int { return bytes.Compare(a[:], b[:]) }) {
		b = m.images[k].append(b)
	}
	return b
}

func (m *Machine) readImages(r *codec.Reader) {
	var last id.Image
	for n := r.Count(ImagesMax, 68); n > 0 && r.Err() == nil; n-- {
		x := &Image{}
		if x.read(r); bytes.Compare(x.ID[:], last[:]) <= 0 {
			r.Fail("order of images", 0, 1)
		}
		last = x.ID
		m.putImage(x)
	}
}
