package placement

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"ashlar.dev/pkg/cluster"
)

// TestLevelEvensStoresOutAndEnds: whatever the stores, groups and bytes, moves come to an end,
// each brings its two stores closer together, none leaves a group with more than m shards on a
// host or more in a zone than it had, a store twice in a group, or a store without a group.
func TestLevelEvensStoresOutAndEnds(t *testing.T) {
	const least = 0.03
	rapid.Check(t, func(t *rapid.T) {
		zones := rapid.IntRange(0, 4).Draw(t, "zones")
		perHost := rapid.SliceOfN(rapid.IntRange(1, 3), 3, 8).Draw(t, "stores per host")
		old := farm(zones, perHost[:3]...)
		formed, ok := Form(old, nil, 1)
		if !ok {
			return
		}
		all := farm(zones, perHost...)
		added, _ := Form(all, formed, 2)
		stores := make([]Filled, len(all))
		at := make(map[cluster.StoreRef]int)
		for i, c := range all {
			stores[i] = Filled{Candidate: c, Capacity: uint64(rapid.IntRange(1, 4).Draw(t, "capacity")) * 1000, Takes: rapid.IntRange(0, 9).Draw(t, "takes") > 0}
			at[c.Ref] = i
		}
		var groups []Shares
		for n, g := range append(formed, added...) {
			s := Shares{M: g.M}
			bytes := rapid.Uint64Range(0, 300).Draw(t, "bytes")
			if n >= len(formed) {
				bytes /= 20 // they came later
			}
			for _, r := range g.Stores {
				s.Stores, s.Bytes = append(s.Stores, all[at[r]]), append(s.Bytes, bytes)
				stores[at[r]].Bytes += bytes
			}
			groups = append(groups, s)
		}
		for moves := 0; ; moves++ {
			g, slot, to, ok := Level(stores, groups, least)
			if !ok {
				return
			}
			if moves > 40*len(groups) {
				t.Fatal("it never ends")
			}
			x := &groups[g]
			from, dst, bytes := &stores[at[x.Stores[slot].Ref]], &stores[at[to]], x.Bytes[slot]
			hosts, inZones := worst(x)
			before := from.Fill() - dst.Fill()
			from.Bytes, dst.Bytes = from.Bytes-bytes, dst.Bytes+bytes
			if after := from.Fill() - dst.Fill(); before <= least || max(after, -after) >= before || !dst.Takes {
				t.Fatalf("%.3f apart, then %.3f; it takes more: %v", before, after, dst.Takes)
			}
			x.Stores[slot] = dst.Candidate
			if h, z := worst(x); h > max(int(x.M), hosts) || z > max(int(x.M), inZones) {
				t.Fatalf("%d shards on a host, %d in a zone; there were %d and %d", h, z, hosts, inZones)
			}
			if n := len(slices.CompactFunc(slices.SortedFunc(slices.Values(x.Stores), func(a, b Candidate) int { return compareRefs(a.Ref, b.Ref) }),
				func(a, b Candidate) bool { return a.Ref == b.Ref })); n != len(x.Stores) {
				t.Fatal("a store has two slots of a group")
			}
			if len(slotsOf(from.Ref, groups)) == 0 {
				t.Fatal("a store is left without groups")
			}
		}
	})
}

// worst is the most shards of a group on one host, and in one zone.
func worst(s *Shares) (host, zone int) {
	count := make(map[string]int)
	for _, c := range s.Stores {
		h, z := fmt.Sprintf("host %s", c.Host), fmt.Sprintf("zone %s", c.Zone)
		count[h]++
		count[z]++
		host, zone = max(host, count[h]), max(zone, count[z])
	}
	return host, zone
}

// Of relaxed groups, or such as are moving, nothing is moved.
func TestLevelLeavesGroupsThatStay(t *testing.T) {
	cs := farm(0, 1, 1, 1, 1)
	stores := []Filled{{cs[0], 900, 1000, true}, {cs[1], 900, 1000, true}, {cs[2], 900, 1000, true}, {cs[3], 0, 1000, true}}
	g := Shares{M: 1, Stores: cs[:3], Bytes: []uint64{450, 450, 450}}
	groups := []Shares{g, g}
	if _, _, to, ok := Level(stores, groups, 0.03); !ok || to != cs[3].Ref {
		t.Fatal("nothing moves")
	}
	groups[0].Stays, groups[1].Stays = true, true
	if _, _, _, ok := Level(stores, groups, 0.03); ok {
		t.Fatal("it moves")
	}
}

// A store without a group would be given a new one, for ever.
func TestLevelLeavesAStoreItsLastSlot(t *testing.T) {
	cs := farm(0, 1, 1, 1, 1)
	stores := []Filled{{cs[0], 900, 1000, true}, {cs[1], 900, 10000, true}, {cs[2], 900, 10000, true}, {cs[3], 0, 10000, true}}
	if _, _, _, ok := Level(stores, []Shares{{M: 1, Stores: cs[:3], Bytes: []uint64{900, 900, 900}}}, 0.03); ok {
		t.Fatal("it moves")
	}
}
