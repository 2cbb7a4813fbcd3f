package storeproto

import (
	"cmp"
	"context"
	"math"

	"ashlar.dev/pkg/id"
)

// RepairEpoch is the epoch of a put that brings nothing new: a shard of a segment that
// other stores have, rebuilt for the store that is to have it now. No fence and no
// version of a group refuses it; tombstones do, and nothing else is needed: the name
// says what the bytes are, whoever owns the volume.
const RepairEpoch id.Epoch = math.MaxUint64

// ShardName names one shard.
type ShardName struct {
	Segment    id.Segment
	Generation id.Generation
	Index      uint8
}

// Compare orders names by segment, generation and index.
func (n ShardName) Compare(o ShardName) int {
	return cmp.Or(cmp.Compare(n.Segment, o.Segment), cmp.Compare(n.Generation.Epoch, o.Generation.Epoch),
		cmp.Compare(n.Generation.N, o.Generation.N), cmp.Compare(n.Index, o.Index))
}

// ShardInfo is what a list says of a shard: its head without entries and sums.
type ShardInfo struct {
	ShardName
	Volume    id.Volume
	K, M      uint8
	PGVersion uint32
	Slots     uint16
	Blocks    uint16
}

// Info is the fixed part of a head.
func (h *ShardHead) Info() ShardInfo {
	return ShardInfo{ShardName: ShardName{h.Segment, h.Generation, h.Index}, Volume: h.Volume, K: h.K, M: h.M,
		PGVersion: h.PGVersion, Slots: h.Slots, Blocks: h.Blocks}
}

// ListMax bounds the shards of one page.
const ListMax = 1024

// ListShards asks for the shards whose names come after After, in order, at most Limit (0:
// ListMax): those of a volume, if Volume is not zero, else those of a placement group. Of
// a group: before it looks, the store raises the group's
// version to Version, durably: no shard coded under an older one becomes visible after,
// so pages taken after that miss none.
type ListShards struct {
	Volume  id.Volume
	PG      id.PG
	Version uint32
	After   ShardName
	Limit   int
}

// ShardList is one page. A page may be empty though there are more: ask again after Next.
type ShardList struct {
	Shards []ShardInfo
	Next   ShardName
	More   bool
}

// Lister is a store that lists its shards by group. All bodies of Store are.
type Lister interface {
	ListShards(context.Context, ListShards) (ShardList, error)
}

// GroupVersion is the newest version of a placement group that somebody knows.
type GroupVersion struct {
	PG      id.PG
	Version uint32
}
