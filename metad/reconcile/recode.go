package reconcile

import (
	"slices"
	"time"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// The law of better codes. Groups that were formed while few stores lived are given the code
// that is possible now, and their disks' owners write anew what lies in them.
//
//   - It begins when all stores have been there, with none to leave, for the delay after which a
//     store counts as out: a machine that is restarted every now and then gives its neighbours
//     no groups to be coded anew each time. Where the better code bears more losses, at once.
//   - At most recodesMax groups are under way; each keeps its older versions until nobody has
//     anything that was coded under them.
const (
	recodesMax  = 4
	recodeEvery = time.Second
)

// Recoder decides which groups get a better code. The zero value is ready.
type Recoder struct {
	next  time.Duration
	since time.Duration // when all stores were there, for the first time without a break
	there bool
	pace  pace
	left  uint64 // at the last look
	done  uint64 // all that has gone
}

// Plan gives the next commands. after is how long all stores must have been there.
func (x *Recoder) Plan(now, after time.Duration, m *state.Machine, l *Liveness, t *cluster.Topology, seed uint64) (all []state.Command) {
	if now < x.next {
		return nil
	}
	x.next = now + recodeEvery
	x.look(now, l, t)
	if !complete(m, l, t) {
		x.there = false
		return nil
	}
	if !x.there {
		x.there, x.since = true, now
	}
	bears, long := losses(m, t), now-x.since >= after
	if m.Level() < state.LevelTime || m.Rebuilding() {
		return nil
	}
	under := 0
	for _, p := range m.PGs() {
		if p.TwoCodes() {
			under++
		}
	}
	healthy := Takers(t, nil)
	for _, p := range m.PGs() {
		if under >= recodesMax {
			break
		}
		if !long && int(p.Current().M) >= bears {
			continue
		}
		if c := m.PlanRecode(p.Number, healthy, seed+uint64(p.Number)); c != nil {
			all = append(all, c)
			under++
		}
	}
	return all
}

// losses is how many the best code bears that is possible now, without giving up failure domains.
func losses(m *state.Machine, t *cluster.Topology) int {
	if s, ok := m.BestOver(Takers(t, nil)); ok && !s.Relaxed {
		return int(s.M)
	}
	return 0
}

// look follows how fast what is left becomes less.
func (x *Recoder) look(now time.Duration, l *Liveness, t *cluster.Topology) {
	left := remaining(l, t)
	if left < x.left {
		x.done += x.left - left
	}
	x.left = left
	x.pace = x.pace.next(now, x.done)
}

// complete: every store has spoken, is there, and is to stay.
func complete(m *state.Machine, l *Liveness, t *cluster.Topology) bool {
	return !slices.ContainsFunc(m.Stores(), func(s state.Store) bool {
		_, told := l.StoreBeat(s.StoreRef)
		return m.Leaves(s.StoreRef) || !told || !t.Usable(s.StoreRef)
	})
}

// forget gives the command that drops the older versions of a group of two codes; nil: somebody has
// something that was coded under them, or has not said that he has not.
//
// Every member of a kept version is asked that is not lost or out, and of each version one
// at least: a segment counts only when all stores of its version have taken it, and who was
// asked takes nothing under an older version any more. Of a version all of whose stores
// are lost nobody can tell, and nothing of it can be read. What a store that is out said last
// that it still had is no reason to wait: it cannot be asked again, and its owner's deletion waits
// for it in turn, until the version is forgotten. Nor is a version forgotten from which a slot of
// the present code is still being filled.
func (x *Recoder) forget(m *state.Machine, l *Liveness, p state.PG) state.Command {
	if !movedIn(l, p) {
		return nil
	}
	current := p.Current()
	for _, v := range p.Versions {
		told, lost := false, true
		for _, r := range v.Stores {
			s, known := m.Store(r.Store)
			if !known || s.Incarnation != r.Incarnation || s.Lost {
				continue
			}
			lost = false
			if left, ok := l.remain(r, p.Number, current.Version); ok && left.Shards == 0 {
				told = true
			} else if !s.Out {
				return nil
			}
		}
		if !told && !lost {
			return nil
		}
	}
	return &state.ForgetCodes{PG: p.Number, At: current.Version}
}

// remain is what a store said of a group at a version.
func (l *Liveness) remain(r cluster.StoreRef, pg id.PG, version uint32) (cluster.Remain, bool) {
	b, _ := l.StoreBeat(r)
	i := slices.IndexFunc(b.Remains, func(x cluster.Remain) bool { return x.PG == pg && x.Version == version })
	if i < 0 {
		return cluster.Remain{}, false
	}
	return b.Remains[i], true
}

// remaining is what all stores have that is to be coded anew.
func remaining(l *Liveness, t *cluster.Topology) (bytes uint64) {
	for _, s := range t.Stores {
		if b, ok := l.StoreBeat(s.StoreRef); ok && s.State.Serves() {
			for _, x := range b.Remains {
				bytes += x.Bytes
			}
		}
	}
	return bytes
}

// unowned volumes of which stores have something that is to be coded anew.
func remainOf(l *Liveness, t *cluster.Topology) map[id.Volume]bool {
	out := make(map[id.Volume]bool)
	for _, s := range t.Stores {
		if b, ok := l.StoreBeat(s.StoreRef); ok && s.State.Serves() {
			for _, x := range b.Remains {
				for _, v := range x.Volumes {
					out[v] = true
				}
			}
		}
	}
	return out
}

// Recoding is how far groups have come on their way to a better code.
type Recoding struct {
	Groups    int
	Left      uint64 // bytes on stores
	PerSecond uint64
}

// Recoding sums it up.
func (x *Mender) Recoding(m *state.Machine, l *Liveness, t *cluster.Topology) (r Recoding) {
	for _, p := range m.PGs() {
		if p.TwoCodes() {
			r.Groups++
		}
	}
	if r.Groups > 0 {
		r.Left, r.PerSecond = remaining(l, t), uint64(max(x.recoder.pace.perSecond, 0))
	}
	return r
}
