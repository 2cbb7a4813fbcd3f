package reconcile

import (
	"slices"
	"time"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// OutAfterDefault is how long a store may be away before its places go to others. A
// reboot takes less; what is moved needlessly costs its bytes twice.
const OutAfterDefault = 10 * time.Minute

// commandsMax bounds what one plan asks for; the rest is planned again.
const commandsMax = 32

// Mender plans how the cluster becomes whole: which stores count as out, which groups
// get new versions, which versions and stores are forgotten. OutAfter is to be set.
type Mender struct {
	OutAfter time.Duration
	down     map[cluster.StoreRef]time.Duration // since when
	recoder  Recoder
}

// Plan gives the next commands, safe to repeat; empty means at rest. All of them are
// checked again by the machine.
func (x *Mender) Plan(now time.Duration, m *state.Machine, l *Liveness, t *cluster.Topology, seed uint64) []state.Command {
	all := x.marks(now, m, l)
	if len(all) > 0 {
		return cut(all) // what follows builds on them
	}
	healthy := Takers(t, nil)
	for _, p := range m.PGs() {
		if p.TwoCodes() {
			if c := x.recoder.forget(m, l, p); c != nil {
				all = append(all, c)
				continue
			}
		}
		if Whole(l, p) {
			all = append(all, &state.ForgetVersions{PG: p.Number, At: p.Current().Version})
		} else if c := m.PlanMove(p.Number, healthy, seed+uint64(p.Number)); c != nil {
			all = append(all, c)
		}
	}
	if len(all) == 0 {
		all = x.recoder.Plan(now, x.OutAfter, m, l, t, seed)
	}
	for _, s := range m.Stores() {
		if groups, lists := m.Needed(s.StoreRef); (s.Leaving || s.Lost) && groups == 0 && lists == 0 {
			all = append(all, &state.RemoveStore{Store: s.StoreRef})
		}
	}
	return cut(all)
}

func cut(all []state.Command) []state.Command { return all[:min(len(all), commandsMax)] }

// marks finds the stores that have been away for too long, and those that are back.
func (x *Mender) marks(now time.Duration, m *state.Machine, l *Liveness) (all []state.Command) {
	down := make(map[cluster.StoreRef]time.Duration)
	for _, s := range m.Stores() {
		up, _ := l.StoreUp(now, s.StoreRef, s.Host)
		switch {
		case s.Lost:
		case up && s.Out && l.heard(s.StoreRef, s.Host):
			all = append(all, &state.MarkStore{Store: s.StoreRef, Leaving: s.Leaving})
		case up:
		default:
			since, known := x.down[s.StoreRef]
			if !known {
				since = now
			}
			down[s.StoreRef] = since
			if !s.Out && now-since >= x.OutAfter {
				all = append(all, &state.MarkStore{Store: s.StoreRef, Leaving: s.Leaving, Out: true})
			}
		}
	}
	x.down = down
	return all
}

// heard tells whether a host spoke of the store to this leader: a new leader takes
// everybody for up at first.
func (l *Liveness) heard(r cluster.StoreRef, h id.Host) bool {
	host, s := l.hosts[h], l.stores[r]
	return host != nil && s != nil && host.seen-s.seen < l.timeout
}

// Whole tells whether a group has versions to forget: every store that was given a slot
// in one of them says that it lacks nothing under the current one.
func Whole(l *Liveness, p state.PG) bool {
	return len(p.Versions) > 1 && !p.TwoCodes() && movedIn(l, p)
}

// movedIn tells whether every store that was given a slot of the group's present code says, under the
// current version, that it lacks nothing. Older codes are not repaired.
func movedIn(l *Liveness, p state.PG) bool {
	current := p.Current()
	for slot, r := range current.Stores {
		if !slices.ContainsFunc(p.Versions, func(v cluster.PGVersion) bool {
			return v.K == current.K && v.M == current.M && v.Stores[slot] != r
		}) {
			continue
		}
		b, _ := l.StoreBeat(r)
		if !slices.ContainsFunc(b.Repairs, func(x RepairBeat) bool {
			return x.PG == p.Number && x.Version == current.Version && x.Whole
		}) {
			return false
		}
	}
	return true
}

// RepairBeat is how far a store has come with the shards of a group it was given.
type RepairBeat struct {
	PG             id.PG
	Version        uint32
	Whole          bool
	Done, Left     uint64 // segments
	BytesDone      uint64
	BytesLeft      uint64
	BytesPerSecond uint64
	Stuck          uint32
	Problem        string
}

// Repair sums up what is being moved.
type Repair struct {
	Groups               int
	Done, Left           uint64
	BytesDone, BytesLeft uint64
	BytesPerSecond       uint64
	Stuck                uint32
	Problem              string
}

// Add counts what a store says of the groups that are still being moved.
func (r *Repair) Add(b StoreBeat, moving map[id.PG]bool) {
	for _, x := range b.Repairs {
		if !moving[x.PG] {
			continue
		}
		r.Done, r.Left = r.Done+x.Done, r.Left+x.Left
		r.BytesDone, r.BytesLeft = r.BytesDone+x.BytesDone, r.BytesLeft+x.BytesLeft
		r.BytesPerSecond += x.BytesPerSecond
		r.Stuck += x.Stuck
		if x.Problem != "" {
			r.Problem = x.Problem
		}
	}
}

// Moving are the groups with more than one version: some shards are not yet where they belong.
func Moving(t *cluster.Topology) map[id.PG]bool {
	out := make(map[id.PG]bool)
	for i := range t.PGs {
		if len(t.PGs[i].Versions) > 1 {
			out[t.PGs[i].Number] = true
		}
	}
	return out
}
