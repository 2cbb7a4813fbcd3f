package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
)

// images is what the commands ask about images.
type images interface {
	CreateImage(ctx context.Context, x client.NewImage) (*api.Image, error)
	Images(ctx context.Context) ([]*api.Image, error)
	SetImage(ctx context.Context, nameOrID string, name, description *string) (*api.Image, error)
	DeleteImage(ctx context.Context, nameOrID string) (*api.Image, error)
	CreateDiskFromImage(ctx context.Context, name, image string, sizeBytes uint64, q cluster.QoS) (*api.Disk, error)
}

type imageCommands struct {
	Create imageCreate `cmd:"" help:"Make an image of a snapshot, of a disk as it is now, or of what the archive has. Nothing is copied."`
	List   imageList   `cmd:"" help:"List all images."`
	Show   imageShow   `cmd:"" help:"Show one image."`
	Set    imageSet    `cmd:"" help:"Give an image another name or description."`
	Import imageImport `cmd:"" help:"Make an image of a file: raw, qcow2, VHD, VHDX, VMDK, VDI."`
	Export imageExport `cmd:"" help:"Write an image to a file."`
	Delete imageDelete `cmd:"" help:"Delete an image. Disks that were made of it stay as they are."`
}

// imageView is an image in JSON.
type imageView struct {
	ImageID     string `json:"imageId"`
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	SizeBytes   uint64 `json:"sizeBytes"`
	State       string `json:"state"`
	Source      string `json:"source"`
	Format      string `json:"format,omitempty"` // of the file that it was imported from
	DiskID      string `json:"diskId"`           // where what it holds lies
	SnapshotID  string `json:"snapshotId"`
	Disks       uint32 `json:"disks"` // that were made of it and are there
	Created     string `json:"created,omitempty"`
}

func viewImage(x *api.Image) imageView {
	return imageView{ImageID: x.ImageId, Name: x.Name, Description: x.Description, SizeBytes: x.SizeBytes, State: x.State, Source: x.Source, Format: x.Format,
		DiskID: x.DiskId, SnapshotID: x.SnapshotId, Disks: x.Disks, Created: rfc3339(x.CreatedUnixMs)}
}

// explainImage adds the advice that fits an image's name.
func explainImage(err error, name string) error {
	switch {
	case errors.Is(err, errs.ErrNotFound):
		return &hinted{err, "ashlar image list shows what there is"}
	case errors.Is(err, errs.ErrExists):
		return &hinted{err, "choose another name, or give that one another: ashlar image set " + name + " --name " + name + "-old"}
	}
	return err
}

type imageCreate struct {
	Name        string   `arg:"" help:"A name that no other image has."`
	Snapshot    string   `name:"from-snapshot" help:"Of this snapshot. It may be deleted afterwards: the image keeps what it needs." placeholder:"DISK@NAME"`
	Disk        string   `name:"from-disk" help:"Of this disk as it is now: a snapshot is taken that goes with the image. What its users have in memory is not on it; stop or freeze them first." placeholder:"DISK"`
	Archive     string   `name:"from-archive" help:"Of this archived snapshot, by its manifest. The image is there at once; what it holds is fetched as it is read, and brought in behind." placeholder:"MANIFEST"`
	Hydrate     rateFlag `help:"With --from-archive: bytes a second that are brought in at most, such as 100MiB." placeholder:"SIZE"`
	Description string   `help:"What people should know of it." placeholder:"TEXT"`
}

// Run is called by kong.
func (c *imageCreate) Run(ctx context.Context, s *session) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.Archive != "" {
		return c.fromArchive(ctx, s)
	}
	x := client.NewImage{Name: c.Name, Description: c.Description, Disk: c.Disk}
	if c.Snapshot != "" {
		var err error
		if x.Disk, x.Snapshot, err = s.snapshotOf(ctx, c.Snapshot); err != nil {
			return err
		}
	}
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		m, err := cl.CreateImage(ctx, x)
		switch {
		case errors.Is(err, errs.ErrNotFound) && x.Snapshot != "":
			return &hinted{err, "ashlar snapshot list shows what there is"}
		case errors.Is(err, errs.ErrNotFound):
			return explain(err, x.Disk)
		case err != nil:
			return explainImage(err, c.Name)
		}
		return s.show(viewImage(m), func(w io.Writer) { printMade(w, m) })
	})
}

// printMade says that an image is there, and what for.
func printMade(w io.Writer, m *api.Image) {
	fmt.Fprintf(w, "created image %s (%s), %s, from %s\n  make disks of it: ashlar disk create NAME --from-image %s\n", m.Name, m.ImageId, size(m.SizeBytes), m.Source, m.Name)
}

// check wants one of what an image can be made of.
func (c *imageCreate) check() error {
	named := 0
	for _, x := range []string{c.Snapshot, c.Disk, c.Archive} {
		if x != "" {
			named++
		}
	}
	switch {
	case named != 1:
		return &hinted{fmt.Errorf("an image is made --from-snapshot, --from-disk or --from-archive: name one of them: %w", errs.ErrInvalid), "see ashlar image create --help; a file becomes one by ashlar image import"}
	case c.Hydrate.value != nil && c.Archive == "":
		return fmt.Errorf("--hydrate says how fast what is made --from-archive is brought in: %w", errs.ErrInvalid)
	}
	return nil
}

type imageList struct{}

// Run is called by kong.
func (c *imageList) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		all, err := cl.Images(ctx)
		if err != nil {
			return err
		}
		views := make([]imageView, len(all))
		for i, x := range all {
			views[i] = viewImage(x)
		}
		return s.show(views, func(w io.Writer) {
			if len(all) == 0 {
				fmt.Fprintln(w, "no images yet; make one: ashlar image create NAME --from-disk DISK, or ashlar image import NAME FILE")
				return
			}
			now := s.Clock.Wall()
			var rows [][]string
			for _, x := range all {
				rows = append(rows, []string{x.Name, x.ImageId, size(x.SizeBytes), x.State, strconv.Itoa(int(x.Disks)), age(now, x.CreatedUnixMs), brief(x.Source), brief(x.Description)})
			}
			table(w, []string{"NAME", "ID", "SIZE", "STATE", "DISKS", "AGE", "FROM", "DESCRIPTION"}, rows)
		})
	})
}

// image finds one.
func image(ctx context.Context, cl Cluster, nameOrID string) (*api.Image, error) {
	all, err := cl.Images(ctx)
	if err != nil {
		return nil, err
	}
	for _, x := range all {
		if x.Name == nameOrID || x.ImageId == nameOrID {
			return x, nil
		}
	}
	return nil, explainImage(fmt.Errorf("image %s: %w", nameOrID, errs.ErrNotFound), nameOrID)
}

type imageShow struct {
	Image string `arg:"" help:"Name or id."`
}

// Run is called by kong.
func (c *imageShow) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		x, err := image(ctx, cl, c.Image)
		if err != nil {
			return err
		}
		return s.show(viewImage(x), func(w io.Writer) {
			for _, r := range [][2]string{
				{"name", x.Name}, {"id", x.ImageId}, {"description", dash(x.Description)}, {"size", fmt.Sprintf("%s (%d bytes)", size(x.SizeBytes), x.SizeBytes)}, {"state", x.State},
				{"made of", x.Source}, {"format", dash(x.Format)}, {"created", rfc3339(x.CreatedUnixMs)}, {"disks", strconv.Itoa(int(x.Disks)) + " made of it"}, {"lies in", x.DiskId + ", snapshot " + x.SnapshotId},
			} {
				fmt.Fprintf(w, "%-12s %s\n", r[0], r[1])
			}
		})
	})
}

type imageSet struct {
	Image       string  `arg:"" help:"Name or id."`
	Name        *string `help:"A name that no other image has." placeholder:"NAME"`
	Description *string `help:"What people should know of it." placeholder:"TEXT"`
}

// Run is called by kong.
func (c *imageSet) Run(ctx context.Context, s *session) error {
	if c.Name == nil && c.Description == nil {
		return &hinted{fmt.Errorf("nothing is to be changed: %w", errs.ErrInvalid), "give --name or --description"}
	}
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		x, err := cl.SetImage(ctx, c.Image, c.Name, c.Description)
		if err != nil {
			return explainImage(err, c.Image)
		}
		return s.show(viewImage(x), func(w io.Writer) {
			fmt.Fprintln(w, strings.TrimSpace(fmt.Sprintf("image %s (%s) %s", x.Name, x.ImageId, x.Description)))
		})
	})
}

type imageDelete struct {
	Image string `arg:"" help:"Name or id."`
}

// Run is called by kong.
func (c *imageDelete) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		x, err := cl.DeleteImage(ctx, c.Image)
		if err != nil {
			return explainImage(err, c.Image)
		}
		return s.show(viewImage(x), func(w io.Writer) {
			if x.Disks > 0 {
				fmt.Fprintf(w, "image %s is deleted; %d disks made of what it held stay, and its space comes back with the last of them\n", x.Name, x.Disks)
				return
			}
			fmt.Fprintf(w, "image %s is deleted; what only it needed comes back\n", x.Name)
		})
	})
}

// fromImage makes the disk of an image.
func (c *diskCreate) fromImage(ctx context.Context, cl Cluster, limits cluster.QoS) (*api.Disk, error) {
	d, err := cl.CreateDiskFromImage(ctx, c.Name, c.Image, uint64(c.Size), limits)
	switch {
	case errors.Is(err, errs.ErrNotFound):
		return nil, explainImage(err, c.Image)
	case errors.Is(err, errs.ErrInvalid) && c.Size != 0:
		return nil, &hinted{err, "a disk cannot be smaller than its image; leave --size out for the same size"}
	}
	return d, err
}
