package repair

import (
	"cmp"
	"context"
	"slices"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// A group that is given a better code keeps the versions of the older one for as long as some
// store has a shard that was coded by it. Owners of disks code them anew (blockd/volume); here
// each member of any kept version counts what it still has, and tells metad.

// remainEvery is the pause between two counts of one group.
const remainEvery = 2 * time.Second

// remainder is what was counted of one group, and when.
type remainder struct {
	cluster.Remain
	at time.Duration
}

// Remains tells, of each group of which some kept version has another code than the present
// one, what the store has that is coded otherwise; of those that were counted under that version.
func (w *Worker) Remains() (out []cluster.Remain) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.mu.remains {
		out = append(out, r.Remain)
	}
	slices.SortFunc(out, func(a, b cluster.Remain) int { return cmp.Compare(a.PG, b.PG) })
	return out[:min(len(out), cluster.RemainsMax)]
}

// countRemains looks what there is of groups of two codes.
func (w *Worker) countRemains(ctx context.Context, t *cluster.Topology) {
	now := w.cfg.Clock.Now()
	next := make(map[id.PG]remainder)
	for i := range t.PGs {
		p := &t.PGs[i]
		current := p.Current()
		if !twoCodes(p) || !slices.Contains(p.Members(), w.cfg.Self) {
			continue
		}
		w.mu.Lock()
		r, known := w.mu.remains[p.Number]
		w.mu.Unlock()
		if known && r.Version == current.Version && (now < r.at+remainEvery) {
			next[p.Number] = r
			continue
		}
		if x, err := w.countGroup(ctx, p); err == nil { // else it is counted at the next look
			next[p.Number] = remainder{x, now}
		}
	}
	w.mu.Lock()
	w.mu.remains = next
	w.mu.Unlock()
}

// countGroup counts one. The list raises the group's version on the store first: a put
// under an older one is either counted or refused.
func (w *Worker) countGroup(ctx context.Context, p *cluster.PG) (cluster.Remain, error) {
	current := p.Current()
	out := cluster.Remain{PG: p.Number, Version: current.Version}
	err := w.each(ctx, Task{PG: p.Number, Version: current.Version}, w.cfg.Local, func(x storeproto.ShardInfo) {
		if x.K == current.K && x.M == current.M {
			return
		}
		out.Shards++
		out.Bytes += uint64(x.Blocks) * storeproto.BlockSize
		if len(out.Volumes) < cluster.RemainVolumesMax && !slices.Contains(out.Volumes, x.Volume) {
			out.Volumes = append(out.Volumes, x.Volume)
		}
	})
	return out, err
}

// twoCodes tells whether a kept version has another code than the present one.
func twoCodes(p *cluster.PG) bool {
	current := p.Current()
	return slices.ContainsFunc(p.Versions, func(v cluster.PGVersion) bool { return v.K != current.K || v.M != current.M })
}
