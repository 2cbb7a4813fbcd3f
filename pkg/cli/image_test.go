package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
)

func (f *fake) image(name string) (int, error) {
	i := slices.IndexFunc(f.images, func(x *api.Image) bool { return x.Name == name || x.ImageId == name })
	if i < 0 {
		return i, fmt.Errorf("image %s: %w", name, errs.ErrNotFound)
	}
	return i, nil
}

func (f *fake) CreateImage(_ context.Context, x client.NewImage) (*api.Image, error) {
	d, err := f.find(x.Disk)
	if err != nil {
		return nil, err
	}
	if _, err := f.image(x.Name); err == nil {
		return nil, fmt.Errorf("image %s: %w", x.Name, errs.ErrExists)
	}
	m := &api.Image{ImageId: fmt.Sprintf("m-%d", len(f.images)+1), Name: x.Name, Description: x.Description, SizeBytes: d.SizeBytes, State: "available", Source: x.Source, Format: x.Format, DiskId: d.DiskId, SnapshotId: "s-1"}
	if m.Source == "" {
		m.Source = "disk " + d.Name
	}
	f.images = append(f.images, m)
	return m, nil
}

func (f *fake) Images(context.Context) ([]*api.Image, error) { return f.images, f.err }

func (f *fake) SetImage(_ context.Context, x string, name, description *string) (*api.Image, error) {
	i, err := f.image(x)
	if err != nil {
		return nil, err
	}
	if name != nil {
		f.images[i].Name = *name
	}
	if description != nil {
		f.images[i].Description = *description
	}
	return f.images[i], nil
}

func (f *fake) DeleteImage(_ context.Context, x string) (*api.Image, error) {
	i, err := f.image(x)
	if err != nil {
		return nil, err
	}
	was := f.images[i]
	f.images = slices.Delete(f.images, i, i+1)
	return was, nil
}

func (f *fake) CreateDiskFromImage(ctx context.Context, name, x string, size uint64, q cluster.QoS) (*api.Disk, error) {
	i, err := f.image(x)
	if err != nil {
		return nil, err
	}
	if size != 0 && size < f.images[i].SizeBytes {
		return nil, fmt.Errorf("smaller: %w", errs.ErrInvalid)
	}
	f.images[i].Disks++
	d, err := f.CreateLimitedDisk(ctx, name, max(size, f.images[i].SizeBytes), q)
	if err == nil {
		d.Origin = &api.DiskOrigin{DiskId: "d-1", SnapshotId: "s-1", Image: f.images[i].Name, Depth: 1}
	}
	return d, err
}

// Without this people could not make, find, name and delete images, nor tell what a disk was made of.
func TestImagesByHand(t *testing.T) {
	x := newTerminal(t)
	x.must("disk create d --size 4GiB")
	if out := x.must("image list"); !strings.Contains(out, "no images yet") {
		t.Error(out)
	}
	if out := x.must("image create debian --from-disk d --description bookworm"); !strings.Contains(out, "--from-image debian") {
		t.Error(out)
	}
	if out := x.must("disk create vm --from-image debian --size 8GiB"); !strings.Contains(out, "8 GiB, as image debian") {
		t.Error(out)
	}
	if out := x.must("disk show vm"); !strings.Contains(out, "began as        image debian") {
		t.Error(out)
	}
	for _, want := range []string{"debian", "m-1", "4 GiB", "available", "disk d", "bookworm"} {
		for _, words := range []string{"image list", "image show debian"} {
			if out := x.must(words); !strings.Contains(out, want) {
				t.Errorf("%s without %q: %s", words, want, out)
			}
		}
	}
	x.must("image set debian --name debian-12")
	if out := x.must("image delete debian-12"); !strings.Contains(out, "1 disks made of what it held stay") {
		t.Error(out)
	}
	for _, c := range []struct {
		line string
		code int
		says string
	}{
		{"image create x", codeUsage, "--from-snapshot, --from-disk or --from-archive"},
		{"image create x --from-disk d --from-snapshot d@s", codeUsage, "name one of them"},
		{"image create x --from-disk none", codeNotFound, "ashlar disk list"},
		{"image show none", codeNotFound, "ashlar image list"},
		{"image set none", codeUsage, "--description"},
		{"image delete none", codeNotFound, "ashlar image list"},
		{"disk create y --from-image none", codeNotFound, "ashlar image list"},
		{"disk create y --from-image a --from-snapshot d@s", codeUsage, "name one of them"},
	} {
		if code := x.run(c.line); code != c.code || !strings.Contains(x.err.String(), c.says) {
			t.Errorf("%s: %d %s", c.line, code, x.err.String())
		}
	}
}
