package storeproto

import (
	"fmt"
	"slices"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// BlockSize is the bytes of a slot and of a payload block.
const BlockSize = 4096

// ShardHead describes one shard of one generation of a segment. It is written
// with the shard, kept in the store's index, and checked by readers.
type ShardHead struct {
	Volume     id.Volume
	Segment    id.Segment
	Generation id.Generation
	Index      uint8 // 0…K-1 data, K…K+M-1 parity
	K, M       uint8
	PGVersion  uint32
	Slots      uint16 // slots in the segment, up to 4,096
	Blocks     uint16 // 4 KiB blocks in this shard
	// Entries are slot header entries (package segment): of a data shard its own
	// slots, of a parity shard all slots of the segment; of any shard of a generation
	// that has dropped slots all of them, and those that are zero have no block.
	Entries []uint64
	// Sums is the check of each block of the shard, see BlockSum.
	Sums []uint32
}

// BlockSum turns the CRC-32C of a block's bytes into the check stored for block
// place of shard index of a segment: a block read from the wrong place fails it.
// For a data shard index and place follow from the slot, so the check of a slot
// can be derived from the CRC made when the block was written.
func BlockSum(crc uint32, s id.Segment, index uint8, place uint16) uint32 {
	x := uint64(s)*0x9E3779B97F4A7C15 ^ (uint64(index)<<16|uint64(place))*0xC2B2AE3D27D4EB4F
	x ^= x >> 29
	x *= 0xBF58476D1CE4E5B9
	return crc ^ uint32(x>>32)
}

// PutShard writes a whole shard: Data has Head.Blocks blocks in order, in slices
// of whole blocks that are 4 KiB aligned in memory if the store is to write them
// without a copy. Putting the same shard again is harmless; another content
// under the same name is ErrConflict; a name with a tombstone is ErrNotFound; a
// PG version below the newest the store knows, or an epoch below the volume's
// fence, is ErrStaleEpoch. Where the store is fuller than Room allows it is ErrNoSpace.
// Epoch is that of the sender.
type PutShard struct {
	Head  *ShardHead
	Epoch id.Epoch
	Class Class
	Room  Room
	Data  [][]byte

	Err  error
	Done func(*PutShard)
}

// ReadShard reads Count blocks from block First of a shard into Dst
// (Count*BlockSize bytes). Generation zero asks for the newest. The store checks
// every block against its sum before it answers; Sums (len Count, the caller's
// memory) receives the sums so that the reader can check again. A block that
// fails makes the answer ErrCorrupt; a shard or generation that is not there,
// ErrNotFound.
type ReadShard struct {
	Segment    id.Segment
	Generation id.Generation
	Index      uint8
	First      uint16
	Count      uint16
	Class      Class
	Dst        []byte
	Sums       []uint32

	Err  error
	Got  id.Generation // the generation read
	Done func(*ReadShard)
}

// DeleteShards deletes every shard of the named generations and lower ones of
// each segment and leaves tombstones that refuse a late put. Epoch is the
// owner's; a fenced one is refused. Durable when it returns.
//
// Groups has the newest version that the sender knows of each placement group of the
// segments. A store that knows a newer one answers ErrStaleEpoch: a slot of the group
// belongs to another store by now, which may be about to get the shard, and must hear
// of the deletion too.
type DeleteShards struct {
	Volume   id.Volume
	Epoch    id.Epoch
	Segments []SegmentGeneration
	Groups   []GroupVersion
}

// CheckGroups finds a segment whose group has a newer version than the sender knows.
func (d *DeleteShards) CheckGroups(newest func(id.PG) uint32) error {
	for _, s := range d.Segments {
		have := newest(s.Segment.PG())
		if have == 0 {
			continue
		}
		known := uint32(0)
		for _, g := range d.Groups {
			if g.PG == s.Segment.PG() {
				known = g.Version
			}
		}
		if known < have {
			return fmt.Errorf("delete shards of %s by version %d of its group, which is at %d: %w", s.Segment, known, have, errs.ErrStaleEpoch)
		}
	}
	return nil
}

// SegmentGeneration names one generation of one segment.
type SegmentGeneration struct {
	Segment    id.Segment
	Generation id.Generation
}

// Limits of a shard; a store refuses what is above.
const (
	ShardBlocksMax = 4096
	ShardCodeMax   = 64 // K+M
)

// Validate checks that the head is one a store may keep. An error is of class errs.ErrInvalid.
func (h *ShardHead) Validate() error {
	switch {
	case h.Volume.IsZero() || !h.Segment.Valid() || h.Generation.Epoch == 0:
		return fmt.Errorf("shard head without a name: %w", errs.ErrInvalid)
	case h.K == 0 || int(h.K)+int(h.M) > ShardCodeMax || h.Index >= h.K+h.M:
		return fmt.Errorf("shard head with index %d of %d+%d: %w", h.Index, h.K, h.M, errs.ErrInvalid)
	case h.Slots > id.SlotsMax || h.Blocks == 0 || h.Blocks > ShardBlocksMax || len(h.Sums) != int(h.Blocks) || len(h.Entries) > int(h.Slots):
		return fmt.Errorf("shard head with %d slots, %d blocks, %d sums, %d entries: %w", h.Slots, h.Blocks, len(h.Sums), len(h.Entries), errs.ErrInvalid)
	}
	return nil
}

// Equal tells whether two heads say the same, and so whether their shards have the same content.
func (h *ShardHead) Equal(o *ShardHead) bool {
	return h.Volume == o.Volume && h.Segment == o.Segment && h.Generation == o.Generation && h.Index == o.Index &&
		h.K == o.K && h.M == o.M && h.PGVersion == o.PGVersion && h.Slots == o.Slots && h.Blocks == o.Blocks &&
		slices.Equal(h.Entries, o.Entries) && slices.Equal(h.Sums, o.Sums)
}
