package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
)

// An image of what the archive has is one of a disk that is made of it, and of which nothing but the image's snapshot is
// kept: the image is there at once, and what it holds is brought in behind.

func (c *imageCreate) fromArchive(ctx context.Context, s *session) error {
	disk := sideDisk("archived", c.Name)
	var m *api.Image
	err := s.with(ctx, func(ctx context.Context, cl Cluster) error {
		have, err := cl.Images(ctx)
		if err != nil {
			return err
		}
		for _, x := range have {
			if x.Name == c.Name {
				return fmt.Errorf("image %s: %w", c.Name, errs.ErrExists)
			}
		}
		if _, err := cl.RestoreDisk(ctx, client.Restore{Name: disk, Manifest: c.Archive, Rate: c.Hydrate.rate()}); err != nil {
			return explainManifest(err)
		}
		m, err = cl.CreateImage(ctx, client.NewImage{Name: c.Name, Description: c.Description, Disk: disk, Source: "archived " + c.Archive})
		return err
	})
	if dropped := s.drop(ctx, disk); err == nil && dropped != nil {
		fmt.Fprintf(s.Err, "image %s is made; disk %s, which it was made of, could not be deleted: %v\n", m.Name, disk, dropped)
	} else if dropped != nil {
		return &hinted{err, "if disk " + disk + " is left, ashlar disk delete " + disk + " --force deletes it"}
	}
	if err != nil {
		var h *hinted
		if errors.As(err, &h) {
			return err
		}
		return explainImage(err, c.Name)
	}
	return s.show(viewImage(m), func(w io.Writer) { printMade(w, m) })
}

// explainManifest adds the advice that fits a manifest that is not there.
func explainManifest(err error) error {
	if errors.Is(err, errs.ErrNotFound) {
		return &hinted{err, "a manifest is named by its key in the archive, such as manifests/… (ashlar archive list -o json); the blockds must name the same archive"}
	}
	return err
}
