package reconcile

import (
	"bytes"
	"math"
	"slices"
	"time"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// What hosts tell of themselves for people to look at. It decides nothing.

// pace follows how fast a counter rises, over paceOver.
type pace struct {
	at        time.Duration
	n         uint64
	known     bool
	perSecond float64
}

const (
	paceOver = 10 * time.Second
	// paceStep is the shortest time over which a rise says something.
	paceStep = time.Second
)

// next takes the counter as it is now. One that fell began anew.
func (p pace) next(now time.Duration, n uint64) pace {
	switch dt := now - p.at; {
	case !p.known || n < p.n:
		return pace{at: now, n: n, known: true}
	case dt < paceStep:
		return p
	default:
		w := 1 - math.Exp(-dt.Seconds()/paceOver.Seconds())
		rate := float64(n-p.n) / dt.Seconds()
		return pace{at: now, n: n, known: true, perSecond: p.perSecond + w*(rate-p.perSecond)}
	}
}

// paces carries those of a host's volumes from one heartbeat to the next.
func (h *hostLife) carryPaces(before *hostLife) {
	h.paces = make(map[id.Volume]pace, len(h.beat.Volumes))
	for _, v := range h.beat.Volumes {
		var p pace
		if before != nil {
			p = before.paces[v.Volume]
		}
		h.paces[v.Volume] = p.next(h.seen, v.Cleaning.Done)
	}
}

// CleaningPace is how many bytes per second the cleaner of an owned volume gave back lately.
func (l *Liveness) CleaningPace(owner id.Host, v id.Volume) uint64 {
	if h := l.hosts[owner]; h != nil {
		return uint64(max(h.paces[v].perSecond, 0))
	}
	return 0
}

// volumeUse is the room that volumes take on one store, by what it told page by page.
type volumeUse []cluster.VolumeUse // in order of ids

// take puts a page in the place of what was known between its ends.
func (u volumeUse) take(p *cluster.VolumeUsePage) volumeUse {
	find := func(v id.Volume) int {
		n, _ := slices.BinarySearchFunc(u, v, func(x cluster.VolumeUse, v id.Volume) int { return bytes.Compare(x.Volume[:], v[:]) })
		return n
	}
	from, to := find(p.After), len(u)
	if from < len(u) && u[from].Volume == p.After && p.After != (id.Volume{}) {
		from++
	}
	if !p.Last && len(p.Uses) > 0 {
		last := p.Uses[len(p.Uses)-1].Volume
		if to = find(last); to < len(u) && u[to].Volume == last {
			to++
		}
	}
	out := slices.Concat(u[:min(from, to)], p.Uses, u[to:])
	return out[:min(len(out), state.VolumesMax)]
}

func (u volumeUse) of(v id.Volume) uint64 {
	n, ok := slices.BinarySearchFunc(u, v, func(x cluster.VolumeUse, v id.Volume) int { return bytes.Compare(x.Volume[:], v[:]) })
	if !ok {
		return 0
	}
	return u[n].Bytes
}

// Used is the room that a volume takes on the stores of t, as far as this leader has heard.
func (l *Liveness) Used(t *cluster.Topology, v id.Volume) (n uint64) {
	for i := range t.Stores {
		if s := &t.Stores[i]; s.State != cluster.StoreLost {
			n += l.use[s.StoreRef].of(v)
		}
	}
	return n
}

// GroupBytes are the bytes of disks in a group, parity not counted: what the store with
// the most of it has, once for each data shard.
func (l *Liveness) GroupBytes(p cluster.PG) uint64 {
	var most uint64
	for _, r := range p.Members() {
		most = max(most, l.groupBytes(r, p.Number))
	}
	return most * uint64(p.Current().K)
}
