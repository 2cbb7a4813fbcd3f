// Package placement decides where things lie: which stores form placement groups, and
// which an ensemble gets. It is pure: the same candidates and seed give the same
// answer, whatever their order. It knows no state of its own and reads no clock.
package placement

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Profile is an erasure code: K data and M parity shards. A group may lose M stores
// and is still read.
type Profile struct{ K, M uint8 }

// Width is the stores of a group.
func (p Profile) Width() int { return int(p.K) + int(p.M) }

func (p Profile) String() string { return fmt.Sprintf("%d+%d", p.K, p.M) }

// The profiles.
var (
	FourTwo = Profile{4, 2} // the default from six stores on
	TwoOne  = Profile{2, 1}
	OneTwo  = Profile{1, 2}
	OneOne  = Profile{1, 1} // only while no more than two stores live
)

// Scheme is a profile together with whether the failure domain is given up for it.
type Scheme struct {
	Profile
	// Relaxed: a host may have more than M shards of a group.
	Relaxed bool
}

// ladder has the schemes from best to worst: the preferred profile, then smaller ones,
// all with the failure domain respected; then the same with it relaxed.
var ladder = []Scheme{
	{FourTwo, false}, {TwoOne, false}, {OneTwo, false}, {OneOne, false},
	{FourTwo, true}, {TwoOne, true}, {OneTwo, true}, {OneOne, true},
}

// Rank orders schemes: lower is better. Profiles of no ladder come last.
func (s Scheme) Rank() int {
	if i := slices.Index(ladder, s); i >= 0 {
		return i
	}
	return len(ladder)
}

// Candidate is a store that may be chosen.
type Candidate struct {
	Ref  cluster.StoreRef
	Host id.Host
	Zone string
	// Load counts what the store has already, in whatever unit the caller balances.
	Load uint64
}

func compareRefs(a, b cluster.StoreRef) int {
	if c := bytes.Compare(a.Store[:], b.Store[:]); c != 0 {
		return c
	}
	return bytes.Compare(a.Incarnation[:], b.Incarnation[:])
}

// sorted is a copy in order of ids, so that the caller's order means nothing.
func sorted(cs []Candidate) []Candidate {
	cs = slices.Clone(cs)
	slices.SortFunc(cs, func(a, b Candidate) int { return compareRefs(a.Ref, b.Ref) })
	return cs
}

// domain is a failure domain: a host, or a zone.
type domain func(Candidate) string

func byHost(c Candidate) string { return string(c.Host) }
func byZone(c Candidate) string { return c.Zone }

// fits tells whether a group of profile p can be had with at most M shards per domain.
func fits(cs []Candidate, p Profile, d domain) bool {
	count := make(map[string]int)
	room := 0
	for _, c := range cs {
		if count[d(c)] < int(p.M) {
			count[d(c)]++
			room++
		}
	}
	return room >= p.Width()
}

// Best is the best scheme that the stores allow, and false when fewer than two are there.
func Best(cs []Candidate) (Scheme, bool) {
	for _, s := range ladder {
		switch {
		case len(cs) < s.Width(), s.Profile == OneOne && len(cs) > 2:
		case s.Relaxed, fits(cs, s.Profile, byHost): // fitting by zone implies fitting by host
			return s, true
		}
	}
	return Scheme{}, false
}

// Relaxed tells whether a group of these stores' hosts has more than m shards on one.
func Relaxed(hosts []id.Host, m uint8) bool {
	count := make(map[id.Host]int)
	for _, h := range hosts {
		if count[h]++; count[h] > int(m) {
			return true
		}
	}
	return false
}

// mix is splitmix64's finisher: a seeded, stable way to break ties.
func mix(x uint64) uint64 {
	x += 0x9E3779B97F4A7C15
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

func tie(seed uint64, n int, r cluster.StoreRef) uint64 {
	h := mix(seed ^ uint64(n)<<32)
	for i := 0; i < len(r.Store); i += 8 {
		var w uint64
		for j := range 8 {
			w = w<<8 | uint64(r.Store[i+j])
		}
		h = mix(h ^ w)
	}
	return h
}

func compareFirst(orders ...int) int { return cmp.Or(orders...) }
