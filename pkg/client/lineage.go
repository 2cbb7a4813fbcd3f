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

// RollbackDisk makes a disk what it was at one of its snapshots, and gives the snapshot that
// keeps what it was before. ErrConflict: somebody uses it. ErrUnavailable: it will be done as soon as it can.
func (c *Cluster) RollbackDisk(ctx context.Context, disk, snapshot string) (*api.Snapshot, error) {
	raw, err := id.NewRaw(c.p.o.Clock.Wall(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("draw snapshot id: %w", err)
	}
	q := &api.RollbackDiskRequest{Disk: disk, Snapshot: snapshot, SafetyId: id.Snapshot(raw).String()}
	return ask(ctx, c, q, func(x api.ClusterClient, ctx context.Context, r *api.RollbackDiskRequest) (*api.Snapshot, error) {
		return x.RollbackDisk(ctx, r)
	})
}
