package segment

import "ashlar.dev/pkg/id"

// Unit is the slots that go to one data shard before the next one's turn.
const Unit = 16

// Layout is how the slots of a segment lie in its data shards: the first Unit
// slots in shard 0, the next in shard 1, and round again. All shards of a
// segment, parity too, have the same number of blocks; what a data shard lacks
// at its end is zeros that belong to no slot.
type Layout struct {
	K     uint8  // data shards, at least 1
	Slots uint16 // slots in the segment, 1…id.SlotsMax
}

// Valid tells whether the layout is within its bounds.
func (l Layout) Valid() bool { return l.K >= 1 && l.Slots >= 1 && l.Slots <= id.SlotsMax }

// Place gives the data shard of a slot and its block there.
func (l Layout) Place(slot uint16) (shard uint8, block uint16) {
	unit := slot / Unit
	return uint8(unit % uint16(l.K)), unit/uint16(l.K)*Unit + slot%Unit
}

// Slot gives the slot at a block of a data shard; false if it is past the last slot.
func (l Layout) Slot(shard uint8, block uint16) (uint16, bool) {
	slot := (int(block/Unit)*int(l.K)+int(shard))*Unit + int(block%Unit)
	return uint16(slot), slot < int(l.Slots)
}

// Blocks is the blocks in every shard.
func (l Layout) Blocks() uint16 { return l.ShardSlots(0) }

// ShardSlots is the slots that data shard shard holds; they are its first blocks.
func (l Layout) ShardSlots(shard uint8) uint16 {
	row := int(l.K) * Unit
	rest := int(l.Slots)%row - int(shard)*Unit
	return uint16(int(l.Slots)/row*Unit + min(max(rest, 0), Unit))
}
