package client

import (
	"context"
	"fmt"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Inventory is a part of what one store has, for a metad whose state is behind its cluster.
type Inventory struct {
	Store   cluster.StoreRef
	Volumes []VolumeOnStore
	Groups  []GroupOnStore
	Known   []cluster.PG // of the topology that this host knows
	Last    bool         // all is told with this part
}

// VolumeOnStore is what a store has of a volume.
type VolumeOnStore struct {
	Volume       id.Volume
	Fence        id.Epoch
	LastSequence id.Sequence
	Shards       uint64
	Size         uint64 // bytes; 0: not known here
	Checkpoint   *cluster.Checkpoint
	Streams      []StreamOnStore
}

// StreamOnStore is how far the streams of an ensemble go.
type StreamOnStore struct {
	Ensemble   id.Ensemble
	Tail, Meta id.LSN
}

// GroupOnStore is a place in a version of a group that a shard of the store tells of.
type GroupOnStore struct {
	PG      id.PG
	Version uint32
	K, M    uint8
	Index   uint8
}

// InventoryWanted tells of which of these stores metad wants an inventory, because its
// state is being rebuilt; usually of none.
func (b *Blockd) InventoryWanted(ctx context.Context, by id.Host, stores []cluster.StoreRef) ([]cluster.StoreRef, error) {
	q := &api.WantedRequest{Host: string(by), Stores: api.FromRefs(stores)}
	var rep *api.WantedReply
	err := b.p.call(ctx, retryAlways, func(ctx context.Context, t *target) (err error) {
		rep, err = api.NewRebuildClient(t.conn).Wanted(ctx, q)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask for wanted inventories: %w", err)
	}
	return api.Refs(rep.GetStores())
}

// TellInventory tells a part. Telling it again does no harm.
func (b *Blockd) TellInventory(ctx context.Context, by id.Host, i Inventory) error {
	q := &api.TellInventoryRequest{Host: string(by), Store: api.FromRef(i.Store), Last: i.Last}
	for _, v := range i.Volumes {
		x := &api.VolumeOnStore{Volume: v.Volume[:], Fence: uint64(v.Fence), LastSequence: uint64(v.LastSequence), Shards: v.Shards, SizeBytes: v.Size}
		if v.Checkpoint != nil {
			x.Checkpoint = api.FromCheckpoint(v.Checkpoint)
		}
		for _, s := range v.Streams {
			x.Streams = append(x.Streams, &api.StreamOnStore{Ensemble: api.FromEnsembleID(s.Ensemble), Tail: uint64(s.Tail), MetaTail: uint64(s.Meta)})
		}
		q.Volumes = append(q.Volumes, x)
	}
	for _, g := range i.Groups {
		q.Groups = append(q.Groups, &api.GroupOnStore{Group: uint32(g.PG), Version: g.Version, K: uint32(g.K), M: uint32(g.M), Index: uint32(g.Index)})
	}
	for _, p := range i.Known {
		for _, v := range p.Versions {
			q.Known = append(q.Known, &api.KnownGroup{Group: uint32(p.Number), Version: v.Version, K: uint32(v.K), M: uint32(v.M), Stores: api.FromRefs(v.Stores)})
		}
	}
	err := b.p.call(ctx, retryAlways, func(ctx context.Context, t *target) error {
		_, err := api.NewRebuildClient(t.conn).TellInventory(ctx, q)
		return err
	})
	if err != nil {
		return fmt.Errorf("tell inventory of store %s: %w", i.Store, err)
	}
	return nil
}
