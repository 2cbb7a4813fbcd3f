package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// askImages calls one method of the service of images with retries.
func askImages[Req, Rep any](ctx context.Context, c *Cluster, req Req, f func(api.ImagesClient, context.Context, Req) (Rep, error)) (Rep, error) {
	var rep Rep
	err := c.p.call(ctx, retryAlways, func(ctx context.Context, conn *target) (err error) {
		rep, err = f(conn.images, ctx, req)
		return err
	})
	return rep, err
}

// NewImage says of what an image is to be made.
type NewImage struct {
	Name, Description string
	Disk, Snapshot    string // names or ids; without a snapshot it is of the disk as it is now
	Source, Format    string // of an imported one
}

// CreateImage makes an image. A retry after a lost answer finds the one it made. ErrExists: the name is taken.
func (c *Cluster) CreateImage(ctx context.Context, x NewImage) (*api.Image, error) {
	raw, err := id.NewRaw(c.p.o.Clock.Wall(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("draw image id: %w", err)
	}
	q := &api.CreateImageRequest{Name: x.Name, Description: x.Description, ImageId: id.Image(raw).String(), FromDisk: x.Disk, FromSnapshot: x.Snapshot, Source: x.Source, Format: x.Format}
	return askImages(ctx, c, q, func(x api.ImagesClient, ctx context.Context, r *api.CreateImageRequest) (*api.Image, error) {
		return x.CreateImage(ctx, r)
	})
}

// Images lists all images, by name.
func (c *Cluster) Images(ctx context.Context) ([]*api.Image, error) {
	r, err := askImages(ctx, c, &api.ListImagesRequest{}, func(x api.ImagesClient, ctx context.Context, r *api.ListImagesRequest) (*api.ListImagesReply, error) {
		return x.ListImages(ctx, r)
	})
	return r.GetImages(), err
}

// SetImage gives an image, named or by its id, another name or description; nil: the one it has.
func (c *Cluster) SetImage(ctx context.Context, nameOrID string, name, description *string) (*api.Image, error) {
	q := &api.SetImageRequest{Image: nameOrID, Name: name, Description: description}
	return askImages(ctx, c, q, func(x api.ImagesClient, ctx context.Context, r *api.SetImageRequest) (*api.Image, error) {
		return x.SetImage(ctx, r)
	})
}

// DeleteImage forgets an image and gives it as it was. Disks made of it stay.
func (c *Cluster) DeleteImage(ctx context.Context, nameOrID string) (*api.Image, error) {
	return askImages(ctx, c, &api.DeleteImageRequest{Image: nameOrID}, func(x api.ImagesClient, ctx context.Context, r *api.DeleteImageRequest) (*api.Image, error) {
		return x.DeleteImage(ctx, r)
	})
}

// CreateDiskFromImage makes a disk that begins as an image is; a size of 0: the image's.
func (c *Cluster) CreateDiskFromImage(ctx context.Context, name, image string, sizeBytes uint64, q cluster.QoS) (*api.Disk, error) {
	var token [16]byte
	if _, err := rand.Read(token[:]); err != nil {
		return nil, fmt.Errorf("draw request id: %w", err)
	}
	req := &api.CreateDiskFromImageRequest{Name: name, Image: image, SizeBytes: sizeBytes, RequestId: hex.EncodeToString(token[:]), Qos: api.FromQoS(q)}
	return askImages(ctx, c, req, func(x api.ImagesClient, ctx context.Context, r *api.CreateDiskFromImageRequest) (*api.Disk, error) {
		return x.CreateDiskFromImage(ctx, r)
	})
}
