package segment

import (
	"testing"

	"ashlar.dev/pkg/id"
)

// Without this a slot could be looked for where it is not, or two slots could share a place.
func TestEverySlotHasItsPlace(t *testing.T) {
	for _, k := range []uint8{1, 2, 3, 4, 8} {
		for _, n := range []uint16{1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 1000, 4095, id.SlotsMax} {
			l := Layout{K: k, Slots: n}
			if !l.Valid() {
				t.Fatalf("%+v is not valid", l)
			}
			blocks, seen := l.Blocks(), map[[2]int]bool{}
			count := make([]uint16, k)
			for slot := range n {
				shard, b := l.Place(slot)
				if shard >= k || b >= blocks || seen[[2]int{int(shard), int(b)}] {
					t.Fatalf("%+v: slot %d at %d.%d", l, slot, shard, b)
				}
				seen[[2]int{int(shard), int(b)}] = true
				count[shard]++
				if back, ok := l.Slot(shard, b); !ok || back != slot {
					t.Fatalf("%+v: %d.%d gives slot %d, want %d", l, shard, b, back, slot)
				}
			}
			for i := range k {
				if l.ShardSlots(i) != count[i] || count[i] > blocks {
					t.Fatalf("%+v: shard %d has %d slots, said %d of %d", l, i, count[i], l.ShardSlots(i), blocks)
				}
				for b := range blocks {
					if _, ok := l.Slot(i, b); ok != (b < count[i]) {
						t.Fatalf("%+v: slots of shard %d are not its first blocks", l, i)
					}
				}
			}
			if count[0] != blocks {
				t.Fatalf("%+v: %d blocks, but shard 0 has %d", l, blocks, count[0])
			}
		}
	}
	for _, l := range []Layout{{}, {K: 4}, {Slots: 1}, {K: 1, Slots: id.SlotsMax + 1}} {
		if l.Valid() {
			t.Errorf("%+v is valid", l)
		}
	}
}
