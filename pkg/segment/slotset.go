package segment

import (
	"math/bits"

	"ashlar.dev/pkg/id"
)

// SlotSet is a set of slots of one segment.
type SlotSet [id.SlotsMax / 64]uint64

// Add takes a slot in.
func (s *SlotSet) Add(slot uint16) { s[slot/64] |= 1 << (slot % 64) }

// Has tells whether a slot is in.
func (s *SlotSet) Has(slot uint16) bool { return s[slot/64]>>(slot%64)&1 == 1 }

// Count is how many are in.
func (s *SlotSet) Count() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// Slots lists them, ascending.
func (s *SlotSet) Slots() []uint16 {
	out := make([]uint16, 0, s.Count())
	for i, w := range s {
		for ; w != 0; w &= w - 1 {
			out = append(out, uint16(i*64+bits.TrailingZeros64(w)))
		}
	}
	return out
}
