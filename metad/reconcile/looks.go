package reconcile

import (
	"slices"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Looks are the questions to owners what of their disks cannot be read. Nobody commits
// them: a leader that does not know of one is asked again by whoever waits for it.
type Looks struct {
	asked []*askedLook // the oldest first
}

type askedLook struct {
	cluster.Look
	volume id.Volume
	answer *cluster.Lost
}

// LookOrder asks an owner for a look; with a zero id for a sum now and then.
type LookOrder struct {
	Volume id.Volume
	cluster.Look
}

// Ask begins a look, unless it is known, and gives its answer if there is one.
func (x *Looks) Ask(v id.Volume, q cluster.Look) *cluster.Lost {
	for _, a := range x.asked {
		if a.ID == q.ID && a.volume == v && a.From == q.From {
			return a.answer
		}
	}
	if len(x.asked) >= cluster.LooksMax {
		x.asked = slices.Delete(x.asked, 0, 1)
	}
	x.asked = append(x.asked, &askedLook{Look: q, volume: v})
	return nil
}

// Beat takes the answers of a host, and tells what it is to look at: what is asked for,
// and while the cluster is in trouble all its disks. A disk of which something could not
// be read at the last look is looked at until nothing is.
func (x *Looks) Beat(b Beat, trouble bool) (out []LookOrder) {
	for i := range b.Volumes {
		v := &b.Volumes[i]
		if v.State == Opening {
			continue
		}
		for _, a := range x.asked {
			if a.volume != v.Volume || a.answer != nil {
				continue
			}
			if n := slices.IndexFunc(v.Looks, func(l cluster.Lost) bool { return l.Look == a.Look }); n >= 0 {
				a.answer = &v.Looks[n]
				continue
			}
			out = append(out, LookOrder{v.Volume, a.Look})
		}
		if trouble || v.Lost != nil && (v.Lost.Bytes > 0 || v.Lost.Away > 0 || v.Lost.Problem != "") {
			out = append(out, LookOrder{Volume: v.Volume})
		}
	}
	return out
}

// Trouble tells whether something may be unreadable, by the groups and by what stores
// tell, and which segments they call stuck.
func Trouble(t *cluster.Topology, l *Liveness) (trouble bool, doubts []id.Segment) {
	for i := range t.PGs {
		trouble = trouble || unreadable(t, &t.PGs[i])
	}
	for i := range t.Stores {
		s := &t.Stores[i]
		b, ok := l.StoreBeat(s.StoreRef)
		if !ok || !s.State.Serves() {
			continue
		}
		doubts = append(doubts, b.Stuck...)
		trouble = trouble || b.Care.Stuck > 0 || slices.ContainsFunc(b.Repairs, func(r RepairBeat) bool { return r.Stuck > 0 })
	}
	slices.Sort(doubts)
	doubts = slices.Compact(doubts)
	return trouble, doubts[:min(len(doubts), cluster.DoubtsMax)]
}

// unreadable tells whether a version of the group misses more stores than its code covers.
func unreadable(t *cluster.Topology, p *cluster.PG) bool {
	return slices.ContainsFunc(p.Versions, func(v cluster.PGVersion) bool {
		missing := 0
		for _, r := range v.Stores {
			if !t.Usable(r) {
				missing++
			}
		}
		return missing > int(v.M)
	})
}
