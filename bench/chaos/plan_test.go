package chaos

import (
	"slices"
	"testing"
)

// Without this a seed printed by a failed run would lead nowhere, and a kind of fault could be left out for ever.
func TestPlanFollowsFromItsSeed(t *testing.T) {
	deal := func(seed uint64, n int) (out []Fault) {
		p := NewPlan(seed)
		for range n {
			out = append(out, p.Next())
		}
		return out
	}
	a := deal(1, 3*int(kinds))
	if !slices.Equal(a, deal(1, 3*int(kinds))) {
		t.Error("the same seed gave two plans")
	}
	if slices.Equal(a, deal(2, 3*int(kinds))) {
		t.Error("two seeds gave the same plan")
	}
	for round := range 3 {
		seen := make(map[Kind]bool)
		for _, f := range a[round*int(kinds) : (round+1)*int(kinds)] {
			seen[f.Kind] = true
			if f.Hold < 0 || f.Hold > holds[f.Kind][1] || f.Calm <= 0 {
				t.Errorf("%+v is out of bounds", f)
			}
		}
		if len(seen) != int(kinds) {
			t.Errorf("round %d has %d kinds of %d", round, len(seen), kinds)
		}
	}
	some, err := ParseKinds("kill the owner, cut the leader off")
	if err != nil || !slices.Equal(some, []Kind{KillOwner, CutLeader}) {
		t.Errorf("%v %v", some, err)
	}
	if _, err := ParseKinds("unplug"); err == nil {
		t.Error("a fault that does not exist")
	}
	for f, p := 0, NewPlan(1, some...); f < 10; f++ {
		if k := p.Next().Kind; !slices.Contains(some, k) {
			t.Errorf("%s was not asked for", k)
		}
	}
	if len(kindNames) != int(kinds) {
		t.Errorf("%d names for %d kinds", len(kindNames), kinds)
	}
}
