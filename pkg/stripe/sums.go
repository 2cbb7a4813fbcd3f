package stripe

import (
	"fmt"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

var zeroCRC = codec.CRC(zeros[:])

// DataSums writes the block sums (storeproto.BlockSum) of data shard shard into
// dst (Layout.Blocks long) from the plain CRC-32C of every slot, in slot order,
// without touching the bytes. Blocks past the last slot are zeros.
func DataSums(dst []uint32, s id.Segment, l segment.Layout, shard uint8, crcs []uint32) {
	if len(dst) != int(l.Blocks()) || len(crcs) != int(l.Slots) || shard >= l.K {
		panic(fmt.Sprintf("stripe: %d sums of shard %d from %d slots of %d in %d shards", len(dst), shard, len(crcs), l.Slots, l.K))
	}
	for b := range dst {
		crc := zeroCRC
		if slot, ok := l.Slot(shard, uint16(b)); ok {
			crc = crcs[slot]
		}
		dst[b] = storeproto.BlockSum(crc, s, shard, uint16(b))
	}
}

// ShardSums writes the block sums of a shard's bytes into dst, one per block.
func ShardSums(dst []uint32, s id.Segment, index uint8, data []byte) {
	if len(data) != len(dst)*BlockSize {
		panic(fmt.Sprintf("stripe: %d sums of %d bytes", len(dst), len(data)))
	}
	for b := range dst {
		dst[b] = storeproto.BlockSum(codec.CRC(data[b*BlockSize:(b+1)*BlockSize]), s, index, uint16(b))
	}
}

// CheckBlock tells whether a block of a shard has the given sum.
func CheckBlock(s id.Segment, index uint8, place uint16, sum uint32, data []byte) bool {
	return len(data) == BlockSize && storeproto.BlockSum(codec.CRC(data), s, index, place) == sum
}
