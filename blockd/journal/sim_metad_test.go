package journal

import (
	"fmt"
	"slices"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// simMetad is metad's record of one volume, with the checks that metad makes.
type simMetad struct {
	w          *world
	epoch      id.Epoch
	owner      *process
	list       List
	lastN      uint32
	prior      []id.Host
	checkpoint id.LSN // meta position
	covered    id.LSN // of that checkpoint
	lost       map[Member]bool

	adds, closes, copies, removes, replaces int
}

func (m *simMetad) takeover(p *process) {
	if m.owner != nil && !slices.Contains(m.prior, m.owner.holder.Host) {
		m.prior = append(m.prior, m.owner.holder.Host)
	}
	m.epoch++
	m.list.Complete = false
	m.lastN = 0
	m.owner = p
}

func (m *simMetad) apply(a Ask) (List, error) {
	if a.Epoch != m.epoch {
		return List{}, fmt.Errorf("epoch is %s: %w", m.epoch, errs.ErrStaleEpoch)
	}
	if a.Kind == AskReread {
		return m.list.Clone(), nil
	}
	if a.Version != m.list.Version {
		return List{}, errs.ErrConflict
	}
	if err := m.change(a); err != nil {
		return List{}, err
	}
	m.list.Version++
	return m.list.Clone(), nil
}

func (m *simMetad) change(a Ask) error {
	l := &m.list
	switch a.Kind {
	case AskAdd:
		ms := m.choose(a.Exclude)
		if len(ms) < quorum {
			return fmt.Errorf("no two stores: %w", errs.ErrUnavailable)
		}
		m.lastN++
		m.adds++
		l.Ensembles = append(l.Ensembles, Ensemble{ID: id.Ensemble{Epoch: m.epoch, N: m.lastN}, Members: ms})
	case AskClose:
		return m.close(a)
	case AskRemove:
		return m.remove(a)
	case AskReplace:
		e := l.find(a.Ensembles[0])
		if len(a.Ensembles) != 1 || e == nil || e.Closed || e.ID.Epoch != m.epoch {
			return errs.ErrConflict
		}
		l.Ensembles, l.Complete = []Ensemble{*e}, true
		m.prior = nil
		m.replaces++
	}
	return nil
}

func (m *simMetad) close(a Ask) error {
	i := slices.IndexFunc(m.list.Ensembles, func(e Ensemble) bool { return e.ID == a.Ensemble })
	if i < 0 || m.list.Ensembles[i].Closed || i == len(m.list.Ensembles)-1 || len(a.Holders) != 2 || a.Holders[0] == a.Holders[1] {
		m.w.fail("metad refuses to close %v of %+v", a, m.list)
		return errs.ErrConflict
	}
	for k := range a.From {
		if a.From[k] == 0 || a.To[k] < a.From[k]-1 {
			m.w.fail("close with bounds %v %v", a.From, a.To)
		}
	}
	e := &m.list.Ensembles[i]
	for _, h := range a.Holders {
		if !slices.ContainsFunc(m.list.Ensembles[i:], func(x Ensemble) bool { return slices.Contains(x.Members, h) }) || m.lost[h] {
			return errs.ErrConflict
		}
		if !slices.Contains(e.Members, h) {
			m.copies++
		}
	}
	e.Closed, e.From, e.To, e.Holders = true, a.From, a.To, slices.Clone(a.Holders)
	m.closes++
	return nil
}

func (m *simMetad) remove(a Ask) error {
	for _, x := range a.Ensembles {
		e := m.list.find(x)
		switch {
		case e == nil:
			return errs.ErrNotFound
		case !e.Closed, e.To[storeproto.Journal] >= e.From[storeproto.Journal] && e.To[storeproto.Journal] > a.Released,
			e.To[storeproto.Meta] >= e.From[storeproto.Meta] && e.To[storeproto.Meta] > m.checkpoint:
			m.w.fail("asked to remove an ensemble that is needed: %+v, released %d, checkpoint %d", *e, a.Released, m.checkpoint)
			return errs.ErrConflict
		}
	}
	m.list.Ensembles = slices.DeleteFunc(m.list.Ensembles, func(e Ensemble) bool { return slices.Contains(a.Ensembles, e.ID) })
	m.removes++
	return nil
}

// choose picks an ensemble of stores that metad believes alive: it may be wrong both ways.
func (m *simMetad) choose(exclude []id.Store) []Member {
	var out []Member
	for _, i := range m.w.rng.Perm(len(m.w.stores)) {
		s := m.w.stores[i]
		wrong := m.w.rng.IntN(20) == 0
		if s.up == wrong || slices.Contains(exclude, s.id) || m.lost[s.member()] {
			continue
		}
		if out = append(out, s.member()); len(out) == 3 {
			break
		}
	}
	if len(out) == 3 && m.w.rng.IntN(5) == 0 {
		out = out[:2]
	}
	return out
}

func (m *simMetad) commitCheckpoint(e id.Epoch, position, covered id.LSN) error {
	if e != m.epoch {
		return errs.ErrStaleEpoch
	}
	if !m.list.Complete {
		m.w.fail("%s serves, and metad never heard that its list is replaced", e)
	}
	if position > m.checkpoint {
		m.checkpoint, m.covered = position, covered
	}
	return nil
}
