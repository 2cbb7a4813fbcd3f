package placement

import (
	"cmp"
	"slices"

	"ashlar.dev/pkg/cluster"
)

// Rule says what an ensemble does where there are fewer hosts than it wants stores.
type Rule int

// OneOfEachHost takes fewer stores, as long as they are at least the fallback: two answers
// that come from one host would be lost with it. SeveralOfAHost is what the first version did.
const (
	OneOfEachHost Rule = iota
	SeveralOfAHost
)

// Ensemble chooses want stores for an ensemble: of different hosts first, then of different
// zones, then the least loaded; several of a host only by rule, or where there are fewer hosts
// than fallback. False: there are fewer stores than fallback.
func Ensemble(candidates []Candidate, want, fallback int, rule Rule, seed uint64) ([]cluster.StoreRef, bool) {
	cs := sorted(candidates)
	if n := Hosts(cs); rule == OneOfEachHost && n >= fallback {
		want = min(want, n)
	}
	want = min(want, len(cs))
	if want < fallback || want <= 0 {
		return nil, false
	}
	hosts, zones := make(map[string]int), make(map[string]int)
	out := make([]cluster.StoreRef, 0, want)
	for n := range want {
		best := slices.MinFunc(cs, func(a, b Candidate) int {
			return compareFirst(
				cmp.Compare(hosts[byHost(a)], hosts[byHost(b)]),
				cmp.Compare(zones[byZone(a)], zones[byZone(b)]),
				cmp.Compare(a.Load, b.Load),
				cmp.Compare(tie(seed, n, a.Ref), tie(seed, n, b.Ref)))
		})
		hosts[byHost(best)]++
		zones[byZone(best)]++
		out = append(out, best.Ref)
		cs = slices.DeleteFunc(cs, func(c Candidate) bool { return c.Ref == best.Ref })
	}
	return out, true
}

// Hosts counts the hosts of some stores.
func Hosts(candidates []Candidate) int {
	hosts := make(map[string]bool)
	for _, c := range candidates {
		hosts[byHost(c)] = true
	}
	return len(hosts)
}
