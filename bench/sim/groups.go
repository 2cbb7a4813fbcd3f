package sim

import (
	"errors"
	"slices"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Groups of snapshots are of one moment over several disks: metad's leader has every owner give its mark a place and hold
// back what comes after it, and lets all go on when it has heard that all have theirs. At that moment every disk of the
// group is what its snapshot is: whoever wrote to one because of what another had acknowledged finds both or neither.

const (
	groupHold = 15 * time.Millisecond
	groupWait = 60 * time.Millisecond // for a step
)

// grouping is a group that is being taken, on the leader that arranges it.
type grouping struct {
	w       *World
	term    uint64
	members []*grouped
	step    int // of all members; an answer to another one comes too late
	waiting int
	err     error
}

// grouped is one disk of it.
type grouped struct {
	d     *disk
	s     *snap
	e     *engine
	epoch id.Epoch
	mark  *operation
}

var errGroup = errors.New("sim: a step of a group of snapshots was not taken")

// takeGroup takes one snapshot of each of some disks, or none.
func (w *World) takeGroup() {
	m := w.metad
	if m.group != nil {
		return
	}
	g := &grouping{w: w, term: m.term}
	c := &state.CreateSnapshots{NowMS: 1}
	for _, d := range w.disks {
		e := d.owner()
		if e == nil || e.frozen || d.held || d.leaves || d.retired || len(d.snaps) >= snapsMax || len(g.members) == state.GroupMax {
			continue
		}
		s := &snap{id: d.snapName(), begun: d.model.Reading(), model: d.model, seen: make(map[uint64]cells), grouped: true}
		g.members = append(g.members, &grouped{d: d, s: s, e: e})
		c.Members = append(c.Members, state.GroupMember{Volume: d.id, ID: s.id})
	}
	if len(g.members) < 2 {
		return
	}
	if r := m.apply(c); r.Err != nil {
		w.fail(CheckMetad, "a group of snapshots is refused: %v", r.Err)
		return
	}
	for _, x := range g.members {
		x.d.snaps = append(x.d.snaps, x.s)
	}
	w.log("a group of %d snapshots", len(g.members))
	m.group = g
	g.order("holds", (*grouped).hold, func() {
		for _, x := range g.members {
			if g.err == nil { // all of them have their places, and nothing behind is acknowledged
				x.s.begun = x.d.model.Reading()
			}
		}
		g.order("releases", (*grouped).release, g.end)
	})
}

// order has a step taken by all owners; then goes on when all have, or when it takes too long, or one cannot.
func (g *grouping) order(name string, step func(*grouped, func(error)), then func()) {
	w := g.w
	g.step++
	now := g.step
	g.waiting = len(g.members)
	over := func() {
		if g.step == now {
			g.step++
			then()
		}
	}
	w.after(groupWait, "a group "+name+" no longer", func() {
		if g.waiting > 0 && g.step == now {
			g.err = errGroup
			over()
		}
	})
	for _, x := range g.members {
		there, ok := w.net.hop(metadHost, x.e.h.name)
		if !ok {
			continue
		}
		if w.rng.IntN(2) == 0 { // a busy host comes to it later than others
			there += w.between(0, groupHold/3)
		}
		w.after(there, x.e.name+" "+name, func() {
			x.e.h.later(func() {
				step(x, func(err error) {
					back, ok := w.net.hop(x.e.h.name, metadHost)
					if !ok {
						return
					}
					w.after(back, x.e.name+" "+name+": told", func() {
						if g.step != now || w.metad.silent() || w.metad.group != g {
							return
						}
						g.waiting--
						if g.err = errors.Join(g.err, err); g.waiting == 0 || err != nil {
							over()
						}
					})
				})
			})
		})
	}
}

// hold gives the mark its place.
func (x *grouped) hold(answer func(error)) {
	e := x.e
	if e.dead || !e.opened {
		answer(errs.ErrStaleEpoch)
		return
	}
	o := &operation{op: core.Op{Kind: core.OpMark, Snapshot: id.Raw(x.s.id), Hold: groupHold}, snap: x.s}
	x.mark = o
	x.d.send(e, o)
	if !e.core.Holds(id.Raw(x.s.id)) {
		answer(errGroup)
		return
	}
	e.w.after(groupHold, e.name+" holds no longer", func() {
		e.h.later(func() {
			e.step(func(now time.Duration, fx *core.Effects) { e.core.EndHold(now, fx) })
		})
	})
	answer(nil)
}

// release ends the hold and waits for the mark.
func (x *grouped) release(answer func(error)) {
	e, stood := x.e, false
	e.step(func(now time.Duration, fx *core.Effects) { _, stood = e.core.ReleaseHold(now, id.Raw(x.s.id), fx) })
	if !stood || x.mark == nil {
		answer(errGroup)
		return
	}
	x.epoch = e.epoch
	ended := func() { answer(x.mark.err) }
	if x.mark.ended {
		ended()
	} else {
		x.mark.then = ended
	}
}

// end makes the snapshots ready, or has them deleted.
func (g *grouping) end() {
	w := g.w
	m := w.metad
	if m.group != g || m.silent() {
		return // the next leader finds what is left
	}
	m.group = nil
	c := &state.EndSnapshots{OK: g.err == nil}
	for _, x := range g.members {
		c.Members = append(c.Members, state.GroupMember{Volume: x.d.id, ID: x.s.id, Epoch: x.epoch})
	}
	err := g.err
	if err == nil {
		if err = m.apply(c).Err; err == nil {
			w.cover.Groups++
			w.log("a group of snapshots is taken")
			for _, x := range g.members {
				if x.s.ended = x.s.begun; x.mark.err != nil {
					w.fail(CheckSnapshots, "%s is ready, and its mark is not", x.s)
				}
			}
			return
		}
	}
	m.forgetGroup(c.Members)
}

// forgetGroup has snapshots of a group deleted that are not ready.
func (m *metad) forgetGroup(all []state.GroupMember) {
	if r := m.apply(&state.EndSnapshots{Members: all}); r.Err != nil {
		m.w.fail(CheckMetad, "a group of snapshots is not given up: %v", r.Err)
	}
	for _, x := range all {
		if i := slices.IndexFunc(m.w.disks, func(d *disk) bool { return d.id == x.Volume }); i >= 0 {
			if s := m.w.disks[i].snap(x.ID); s != nil && s.ended == 0 { // else somebody was told that it is taken
				s.dropped = true
			}
		}
	}
}

// forgetGroups gives up what the leader before began, as metad's server does.
func (m *metad) forgetGroups() {
	if m.group != nil {
		return
	}
	var left []state.GroupMember
	for _, v := range m.m.SnapshotWork() {
		for _, s := range v.Snapshots {
			if s.State == cluster.SnapshotGrouped && len(left) < state.GroupMax {
				left = append(left, state.GroupMember{Volume: v.ID, ID: s.ID})
			}
		}
	}
	if len(left) > 0 {
		m.forgetGroup(left)
	}
}
