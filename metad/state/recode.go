package state

import (
	"encoding/binary"
	"slices"

	"ashlar.dev/metad/placement"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// A group that was formed while few stores lived has a smaller code. When a better one is
// possible it is given a version with that; owners of disks then write what they have in it
// anew, segment by segment, and the older versions are forgotten when no store has anything
// that was coded under them. Numbers are permanent, so this is how old data gets the margin.

type (
	// RecodeGroup gives a group a better code: a new version after At.
	RecodeGroup struct {
		PG     id.PG
		At     uint32
		K, M   uint8
		Stores []cluster.StoreRef
	}
	// ForgetCodes drops the versions of a group before At, the current one, of whatever code: nothing
	// is left that was coded under them.
	ForgetCodes struct {
		PG id.PG
		At uint32
	}
)

// RecodeGroupsMax: with as many groups none is given a better code any more, but used again when
// few stores live. Else each outage would leave some groups more.
const RecodeGroupsMax = 1024

// TwoCodes tells whether a kept version of p has another code than the current one.
func (p *PG) TwoCodes() bool {
	current := p.Current()
	return slices.ContainsFunc(p.Versions, func(v cluster.PGVersion) bool { return v.K != current.K || v.M != current.M })
}

func (m *Machine) recodeGroup(c *RecodeGroup) Result {
	i, p := m.pg(c.PG)
	if p == nil {
		return refuse(errs.ErrNotFound, "placement group %d", c.PG)
	}
	current := p.Current()
	next := cluster.PGVersion{Version: c.At + 1, K: c.K, M: c.M, Stores: slices.Clone(c.Stores)}
	switch {
	case current.Version != c.At || len(p.Versions) > 1:
		return refuse(errs.ErrConflict, "placement group %d is at version %d of %d, not %d alone", c.PG, current.Version, len(p.Versions), c.At)
	case c.K == 0 || len(c.Stores) != int(c.K)+int(c.M):
		return refuse(errs.ErrInvalid, "placement group %d of %d+%d given %d stores", c.PG, c.K, c.M, len(c.Stores))
	}
	seen := make(map[id.Store]bool)
	for _, r := range c.Stores {
		if seen[r.Store] {
			return refuse(errs.ErrInvalid, "placement group %d would have store %s twice", c.PG, r)
		}
		seen[r.Store] = true
		if m.Leaves(r) {
			return refuse(errs.ErrConflict, "store %s takes no places", r)
		}
	}
	if was, is := m.Scheme(current), m.Scheme(next); is.Rank() >= was.Rank() || is.M < was.M || is.Relaxed {
		return refuse(errs.ErrConflict, "placement group %d of %s would get %s, which is no better", c.PG, was.Profile, is.Profile)
	}
	m.pgs = slices.Clone(m.pgs) // readers hold the slice of groups
	m.pgs[i].Versions = append(slices.Clone(p.Versions), next)
	return Result{Added: 1}
}

func (m *Machine) forgetCodes(c *ForgetCodes) Result {
	i, p := m.pg(c.PG)
	if p == nil {
		return refuse(errs.ErrNotFound, "placement group %d", c.PG)
	}
	current := p.Current()
	if current.Version != c.At {
		return refuse(errs.ErrConflict, "placement group %d is at version %d, not %d", c.PG, current.Version, c.At)
	}
	m.pgs = slices.Clone(m.pgs)
	m.pgs[i].Versions = []cluster.PGVersion{current}
	return Result{}
}

// PlanRecode is the command that gives a group the best code that the stores allow; nil: it has
// it, it moves, or there are too many groups.
func (m *Machine) PlanRecode(n id.PG, healthy []cluster.StoreRef, seed uint64) *RecodeGroup {
	_, p := m.pg(n)
	if p == nil || len(p.Versions) > 1 || len(m.pgs) > RecodeGroupsMax {
		return nil
	}
	current := p.Current()
	stores := slices.DeleteFunc(m.candidates(healthy), func(c placement.Candidate) bool { return m.Leaves(c.Ref) })
	g, ok := placement.Better(stores, m.groups(), m.Scheme(current), seed)
	if !ok {
		return nil
	}
	return &RecodeGroup{PG: n, At: current.Version, K: g.K, M: g.M, Stores: g.Stores}
}

func (*RecodeGroup) kind() kind { return kindRecodeGroup }
func (*ForgetCodes) kind() kind { return kindForgetCodes }

func (c *RecodeGroup) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint16(b, uint16(c.PG)), c.At)
	return appendRefs(append(b, c.K, c.M), c.Stores)
}

func (c *RecodeGroup) read(r *codec.Reader) {
	c.PG, c.At, c.K, c.M = id.PG(r.U16()), r.U32(), r.U8(), r.U8()
	c.Stores = readRefs(r, groupWidthMax)
}

func (c *ForgetCodes) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint16(b, uint16(c.PG)), c.At)
}

func (c *ForgetCodes) read(r *codec.Reader) { c.PG, c.At = id.PG(r.U16()), r.U32() }
