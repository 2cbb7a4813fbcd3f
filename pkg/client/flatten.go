package client

import (
	"context"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/id"
)

// FlattenDisk has a clone copy what it reads of its ancestors, so that it needs them no more, at most rate bytes a
// second (0: the host's default); asked again it changes the rate. stop ends it: what was copied stays.
func (c *Cluster) FlattenDisk(ctx context.Context, disk string, rate uint64, stop bool) (*api.Disk, error) {
	q := &api.FlattenDiskRequest{NameOrId: disk, BytesPerSecond: rate, Stop: stop}
	return ask(ctx, c, q, func(x api.ClusterClient, ctx context.Context, r *api.FlattenDiskRequest) (*api.Disk, error) {
		return x.FlattenDisk(ctx, r)
	})
}

// VolumeFlattened is part of Metad.
func (b *Blockd) VolumeFlattened(ctx context.Context, v id.Volume, e id.Epoch) error {
	_, err := b.record(ctx, retryAlways, func(ctx context.Context, c api.BlockdClient) (*api.VolumeRecord, error) {
		return c.VolumeFlattened(ctx, &api.VolumeFlattenedRequest{Volume: v[:], Epoch: uint64(e)})
	})
	return err
}
