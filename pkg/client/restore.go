package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Restore says what disk is to be made of which archived snapshot.
type Restore struct {
	Name      string
	Manifest  string // key
	SizeBytes uint64 // 0: that of the snapshot
	QoS       cluster.QoS
	Rate      uint64 // bytes a second brought in at most; 0: the host's default
}

// RestoreDisk makes a disk of an archived snapshot. It is there at once, what is read is fetched,
// and the rest is brought in behind. A retry after a lost answer finds the disk it made.
func (c *Cluster) RestoreDisk(ctx context.Context, x Restore) (*api.Disk, error) {
	var token [16]byte
	if _, err := rand.Read(token[:]); err != nil {
		return nil, fmt.Errorf("draw request id: %w", err)
	}
	q := &api.RestoreDiskRequest{Name: x.Name, SizeBytes: x.SizeBytes, RequestId: hex.EncodeToString(token[:]), Qos: api.FromQoS(x.QoS),
		Manifest: x.Manifest, BytesPerSecond: x.Rate}
	return ask(ctx, c, q, func(x api.ClusterClient, ctx context.Context, r *api.RestoreDiskRequest) (*api.Disk, error) {
		return x.RestoreDisk(ctx, r)
	})
}

// SetHydrate changes how fast a disk is brought in from its archive; 0: the host's default.
func (c *Cluster) SetHydrate(ctx context.Context, disk string, rate uint64) (*api.Disk, error) {
	q := &api.SetHydrateRequest{NameOrId: disk, BytesPerSecond: rate}
	return ask(ctx, c, q, func(x api.ClusterClient, ctx context.Context, r *api.SetHydrateRequest) (*api.Disk, error) {
		return x.SetHydrate(ctx, r)
	})
}

// RestoreWhole is part of Metad.
func (b *Blockd) RestoreWhole(ctx context.Context, v id.Volume, e id.Epoch) error {
	_, err := b.record(ctx, retryAlways, func(ctx context.Context, c api.BlockdClient) (*api.VolumeRecord, error) {
		return c.RestoreWhole(ctx, &api.RestoreWholeRequest{Volume: v[:], Epoch: uint64(e)})
	})
	return err
}

// ManifestTold is what a manifest says, or why it cannot be read.
type ManifestTold struct {
	Manifest       string
	Blocks         uint64
	Segments       uint32
	Disk, Snapshot string
	Err            error
}

// TellManifest answers a question of metad about an archive.
func (b *Blockd) TellManifest(ctx context.Context, by id.Holder, x ManifestTold) error {
	q := &api.TellManifestRequest{Holder: api.FromHolder(by), Manifest: x.Manifest, Blocks: x.Blocks, Segments: x.Segments, Disk: x.Disk, Snapshot: x.Snapshot}
	if x.Err != nil {
		q.Code, q.Problem = uint32(errs.CodeOf(x.Err)), x.Err.Error()
	}
	return b.p.call(ctx, retryAlways, func(ctx context.Context, t *target) error {
		_, err := t.blockd.TellManifest(ctx, q)
		return err
	})
}
