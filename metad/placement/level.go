package placement

import (
	"cmp"
	"slices"

	"ashlar.dev/pkg/cluster"
)

// Filled is a store with what it has of what it may have.
type Filled struct {
	Candidate
	Bytes, Capacity uint64
	// Takes: it may be given more.
	Takes bool
}

// Fill is the share of its capacity that is taken.
func (f *Filled) Fill() float64 { return share(f.Bytes, f.Capacity) }

func share(bytes, capacity uint64) float64 { return float64(bytes) / float64(max(capacity, 1)) }

// Shares is a group: who has which slot, and how many bytes that is.
type Shares struct {
	M      uint8
	Stores []Candidate
	Bytes  []uint64
	// Stays: no slot of it is to move now.
	Stays bool
}

// Apart is how far the fullest store is from the emptiest that takes more.
func Apart(stores []Filled) float64 {
	most, least := 0.0, 1.0
	for i := range stores {
		most = max(most, stores[i].Fill())
		if stores[i].Takes {
			least = min(least, stores[i].Fill())
		}
	}
	return max(most-least, 0)
}

// How many of the fullest and of the emptiest stores are looked at for one move.
const (
	fullestMax  = 16
	emptiestMax = 64
)

// Level finds the move of one slot that evens stores out best: from the fullest to the
// emptiest that are more than least apart, the largest slot, where the group keeps at most
// m shards on a host, and in a zone if it did. A store that gives is at most least emptier
// afterwards than the one that takes: so each move brings the stores closer together, and none
// is taken back. A store's last slot stays, or a group would be formed for it.
func Level(stores []Filled, groups []Shares, least float64) (group, slot int, to cluster.StoreRef, ok bool) {
	byFill := slices.SortedFunc(slices.Values(stores), func(a, b Filled) int {
		return compareFirst(cmp.Compare(a.Fill(), b.Fill()), compareRefs(a.Ref, b.Ref))
	})
	emptiest := slices.DeleteFunc(slices.Clone(byFill), func(f Filled) bool { return !f.Takes })
	emptiest = emptiest[:min(len(emptiest), emptiestMax)]
	slices.Reverse(byFill)
	for _, from := range byFill[:min(len(byFill), fullestMax)] {
		slots := slotsOf(from.Ref, groups)
		if len(slots) < 2 {
			continue
		}
		for _, dst := range emptiest {
			if from.Fill()-dst.Fill() <= least {
				break
			}
			for _, s := range slots {
				if g := &groups[s.group]; !g.Stays && s.bytes > 0 && !flips(&from, &dst, s.bytes, least) && g.allows(s.slot, dst.Candidate) {
					return s.group, s.slot, dst.Ref, true
				}
			}
		}
	}
	return 0, 0, to, false
}

func flips(from, to *Filled, bytes uint64, least float64) bool {
	return share(to.Bytes+bytes, to.Capacity)-share(from.Bytes-min(bytes, from.Bytes), from.Capacity) > least
}

type slotUse struct {
	group, slot int
	bytes       uint64
}

// slotsOf are the slots that a store has, the largest first.
func slotsOf(r cluster.StoreRef, groups []Shares) (out []slotUse) {
	for g := range groups {
		if i := slices.IndexFunc(groups[g].Stores, func(c Candidate) bool { return c.Ref == r }); i >= 0 {
			out = append(out, slotUse{g, i, groups[g].Bytes[i]})
		}
	}
	slices.SortStableFunc(out, func(a, b slotUse) int { return cmp.Compare(b.bytes, a.bytes) })
	return out
}

// allows tells whether the group keeps its failure domains if a slot goes to c.
func (s *Shares) allows(slot int, c Candidate) bool {
	host, zone := 1, 1
	zones := make(map[string]int)
	for i, x := range s.Stores {
		zones[byZone(x)]++
		if i == slot {
			continue
		}
		if x.Ref.Store == c.Ref.Store {
			return false
		}
		if byHost(x) == byHost(c) {
			host++
		}
		if byZone(x) == byZone(c) {
			zone++
		}
	}
	most := 0
	for _, n := range zones {
		most = max(most, n)
	}
	return host <= int(s.M) && zone <= max(int(s.M), most)
}
