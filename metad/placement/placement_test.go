package placement

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// farm makes stores: one number per host, how many it has. Zones go round.
func farm(zones int, perHost ...int) (out []Candidate) {
	for h, n := range perHost {
		for s := range n {
			c := Candidate{Host: id.Host(fmt.Sprintf("h%d", h)), Zone: fmt.Sprintf("z%d", h%max(zones, 1))}
			c.Ref.Store[0], c.Ref.Store[1], c.Ref.Incarnation[0] = byte(h+1), byte(s+1), 1
			out = append(out, c)
		}
	}
	return out
}

// The ladder of profiles: the preferred one, then smaller ones that keep the failure
// domain, then the domain is given up.
func TestBestProfile(t *testing.T) {
	for _, c := range []struct {
		hosts []int
		want  string
	}{
		{[]int{2, 2, 2}, "4+2"},
		{[]int{2, 2}, "1+2"}, // one of three hosts is down: 2+1 would put two shards on one host
		{[]int{1, 1, 1, 1, 1, 1}, "4+2"},
		{[]int{1, 1, 1, 1, 1}, "2+1"},
		{[]int{1, 1, 1}, "2+1"},
		{[]int{2, 1}, "1+2"},
		{[]int{3, 3}, "1+2"},
		{[]int{1, 1}, "1+1"},
		{[]int{6}, "4+2 relaxed"},
		{[]int{3}, "2+1 relaxed"},
		{[]int{2}, "1+1 relaxed"},
		{[]int{4, 1, 1}, "2+1"},
		{[]int{1}, "none"},
		{nil, "none"},
	} {
		got := "none"
		if s, ok := Best(farm(0, c.hosts...)); ok {
			got = s.Profile.String()
			if s.Relaxed {
				got += " relaxed"
			}
		}
		if got != c.want {
			t.Errorf("hosts of %v stores: %s, want %s", c.hosts, got, c.want)
		}
	}
}

func hostsOf(cs []Candidate, g []cluster.StoreRef) (hosts []id.Host, zones map[string]int) {
	zones = make(map[string]int)
	for _, r := range g {
		c := cs[slices.IndexFunc(cs, func(c Candidate) bool { return c.Ref == r })]
		hosts = append(hosts, c.Host)
		zones[c.Zone]++
	}
	return hosts, zones
}

// TestGroupsKeepTheFailureDomain: of any farm, no group puts more than m shards on a
// host unless it says so, each healthy store is in a group, all are of one scheme, the
// answer does not depend on the order of the candidates, and forming again adds none.
func TestGroupsKeepTheFailureDomain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perHost := rapid.SliceOfN(rapid.IntRange(0, 5), 0, 9).Draw(t, "stores per host")
		cs := farm(rapid.IntRange(0, 4).Draw(t, "zones"), perHost...)
		seed := rapid.Uint64().Draw(t, "seed")
		best, ok := Best(cs)
		groups, formed := Form(cs, nil, seed)
		if ok != formed || ok != (len(cs) >= 2) {
			t.Fatalf("best %v, formed %v of %d stores", ok, formed, len(cs))
		}
		if !ok {
			return
		}
		covered := make(map[cluster.StoreRef]bool)
		for _, g := range groups {
			if g.Scheme != best || len(g.Stores) != best.Width() {
				t.Fatalf("group %+v of scheme %+v", g, best)
			}
			hosts, zones := hostsOf(cs, g.Stores)
			if !best.Relaxed && Relaxed(hosts, g.M) {
				t.Fatalf("group %v has more than %d shards on a host", hosts, g.M)
			}
			if !best.Relaxed && fits(cs, best.Profile, byZone) {
				for z, n := range zones {
					if n > int(g.M) {
						t.Fatalf("there are enough zones, and %d shards are in %s", n, z)
					}
				}
			}
			for _, r := range g.Stores {
				covered[r] = true
			}
			sorted := slices.SortedFunc(slices.Values(g.Stores), compareRefs)
			if len(slices.Compact(sorted)) != len(g.Stores) {
				t.Fatalf("group %v has a store twice", g.Stores)
			}
		}
		if len(covered) != len(cs) || len(groups) < want(len(cs)) {
			t.Fatalf("%d groups cover %d of %d stores", len(groups), len(covered), len(cs))
		}
		if more, _ := Form(cs, groups, seed+1); len(more) != 0 {
			t.Fatalf("forming again adds %d groups", len(more))
		}
		shuffled := rapid.Permutation(cs).Draw(t, "order")
		if other, _ := Form(shuffled, nil, seed); fmt.Sprint(other) != fmt.Sprint(groups) {
			t.Fatal("the order of the candidates matters")
		}
	})
}

// Each store is to have its share of groups and of data shards, or reads pile up on a few.
func TestGroupsSpreadTheLoad(t *testing.T) {
	cs := farm(0, 2, 2, 2)
	groups, _ := Form(cs, nil, 1)
	data := make(map[cluster.StoreRef]int)
	for _, g := range groups {
		for i, r := range g.Stores {
			if i < int(g.K) {
				data[r]++
			}
		}
	}
	for r, n := range data {
		if n != len(groups)*4/6 {
			t.Errorf("store %s has %d data shards of %d groups", r, n, len(groups))
		}
	}
}

// A host that joins gets into groups, the groups there were stay.
func TestNewStoresGetIntoGroups(t *testing.T) {
	before, _ := Form(farm(0, 2, 2, 2), nil, 1)
	all := farm(0, 2, 2, 2, 2)
	added, _ := Form(all, before, 2)
	covered := make(map[cluster.StoreRef]bool)
	for _, g := range added {
		for _, r := range g.Stores {
			covered[r] = true
		}
	}
	for _, c := range all[6:] {
		if !covered[c.Ref] {
			t.Errorf("new store %s is in no group", c.Ref)
		}
	}
}

// An ensemble's stores lie on different hosts, then zones, if there are such; the least
// loaded come first; fewer than the fallback is none.
func TestEnsembleIsSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cs := farm(rapid.IntRange(0, 3).Draw(t, "zones"), rapid.SliceOfN(rapid.IntRange(0, 3), 0, 6).Draw(t, "stores per host")...)
		for i := range cs {
			cs[i].Load = rapid.Uint64Range(0, 3).Draw(t, "load")
		}
		seed := rapid.Uint64().Draw(t, "seed")
		got, ok := Ensemble(cs, 3, 2, OneOfEachHost, seed)
		if ok != (len(cs) >= 2) {
			t.Fatalf("of %d stores: %v", len(cs), ok)
		}
		if !ok {
			return
		}
		hosts, _ := hostsOf(cs, got)
		distinct := make(map[id.Host]bool)
		for _, h := range hosts {
			distinct[h] = true
		}
		there := make(map[id.Host]bool)
		for _, c := range cs {
			there[c.Host] = true
		}
		want := min(3, len(there)) // two answers never come from one host when there are others
		if len(there) < 2 {
			want = min(3, len(cs))
		}
		if len(got) != want || len(distinct) != min(want, len(there)) {
			t.Fatalf("%d stores on %d hosts, of %d on %d", len(got), len(distinct), len(cs), len(there))
		}
		least := slices.MinFunc(cs, func(a, b Candidate) int { return int(a.Load) - int(b.Load) })
		first := cs[slices.IndexFunc(cs, func(c Candidate) bool { return c.Ref == got[0] })]
		if first.Load != least.Load {
			t.Fatalf("the first has load %d, the least is %d", first.Load, least.Load)
		}
		if again, _ := Ensemble(rapid.Permutation(cs).Draw(t, "order"), 3, 2, OneOfEachHost, seed); !slices.Equal(again, got) {
			t.Fatal("the order of the candidates matters")
		}
	})
}

// Without this a worse code could be taken where a better one is possible.
func TestSchemesAreRanked(t *testing.T) {
	if (Scheme{FourTwo, false}).Rank() >= (Scheme{OneTwo, false}).Rank() || (Scheme{OneOne, false}).Rank() >= (Scheme{FourTwo, true}).Rank() {
		t.Error("a relaxed or smaller scheme comes first")
	}
	if (Scheme{Profile{8, 3}, false}).Rank() != len(ladder) {
		t.Error("an unknown profile is ranked")
	}
}
