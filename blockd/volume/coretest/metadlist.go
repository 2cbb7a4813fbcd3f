package coretest

import (
	"context"
	"slices"

	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// ensemblesMax bounds a list.
const ensemblesMax = 64

// AddEnsemble adds an open ensemble of three stores, or two, on different hosts where it can.
func (f *Metad) AddEnsemble(_ context.Context, a client.AddEnsemble) (*cluster.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.at(a.At)
	if err != nil {
		return nil, err
	}
	if len(r.List) >= ensemblesMax {
		return nil, errs.ErrNoSpace
	}
	members := f.membersLocked(a.Exclude)
	n := len(r.List)
	if len(members) < 2 || a.Better && n > 0 && !f.better(members, r.List[n-1].Stores) {
		return nil, errs.ErrUnavailable
	}
	f.counter[r.ID]++
	r.List = append(slices.Clone(r.List), cluster.Ensemble{ID: id.Ensemble{Epoch: r.Epoch, N: f.counter[r.ID]}, Stores: members})
	r.ListVersion++
	return r.Clone(), nil
}

// membersLocked chooses stores of three hosts, or of two, or two of one; full ones last.
func (f *Metad) membersLocked(exclude []id.Store) (out []cluster.StoreRef) {
	hosts := make(map[id.Host]bool)
	choose := func(want int, full, again bool) {
		for _, s := range f.stores {
			if len(out) < want && s.State == cluster.StoreUp && (full || !s.Full) && (again || !hosts[s.Host]) &&
				!slices.Contains(exclude, s.Store) && !slices.Contains(out, s.StoreRef) {
				hosts[s.Host] = true
				out = append(out, s.StoreRef)
			}
		}
	}
	choose(3, false, false)
	choose(3, true, false)
	choose(2, true, true)
	return out
}

// better tells whether a is on more hosts than b, or on as many with more stores.
func (f *Metad) better(a, b []cluster.StoreRef) bool {
	hosts := func(refs []cluster.StoreRef) int {
		set := make(map[id.Host]bool)
		for _, s := range f.stores {
			if s.State != cluster.StoreLost && slices.Contains(refs, s.StoreRef) {
				set[s.Host] = true
			}
		}
		return len(set)
	}
	if x, y := hosts(a), hosts(b); x != y {
		return x > y
	}
	return len(a) > len(b)
}

// CloseEnsemble closes one that has a successor; its holders are stores of it or of a later one.
func (f *Metad) CloseEnsemble(_ context.Context, c client.CloseEnsemble) (*cluster.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.at(c.At)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(r.List, func(e cluster.Ensemble) bool { return e.ID == c.Ensemble })
	switch {
	case i < 0:
		return nil, errs.ErrNotFound
	case r.List[i].Closed || i == len(r.List)-1:
		return nil, errs.ErrConflict
	case c.From == 0 || c.MetaFrom == 0 || c.To < c.From-1 || c.MetaTo < c.MetaFrom-1, len(c.Holders) != 2 || c.Holders[0] == c.Holders[1]:
		return nil, errs.ErrInvalid
	}
	for _, h := range c.Holders {
		if !f.alive(h) || !slices.ContainsFunc(r.List[i:], func(e cluster.Ensemble) bool { return slices.Contains(e.Stores, h) }) {
			return nil, errs.ErrConflict
		}
	}
	r.List = slices.Clone(r.List)
	e := &r.List[i]
	e.Closed, e.From, e.To, e.MetaFrom, e.MetaTo, e.Holders = true, c.From, c.To, c.MetaFrom, c.MetaTo, slices.Clone(c.Holders)
	r.ListVersion++
	return r.Clone(), nil
}

// RemoveEnsembles takes some out of the list that are closed, released, and covered by the checkpoint.
func (f *Metad) RemoveEnsembles(_ context.Context, d client.RemoveEnsembles) (*cluster.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.at(d.At)
	if err != nil {
		return nil, err
	}
	var meta id.LSN
	if r.Checkpoint != nil {
		meta = r.Checkpoint.Meta
	}
	for _, x := range d.Ensembles {
		e, ok := r.Ensemble(x)
		switch {
		case !ok:
			return nil, errs.ErrNotFound
		case !e.Closed, e.To >= e.From && e.To > d.Released, e.MetaTo >= e.MetaFrom && e.MetaTo > meta:
			return nil, errs.ErrConflict
		}
	}
	r.List = slices.DeleteFunc(slices.Clone(r.List), func(e cluster.Ensemble) bool { return slices.Contains(d.Ensembles, e.ID) })
	r.ListVersion++
	return r.Clone(), nil
}

// ReplaceList leaves one ensemble of the list, an open one of this epoch.
func (f *Metad) ReplaceList(_ context.Context, at client.ListVersion, keep id.Ensemble) (*cluster.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.at(at)
	if err != nil {
		return nil, err
	}
	e, ok := r.Ensemble(keep)
	if !ok || e.Closed || e.ID.Epoch != r.Epoch {
		return nil, errs.ErrConflict
	}
	r.List, r.Prior, r.OpenComplete = []cluster.Ensemble{e}, nil, true
	r.ListVersion++
	return r.Clone(), nil
}
