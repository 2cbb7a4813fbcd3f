package server

import (
	"context"
	"fmt"
	"time"

	"ashlar.dev/blockd/chunk"
	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/storeproto"
)

const (
	inventoryTimeout = 5 * time.Minute
	wantedTimeout    = time.Second
	inventoryVolumes = 512 // in one part
	metaFetchBytes   = 4 << 20
)

// tellInventory tells a metad whose state is behind its cluster what the stores here have,
// if it asks. Other metads ask for nothing.
func (s *server) tellInventory(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, inventoryTimeout)
	defer cancel()
	var refs []cluster.StoreRef
	for _, st := range s.local.all() {
		if st.Err() == nil {
			refs = append(refs, refOf(st.Store))
		}
	}
	askCtx, end := context.WithTimeout(ctx, wantedTimeout)
	wanted, err := s.metad.InventoryWanted(askCtx, hostOf(s.cfg.ID), refs)
	end()
	if err != nil || len(wanted) == 0 {
		return // it does not answer, or is not being rebuilt
	}
	owned := make(map[id.Volume]uint64)
	if s.exports != nil {
		s.exports.Owned(func(v *volume.Volume, _ int) { owned[v.ID()] = v.SizeBytes() })
	}
	for _, w := range wanted {
		for _, st := range s.local.all() {
			if refOf(st.Store) != w {
				continue
			}
			known := s.knownGroups()
			st.Seal(cluster.NewestVersions(known)) // until a heartbeat is answered: what is not told now nobody learns
			if err := s.tellStore(ctx, st.Store, known, owned); err != nil {
				s.log.Info("inventory not told yet", "store", w.Store.String(), "err", err)
				continue
			}
			s.log.Info("inventory told: metad rebuilds its state", "store", w.Store.String())
		}
	}
}

// knownGroups are the placement groups as this host knows them.
func (s *server) knownGroups() []cluster.PG {
	if t := s.metad.Topology(); t != nil {
		return t.PGs
	}
	return nil
}

// tellStore tells of the groups and all that one store has, the last part last.
func (s *server) tellStore(ctx context.Context, st *chunk.Store, known []cluster.PG, owned map[id.Volume]uint64) error {
	part := client.Inventory{Store: refOf(st), Known: known}
	groups := make(map[client.GroupOnStore]bool)
	for _, info := range st.Volumes() {
		v, err := inventoryOf(ctx, st, info, groups)
		if err != nil {
			return err
		}
		v.Size = max(v.Size, owned[info.Volume])
		if part.Volumes = append(part.Volumes, v); len(part.Volumes) == inventoryVolumes {
			if err := s.metad.TellInventory(ctx, hostOf(s.cfg.ID), part); err != nil {
				return err
			}
			part = client.Inventory{Store: part.Store}
		}
	}
	for g := range groups {
		part.Groups = append(part.Groups, g)
	}
	part.Last = true
	return s.metad.TellInventory(ctx, hostOf(s.cfg.ID), part)
}

// inventoryOf is what a store has of a volume; the groups of its shards are added to groups.
func inventoryOf(ctx context.Context, st *chunk.Store, info chunk.VolumeInfo, groups map[client.GroupOnStore]bool) (client.VolumeOnStore, error) {
	v := client.VolumeOnStore{Volume: info.Volume, Fence: info.Fence, Shards: uint64(info.Shards)}
	streams := make(map[id.Ensemble]int)
	for _, x := range info.Streams {
		i, ok := streams[x.Stream.Ensemble]
		if !ok {
			i = len(v.Streams)
			streams[x.Stream.Ensemble] = i
			v.Streams = append(v.Streams, client.StreamOnStore{Ensemble: x.Stream.Ensemble})
		}
		if x.Stream.Kind == storeproto.Journal {
			v.Streams[i].Tail = x.Tail
			continue
		}
		v.Streams[i].Meta = x.Tail
		if err := lastCheckpoint(ctx, st, x, &v); err != nil {
			return v, err
		}
	}
	var segments []id.Segment
	err := st.EachShard(info.Volume, func(seg storeproto.SegmentGeneration, _ uint8) bool {
		v.LastSequence = max(v.LastSequence, seg.Segment.Sequence())
		segments = append(segments, seg.Segment)
		return true
	})
	if err != nil {
		return v, fmt.Errorf("list shards of %s: %w", info.Volume, err)
	}
	for i, seg := range segments {
		if i > 0 && segments[i-1] == seg {
			continue
		}
		heads, err := st.ShardHeads(ctx, seg)
		if err != nil {
			return v, err
		}
		for _, h := range heads {
			groups[client.GroupOnStore{PG: seg.PG(), Version: h.PGVersion, K: h.K, M: h.M, Index: h.Index}] = true
		}
	}
	return v, nil
}

// lastCheckpoint looks for the highest checkpoint in a meta stream.
func lastCheckpoint(ctx context.Context, st *chunk.Store, x storeproto.StreamState, v *client.VolumeOnStore) error {
	for from := max(x.Base, x.Released+1); from <= x.Tail; {
		reply, err := st.Fetch(ctx, storeproto.Fetch{Stream: x.Stream, From: from, BytesMax: metaFetchBytes})
		if err != nil {
			return fmt.Errorf("read meta stream of %s: %w", v.Volume, err)
		}
		if len(reply.Batches) == 0 {
			return nil
		}
		for _, b := range reply.Batches {
			if err == nil {
				err = takeCheckpoints(b, v)
			}
			from = b.Last() + 1
			b.Release()
		}
		if err != nil {
			return fmt.Errorf("read meta stream of %s: %w", v.Volume, err)
		}
	}
	return nil
}

func takeCheckpoints(b *storeproto.Batch, v *client.VolumeOnStore) error {
	records, err := record.ReadMeta("meta stream", b.Meta, b.First, b.Count)
	if err != nil {
		return err
	}
	for _, r := range records {
		c := r.Checkpoint
		if c == nil || c.Volume != v.Volume {
			continue
		}
		v.Size = max(v.Size, uint64(c.Blocks)*block.Size)
		if a := c.Archive; a != nil { // of these no shard may be in any store yet
			v.LastSequence = max(v.LastSequence, a.First+id.Sequence(a.Segments)-1)
		}
		next := cluster.Checkpoint{Epoch: c.Epoch, Meta: c.Meta, Covered: c.Covered, Opaque: record.EncodeCheckpoint(c)}
		if v.Checkpoint == nil || next.Above(*v.Checkpoint) {
			v.Checkpoint = &next
		}
	}
	return nil
}
