package segment

import (
	"math/bits"

	"ashlar.dev/pkg/id"
)

// Kept is the slots of which a generation has blocks. The first generation has all;
// a later one may have dropped some, whose entries in its headers are Empty. The
// others keep their numbers, and their blocks lie as those of a segment would that has
// as many slots: the slot's rank takes the place of its number.
type Kept struct {
	slots, count uint16
	bits         [id.SlotsMax / 64]uint64
	below        [id.SlotsMax / 64]uint16 // kept slots before each word
}

// MakeKept makes it from the entries of all slots.
func MakeKept(entries []uint64) *Kept {
	k := &Kept{slots: uint16(len(entries))}
	for i, e := range entries {
		if i%64 == 0 {
			k.below[i/64] = k.count
		}
		if e != 0 {
			k.bits[i/64] |= 1 << (i % 64)
			k.count++
		}
	}
	return k
}

// Slots is the number of slots, Count how many are kept.
func (k *Kept) Slots() uint16 { return k.slots }

// Count is how many are kept.
func (k *Kept) Count() uint16 { return k.count }

// Rank is how many slots before this one are kept; false if this one is not.
func (k *Kept) Rank(slot uint16) (uint16, bool) {
	if slot >= k.slots || k.bits[slot/64]>>(slot%64)&1 == 0 {
		return 0, false
	}
	before := k.bits[slot/64] & (1<<(slot%64) - 1)
	return k.below[slot/64] + uint16(bits.OnesCount64(before)), true
}
