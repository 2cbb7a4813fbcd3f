package state

import (
	"slices"
	"time"

	"ashlar.dev/metad/placement"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// listAt finds the record whose list may be changed, or refuses: every change compares
// {epoch, list version}.
func (m *Machine) listAt(at At) (*Volume, Result) {
	v, r := m.owned(at.Volume, at.Epoch)
	if v == nil {
		return nil, r
	}
	if at.Version != v.ListVersion {
		return nil, refuseWith(v, errs.ErrConflict, "the list of %s has version %d, not %d", at.Volume, v.ListVersion, at.Version)
	}
	return v.clone(), Result{}
}

func (m *Machine) putList(v *Volume) Result {
	v.ListVersion++
	return m.put(v)
}

func (m *Machine) addEnsemble(c *AddEnsemble) Result {
	v, r := m.listAt(c.At)
	if v == nil {
		return r
	}
	if c.Want == 0 || c.Want > EnsembleWidthMax || c.Fallback == 0 || c.Fallback > c.Want {
		return refuse(errs.ErrInvalid, "an ensemble of %d, at least %d stores", c.Want, c.Fallback)
	}
	if len(v.List) >= EnsemblesMax {
		return refuse(errs.ErrNoSpace, "the list of %s has %d ensembles; close and remove old ones first", c.At.Volume, len(v.List))
	}
	stores, ok := m.chooseEnsemble(c)
	if !ok {
		return refuse(errs.ErrUnavailable, "an ensemble needs %d stores", c.Fallback)
	}
	if c.Better && len(v.List) > 0 && !m.better(stores, v.List[len(v.List)-1].Stores) {
		return refuse(errs.ErrUnavailable, "there are no stores for a better ensemble than the newest")
	}
	v.lastN++
	v.List = append(v.List, cluster.Ensemble{ID: id.Ensemble{Epoch: v.Epoch, N: v.lastN}, Stores: stores})
	return m.putList(v)
}

// chooseEnsemble chooses as all members do: the oldest of them took several stores of a
// host where there were too few hosts.
func (m *Machine) chooseEnsemble(c *AddEnsemble) ([]cluster.StoreRef, bool) {
	rule := placement.OneOfEachHost
	if m.level < LevelEvents {
		rule = placement.SeveralOfAHost
	}
	return placement.Ensemble(m.ensembleCandidates(c.Candidates), int(c.Want), int(c.Fallback), rule, c.Seed)
}

// better tells whether a is on more hosts than b, or on as many with more stores.
func (m *Machine) better(a, b []cluster.StoreRef) bool {
	hosts := func(refs []cluster.StoreRef) int {
		set := make(map[id.Host]bool)
		for _, r := range refs {
			if m.Alive(r) {
				set[m.stores[r.Store].Host] = true
			}
		}
		return len(set)
	}
	if x, y := hosts(a), hosts(b); x != y {
		return x > y
	}
	return len(a) > len(b)
}

// WorthAdding tells whether an AddEnsemble that must be better could be.
func (m *Machine) WorthAdding(c *AddEnsemble) bool {
	v, _ := m.listAt(c.At)
	if !c.Better || v == nil || len(v.List) == 0 {
		return true
	}
	stores, ok := m.chooseEnsemble(c)
	return ok && m.better(stores, v.List[len(v.List)-1].Stores)
}

// ensembleCandidates are the stores of the leader's choice that are present memories,
// with the ensembles they are in counted to their load.
func (m *Machine) ensembleCandidates(in []EnsembleCandidate) []placement.Candidate {
	seen := make(map[id.Store]bool)
	var out []placement.Candidate
	for _, x := range in {
		if !m.Alive(x.StoreRef) || seen[x.Store] {
			continue
		}
		seen[x.Store] = true
		host := m.stores[x.Store].Host
		out = append(out, placement.Candidate{Ref: x.StoreRef, Host: host, Zone: m.zone(host), Load: x.Load + m.inUse[x.StoreRef]})
	}
	return out
}

// PlacementNeeded tells whether EnsurePlacement over these stores would add groups.
func (m *Machine) PlacementNeeded(healthy []cluster.StoreRef) bool {
	add, ok := placement.Form(m.candidates(healthy), m.groups(), 0)
	return ok && len(add) > 0
}

func (m *Machine) zone(h id.Host) string {
	if x := m.hosts[h]; x != nil {
		return x.Zone
	}
	return ""
}

// closeEnsemble: only one with a successor, whose two holders are memories that still
// stand and belong to it or to a later one.
func (m *Machine) closeEnsemble(c *CloseEnsemble) Result {
	v, r := m.listAt(c.At)
	if v == nil {
		return r
	}
	i := slices.IndexFunc(v.List, func(e cluster.Ensemble) bool { return e.ID == c.Ensemble })
	switch {
	case i < 0:
		return refuseWith(m.volumes[v.ID], errs.ErrNotFound, "ensemble %s of %s", c.Ensemble, v.ID)
	case v.List[i].Closed || i == len(v.List)-1:
		return refuseWith(m.volumes[v.ID], errs.ErrConflict, "ensemble %s of %s is closed or has no successor", c.Ensemble, v.ID)
	case c.From == 0 || c.MetaFrom == 0 || c.To < c.From-1 || c.MetaTo < c.MetaFrom-1:
		return refuse(errs.ErrInvalid, "ensemble bounds [%d, %d], meta [%d, %d]", c.From, c.To, c.MetaFrom, c.MetaTo)
	case len(c.Holders) != 2 || c.Holders[0] == c.Holders[1]:
		return refuse(errs.ErrInvalid, "a close names two stores")
	}
	for _, h := range c.Holders {
		member := slices.ContainsFunc(v.List[i:], func(e cluster.Ensemble) bool { return slices.Contains(e.Stores, h) })
		if !member || !m.Alive(h) {
			return refuseWith(m.volumes[v.ID], errs.ErrConflict, "store %s cannot hold ensemble %s", h, c.Ensemble)
		}
	}
	e := &v.List[i]
	e.Closed, e.From, e.To, e.MetaFrom, e.MetaTo = true, c.From, c.To, c.MetaFrom, c.MetaTo
	e.Holders = slices.Clone(c.Holders)
	return m.putList(v)
}

// removeEnsembles: closed ones whose LSNs are released and whose meta stream the
// committed checkpoint covers. An empty stream needs no cover.
func (m *Machine) removeEnsembles(c *RemoveEnsembles) Result {
	v, r := m.listAt(c.At)
	if v == nil {
		return r
	}
	var meta id.LSN
	if v.Checkpoint != nil {
		meta = v.Checkpoint.Meta
	}
	for _, x := range c.Ensembles {
		e, ok := v.Ensemble(x)
		switch {
		case !ok:
			return refuseWith(m.volumes[v.ID], errs.ErrNotFound, "ensemble %s of %s", x, v.ID)
		case !e.Closed, e.To >= e.From && e.To > c.Released, e.MetaTo >= e.MetaFrom && e.MetaTo > meta:
			return refuseWith(m.volumes[v.ID], errs.ErrConflict, "ensemble %s of %s is still needed: closed %v, to %d, meta to %d; released %d, checkpoint at %d",
				x, v.ID, e.Closed, e.To, e.MetaTo, c.Released, meta)
		}
	}
	v.List = slices.DeleteFunc(v.List, func(e cluster.Ensemble) bool { return slices.Contains(c.Ensembles, e.ID) })
	return m.putList(v)
}

// replaceList: the fresh ensemble of this epoch becomes the whole list, and nobody
// before this owner counts any more.
func (m *Machine) replaceList(c *ReplaceList) Result {
	v, r := m.listAt(c.At)
	if v == nil {
		return r
	}
	e, ok := v.Ensemble(c.Keep)
	if !ok || e.Closed || e.ID.Epoch != v.Epoch {
		return refuseWith(m.volumes[v.ID], errs.ErrConflict, "ensemble %s of %s is not an open one of %s", c.Keep, v.ID, v.Epoch)
	}
	v.List = []cluster.Ensemble{e}
	v.OpenComplete, v.Prior = true, nil
	return m.putList(v)
}

// acceptLoss: only where recovery cannot get its answers any more, ever.
func (m *Machine) acceptLoss(c *AcceptLoss) Result {
	v, ok := m.volumes[c.Volume]
	if !ok || v.Deleted {
		return refuse(errs.ErrNotFound, "volume %s", c.Volume)
	}
	i := slices.IndexFunc(v.List, func(e cluster.Ensemble) bool { return e.ID == c.Ensemble })
	if i < 0 {
		return refuse(errs.ErrNotFound, "ensemble %s of %s", c.Ensemble, c.Volume)
	}
	e := v.List[i]
	if e.LossAccepted {
		return Result{Volume: v}
	}
	lost := m.LostOf(e)
	if !beyondRecovery(e, len(lost)) {
		return refuse(errs.ErrConflict, "ensemble %s of %s has not lost its stores for good: %d of them are declared lost", c.Ensemble, c.Volume, len(lost))
	}
	if len(v.Losses) >= LossesMax {
		return refuse(errs.ErrNoSpace, "volume %s has %d accepted losses", c.Volume, len(v.Losses))
	}
	v = v.clone()
	v.List[i].LossAccepted = true
	v.Losses = append(v.Losses, cluster.Loss{Ensemble: e.ID, Lost: lost, At: time.UnixMilli(c.NowMS).UTC(), By: c.By})
	return m.putList(v)
}

// LostOf are the stores of which recovery may ask e's records and that are lost for good.
func (m *Machine) LostOf(e cluster.Ensemble) []cluster.StoreRef {
	asked := e.Stores
	if e.Closed {
		asked = e.Holders
	}
	var lost []cluster.StoreRef
	for _, s := range asked {
		if !m.Alive(s) {
			lost = append(lost, s)
		}
	}
	return lost
}

// beyondRecovery: an open ensemble of three needs two answers, one of two needs one,
// of a closed one a single holder does.
func beyondRecovery(e cluster.Ensemble, lost int) bool {
	if e.Closed {
		return lost >= len(e.Holders)
	}
	return lost >= min(2, len(e.Stores))
}
