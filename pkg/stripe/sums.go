package stripe

import (
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
)

// DataSums writes the block sums (storeproto.BlockSum) of data shard shard into
// dst (Layout.Blocks long) from the plain CRC-32C of every slot, in slot order,
// without touching the bytes. Blocks past the last slot are zeros.
func DataSums(dst []uint32, s id.Segment, l segment.Layout, shard uint8, crcs []uint32) {
	panic("stripe: being written")
}

// ShardSums writes the block sums of a shard's bytes into dst, one per block.
func ShardSums(dst []uint32, s id.Segment, index uint8, data []byte) { panic("stripe: being written") }

// CheckBlock tells whether a block of a shard has the given sum.
func CheckBlock(s id.Segment, index uint8, place uint16, sum uint32, data []byte) bool {
	panic("stripe: being written")
}
