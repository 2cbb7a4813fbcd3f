package state

import (
	"slices"

	"ashlar.dev/metad/placement"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
)

// The kinds of this file and of recode.go.
const (
	kindSetBalancing kind = iota + 160
	kindRecodeGroup
	kindForgetCodes
)

// SetBalancing pauses the balancing of stores, or lets it go on.
type SetBalancing struct{ Paused bool }

// BalancingPaused tells whether an operator wants stores to stay as unequal as they are.
func (m *Machine) BalancingPaused() bool { return m.balancingPaused }

func (m *Machine) setBalancing(c *SetBalancing) Result {
	m.balancingPaused = c.Paused
	return Result{}
}

func (*SetBalancing) kind() kind               { return kindSetBalancing }
func (c *SetBalancing) append(b []byte) []byte { return appendBool(b, c.Paused) }
func (c *SetBalancing) read(r *codec.Reader)   { c.Paused = readBool(r) }

func emptyHealing(k kind) Command {
	switch k {
	case kindSetBalancing:
		return &SetBalancing{}
	case kindRecodeGroup:
		return &RecodeGroup{}
	case kindForgetCodes:
		return &ForgetCodes{}
	}
	return nil
}

func (m *Machine) applyHealing(c Command) (Result, bool) {
	switch c := c.(type) {
	case *SetBalancing:
		return m.setBalancing(c), true
	case *RecodeGroup:
		return m.recodeGroup(c), true
	case *ForgetCodes:
		return m.forgetCodes(c), true
	}
	return Result{}, false
}

// appendHealing is the part of a snapshot that came with LevelTime.
func (m *Machine) appendHealing(b []byte) []byte { return appendBool(b, m.balancingPaused) }
func (m *Machine) readHealing(r *codec.Reader)   { m.balancingPaused = readBool(r) }

// Use is what the leader knows of a store: how much of how much is taken, by the present
// members of groups; and whether it may be given more.
type Use struct {
	cluster.StoreRef
	Bytes, Capacity uint64
	Takes           bool
}

// Weigh is one group as balancing sees it: the bytes of each slot, and whether it may be moved.
type Weigh struct {
	PG    id.PG
	Bytes []uint64
	Stays bool
}

// PlanBalance is the command that moves one slot from a store that is fuller to one that
// is emptier by more than least, a share of their capacities; nil: no move would help.
func (m *Machine) PlanBalance(uses []Use, groups []Weigh, least float64) *MoveGroup {
	refs := make([]cluster.StoreRef, len(uses))
	for i := range uses {
		refs[i] = uses[i].StoreRef
	}
	var stores []placement.Filled
	for _, c := range m.candidates(refs) {
		u := uses[slices.IndexFunc(uses, func(u Use) bool { return u.StoreRef == c.Ref })]
		stores = append(stores, placement.Filled{Candidate: c, Bytes: u.Bytes, Capacity: u.Capacity, Takes: u.Takes && !m.Leaves(c.Ref)})
	}
	shares := make([]placement.Shares, 0, len(groups))
	of := make([]*PG, 0, len(groups))
	for _, w := range groups {
		_, p := m.pg(w.PG)
		if p == nil || len(w.Bytes) != len(p.Current().Stores) {
			continue
		}
		current := p.Current()
		s := placement.Shares{M: current.M, Bytes: w.Bytes, Stays: w.Stays || len(p.Versions) > 1 || m.Scheme(current).Relaxed}
		slots, _ := m.slots(current)
		for i := range slots {
			s.Stores = append(s.Stores, slots[i].Candidate)
		}
		shares, of = append(shares, s), append(of, p)
	}
	g, slot, to, ok := placement.Level(stores, shares, least)
	if !ok {
		return nil
	}
	current := of[g].Current()
	next := slices.Clone(current.Stores)
	next[slot] = to
	return &MoveGroup{PG: of[g].Number, At: current.Version, Stores: next, Freely: true}
}
