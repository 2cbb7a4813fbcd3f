package chunk

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// listScanMax bounds the rows that one page looks at: shards of all groups lie
// together, in order of segments.
const listScanMax = 1 << 16

// ListShards is part of storeproto.Lister.
//
// Order: the version of the group, through the queue, synced; then the look into the
// index. A put under an older version either passed the queue before, and is seen, or
// is refused.
func (s *Store) ListShards(ctx context.Context, q storeproto.ListShards) (list storeproto.ShardList, err error) {
	if !q.Volume.IsZero() {
		return s.listVolume(q)
	}
	if err := s.SetPGVersions(ctx, core.PGVersion{PG: q.PG, Version: q.Version}); err != nil {
		return list, fmt.Errorf("list shards of group %d: %w", q.PG, err)
	}
	limit, seen := min(cmp.Or(q.Limit, storeproto.ListMax), storeproto.ListMax), 0
	from := shardName{q.After.Segment, q.After.Generation, q.After.Index}
	list.Next = q.After
	err = s.index.scanFrom([]byte{keyShard}, from.key(keyShard), func(key []byte, value func() ([]byte, error)) error {
		n, ok := decodeShardName(key[1:])
		if !ok {
			return badKey("shard", key)
		}
		name := storeproto.ShardName{Segment: n.segment, Generation: n.generation, Index: n.index}
		if name == q.After {
			return nil
		}
		if len(list.Shards) >= limit || seen >= listScanMax {
			list.More = true
			return errStop
		}
		seen++
		list.Next = name
		if n.segment.PG() != q.PG {
			return nil
		}
		v, err := value()
		if err != nil {
			return err
		}
		row, err := decodeShardRow(n, v)
		list.Shards = append(list.Shards, row.head.Info())
		return err
	})
	if err != nil && !errors.Is(err, errStop) {
		return storeproto.ShardList{}, fmt.Errorf("list shards of group %d: %w", q.PG, err)
	}
	return list, nil
}

// RemoveShards is part of storeproto.Keeper.
func (s *Store) RemoveShards(_ context.Context, names ...storeproto.ShardName) error {
	doomed := make([]shardName, len(names))
	for i, n := range names {
		doomed[i] = shardName{n.Segment, n.Generation, n.Index}
	}
	if err := s.alive(); err != nil {
		return err
	}
	return s.deleteShards(doomed)
}

// listVolume lists the shards of a volume, of all groups.
func (s *Store) listVolume(q storeproto.ListShards) (list storeproto.ShardList, err error) {
	if err := s.alive(); err != nil {
		return list, err
	}
	limit := min(cmp.Or(q.Limit, storeproto.ListMax), storeproto.ListMax)
	after := shardName{q.After.Segment, q.After.Generation, q.After.Index}
	var names []shardName
	err = s.index.scanFrom(volumeKey(keyOwner, q.Volume), ownerKey(q.Volume, after), func(key []byte, _ func() ([]byte, error)) error {
		n, ok := decodeShardName(key[17:])
		switch {
		case !ok:
			return badKey("owner", key)
		case n == after:
			return nil
		case len(names) == limit:
			list.More = true
			return errStop
		}
		names = append(names, n)
		list.Next = storeproto.ShardName{Segment: n.segment, Generation: n.generation, Index: n.index}
		return nil
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	for _, n := range names {
		row, _, findErr := s.findShard(n)
		if errors.Is(findErr, errs.ErrNotFound) {
			continue // deleted meanwhile
		}
		err = errors.Join(err, findErr)
		list.Shards = append(list.Shards, row.head.Info())
	}
	if err != nil {
		return storeproto.ShardList{}, fmt.Errorf("list shards of %s: %w", q.Volume, err)
	}
	return list, nil
}
