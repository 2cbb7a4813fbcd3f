package server

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

const backupPartBytes = 1 << 20

// Backup sends the state as of now.
func (m *membershipService) Backup(_ *api.BackupRequest, stream grpc.ServerStreamingServer[api.BackupPart]) error {
	if err := m.ruling(stream.Context()); err != nil {
		return err
	}
	file, _, err := m.s.backupFile()
	if err != nil {
		return m.s.fail(err)
	}
	for part := range slices.Chunk(file, backupPartBytes) {
		if err := stream.Send(&api.BackupPart{Data: part}); err != nil {
			return err
		}
	}
	m.s.log.Info("backup given", "by", caller(stream.Context()).String())
	return nil
}

// RebuildStatus tells how far a rebuilding is.
func (m *membershipService) RebuildStatus(ctx context.Context, _ *api.RebuildStatusRequest) (*api.RebuildStatusReply, error) {
	if err := m.ruling(ctx); err != nil {
		return nil, err
	}
	return m.rebuildStatus(), nil
}

func (m *membershipService) rebuildStatus() *api.RebuildStatusReply {
	rep := &api.RebuildStatusReply{}
	m.s.node.View(func(x *state.Machine) {
		rep.Rebuilding = x.Rebuilding()
		for _, s := range x.Untold() {
			rep.Waiting = append(rep.Waiting, s.Store.String())
		}
		if r := x.Rebuild(); r != nil {
			rep.Found, rep.Gone = r.Found, r.Gone
			for _, s := range r.Told {
				rep.Told = append(rep.Told, s.Store.String())
			}
		}
	})
	return rep
}

// FinishRebuild takes what was told for all there is.
func (m *membershipService) FinishRebuild(ctx context.Context, q *api.FinishRebuildRequest) (*api.RebuildStatusReply, error) {
	if err := m.ruling(ctx); err != nil {
		return nil, err
	}
	c := &state.FinishRebuild{}
	for _, text := range q.GetWithoutStores() {
		s, err := id.ParseStore(text)
		if err != nil {
			return nil, m.s.fail(err)
		}
		c.Without = append(c.Without, s)
	}
	if _, err := m.s.commit(ctx, c); err != nil {
		return nil, err
	}
	if r := m.s.reign.Load(); r != nil {
		r.forget() // nobody was listened to meanwhile
	}
	rep := m.rebuildStatus()
	m.s.note(state.Warning, "state_rebuilt", aboutCluster, "", caller(ctx).String(), "the state was rebuilt from what %d stores told: %d disks found, %d gone", len(rep.Told), len(rep.Found), len(rep.Gone))
	m.s.log.Warn("state rebuilt", "stores", len(rep.Told), "without", q.GetWithoutStores(), "found", len(rep.Found), "gone", len(rep.Gone), "by", caller(ctx).String())
	return rep, nil
}

// forget believes everybody alive again, as at the beginning of a term.
func (r *reign) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var settings cluster.Settings
	r.s.node.View(func(m *state.Machine) { settings = m.Settings() })
	r.mu.live = reconcile.NewLiveness(r.s.clock.Now(), settings)
}

// rebuilding is the answer to every blockd while the state is behind its cluster: what it
// would say could be old, and an old word deletes.
func (s *Server) rebuilding() (err error) {
	s.node.View(func(m *state.Machine) {
		if m.Rebuilding() {
			err = &final{fmt.Errorf("metad is being rebuilt from what the stores have: %w", errs.ErrUnavailable)}
		}
	})
	return err
}

// rebuildService listens to what stores have.
type rebuildService struct {
	api.UnimplementedRebuildServer
	s *Server
}

// Wanted tells of which stores an inventory is missing.
func (b *rebuildService) Wanted(ctx context.Context, q *api.WantedRequest) (*api.WantedReply, error) {
	if _, err := b.s.ruling(); err != nil {
		return nil, b.s.fail(err)
	}
	if err := mustBe(ctx, id.Host(q.GetHost())); err != nil {
		return nil, b.s.fail(err)
	}
	refs, err := api.Refs(q.GetStores())
	if err != nil {
		return nil, b.s.fail(err)
	}
	rep := &api.WantedReply{}
	b.s.node.View(func(m *state.Machine) {
		if !m.Rebuilding() {
			return
		}
		told := make(map[cluster.StoreRef]bool)
		for _, x := range m.Rebuild().Told {
			told[x] = true
		}
		for _, x := range refs {
			if !told[x] {
				rep.Stores = append(rep.Stores, api.FromRef(x))
			}
		}
	})
	return rep, nil
}

// TellInventory commits a part of what a store has.
func (b *rebuildService) TellInventory(ctx context.Context, q *api.TellInventoryRequest) (*api.TellInventoryReply, error) {
	if _, err := b.s.ruling(); err != nil {
		return nil, b.s.fail(err)
	}
	ref, err := q.GetStore().Value()
	if err == nil {
		err = mustBe(ctx, id.Host(q.GetHost()))
	}
	if err != nil {
		return nil, b.s.fail(err)
	}
	c, err := readInventory(q)
	if err != nil {
		return nil, b.s.fail(err)
	}
	c.Store = ref
	lineages, archives, err := reconcile.Told(c)
	if err != nil {
		return nil, b.s.fail(err)
	}
	if len(lineages.Volumes) > 0 { // before the last part: then nothing is waited for any more
		if _, err := b.s.commit(ctx, lineages); err != nil {
			return nil, err
		}
	}
	if len(archives.Volumes) > 0 {
		if _, err := b.s.commit(ctx, archives); err != nil {
			return nil, err
		}
	}
	if _, err := b.s.commit(ctx, c); err != nil {
		return nil, err
	}
	if q.GetLast() {
		b.s.log.Info("store has told what it has", "store", ref.Store.String(), "host", q.GetHost())
	}
	return &api.TellInventoryReply{}, nil
}

func readInventory(q *api.TellInventoryRequest) (*state.TellInventory, error) {
	c := &state.TellInventory{Last: q.GetLast()}
	for _, x := range q.Volumes {
		v, err := api.VolumeID(x.Volume)
		if err != nil {
			return nil, err
		}
		s := state.Sighting{Volume: v, Fence: id.Epoch(x.Fence), LastSequence: id.Sequence(x.LastSequence), Shards: x.Shards, Size: x.SizeBytes, Checkpoint: x.Checkpoint.Value()}
		if s.Checkpoint != nil && len(s.Checkpoint.Opaque) > cluster.CheckpointBytesMax || x.LastSequence > uint64(id.SequenceMax) {
			return nil, fmt.Errorf("inventory of volume %s: over a limit: %w", v, errs.ErrInvalid)
		}
		for _, e := range x.Streams {
			s.Streams = append(s.Streams, state.StreamSighting{Ensemble: e.GetEnsemble().Value(), Tail: id.LSN(e.Tail), Meta: id.LSN(e.MetaTail)})
		}
		c.Volumes = append(c.Volumes, s)
	}
	for _, g := range q.Groups {
		if g.Group == 0 || g.Group > uint32(id.PGMax) || g.Version == 0 || g.K == 0 || g.K > 128 || g.M > 127 || g.Index >= g.K+g.M {
			return nil, fmt.Errorf("inventory: shard %d of %d+%d in group %d: %w", g.Index, g.K, g.M, g.Group, errs.ErrInvalid)
		}
		c.Groups = append(c.Groups, state.GroupSighting{PG: id.PG(g.Group), Version: g.Version, K: uint8(g.K), M: uint8(g.M), Index: uint8(g.Index)})
	}
	for _, g := range q.Known {
		refs, err := api.Refs(g.Stores)
		if err != nil {
			return nil, err
		}
		if g.Group == 0 || g.Group > uint32(id.PGMax) || g.Version == 0 || g.K == 0 || g.K > 128 || g.M > 127 || len(refs) != int(g.K+g.M) {
			return nil, fmt.Errorf("inventory: group %d of %d+%d with %d stores: %w", g.Group, g.K, g.M, len(refs), errs.ErrInvalid)
		}
		c.Known = append(c.Known, state.KnownGroup{PG: id.PG(g.Group), Version: cluster.PGVersion{Version: g.Version, K: uint8(g.K), M: uint8(g.M), Stores: refs}})
	}
	return c, nil
}
