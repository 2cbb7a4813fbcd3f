package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
)

// Clone says what disk is to be made of which snapshot.
type Clone struct {
	Name           string
	Disk, Snapshot string // names or ids
	SizeBytes      uint64 // 0: that of the snapshot
	QoS            cluster.QoS
}

// CloneDisk makes a disk that begins as a snapshot was; nothing is copied. A retry after a lost
// answer finds the disk it made. ErrConflict: the snapshot is not ready.
func (c *Cluster) CloneDisk(ctx context.Context, x Clone) (*api.Disk, error) {
	var token [16]byte
	if _, err := rand.Read(token[:]); err != nil {
		return nil, fmt.Errorf("draw request id: %w", err)
	}
	q := &api.CloneDiskRequest{Name: x.Name, SizeBytes: x.SizeBytes, RequestId: hex.EncodeToString(token[:]), Qos: api.FromQoS(x.QoS),
		FromDisk: x.Disk, FromSnapshot: x.Snapshot}
	return ask(ctx, c, q, func(x api.ClusterClient, ctx context.Context, r *api.CloneDiskRequest) (*api.Disk, error) {
		return x.CloneDisk(ctx, r)
	})
}
