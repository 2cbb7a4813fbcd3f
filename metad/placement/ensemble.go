package placement

import (
	"cmp"
	"slices"

	"ashlar.dev/pkg/cluster"
)

// Ensemble chooses want stores for an ensemble: of different hosts first, then of
// different zones, then the least loaded. If fewer than want are there it takes them
// all, as long as they are at least fallback; else false. It takes stores of one host
// only when there are no others.
func Ensemble(candidates []Candidate, want, fallback int, seed uint64) ([]cluster.StoreRef, bool) {
	cs := sorted(candidates)
	if len(cs) < want {
		want = len(cs)
	}
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
